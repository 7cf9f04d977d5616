//! The store: RocksDB with the versions of documents, the by-transaction index of changes, what
//! became of rounds, and the node's progress.
//!
//! Everything that belongs to some transactions is one write batch (ST-1). There is no WAL: the
//! journal is one. What is in memory reaches the disk by flushes that are atomic across tables, so
//! after a crash the store is as it was after some batch, and the journal gives the rest again.

mod batch;
mod collect;
mod keys;
mod open;
mod scan;
#[cfg(test)]
mod tests;
mod timeline;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{RoundId, TxnId};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, FlushOptions, WriteOptions};

use self::collect::Collected;
use crate::error::Error;

pub(crate) use self::batch::Batch;
pub(crate) use self::collect::{History, Hold};
pub(crate) use self::open::{Opened, StoreOptions};
pub(crate) use self::scan::{FeedPosition, NewestVersions};
pub(crate) use self::timeline::Timeline;
pub(crate) use self::values::{IndexedChange, Outcome, Progress, Version};

/// Column families; `default` has what there is once.
const VERSIONS: &str = "versions";
const CHANGES: &str = "changes";
const ROUNDS: &str = "rounds";
const TABLES: [&str; 4] = ["default", VERSIONS, CHANGES, ROUNDS];

/// An open store.
pub(crate) struct Storage {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
    history: Arc<History>,
    collected: Arc<Collected>,
    /// What the last batch said; a flush that begins now makes it durable.
    written: Mutex<Bounds>,
    durable_next: AtomicU64,
    /// The first transaction whose changes are kept. Set before they are dropped, so whoever sees
    /// it unchanged after he began to read has seen them all.
    feed_start: AtomicU64,
    round_retention_ms: u64,
}

/// How far a batch came and what it gave up.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    next: TxnId,
    oldest_readable: TxnId,
    hlc: Hlc,
}

impl Storage {
    /// Which snapshots can be read.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The first transaction whose changes are kept.
    pub(crate) fn feed_start(&self) -> TxnId {
        TxnId(self.feed_start.load(Ordering::Acquire))
    }

    /// Every transaction below this survives a crash.
    pub(crate) fn durable_next(&self) -> TxnId {
        TxnId(self.durable_next.load(Ordering::Acquire))
    }

    /// What became of a round, if it is remembered.
    pub(crate) fn outcome(&self, round: RoundId) -> Result<Option<Outcome>, Error> {
        let found = self.db.get_pinned_cf(self.table(ROUNDS), round.0.as_bytes());
        let value = found.map_err(|error| self.failed("read a round", error))?;
        value.map(|value| values::decode_outcome(&value)).transpose()
    }

    /// Makes everything that was written durable.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let bounds = *self.written.lock();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let tables = TABLES.map(|table| self.table(table));
        self.db.flush_cfs_opt(&tables, &options).map_err(|error| self.failed("flush", error))?;
        self.durable_next.fetch_max(bounds.next.0, Ordering::AcqRel);
        let rounds_before = bounds.hlc.millis().saturating_sub(self.round_retention_ms);
        self.collected.set(bounds.oldest_readable, Hlc::from_millis(rounds_before));
        Ok(())
    }

    /// How long the id of a round is remembered.
    pub(crate) fn round_retention_ms(&self) -> u64 {
        self.round_retention_ms
    }

    fn table(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every table was opened")
    }

    fn failed(&self, action: &'static str, source: rocksdb::Error) -> Error {
        Error::Storage { path: self.path.display().to_string(), action, source }
    }
}
