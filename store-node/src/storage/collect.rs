//! What may be dropped, and the compaction filters that drop it.
//!
//! A version is dropped once a newer one of its document is at or below the oldest readable
//! snapshot: no read can see it any more. An active read holds its snapshot ([`History::hold`]).
//! The filters work with bounds that are durable ([`Collected`]): after a crash the store never
//! offers a snapshot whose versions a compaction already dropped.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_runtime::planted;
use parking_lot::Mutex;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use super::indexes::is_gone_before;
use super::keys::split_version_key;
use super::outcome::outcome_time;
use crate::error::Error;

/// Which snapshots can be read, and which are being read.
#[derive(Debug, Default)]
pub(crate) struct History {
    state: Mutex<HistoryState>,
}

#[derive(Debug, Default)]
struct HistoryState {
    oldest: TxnId,
    held: BTreeMap<TxnId, usize>,
    /// Nothing from here on is given up; `None` if nobody else reads here.
    kept_from: Option<TxnId>,
}

/// Keeps a snapshot readable until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    history: Arc<History>,
    txn: TxnId,
}

impl History {
    pub(super) fn new(oldest: TxnId) -> Self {
        let state = HistoryState { oldest, ..HistoryState::default() };
        History { state: Mutex::new(state) }
    }

    /// The oldest snapshot that can be read.
    pub(crate) fn oldest(&self) -> TxnId {
        self.state.lock().oldest
    }

    /// Keeps the snapshot at `txn` readable.
    pub(crate) fn hold(self: &Arc<Self>, txn: TxnId) -> Result<Hold, Error> {
        let mut state = self.state.lock();
        if txn < state.oldest {
            return Err(Error::TooOld { wanted: txn, oldest: state.oldest });
        }
        *state.held.entry(txn).or_default() += 1;
        Ok(Hold { history: Arc::clone(self), txn })
    }

    /// The oldest snapshot that is being read.
    pub(crate) fn oldest_held(&self) -> Option<TxnId> {
        self.state.lock().held.first_key_value().map(|(txn, _)| *txn)
    }

    /// From now on the snapshots from `oldest` on can be read, and no others any more. Reads that
    /// have begun go on: what they see stays until they are done.
    pub(crate) fn begin_at(&self, oldest: TxnId) {
        let mut state = self.state.lock();
        state.oldest = state.oldest.max(oldest);
    }

    /// Keeps the snapshots from `txn` on: reads of other nodes begin there, if there are others.
    pub(crate) fn keep_from(&self, txn: Option<TxnId>) {
        self.state.lock().kept_from = txn;
    }

    /// Gives up the snapshots below `before`, as far as none is held or kept; returns the oldest that is
    /// left. It never goes back.
    pub(crate) fn advance(&self, before: TxnId) -> TxnId {
        let mut state = self.state.lock();
        let held = state.held.first_key_value().map(|(txn, _)| *txn);
        let bounds = held.into_iter().chain(state.kept_from);
        let bounds = bounds.filter(|_| !planted!(CollectsHeld));
        let before = bounds.fold(before, TxnId::min);
        state.oldest = state.oldest.max(before);
        state.oldest
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.history.state.lock();
        if let Some(count) = state.held.get_mut(&self.txn) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.txn);
            }
        }
    }
}

/// What compactions may drop: bounds that were durable when they were set.
#[derive(Debug, Default)]
pub(super) struct Collected {
    versions: AtomicU64,
    rounds: AtomicU64,
}

impl Collected {
    /// The oldest snapshot that reads may name, and the time before which rounds are forgotten.
    pub(super) fn set(&self, oldest: TxnId, rounds_before: Hlc) {
        self.versions.store(oldest.0, Ordering::Release);
        self.rounds.store(rounds_before.0, Ordering::Release);
    }

    pub(super) fn version_filter(&self) -> VersionFilter {
        let oldest = TxnId(self.versions.load(Ordering::Acquire));
        VersionFilter { oldest, document: Vec::new(), newer: None }
    }

    pub(super) fn index_filter(&self) -> IndexFilter {
        IndexFilter { oldest: TxnId(self.versions.load(Ordering::Acquire)) }
    }

    pub(super) fn round_filter(&self) -> RoundFilter {
        RoundFilter { before: Hlc(self.rounds.load(Ordering::Acquire)) }
    }
}

/// Makes the filters of a table, each with the bounds as they are then.
pub(super) struct Filters<F> {
    pub(super) name: &'static CStr,
    pub(super) collected: Arc<Collected>,
    pub(super) make: fn(&Collected) -> F,
}

impl<F: CompactionFilter> CompactionFilterFactory for Filters<F> {
    type Filter = F;

    fn create(&mut self, _: CompactionFilterContext) -> F {
        (self.make)(&self.collected)
    }

    fn name(&self) -> &CStr {
        self.name
    }
}

/// Sees the keys of one compaction in order: the versions of a document from new to old.
#[derive(Debug)]
pub(super) struct VersionFilter {
    oldest: TxnId,
    document: Vec<u8>,
    /// The version before this one, if it is of the same document.
    newer: Option<TxnId>,
}

impl VersionFilter {
    /// Whether the version of this key stays.
    pub(super) fn keeps(&mut self, key: &[u8]) -> bool {
        let Some((document, txn)) = split_version_key(key) else { return true };
        if self.document != document {
            self.document.clear();
            self.document.extend_from_slice(document);
            self.newer = None;
        }
        self.newer.replace(txn).is_none_or(|newer| newer > self.oldest)
    }
}

impl CompactionFilter for VersionFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> Decision {
        if self.keeps(key) { Decision::Keep } else { Decision::Remove }
    }

    fn name(&self) -> &CStr {
        c"anabranch.versions.v1"
    }
}

/// Drops what became of rounds that are too old to be repeated.
#[derive(Debug)]
pub(super) struct RoundFilter {
    before: Hlc,
}

impl RoundFilter {
    /// Whether this outcome stays.
    pub(super) fn keeps(&self, value: &[u8]) -> bool {
        outcome_time(value).is_none_or(|time| time >= self.before)
    }
}

impl CompactionFilter for RoundFilter {
    fn filter(&mut self, _level: u32, _key: &[u8], value: &[u8]) -> Decision {
        if self.keeps(value) { Decision::Keep } else { Decision::Remove }
    }

    fn name(&self) -> &CStr {
        c"anabranch.rounds.v1"
    }
}

/// Drops where documents were that nobody can read any more.
#[derive(Debug)]
pub(super) struct IndexFilter {
    oldest: TxnId,
}

impl IndexFilter {
    /// Whether this entry stays.
    pub(super) fn keeps(&self, value: &[u8]) -> bool {
        !is_gone_before(value, self.oldest)
    }
}

impl CompactionFilter for IndexFilter {
    fn filter(&mut self, _level: u32, _key: &[u8], value: &[u8]) -> Decision {
        if self.keeps(value) { Decision::Keep } else { Decision::Remove }
    }

    fn name(&self) -> &CStr {
        c"anabranch.indexes.v1"
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::version_key;
    use super::*;

    #[test]
    fn a_held_snapshot_stays_readable() {
        let history = Arc::new(History::new(TxnId(3)));
        assert!(matches!(
            history.hold(TxnId(2)),
            Err(Error::TooOld { wanted: TxnId(2), oldest: TxnId(3) })
        ));
        let (hold, again) = (history.hold(TxnId(5)).unwrap(), history.hold(TxnId(5)).unwrap());
        assert_eq!(history.advance(TxnId(9)), TxnId(5));
        drop(hold);
        assert_eq!(history.advance(TxnId(9)), TxnId(5));
        drop(again);
        assert_eq!(history.advance(TxnId(9)), TxnId(9));
        assert_eq!(history.advance(TxnId(4)), TxnId(9));
        assert_eq!(history.oldest(), TxnId(9));
    }

    #[test]
    fn who_has_begun_to_read_goes_on_when_history_begins_anew() {
        let history = Arc::new(History::new(TxnId(3)));
        let hold = history.hold(TxnId(5)).unwrap();
        history.begin_at(TxnId(8));
        assert!(history.hold(TxnId(7)).is_err());
        assert_eq!((history.oldest(), history.oldest_held()), (TxnId(8), Some(TxnId(5))));
        drop(hold);
        assert_eq!(history.oldest_held(), None);
    }

    #[test]
    fn versions_go_once_a_newer_one_is_at_or_below_the_oldest_snapshot() {
        let collected = Arc::new(Collected::default());
        collected.set(TxnId(10), Hlc(0));
        let (name, make) = (c"test", Collected::version_filter);
        let mut factory = Filters { name, collected, make };
        let context =
            CompactionFilterContext { is_full_compaction: false, is_manual_compaction: false };
        let mut filter = factory.create(context);
        let mut kept = |id: &[u8], txn| {
            matches!(filter.filter(0, &version_key(id, TxnId(txn)), b""), Decision::Keep)
        };
        // 12 is past the oldest snapshot, 10 and 7 are what it and nobody else sees.
        assert_eq!([12, 10, 7, 6].map(|txn| kept(b"a", txn)), [true, true, false, false]);
        assert_eq!([9, 3].map(|txn| kept(b"b", txn)), [true, false]);
        assert!(kept(b"c", 1));
    }
}
