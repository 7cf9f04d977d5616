//! What the parts of a node tell each other: how far it has applied, whether it serves, what is
//! wrong. Readers wait here for transactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_journal::Bounds;
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::watched::{Watched, Watcher};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::metrics;

/// How far a node has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Every transaction below this is applied.
    pub(crate) next: TxnId,
    /// The last one that was; `None` before the first.
    pub(crate) last: Option<TxnId>,
    /// The log's time; 0 before the first.
    pub(crate) time: Hlc,
    /// The log was seen since the node started, and nothing was applied here that is declared lost
    /// (ST-2): before that nothing of it may be told.
    pub(crate) may_be_told: bool,
    /// Everything that was in the log when the node started is applied.
    pub(crate) caught_up: bool,
    /// Why nothing more will be applied.
    pub(crate) halted: Option<Arc<str>>,
}

/// What keeps a node from being ready, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Applying has stopped for good.
    Halted,
    /// The log cannot be reached.
    Log,
    /// The log's commit records cannot be read.
    Commits,
    /// The log's parts of rounds cannot be read.
    Parts,
    /// What was applied cannot be written.
    Storage,
    /// What was applied cannot be made durable.
    Durability,
    /// What was in the log at the start is not yet applied.
    CatchingUp,
    /// What the log no longer has is being copied from other replicas.
    Backfilling,
    /// Too few other nodes are heard to answer for the cluster.
    CutOff,
    /// Another node has this one's name.
    Namesake,
}

/// A backfill under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backfilling {
    /// Everything below this will be here.
    pub(crate) until: TxnId,
    /// How many entries are here so far.
    pub(crate) entries: u64,
    /// For people.
    pub(crate) text: String,
}

/// The end of the log as it was seen so long ago still bounds what others can have applied.
const RECENT: Duration = Duration::from_secs(10);

/// Shared by all parts of a node.
#[derive(Debug)]
pub(crate) struct Status {
    applied: Watched<Applied>,
    /// The end of the log when the node started, once it is known: others may have read there, so
    /// nothing older is read here (ST-3).
    log_end_at_start: Mutex<Option<TxnId>>,
    /// What has to be applied for the node to be ready, at least; a backfill raises it.
    catch_up_to: Mutex<TxnId>,
    log_end: AtomicU64,
    /// When that was last seen.
    log_seen: Mutex<Option<Instant>>,
    lost_parts: AtomicU64,
    lost_ranges: AtomicU64,
    /// What the node has durably goes as far as the log was last seen to begin.
    reaches_log: AtomicBool,
    backfilling: Mutex<Option<Backfilling>>,
    ready: ReadyFlag,
    troubles: Mutex<BTreeMap<Trouble, String>>,
}

impl Status {
    /// Of a node that has just been opened.
    pub(crate) fn new(next: TxnId, last: Option<TxnId>, time: Hlc, ready: ReadyFlag) -> Self {
        let (may_be_told, caught_up) = (false, false);
        let applied = Applied { next, last, time, may_be_told, caught_up, halted: None };
        let status = Status {
            applied: Watched::new(applied),
            log_end_at_start: Mutex::default(),
            catch_up_to: Mutex::default(),
            log_end: AtomicU64::new(next.0),
            log_seen: Mutex::default(),
            lost_parts: AtomicU64::new(0),
            lost_ranges: AtomicU64::new(0),
            reaches_log: AtomicBool::new(false),
            backfilling: Mutex::default(),
            ready,
            troubles: Mutex::default(),
        };
        status.set_trouble(Trouble::CatchingUp, Some("catching up with the log".to_owned()));
        status
    }

    /// How far the node has applied now.
    pub(crate) fn applied(&self) -> Applied {
        self.applied.get().clone()
    }

    /// To be told of every change.
    pub(crate) fn watch(&self) -> Watcher<Applied> {
        self.applied.watch()
    }

    /// Everything below `next` is applied.
    pub(crate) fn set_applied(&self, next: TxnId, last: Option<TxnId>, time: Hlc) {
        self.update(|applied| {
            applied.next = next;
            applied.last = last;
            applied.time = time;
        });
    }

    /// The log's ends as they are now. The first ones are what the node has to catch up with; by
    /// then what it has applied was compared with what is declared lost ([`crate::losses`]).
    pub(crate) fn set_log_bounds(&self, bounds: Bounds) {
        let end = TxnId(bounds.end.0);
        self.log_end.fetch_max(end.0, Ordering::AcqRel);
        *self.log_seen.lock() = Some(Instant::now());
        let is_first = self.log_end_at_start.lock().is_none();
        if is_first {
            // Before it is known: who applies meanwhile would count as caught up (ST-3).
            self.raise_catch_up_to(end);
            *self.log_end_at_start.lock() = Some(end);
            tracing::info!(log_end = %end, "the store node knows the end of the log");
            self.update(|applied| applied.may_be_told = true);
        }
    }

    /// The end of the log when the node started; waits until it is known.
    pub(crate) async fn log_end_at_start(&self, patience: Duration) -> Result<TxnId, Error> {
        let known = || *self.log_end_at_start.lock();
        let late = |applied: &Applied| Error::CatchingUp { next: applied.next };
        self.wait(|_| known().is_some(), patience, late).await?;
        known().ok_or(Error::Shutdown)
    }

    /// Changes what is applied, and sees whether that is all that was to be caught up with.
    fn update(&self, change: impl FnOnce(&mut Applied)) {
        let mut caught_up = false;
        self.applied.change(|applied| {
            change(applied);
            let is_whole = self.backfilling.lock().is_none();
            let is_known = self.log_end_at_start.lock().is_some();
            let has_come = *self.catch_up_to.lock() <= applied.next;
            caught_up = is_whole && is_known && has_come && !applied.caught_up;
            applied.caught_up |= caught_up;
        });
        if caught_up {
            self.set_trouble(Trouble::CatchingUp, None);
        }
    }

    /// The backfill that is under way, if there is one.
    pub(crate) fn backfilling(&self) -> Option<Backfilling> {
        self.backfilling.lock().clone()
    }

    /// A backfill is under way, or no longer is; whether that is news. While it lasts, and until
    /// the node has come to where the log ends now, it serves no reads.
    pub(crate) fn set_backfilling(&self, backfilling: Option<Backfilling>) -> bool {
        let text = backfilling.as_ref().map(|backfilling| backfilling.text.clone());
        let has_begun = {
            let mut now = self.backfilling.lock();
            let has_begun = now.is_none() && backfilling.is_some();
            *now = backfilling;
            has_begun
        };
        if has_begun {
            self.raise_catch_up_to(self.log_end());
            self.set_trouble(Trouble::CatchingUp, Some("catching up with the log".to_owned()));
            self.applied.change(|applied| applied.caught_up = false);
        } else {
            self.update(|_| {});
        }
        metrics::set_backfilling(text.is_some());
        self.set_trouble(Trouble::Backfilling, text)
    }

    fn raise_catch_up_to(&self, end: TxnId) {
        let mut catch_up_to = self.catch_up_to.lock();
        *catch_up_to = end.max(*catch_up_to);
    }

    /// The end of the log when it was last seen.
    pub(crate) fn log_end(&self) -> TxnId {
        TxnId(self.log_end.load(Ordering::Acquire)).max(self.applied.get().next)
    }

    /// The same, if it was seen a moment ago: the log has not grown by much since.
    pub(crate) fn recent_log_end(&self) -> Option<TxnId> {
        let is_recent = self.log_seen.lock().is_some_and(|seen| seen.elapsed() <= RECENT);
        is_recent.then(|| self.log_end())
    }

    /// After an error: halts the node if what was read of the store or of the log makes no sense,
    /// now and for ever. It goes on answering from what it has. Another error is given back.
    pub(crate) fn halt_if_corrupt(&self, error: Error) -> Result<(), Error> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        tracing::error!(%error, next = %self.applied().next, "applying has stopped");
        self.halt(&error.to_string());
        Ok(())
    }

    /// What the node has durably goes as far as the log begins, or does not or nobody knows.
    pub(crate) fn set_reaches_log(&self, reaches: bool) {
        self.reaches_log.store(reaches, Ordering::Release);
    }

    /// Whether the node has durably all that it owns of what the log may no longer have, and goes on
    /// with what that has.
    pub(crate) fn is_whole(&self) -> bool {
        let applied = self.applied.get();
        let goes_on = applied.caught_up && applied.halted.is_none();
        goes_on && self.backfilling.lock().is_none() && self.reaches_log.load(Ordering::Acquire)
    }

    /// Nothing more will be applied.
    pub(crate) fn halt(&self, reason: &str) {
        self.applied.change(|applied| applied.halted = Some(reason.into()));
        self.set_trouble(Trouble::Halted, Some(reason.to_owned()));
        metrics::set_halted();
    }

    /// Data of this many parts was lost.
    pub(crate) fn add_lost_parts(&self, count: u64) {
        self.lost_parts.fetch_add(count, Ordering::AcqRel);
    }

    /// How many parts were lost since the node started.
    pub(crate) fn lost_parts(&self) -> u64 {
        self.lost_parts.load(Ordering::Acquire)
    }

    /// All of some transactions is lost.
    pub(crate) fn add_lost_range(&self) {
        self.lost_ranges.fetch_add(1, Ordering::AcqRel);
        metrics::set_lost_ranges(self.lost_ranges());
    }

    /// How many ranges of transactions are lost, ever.
    pub(crate) fn lost_ranges(&self) -> u64 {
        self.lost_ranges.load(Ordering::Acquire)
    }

    /// So many were lost before the node started.
    pub(crate) fn set_lost_ranges(&self, count: u64) {
        self.lost_ranges.store(count, Ordering::Release);
        metrics::set_lost_ranges(count);
    }

    /// Something is wrong, or no longer is. Whether that is news.
    pub(crate) fn set_trouble(&self, trouble: Trouble, what: Option<String>) -> bool {
        let mut troubles = self.troubles.lock();
        let is_news = match what {
            Some(what) => troubles.insert(trouble, what).is_none(),
            None if troubles.remove(&trouble).is_none() => return false,
            None => true,
        };
        match together(&troubles) {
            None => self.ready.set_ready(),
            Some(all) => self.ready.set_not_ready(all),
        }
        is_news
    }

    /// All that is wrong, for people; `None` if the node is ready.
    pub(crate) fn not_ready(&self) -> Option<String> {
        together(&self.troubles.lock())
    }

    /// Whether this is wrong.
    pub(crate) fn has_trouble(&self, trouble: Trouble) -> bool {
        self.troubles.lock().contains_key(&trouble)
    }

    /// Waits until `txn` is applied.
    pub(crate) async fn reach(&self, txn: TxnId, patience: Duration) -> Result<Applied, Error> {
        self.wait(
            |applied| applied.may_be_told && applied.next > txn,
            patience,
            |applied| Error::NotReached { wanted: txn, next: applied.next },
        )
        .await
    }

    /// Waits until everything that was in the log when the node started is applied.
    pub(crate) async fn catch_up(&self, patience: Duration) -> Result<Applied, Error> {
        self.wait(
            |applied| applied.caught_up,
            patience,
            |applied| Error::CatchingUp { next: applied.next },
        )
        .await
    }

    async fn wait(
        &self,
        reached: impl Fn(&Applied) -> bool,
        patience: Duration,
        late: impl FnOnce(&Applied) -> Error,
    ) -> Result<Applied, Error> {
        let mut watch = self.watch();
        let over = |applied: &Applied| reached(applied) || applied.halted.is_some();
        let found = {
            // Most of the time there is nothing to wait for.
            let now = watch.get();
            over(&now).then(|| now.clone())
        };
        let applied = match found {
            Some(applied) => applied,
            None => match tokio::time::timeout(patience, watch.wait_for(over)).await {
                Ok(applied) => applied,
                Err(_) => return Err(late(&self.applied())),
            },
        };
        match &applied.halted {
            Some(reason) if !reached(&applied) => Err(Error::Halted(reason.to_string())),
            _ => Ok(applied),
        }
    }
}

fn together(troubles: &BTreeMap<Trouble, String>) -> Option<String> {
    let whats: Vec<_> = troubles.values().map(String::as_str).collect();
    (!whats.is_empty()).then(|| whats.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_journal::Offset;
    use anabranch_runtime::admin::Readiness;

    fn bounds(end: u64) -> Bounds {
        Bounds { start: Offset(0), end: Offset(end) }
    }

    #[tokio::test]
    async fn a_node_is_ready_once_it_has_reached_the_end_of_the_log_as_it_was_at_the_start() {
        let readiness = Readiness::new();
        let status = Status::new(TxnId(0), None, Hlc(0), readiness.register("store node"));
        let soon = Duration::from_millis(1);
        assert!(matches!(status.catch_up(soon).await, Err(Error::CatchingUp { .. })));
        status.set_log_bounds(bounds(5));
        status.set_applied(TxnId(4), Some(TxnId(3)), Hlc(1));
        assert_eq!(readiness.not_ready().len(), 1);
        status.set_applied(TxnId(5), Some(TxnId(4)), Hlc(1));
        assert!(readiness.not_ready().is_empty());
        status.set_log_bounds(bounds(9));
        assert!(status.catch_up(soon).await.unwrap().caught_up);
        assert_eq!(status.log_end(), TxnId(9));
    }

    /// Else it would answer for the cluster at a timestamp that is not stable yet.
    #[tokio::test]
    async fn a_backfill_changes_what_has_to_be_reached_and_not_from_where_on_others_are_read() {
        let readiness = Readiness::new();
        let status = Status::new(TxnId(0), None, Hlc(0), readiness.register("store node"));
        let soon = Duration::from_millis(1);
        status.set_log_bounds(bounds(5));
        status.set_applied(TxnId(5), Some(TxnId(4)), Hlc(1));
        status.set_log_bounds(bounds(9));
        let text = "copying".to_owned();
        status.set_backfilling(Some(Backfilling { until: TxnId(8), entries: 0, text }));
        assert_eq!(status.log_end_at_start(soon).await.unwrap(), TxnId(5));
        status.set_applied(TxnId(8), Some(TxnId(7)), Hlc(1));
        status.set_backfilling(None);
        assert!(!status.applied().caught_up);
        status.set_applied(TxnId(9), Some(TxnId(8)), Hlc(1));
        assert!(readiness.not_ready().is_empty());
        assert_eq!(status.log_end_at_start(soon).await.unwrap(), TxnId(5));
    }

    #[tokio::test]
    async fn a_halted_node_answers_what_it_has_and_refuses_the_rest_at_once() {
        let readiness = Readiness::new();
        let status = Status::new(TxnId(3), None, Hlc(0), readiness.register("store node"));
        status.set_log_bounds(bounds(9));
        status.halt("a record is broken");
        let long = Duration::from_secs(3600);
        assert!(status.reach(TxnId(2), long).await.is_ok());
        assert!(matches!(status.reach(TxnId(3), long).await, Err(Error::Halted(_))));
        assert!(readiness.not_ready()[0].1.contains("a record is broken"));
    }

    #[tokio::test]
    async fn nothing_is_told_before_it_was_compared_with_what_is_lost() {
        let ready = Readiness::new().register("store node");
        let status = Status::new(TxnId(3), None, Hlc(0), ready);
        let soon = Duration::from_millis(1);
        assert!(matches!(status.reach(TxnId(2), soon).await, Err(Error::NotReached { .. })));
        status.set_log_bounds(bounds(9));
        assert!(status.reach(TxnId(2), soon).await.is_ok());
    }

    #[tokio::test]
    async fn troubles_come_and_go() {
        let readiness = Readiness::new();
        let status = Status::new(TxnId(0), None, Hlc(0), readiness.register("store node"));
        status.set_log_bounds(bounds(0));
        assert!(readiness.not_ready().is_empty());
        status.set_trouble(Trouble::Commits, Some("no broker".to_owned()));
        assert_eq!(readiness.not_ready(), [("store node", "no broker".to_owned())]);
        status.set_trouble(Trouble::Commits, None);
        assert!(readiness.not_ready().is_empty());
    }
}
