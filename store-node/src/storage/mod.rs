//! The store: RocksDB with the versions of documents, the by-transaction index of changes, what
//! became of rounds, indexes over fields, and the node's progress.
//!
//! Everything that belongs to some transactions is one write batch (ST-1). There is no WAL: the
//! journal is one. What is in memory reaches the disk by flushes that are atomic across tables, so
//! after a crash the store is as it was after some batch, and the journal gives the rest again.

mod batch;
mod collect;
mod engine;
mod handover;
mod indexes;
mod keys;
mod open;
mod outcome;
mod progress;
mod scan;
#[cfg(test)]
mod tests;
mod timeline;
mod tombstones;
mod unfinished;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{RoundId, TxnId};
use anabranch_journal::Offset;
use parking_lot::{Mutex, RwLock};

use self::collect::Collected;
use self::engine::{Engine, Family};
use crate::error::Error;

pub(crate) use self::batch::Batch;
pub(crate) use self::collect::{History, Hold};
#[cfg(any(test, feature = "simulation"))]
pub use self::engine::MemoryDisk;
pub(crate) use self::engine::in_haste;
pub(crate) use self::handover::{Entry, Table};
pub(crate) use self::indexes::{Catalog, Index, IndexNumber, IndexState, Moved, Place};
pub(crate) use self::open::{Head, Opened, StoreOptions};
pub(crate) use self::outcome::{Conflict, Outcome, Reason};
pub(crate) use self::progress::{Loss, Progress, SliceRead};
pub(crate) use self::scan::{FeedPosition, NewestVersions};
pub(crate) use self::timeline::{Sample, Timeline};
pub(crate) use self::tombstones::Tombstone;
pub(crate) use self::unfinished::Unfinished;
pub(crate) use self::values::{
    FORGOTTEN, IndexedChange, STATE_PREFIX, Version, decode_some, decode_state, decode_version,
};

/// An open store.
pub(crate) struct Storage {
    engine: Engine,
    path: PathBuf,
    history: Arc<History>,
    collected: Arc<Collected>,
    /// What the last batch said; a flush that begins now makes it durable.
    written: Mutex<Written>,
    durable: Mutex<Positions>,
    /// The first transaction whose changes are kept. Set before they are dropped, so whoever sees
    /// it unchanged after he began to read has seen them all.
    feed_start: AtomicU64,
    /// As the last batch left them. One that is given up is missing here before it is on disk: who
    /// finds it here after he began to read has read all of it.
    indexes: RwLock<Arc<Catalog>>,
    round_retention_ms: u64,
}

/// Where the log is to be read on: what a node needs of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions {
    /// In topic `txns`.
    pub(crate) next: TxnId,
    /// In each slice of topic `rounds`.
    pub(crate) slices: Vec<Offset>,
}

/// How far a batch came and what it gave up.
#[derive(Clone, Debug, Default)]
struct Written {
    positions: Positions,
    oldest_readable: TxnId,
    time: Hlc,
}

impl Written {
    fn of(progress: &Progress) -> Self {
        Written {
            positions: Positions { next: progress.next, slices: progress.positions() },
            oldest_readable: progress.oldest_readable,
            time: progress.time,
        }
    }
}

impl Storage {
    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which snapshots can be read.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The first transaction whose changes are kept.
    pub(crate) fn feed_start(&self) -> TxnId {
        TxnId(self.feed_start.load(Ordering::Acquire))
    }

    /// Where a crash now would have the log read on.
    pub(crate) fn durable(&self) -> Positions {
        self.durable.lock().clone()
    }

    /// What became of a round, if it is remembered at `now`, the log's time. What is older counts
    /// as forgotten whether a compaction has dropped it already or not: else replicas would
    /// disagree about what a repeated round does (ST-2).
    pub(crate) fn outcome(&self, round: RoundId, now: Hlc) -> Result<Option<Outcome>, Error> {
        let outcome = self.last_outcome(round)?;
        Ok(outcome.filter(|outcome| self.remembers(outcome.time, now)))
    }

    /// What became of a round when it was applied last, as far as that is still there.
    pub(crate) fn last_outcome(&self, round: RoundId) -> Result<Option<Outcome>, Error> {
        let found = self.engine.get(Family::Rounds, round.0.as_bytes());
        let value = found.map_err(|error| self.failed("read a round", error))?;
        value.map(|value| outcome::decode_outcome(&value)).transpose()
    }

    /// Whether at `now` a round is still known that was applied at `then`.
    pub(crate) fn remembers(&self, then: Hlc, now: Hlc) -> bool {
        then.millis().saturating_add(self.round_retention_ms) >= now.millis()
    }

    /// Makes everything that was written durable.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let Written { positions, oldest_readable, time } = self.written.lock().clone();
        self.engine.flush().map_err(|error| self.failed("flush", error))?;
        let mut durable = self.durable.lock();
        if positions.next >= durable.next {
            *durable = positions;
        }
        let held = self.history.oldest_held();
        let oldest_readable = held.map_or(oldest_readable, |held| held.min(oldest_readable));
        // Kept for longer than they count: another replica may copy them as of a while ago.
        let kept_ms = self.round_retention_ms.saturating_add(self.round_retention_ms / 4);
        let rounds_before = time.millis().saturating_sub(kept_ms);
        self.collected.set(oldest_readable, Hlc::from_millis(rounds_before));
        Ok(())
    }

    /// Has nothing left on disk of versions that were deleted: flushes, and compacts table `versions`.
    /// Whether that succeeded. Blocks for as long as it takes to write all of it.
    pub(crate) fn settle_versions(&self) -> Result<bool, Error> {
        self.flush()?;
        self.engine.compact_versions();
        // A compaction that fails says nothing.
        let left = self.engine.deleted_versions();
        Ok(left.map_err(|error| self.failed("look at the files of", error))? == 0)
    }

    /// How many deletions of versions stand on disk.
    #[cfg(test)]
    pub(crate) fn deleted_versions(&self) -> u64 {
        self.engine.deleted_versions().unwrap()
    }

    /// Drops what may be dropped.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn compact(&self) {
        self.engine.compact(&self.collected);
    }

    /// What there is once.
    fn read_once(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.engine.get(Family::Default, key).map_err(|error| self.failed("read", error))
    }

    fn failed(&self, action: &'static str, source: rocksdb::Error) -> Error {
        Error::Storage { path: self.path.display().to_string(), action, source }
    }
}
