//! The metrics of the journal.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const ROUNDS: &str = "anabranch_journal_rounds_total";
pub(crate) const DOCUMENTS: &str = "anabranch_journal_documents_total";
pub(crate) const BATCH_ROUNDS: &str = "anabranch_journal_batch_rounds";
pub(crate) const BATCH_BYTES: &str = "anabranch_journal_batch_bytes";
pub(crate) const QUEUE_ROUNDS: &str = "anabranch_journal_queue_rounds";
pub(crate) const QUEUE_BYTES: &str = "anabranch_journal_queue_bytes";
pub(crate) const QUEUE_SECONDS: &str = "anabranch_journal_queue_seconds";
pub(crate) const REFUSED: &str = "anabranch_journal_rounds_refused_total";
pub(crate) const TRANSACTION_SECONDS: &str = "anabranch_journal_transaction_seconds";
pub(crate) const UNKNOWN: &str = "anabranch_journal_transactions_unknown_total";
pub(crate) const RESTARTS: &str = "anabranch_journal_writer_restarts_total";
pub(crate) const ENDED: &str = "anabranch_journal_transactions_ended_total";
pub(crate) const OPEN_SECONDS: &str = "anabranch_journal_open_transaction_seconds";
pub(crate) const LANES_DOWN: &str = "anabranch_journal_lanes_down";

/// Says what the metrics of this crate mean. Once per process, after the recorder is there.
pub fn describe_metrics() {
    describe_counter!(ROUNDS, Unit::Count, "rounds written, by outcome");
    describe_counter!(DOCUMENTS, Unit::Count, "mutations in rounds that were committed");
    describe_histogram!(BATCH_ROUNDS, Unit::Count, "rounds in one transaction");
    describe_histogram!(BATCH_BYTES, Unit::Bytes, "size of the rounds in one transaction");
    describe_gauge!(QUEUE_ROUNDS, Unit::Count, "rounds that wait for a lane");
    describe_gauge!(QUEUE_BYTES, Unit::Bytes, "size of the rounds that wait for a lane");
    describe_histogram!(QUEUE_SECONDS, Unit::Seconds, "how long a round waited for a lane");
    describe_counter!(REFUSED, Unit::Count, "rounds refused since too many were waiting");
    describe_histogram!(
        TRANSACTION_SECONDS,
        Unit::Seconds,
        "one transaction of rounds, from its begin until its commit returned"
    );
    describe_counter!(UNKNOWN, Unit::Count, "transactions of rounds whose outcome is unknown");
    describe_counter!(RESTARTS, Unit::Count, "writers made anew, by the reason");
    describe_counter!(ENDED, Unit::Count, "transactions ended that other writers had left open");
    describe_gauge!(
        OPEN_SECONDS,
        Unit::Seconds,
        "how long the oldest transaction of rounds has been open, up to 10: alarm if it stays there, \
         nothing that comes after it can be read"
    );
    describe_gauge!(LANES_DOWN, Unit::Count, "lanes that have no writer at present");
}
