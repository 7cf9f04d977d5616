//! The metrics of a store node.

use std::time::Duration;

use crate::storage::{Catalog, Index};
use anabranch_core::hlc::Hlc;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const TRANSACTIONS: &str = "anabranch_store_node_applied_transactions_total";
const DOCUMENTS: &str = "anabranch_store_node_changed_documents_total";
const REPEATED: &str = "anabranch_store_node_repeated_rounds_total";
const CONFLICTS: &str = "anabranch_store_node_conflicts_total";
const TOO_LARGE: &str = "anabranch_store_node_too_large_documents_total";
const EXPIRED: &str = "anabranch_store_node_expired_documents_total";
const MISPLACED: &str = "anabranch_store_node_misplaced_mutations_total";
const LOG_READ: &str = "anabranch_store_node_log_read_bytes_total";
const LOST: &str = "anabranch_store_node_lost_parts_total";
const BACKFILLED: &str = "anabranch_store_node_backfilled_entries_total";
const BACKFILLED_BYTES: &str = "anabranch_store_node_backfilled_bytes_total";
const BACKFILL_SECONDS: &str = "anabranch_store_node_backfill_write_seconds";
const BACKFILLING: &str = "anabranch_store_node_backfilling";
const LOST_RANGES: &str = "anabranch_store_node_lost_ranges";
const ORPHANS: &str = "anabranch_store_node_orphan_parts_total";
const HALTED: &str = "anabranch_store_node_halted";
const BUFFERED: &str = "anabranch_store_node_buffered_bytes";
const PENDING: &str = "anabranch_store_node_pending_commits";
const BATCH: &str = "anabranch_store_node_batch_seconds";
const FLUSH: &str = "anabranch_store_node_flush_seconds";
const LAG: &str = "anabranch_store_node_lag_transactions";
const LAG_SECONDS: &str = "anabranch_store_node_lag_seconds";
const UNDURABLE: &str = "anabranch_store_node_undurable_transactions";
const NEARLY_TRIMMED: &str = "anabranch_store_node_durable_position_nearly_trimmed";
const UNREACHABLE: &str = "anabranch_store_node_log_unreachable";
const STABLE: &str = "anabranch_store_node_stable_txn";
const GC_TIMESTAMP: &str = "anabranch_store_node_gc_timestamp_txn";
const FEED_START: &str = "anabranch_store_node_feed_start_txn";
const INDEXES: &str = "anabranch_store_node_indexes";
const EXAMINED: &str = "anabranch_store_node_examined_documents_total";
const READS: &str = "anabranch_store_node_reads_total";
const READ_SECONDS: &str = "anabranch_store_node_read_seconds";
const STREAMS: &str = "anabranch_store_node_open_streams";
const GOSSIP_SENT: &str = "anabranch_store_node_gossip_sent_messages_total";
const GOSSIP_SENT_BYTES: &str = "anabranch_store_node_gossip_sent_bytes_total";
const GOSSIP_RECEIVED: &str = "anabranch_store_node_gossip_received_messages_total";
const GOSSIP_RECEIVED_BYTES: &str = "anabranch_store_node_gossip_received_bytes_total";
const GOSSIP_DOUBTED: &str = "anabranch_store_node_gossip_doubted_announces_total";
const SUSPICION: &str = "anabranch_store_node_suspicion_ratio";

/// Says what each is.
pub(crate) fn describe() {
    describe_counter!(TRANSACTIONS, "Transactions applied");
    describe_counter!(DOCUMENTS, "Versions of documents written");
    describe_counter!(REPEATED, "Rounds that were applied before and did nothing");
    describe_counter!(CONFLICTS, "Documents that a condition kept from being written");
    describe_counter!(TOO_LARGE, "Documents that a round left as they were: too large after it");
    describe_counter!(EXPIRED, "Deleted documents that lost what they hid");
    describe_counter!(MISPLACED, "Mutations in a slice that is not their document's: ignored");
    describe_counter!(LOG_READ, "Bytes of records read from the log, by topic");
    describe_counter!(LOST, "Parts of rounds whose data was not in the log: lost");
    describe_gauge!(LOST_RANGES, "Ranges of transactions that are lost here: alarm if not 0");
    describe_counter!(ORPHANS, "Parts that no commit record asked for in time: dropped");
    describe_counter!(BACKFILLED, "Rounds and documents that were copied from other replicas");
    describe_counter!(BACKFILLED_BYTES, "Bytes of these");
    describe_histogram!(BACKFILL_SECONDS, "Time to write what one reply gave, in seconds");
    describe_gauge!(BACKFILLING, "1 while the node copies from other replicas and serves no reads");
    describe_gauge!(HALTED, "1 once a record could not be applied and a person must look");
    describe_gauge!(BUFFERED, "Bytes of rounds that wait for their turn");
    describe_gauge!(PENDING, "Commit records that wait for their turn");
    describe_histogram!(BATCH, "Time to apply and write one batch, in seconds");
    describe_histogram!(FLUSH, "Time to make what was applied durable, in seconds");
    describe_gauge!(LAG, "Transactions in the log that are not applied, at most");
    describe_gauge!(LAG_SECONDS, "Age of the newest applied transaction while others wait");
    describe_gauge!(UNDURABLE, "Applied transactions that a crash would have read again");
    describe_gauge!(NEARLY_TRIMMED, "1 while what a crash needs of the log is about to go");
    describe_gauge!(UNREACHABLE, "1 while the ends of the log cannot be seen: lags stand still");
    describe_gauge!(STABLE, "Every transaction below it is stable, as far as this node knows");
    describe_gauge!(GC_TIMESTAMP, "What the cluster's reads need is kept from this one on");
    describe_gauge!(FEED_START, "The first transaction whose changes the feed still has");
    describe_gauge!(INDEXES, "Indexes, by whether they are declared or automatic, built or not");
    describe_counter!(EXAMINED, "Documents that queries looked at, by how they were found");
    describe_counter!(READS, "Reads, by kind and result");
    describe_histogram!(READ_SECONDS, "Time of a read until its first reply, in seconds");
    describe_gauge!(STREAMS, "Open streams, by kind");
    describe_counter!(GOSSIP_SENT, "Messages of gossip sent, answers included");
    describe_counter!(GOSSIP_SENT_BYTES, "Bytes of these, without what gRPC adds");
    describe_counter!(GOSSIP_RECEIVED, "Messages of gossip received, answers included");
    describe_counter!(GOSSIP_RECEIVED_BYTES, "Bytes of these, without what gRPC adds");
    describe_counter!(GOSSIP_DOUBTED, "Announces that were not believed");
    describe_gauge!(SUSPICION, "By peer how much of its past it was not silent as long as now");
    gauge!(HALTED).set(0.0);
    counter!(LOST).absolute(0);
}

/// What one batch did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchCounts {
    pub(crate) transactions: u64,
    pub(crate) documents: u64,
    pub(crate) repeated: u64,
    pub(crate) conflicts: u64,
    pub(crate) too_large: u64,
    pub(crate) expired: u64,
    pub(crate) misplaced: u64,
    pub(crate) lost: u64,
    pub(crate) orphans: u64,
}

pub(crate) fn record_batch(counts: BatchCounts, took: Duration) {
    let BatchCounts {
        transactions,
        documents,
        repeated,
        conflicts,
        too_large,
        expired,
        misplaced,
        lost,
        orphans,
    } = counts;
    counter!(TRANSACTIONS).increment(transactions);
    counter!(DOCUMENTS).increment(documents);
    // Rare: not worth a lookup each time.
    let rare = [
        (REPEATED, repeated),
        (CONFLICTS, conflicts),
        (TOO_LARGE, too_large),
        (EXPIRED, expired),
        (MISPLACED, misplaced),
        (LOST, lost),
        (ORPHANS, orphans),
    ];
    for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        counter!(name).increment(count);
    }
    histogram!(BATCH).record(took.as_secs_f64());
}

/// What was copied from another replica at once.
pub(crate) fn record_backfilled(entries: u64, bytes: u64, took: Duration) {
    counter!(BACKFILLED).increment(entries);
    counter!(BACKFILLED_BYTES).increment(bytes);
    histogram!(BACKFILL_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn set_backfilling(backfilling: bool) {
    gauge!(BACKFILLING).set(if backfilling { 1.0 } else { 0.0 });
}

pub(crate) fn set_waiting(bytes: usize, commits: usize) {
    gauge!(BUFFERED).set(as_f64(bytes as u64));
    gauge!(PENDING).set(as_f64(commits as u64));
}

/// Records of a topic of the log were read.
pub(crate) fn record_log_read(topic: &'static str, bytes: usize) {
    counter!(LOG_READ, "topic" => topic).increment(bytes as u64);
}

/// How many ranges of transactions are lost.
pub(crate) fn set_lost_ranges(count: u64) {
    gauge!(LOST_RANGES).set(as_f64(count));
}

pub(crate) fn set_halted() {
    gauge!(HALTED).set(1.0);
}

pub(crate) fn record_flush(took: Duration) {
    histogram!(FLUSH).record(took.as_secs_f64());
}

/// How far a node is behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) transactions: u64,
    /// Time of the newest applied transaction, and now.
    pub(crate) applied: Hlc,
    pub(crate) now_ms: u64,
    pub(crate) undurable: u64,
    pub(crate) nearly_trimmed: bool,
    pub(crate) feed_start: u64,
}

pub(crate) fn set_lag(lag: Lag) {
    let Lag { transactions, applied, now_ms, undurable, nearly_trimmed, feed_start } = lag;
    let behind = transactions > 0 && applied > Hlc(0);
    let seconds = if behind { now_ms.saturating_sub(applied.millis()) } else { 0 };
    gauge!(LAG).set(as_f64(transactions));
    gauge!(LAG_SECONDS).set(as_f64(seconds) / 1000.0);
    gauge!(UNDURABLE).set(as_f64(undurable));
    gauge!(NEARLY_TRIMMED).set(if nearly_trimmed { 1.0 } else { 0.0 });
    gauge!(FEED_START).set(as_f64(feed_start));
}

pub(crate) fn set_log_unreachable(unreachable: bool) {
    gauge!(UNREACHABLE).set(if unreachable { 1.0 } else { 0.0 });
}

/// Which indexes there are.
pub(crate) fn set_indexes(catalog: &Catalog) {
    for (kind, is_declared) in [("declared", true), ("automatic", false)] {
        for (state, is_building) in [("building", true), ("built", false)] {
            let is_it = |index: &&Index| {
                index.name.is_some() == is_declared && index.is_building() == is_building
            };
            let count = catalog.all().filter(is_it).count();
            gauge!(INDEXES, "kind" => kind, "state" => state).set(as_f64(count as u64));
        }
    }
}

/// A query looked at documents that it found in this way.
pub(crate) fn record_examined(access: &'static str, documents: u64) {
    counter!(EXAMINED, "access" => access).increment(documents);
}

pub(crate) fn record_read(kind: &'static str, result: String, took: Duration) {
    counter!(READS, "kind" => kind, "result" => result).increment(1);
    histogram!(READ_SECONDS, "kind" => kind).record(took.as_secs_f64());
}

/// Up to where the cluster is stable.
pub(crate) fn set_stable(next: u64) {
    gauge!(STABLE).set(next as f64);
}

/// From where on the cluster's reads need what there is.
pub(crate) fn set_gc_timestamp(txn: u64) {
    gauge!(GC_TIMESTAMP).set(as_f64(txn));
}

/// Counts an open stream until it is dropped.
pub(crate) struct OpenStream(&'static str);

impl OpenStream {
    pub(crate) fn new(kind: &'static str) -> Self {
        gauge!(STREAMS, "kind" => kind).increment(1.0);
        OpenStream(kind)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        gauge!(STREAMS, "kind" => self.0).decrement(1.0);
    }
}

pub(crate) fn record_gossip_sent(bytes: usize) {
    counter!(GOSSIP_SENT).increment(1);
    counter!(GOSSIP_SENT_BYTES).increment(bytes as u64);
}

pub(crate) fn record_gossip_received(bytes: usize) {
    counter!(GOSSIP_RECEIVED).increment(1);
    counter!(GOSSIP_RECEIVED_BYTES).increment(bytes as u64);
}

/// What was told of a node was not believed.
pub(crate) fn record_gossip_doubted() {
    counter!(GOSSIP_DOUBTED).increment(1);
}

/// How likely it is that a peer is gone, from 0 to 1.
pub(crate) fn set_suspicion(peer: &str, share: f64) {
    gauge!(SUSPICION, "peer" => peer.to_owned()).set(share);
}

/// A node that is no peer any more is not suspected.
pub(crate) fn forget_suspicion(peer: &str) {
    set_suspicion(peer, 0.0);
}

/// Gauges are doubles; counts here stay far below 2^53.
#[allow(clippy::cast_precision_loss)]
fn as_f64(count: u64) -> f64 {
    count as f64
}
