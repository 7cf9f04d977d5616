//! A live query that is kept: its rows, and a log of what changed them.
//!
//! It is told of changes by the follower, through a queue that is bounded in number and in bytes: if that
//! is full, it has missed something, and its keeper reads its rows again.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::query::Select;
use anabranch_runtime::watched::Watched;
use anabranch_schemas::records::Change;
use tokio::sync::mpsc;

use super::Asked;
use super::event::{Snapshot, Tags};
use super::log::Log;
use super::row_set::RowSet;
use crate::error::Refusal;
use crate::metrics;

/// How many transactions wait for a view, and how large their changes are together. One that is further
/// behind reads its rows again.
const WAITING: usize = 1_024;
const WAITING_BYTES: usize = 16 << 20;

/// A live query that is kept.
pub(super) struct View {
    pub(super) asked: Asked,
    /// In the ids of its events.
    pub(super) tags: Tags,
    pub(super) select: Arc<Select>,
    queue: mpsc::Sender<Told>,
    /// How many bytes of changes wait in it.
    pub(super) queued: AtomicUsize,
    /// It was not told of everything below this.
    pub(super) missed: AtomicU64,
    pub(super) subscribers: AtomicUsize,
    /// Another one has its place.
    pub(super) is_dismissed: AtomicBool,
    pub(super) state: Watched<State>,
}

/// What subscribers see of it.
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) rows: RowSet,
    pub(super) log: Log,
    /// The rows are those of every transaction below this and not below the last event.
    next: AtomicU64,
    /// The rows as they are sent, once they were asked for.
    snapshot: OnceLock<Arc<Snapshot>>,
}

/// How a view is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Its rows were not read yet, lately for this reason.
    Reading(Option<Refusal>),
    /// They were.
    Live,
    /// It is kept no more.
    Ended(Refusal),
}

/// What a view is told.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Documents of its collection changed.
    Changed(Arc<Changed>),
    /// What happened below this is not known.
    Missed(TxnId),
}

/// What a transaction changed in a collection.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) txn: TxnId,
    pub(super) documents: Vec<ChangedDocument>,
    /// How large that is as it came.
    pub(super) bytes: usize,
}

/// What it did to a document.
#[derive(Debug)]
pub(super) struct ChangedDocument {
    pub(super) change: Change,
    /// With its `_id`; `None` if it is not there any more.
    pub(super) after: Option<Value>,
}

impl View {
    /// A view, and what it is told.
    pub(super) fn new(asked: Asked, select: Select) -> (Self, mpsc::Receiver<Told>) {
        let (queue, told) = mpsc::channel(WAITING);
        let state = State {
            phase: Phase::Reading(None),
            rows: RowSet::default(),
            log: Log::new(TxnId(0)),
            next: AtomicU64::new(0),
            snapshot: OnceLock::new(),
        };
        let view = View {
            tags: asked.tags(),
            asked,
            select: Arc::new(select),
            queue,
            queued: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
            subscribers: AtomicUsize::new(1),
            is_dismissed: AtomicBool::new(false),
            state: Watched::new(state),
        };
        (view, told)
    }

    /// Tells it, at once.
    pub(super) fn tell(&self, told: Told) {
        let (next, bytes) = match &told {
            Told::Changed(changed) => (changed.txn.next(), changed.bytes),
            Told::Missed(next) => (*next, 0),
        };
        let waiting = self.queued.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // What waits wakes the view; of one that has ended nobody waits for anything.
        if (bytes > 0 && waiting > WAITING_BYTES) || self.queue.try_send(told).is_err() {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.miss(next);
        }
    }

    /// It is not told of what happened below this.
    fn miss(&self, next: TxnId) {
        metrics::live_missed();
        self.missed.fetch_max(next.0, Ordering::Release);
        // If the queue is full there is something to wake it.
        let _ = self.queue.try_send(Told::Missed(next));
    }

    /// Ends it soon, for another one.
    pub(super) fn dismiss(&self) {
        self.is_dismissed.store(true, Ordering::Relaxed);
    }

    /// Whether nobody follows it.
    pub(super) fn is_idle(&self) -> bool {
        self.subscribers.load(Ordering::Relaxed) == 0
    }

    /// What the canonical ids of its documents begin with.
    pub(super) fn prefix(&self) -> Vec<u8> {
        DocumentId::collection_prefix(self.asked.app, &self.select.collection)
    }

    /// Whether rows are groups of documents.
    pub(super) fn is_grouped(&self) -> bool {
        self.select.is_grouped()
    }

    /// Whether rows stand in another order than that of their documents' ids.
    pub(super) fn is_sorted(&self) -> bool {
        self.select.is_sorted()
    }

    /// Whether each document decides by itself which row it has.
    pub(super) fn is_by_document(&self) -> bool {
        let Select { limit, offset, .. } = *self.select;
        !self.select.is_grouped() && limit.is_none() && offset == 0
    }
}

impl State {
    /// The rows are as of everything below this.
    pub(super) fn next(&self) -> TxnId {
        TxnId(self.next.load(Ordering::Acquire))
    }

    /// They are up to this, too.
    pub(super) fn set_next(&self, next: TxnId) {
        self.next.fetch_max(next.0, Ordering::Release);
    }

    /// They have changed, and are as of everything below this.
    pub(super) fn has_changed(&mut self, next: TxnId) {
        self.snapshot = OnceLock::new();
        self.set_next(next);
    }

    /// The rows as they are sent.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let make = || Arc::new(Snapshot::new(&self.rows));
        Arc::clone(self.snapshot.get_or_init(make))
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.log.bytes()
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::{ActorId, AppId};
    use anabranch_core::query::{self, Args, Statement};
    use uuid::Uuid;

    use super::*;
    use crate::access::Readable;
    use crate::doubles::EAST;

    #[test]
    fn what_another_cluster_sent_has_another_tag() {
        let (view, _told) = view();
        let asked = Asked { cluster: ActorId(Uuid::from_u128(2)), ..view.asked.clone() };
        assert_ne!(asked.cluster, view.asked.cluster);
        assert_ne!(asked.tags().at(TxnId(7)), view.tags.at(TxnId(7)));
    }

    fn view() -> (View, mpsc::Receiver<Told>) {
        let (statement, args) = ("SELECT * FROM c".to_owned(), String::new());
        let Ok(Statement::Select(select)) = query::parse(&statement, &Args::new()) else {
            panic!("it is a SELECT")
        };
        let (cluster, app, readable) = (EAST, AppId(Uuid::nil()), Readable::default());
        let asked = Asked { cluster, app, statement, args, readable };
        View::new(asked, select)
    }

    fn changed(txn: u64, bytes: usize) -> Told {
        Told::Changed(Arc::new(Changed { txn: TxnId(txn), documents: Vec::new(), bytes }))
    }

    #[test]
    fn what_finds_no_room_is_missed() {
        let (view, mut told) = view();
        let waiting = WAITING as u64;
        (0..waiting).for_each(|txn| view.tell(changed(txn, 1)));
        assert_eq!(view.missed.load(Ordering::Relaxed), 0);
        view.tell(changed(waiting, 1));
        view.tell(Told::Missed(TxnId(waiting + 9)));
        view.tell(changed(waiting + 2, 1));
        assert_eq!(view.missed.load(Ordering::Relaxed), waiting + 9);
        assert_eq!(view.queued.load(Ordering::Relaxed), WAITING);
        assert!(matches!(told.try_recv(), Ok(Told::Changed(_))));
    }

    #[test]
    fn what_is_too_large_together_is_missed_and_wakes() {
        let (view, mut told) = view();
        view.tell(changed(1, WAITING_BYTES));
        view.tell(changed(2, 1));
        assert_eq!(view.missed.load(Ordering::Relaxed), 3);
        assert_eq!(view.queued.load(Ordering::Relaxed), WAITING_BYTES);
        assert!(matches!(told.try_recv(), Ok(Told::Changed(_))));
        assert!(matches!(told.try_recv(), Ok(Told::Missed(TxnId(3)))));
    }
}
