//! A live query that is kept: its rows, and a log of what changed them.
//!
//! One task keeps it. It is told of changes by the follower, through a bounded queue: if that is full, it
//! has missed something and reads its rows again. It ends when nobody has subscribed for a while, or when
//! the query cannot be kept; whoever subscribes then gets another one.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::Value;
use anabranch_core::ids::{Collection, TxnId};
use anabranch_core::query::Select;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::watched::Watched;
use anabranch_schemas::records::Change;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::event::{self, Snapshot};
use super::log::Log;
use super::row_set::{Made, RowSet};
use super::{Asked, Held, Live};
use crate::error::Refusal;
use crate::metrics;
use crate::store::At;

/// How many transactions wait for a view. One that is further behind reads its rows again.
const WAITING: usize = 1_024;
/// How often a view notes how far it is, and whether anybody follows it.
const TICK: Duration = Duration::from_millis(200);
/// How long it is kept when nobody does: who lost a connection comes back.
const LINGER: Duration = Duration::from_secs(30);
/// Rows that are read again are so at most this often, and not more than half of the time.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait before a failed read is tried again, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(2);

/// A live query that is kept.
pub(super) struct View {
    pub(super) asked: Asked,
    select: Select,
    queue: mpsc::Sender<Told>,
    /// It was not told of everything.
    has_missed: AtomicBool,
    pub(super) subscribers: AtomicUsize,
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
            asked,
            select,
            queue,
            has_missed: AtomicBool::new(false),
            subscribers: AtomicUsize::new(1),
            state: Watched::new(state),
        };
        (view, told)
    }

    /// Tells it, at once.
    pub(super) fn tell(&self, told: Told) {
        // A queue that is full wakes the view; of one that has ended nobody waits for anything.
        if self.queue.try_send(told).is_err() {
            self.has_missed.store(true, Ordering::Release);
        }
    }

    pub(super) fn collection(&self) -> &Collection {
        &self.select.collection
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
    fn is_by_document(&self) -> bool {
        let Select { limit, offset, .. } = self.select;
        !self.select.is_grouped() && limit.is_none() && offset == 0
    }

    fn matches(&self, document: &Value) -> bool {
        self.select.filter.as_ref().is_none_or(|filter| filter.matches(document))
    }

    fn made(&self, changed: &ChangedDocument) -> Made {
        let id = changed.change.key.as_str();
        let after = changed.after.as_ref().filter(|after| self.matches(after));
        let row = after
            .map(|after| (self.select.place(after, id), self.select.row(after).to_json().into()));
        Made { id: id.into(), row }
    }

    /// Whether a change may have changed the result.
    fn may_matter(&self, changed: &ChangedDocument) -> bool {
        let ChangedDocument { change, after } = changed;
        let was = || change.before_image(after.as_ref()).map(|before| change.key.add_to(before));
        after.as_ref().is_some_and(|after| self.matches(after))
            || was().is_some_and(|was| self.matches(&was))
    }
}

impl State {
    /// The rows are as of everything below this.
    pub(super) fn next(&self) -> TxnId {
        TxnId(self.next.load(Ordering::Acquire))
    }

    fn set_next(&self, next: TxnId) {
        self.next.fetch_max(next.0, Ordering::Release);
    }

    /// The rows as they are sent.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let make = || Arc::new(Snapshot::new(self.next(), &self.rows));
        Arc::clone(self.snapshot.get_or_init(make))
    }

    fn bytes(&self) -> usize {
        self.rows.bytes() + self.log.bytes()
    }
}

/// Keeps a view as long as it can be, and somebody may want it.
pub(super) async fn keep(live: Live, view: Arc<View>, told: mpsc::Receiver<Told>, held: Held) {
    let _counted = metrics::live_query();
    let now = Instant::now();
    let mut keeper = Keeper {
        live: live.clone(),
        view: Arc::clone(&view),
        told,
        held,
        must_read: Some(TxnId(0)),
        read_at: now,
        idle_since: None,
        backoff: Backoff::new(FIRST_DELAY, MOST_DELAY),
    };
    let shutdown = live.0.shutdown.clone();
    let ended = tokio::select! {
        biased;
        () = shutdown.begun() => Some(live.stopping()),
        ended = keeper.keep() => ended.err(),
    };
    if let Some(refusal) = ended {
        live.forget(&view, false);
        view.state.change(|state| {
            state.phase = Phase::Ended(refusal);
            state.rows = RowSet::default();
        });
    }
}

struct Keeper {
    live: Live,
    view: Arc<View>,
    told: mpsc::Receiver<Told>,
    held: Held,
    /// The rows have to be read, as of everything below this at least.
    must_read: Option<TxnId>,
    /// Not before.
    read_at: Instant,
    idle_since: Option<Instant>,
    backoff: Backoff,
}

impl Keeper {
    /// Until nobody wants it, or it cannot be kept.
    async fn keep(&mut self) -> Result<(), Refusal> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.view.has_missed.swap(false, Ordering::Acquire) {
                while self.told.try_recv().is_ok() {}
                // What it was not told of was handed out before this.
                self.must_read.get_or_insert(TxnId(0));
            }
            let is_due = self.must_read.is_some();
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    self.note_progress();
                    if self.is_idle() && self.live.forget(&self.view, true) {
                        return Ok(());
                    }
                }
                () = sleep_until(self.read_at), if is_due => self.try_read().await?,
                told = self.told.recv() => {
                    self.take(told.expect("the view holds the other end"))?;
                }
            }
        }
    }

    /// Takes what it is told.
    fn take(&mut self, told: Told) -> Result<(), Refusal> {
        let changed = match told {
            Told::Changed(changed) => changed,
            Told::Missed(next) => {
                self.must_read = self.must_read.max(Some(next));
                return Ok(());
            }
        };
        let next = changed.txn.next();
        if self.must_read.is_some() {
            self.must_read = self.must_read.max(Some(next));
            return Ok(());
        }
        let state = self.view.state.get();
        if changed.txn < state.next() {
            return Ok(());
        }
        if !self.view.is_by_document() {
            let matters = changed.documents.iter().any(|changed| self.view.may_matter(changed));
            state.set_next(if matters { changed.txn } else { next });
            self.must_read = matters.then_some(next);
            return Ok(());
        }
        let mut made: Vec<_> =
            changed.documents.iter().map(|changed| self.view.made(changed)).collect();
        made.retain(|made| state.rows.differs(made));
        if made.is_empty() {
            state.set_next(next);
            return Ok(());
        }
        drop(state);
        self.view.state.change(|state| {
            let changes = state.rows.apply(made);
            let text = event::change(next, &changes, self.view.is_sorted());
            state.log.push(changed.txn, next, text);
            state.snapshot = OnceLock::new();
            state.set_next(next);
        });
        self.check()
    }

    /// Reads the rows. What will pass is tried again later.
    async fn try_read(&mut self) -> Result<(), Refusal> {
        let began = Instant::now();
        match self.read().await {
            Ok((next, rows)) => {
                self.backoff.reset();
                self.read_at = Instant::now() + began.elapsed().max(READ_PAUSE);
                self.must_read = None;
                self.held.set(rows.bytes() + self.view.state.get().log.bytes())?;
                self.publish(next, rows);
                self.check()
            }
            Err(refusal) if refusal.kind() == ErrorKind::Retry => {
                tracing::debug!(error = %refusal, "the rows of a live query are read again later");
                self.read_at = Instant::now() + self.backoff.next_delay();
                self.view.state.change(|state| {
                    if let Phase::Reading(reason) = &mut state.phase {
                        *reason = Some(refusal);
                    }
                });
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn read(&self) -> Result<(TxnId, RowSet), Refusal> {
        metrics::live_read();
        let shared = &self.live.0;
        // From here on it is told of everything that was not taken yet.
        let taken = shared.taken.watch().wait_for(Option::is_some).await.unwrap_or_default();
        let at_least = self.must_read.unwrap_or_default().max(taken);
        let at = At::Newest(at_least.0.checked_sub(1).map(TxnId));
        self.live.rows(&self.view.asked, at).await
    }

    /// Puts rows that were read in place of those before, and tells how they differ.
    fn publish(&self, next: TxnId, rows: RowSet) {
        let (view, base) = (&self.view, self.view.state.get().next());
        view.state.change(|state| {
            let before = std::mem::replace(&mut state.rows, rows);
            match state.phase {
                Phase::Live if view.is_grouped() => {
                    if !state.rows.is_same_as(&before) {
                        state.log.push_whole(next, event::result(next, &state.rows));
                    }
                }
                Phase::Live => {
                    let changes = state.rows.since(&before);
                    if !changes.is_empty() {
                        let text = event::change(next, &changes, view.is_sorted());
                        state.log.push(base, next, text);
                    }
                }
                Phase::Reading(_) | Phase::Ended(_) => {
                    state.log = Log::new(next);
                    state.phase = Phase::Live;
                }
            }
            state.snapshot = OnceLock::new();
            state.set_next(next);
        });
    }

    /// Refuses what takes too much memory.
    fn check(&mut self) -> Result<(), Refusal> {
        let state = self.view.state.get();
        state.rows.check()?;
        self.held.set(state.bytes())
    }

    /// Notes how far it is, if it has nothing to do.
    fn note_progress(&self) {
        // Before it is looked whether something of it waits.
        let handed_out = TxnId(self.live.0.handed_out.load(Ordering::Acquire));
        let has_all = self.told.is_empty() && !self.view.has_missed.load(Ordering::Acquire);
        if has_all && self.must_read.is_none() {
            self.view.state.get().set_next(handed_out);
        }
    }

    fn is_idle(&mut self) -> bool {
        if self.view.subscribers.load(Ordering::Relaxed) > 0 {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() >= LINGER
    }
}

impl Live {
    /// The rows of what is asked for, as of everything below the transaction that comes with them.
    pub(super) async fn rows(&self, asked: &Asked, at: At) -> Result<(TxnId, RowSet), Refusal> {
        let soon = || Instant::now() + self.0.read_timeout;
        let args = asked.args();
        let mut rows = self.0.store.query(asked.question(&args), at, soon()).await?;
        let next = rows.txn.map_or(TxnId(0), TxnId::next);
        let mut set = RowSet::default();
        while let Some(items) = rows.next(soon()).await? {
            for item in items {
                let place = item.stands_at().to_vec();
                set.insert(item.key.into(), place, item.item.into());
            }
            set.check()?;
        }
        Ok((next, set))
    }
}
