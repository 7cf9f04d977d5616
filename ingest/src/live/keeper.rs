//! Keeps a view: one task, which reads its rows, takes what it is told, and tells how they change.
//!
//! It ends when nobody has subscribed for a while, or when the query cannot be kept; whoever subscribes
//! then gets another view.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_core::query::{Meter, Select};
use anabranch_runtime::planted;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::blocking;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Live;
use super::event;
use super::log::Log;
use super::memory::Held;
use super::row_set::{Made, RowSet};
use super::view::{Changed, ChangedDocument, Phase, Told, View};
use crate::error::{Code, Refusal};
use crate::metrics;
use crate::store::At;

/// What is larger is looked at beside other tasks and not among them.
const SMALL_BYTES: usize = 64 << 10;
/// And what takes more steps than this to evaluate: about a tenth of a millisecond.
const AT_ONCE_STEPS: usize = 1 << 15;
/// A query that takes longer to look at what one transaction changed is not kept.
const SLOW: Duration = Duration::from_secs(5);
/// How often a view notes how far it is, and whether anybody follows it.
const TICK: Duration = Duration::from_millis(200);
/// How long it is kept when nobody does: who lost a connection comes back.
const LINGER: Duration = Duration::from_secs(30);
/// Rows that are read again are so at most this often, and not more than half of the time.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// How long a view that has ended is found by whoever asks for the same, who is told why at once.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How long to wait before a failed read is tried again, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(2);

/// Keeps a view as long as it can be, and somebody may want it.
pub(super) async fn keep(live: Live, view: Arc<View>, told: mpsc::Receiver<Told>, held: Held) {
    let _counted = metrics::live_query();
    // Also if this breaks down nobody takes it for one that is kept.
    let mut end = End { live: live.clone(), view: Arc::clone(&view), refusal: Some(broken()) };
    let mut keeper = Keeper {
        live: live.clone(),
        view: Arc::clone(&view),
        told,
        held,
        must_read: Some(TxnId(0)),
        read_at: Instant::now(),
        idle_since: None,
        backoff: Backoff::new(FIRST_DELAY, MOST_DELAY),
    };
    let shutdown = live.0.shutdown.clone();
    let ended = tokio::select! {
        biased;
        () = shutdown.begun() => Err(Refusal::stopping()),
        ended = keeper.keep() => ended,
    };
    drop(keeper);
    end.refusal = ended.err();
    if let Some(refusal) = &end.refusal {
        end_with(&view, refusal.clone());
        tokio::select! {
            biased;
            () = shutdown.begun() => {}
            () = sleep(REMEMBERED) => {}
        }
    }
}

fn broken() -> Refusal {
    Refusal::new(Code::Internal, "the live query broke down")
}

fn end_with(view: &View, refusal: Refusal) {
    let mut rows = RowSet::default();
    view.state.change(|state| {
        state.phase = Phase::Ended(refusal);
        std::mem::swap(&mut rows, &mut state.rows);
        state.has_changed(state.next());
    });
}

/// The end of a view.
struct End {
    live: Live,
    view: Arc<View>,
    /// Why; nobody asks if there is nobody.
    refusal: Option<Refusal>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.live.forget(&self.view);
        if let Some(refusal) = self.refusal.take() {
            end_with(&self.view, refusal);
        }
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
        let mut taken = self.live.0.taken.watch();
        loop {
            self.note_missed();
            let is_followed = self.is_followed();
            let is_due = self.must_read.is_some() && is_followed;
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    self.note_progress();
                    if self.is_over() {
                        return Ok(());
                    }
                }
                () = taken.changed(), if !is_followed => {}
                () = sleep_until(self.read_at), if is_due => self.try_read().await?,
                told = self.told.recv() => {
                    self.take(told.expect("the view holds the other end")).await?;
                }
            }
        }
    }

    /// Whether the feed is open; if not, whoever waits is told why.
    fn is_followed(&self) -> bool {
        let taken = self.live.0.taken.get().clone();
        if taken.next.is_none() && taken.failure.is_some() {
            self.note_failure(taken.failure);
        }
        taken.next.is_some()
    }

    /// Why the rows are not read yet.
    fn note_failure(&self, failure: Option<Refusal>) {
        let is_known = match &self.view.state.get().phase {
            Phase::Reading(reason) => *reason == failure,
            Phase::Live | Phase::Ended(_) => true,
        };
        if !is_known {
            self.view.state.change(|state| state.phase = Phase::Reading(failure));
        }
    }

    /// If it was not told of something, its rows have to be read.
    fn note_missed(&mut self) {
        let missed = TxnId(self.view.missed.swap(0, Ordering::Acquire));
        if missed > TxnId(0) {
            self.must_read = self.must_read.max(Some(missed));
        }
    }

    /// Takes what it is told.
    async fn take(&mut self, told: Told) -> Result<(), Refusal> {
        let changed = match told {
            Told::Changed(changed) => changed,
            Told::Missed(next) => {
                if next > self.view.state.get().next() {
                    self.must_read = self.must_read.max(Some(next));
                }
                return Ok(());
            }
        };
        self.view.queued.fetch_sub(changed.bytes, Ordering::Relaxed);
        let (txn, next) = (changed.txn, changed.txn.next());
        if self.must_read.is_some() {
            self.must_read = self.must_read.max(Some(next));
            return Ok(());
        }
        if txn < self.view.state.get().next() {
            return Ok(());
        }
        let mut made = match self.meaning(changed).await? {
            Meaning::Made(made) => made,
            Meaning::Matters(matters) => {
                self.view.state.get().set_next(if matters { txn } else { next });
                self.must_read = matters.then_some(next);
                return Ok(());
            }
        };
        {
            let state = self.view.state.get();
            made.retain(|made| state.rows.differs(made));
            if made.is_empty() {
                state.set_next(next);
                return Ok(());
            }
        }
        let (tags, is_sorted) = (&self.view.tags, self.view.is_sorted());
        self.view.state.change(|state| {
            let changes = state.rows.apply(made);
            state.log.push(txn, next, event::change(next, tags, &changes, is_sorted));
            state.has_changed(next);
        });
        self.check()
    }

    /// Looks at what a transaction changed.
    async fn meaning(&self, changed: Arc<Changed>) -> Result<Meaning, Refusal> {
        let (select, by_document) = (Arc::clone(&self.view.select), self.view.is_by_document());
        if changed.bytes.saturating_mul(select.cost()) <= SMALL_BYTES
            && let Some(meaning) = Meaning::at_once(&select, by_document, &changed)
        {
            return Ok(meaning);
        }
        let _place = self.live.0.looking.acquire().await.expect("it is never closed");
        let looking = blocking(move || {
            let began = Instant::now();
            (Meaning::of(&select, by_document, &changed, &Meter::new()), began.elapsed())
        });
        let (meaning, took) = looking.await.map_err(|_| Refusal::stopping())?;
        if took > SLOW {
            let message = format!("the live query took {took:?} to look at what changed");
            return Err(Refusal::new(Code::QueryTooLarge, message));
        }
        Ok(meaning)
    }

    /// Reads the rows. What will pass is tried again later.
    async fn try_read(&mut self) -> Result<(), Refusal> {
        let began = Instant::now();
        match self.read().await {
            Ok((next, rows)) => {
                self.backoff.reset();
                self.read_at = Instant::now() + began.elapsed().max(READ_PAUSE);
                self.must_read = None;
                let log_bytes = self.view.state.get().log.bytes();
                self.hold(rows.bytes() + log_bytes)?;
                self.publish(next, rows);
                self.check()
            }
            Err(refusal) if refusal.kind() == ErrorKind::Retry => {
                tracing::debug!(error = %refusal, "the rows of a live query are read again later");
                self.read_at = Instant::now() + self.backoff.next_delay();
                self.note_failure(Some(refusal));
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn read(&self) -> Result<(TxnId, RowSet), Refusal> {
        metrics::live_read();
        // It is told of all that was not taken yet; and nothing that was told is taken back.
        let taken = self.live.0.taken.get().next.unwrap_or_default();
        let told = self.view.state.get().next();
        let at_least = match planted!(FollowsWhatIsOlder) {
            true => TxnId(0),
            false => self.must_read.unwrap_or_default().max(taken).max(told),
        };
        let at = At::Newest(at_least.0.checked_sub(1).map(TxnId));
        let (next, rows) = self.live.rows(&self.view.asked, at).await?;
        if next < at_least {
            let message = "the store node read something older than what was asked for";
            return Err(Refusal::new(Code::StoreUnavailable, message));
        }
        Ok((next, rows))
    }

    /// Puts rows that were read in place of those before, and tells how they differ.
    fn publish(&self, next: TxnId, mut rows: RowSet) {
        let tags = &self.view.tags;
        let (is_grouped, is_sorted) = (self.view.is_grouped(), self.view.is_sorted());
        let (base, is_live, text) = {
            let state = self.view.state.get();
            let is_live = matches!(state.phase, Phase::Live);
            let text = if !is_live {
                None
            } else if is_grouped {
                let is_same = rows.is_same_as(&state.rows);
                (!is_same).then(|| event::result(next, tags, &rows))
            } else {
                let changes = rows.since(&state.rows);
                (!changes.is_empty()).then(|| event::change(next, tags, &changes, is_sorted))
            };
            (state.next(), is_live, text)
        };
        // The rows of before are dropped when nobody waits for that any more.
        self.view.state.change(|state| {
            std::mem::swap(&mut state.rows, &mut rows);
            match text {
                _ if !is_live => {
                    state.log = Log::new(next);
                    state.phase = Phase::Live;
                }
                Some(text) if is_grouped => state.log.push_whole(base, next, text),
                text => state.log.push(base, next, text.unwrap_or_default()),
            }
            state.has_changed(next);
        });
    }

    /// Refuses what takes too much memory.
    fn check(&mut self) -> Result<(), Refusal> {
        let bytes = {
            let state = self.view.state.get();
            state.rows.check()?;
            state.bytes()
        };
        self.hold(bytes)
    }

    /// Holds so much beside what every view takes.
    fn hold(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.held.set(self.view.asked.bytes() + bytes)
    }

    /// Notes how far it is, if it has nothing to do.
    fn note_progress(&self) {
        // Before it is looked whether something of it waits.
        let handed_out = TxnId(self.live.0.handed_out.load(Ordering::Acquire));
        let has_all = self.told.is_empty() && self.view.missed.load(Ordering::Acquire) == 0;
        if has_all && self.must_read.is_none() {
            self.view.state.get().set_next(handed_out);
        }
    }

    /// Whether nobody wants it any more.
    fn is_over(&mut self) -> bool {
        if self.view.is_dismissed.load(Ordering::Relaxed) {
            return true;
        }
        if !self.view.is_idle() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() >= LINGER && self.live.forget_if_idle(&self.view)
    }
}

/// What the changes of a transaction mean to a query.
#[derive(Debug)]
enum Meaning {
    /// The rows of the documents.
    Made(Vec<Made>),
    /// Whether the result may be another one.
    Matters(bool),
}

impl Meaning {
    /// Unless it takes a while to find out.
    fn at_once(select: &Select, is_by_document: bool, changed: &Changed) -> Option<Self> {
        let meter = Meter::of(AT_ONCE_STEPS);
        let meaning = Meaning::of(select, is_by_document, changed, &meter);
        (!meter.is_over()).then_some(meaning)
    }

    fn of(select: &Select, is_by_document: bool, changed: &Changed, meter: &Meter) -> Self {
        let mut documents = changed.documents.iter();
        match is_by_document {
            true => Meaning::Made(documents.map(|changed| made(select, changed, meter)).collect()),
            false => Meaning::Matters(documents.any(|changed| may_matter(select, changed, meter))),
        }
    }
}

/// The row of a document, if it has one now.
fn made(select: &Select, changed: &ChangedDocument, meter: &Meter) -> Made {
    let id = changed.change.key.as_str();
    let after = changed.after.as_ref().filter(|after| select.matches(after, meter));
    let row = after
        .map(|after| (select.place(after, id, meter), select.row(after, meter).to_json().into()));
    Made { id: id.into(), row }
}

/// Whether a change may have changed the result.
fn may_matter(select: &Select, changed: &ChangedDocument, meter: &Meter) -> bool {
    let ChangedDocument { change, after } = changed;
    let was = || change.before_image(after.as_ref()).map(|before| change.key.add_to(before));
    after.as_ref().is_some_and(|after| select.matches(after, meter))
        || was().is_some_and(|was| select.matches(&was, meter))
}
