//! Somebody who follows a live query: a place in the log of its view.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_runtime::planted;
use anabranch_runtime::watched::Watcher;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::event::{self, Sending};
use super::view::{Phase, State, View};
use super::{Live, Start};
use crate::access::Caller;
use crate::error::{Code, Refusal};
use crate::http::PIECE_BYTES;
use crate::metrics::{self, Counted};
use crate::store::At;

/// How long nothing is sent: then how far it is. So proxies keep the connection, one that is broken is
/// noticed, and who comes back later has missed less.
const QUIET: Duration = Duration::from_secs(10);
/// How often it is looked how far a view is while somebody waits for that: it tells of changes only.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked whether the key of one who is sent nothing is still good.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Somebody who follows a live query.
pub(crate) struct Subscription {
    live: Live,
    view: Arc<View>,
    watcher: Watcher<State>,
    caller: Caller,
    /// What it is sent first includes everything below this.
    at_least: TxnId,
    place: Place,
    sending: Option<Sending>,
    has_greeted: bool,
    _counted: Counted,
}

/// How far a subscriber is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has nothing.
    Start,
    /// It has everything below this, maybe from another server.
    Back(TxnId),
    /// The same, and the view cannot tell what came then.
    Unknown(TxnId),
    /// It has everything below this, from here.
    At(TxnId),
}

impl Subscription {
    /// One of those that the view has counted.
    pub(super) fn new(live: Live, view: Arc<View>, caller: Caller, start: Start) -> Self {
        let below = |txn: TxnId| TxnId(txn.0.saturating_add(1));
        // The rows that somebody has of something else are none of these.
        let has = start.has.filter(|seen| view.tags.are_of(seen));
        let place = has.map_or(Place::Start, |seen| Place::Back(below(seen.txn)));
        let at_least = start.seen().map(below).unwrap_or_default();
        let (watcher, counted) = (view.state.watch(), metrics::subscription());
        Subscription {
            live,
            view,
            watcher,
            caller,
            at_least,
            place,
            sending: None,
            has_greeted: false,
            _counted: counted,
        }
    }

    /// Waits until the rows are there, as of what was asked for.
    pub(crate) async fn ready(&mut self, deadline: Instant) -> Result<(), Refusal> {
        let late = || Refusal::new(Code::DeadlineExceeded, "the rows were not read in time");
        loop {
            let reason = match &self.watcher.see().phase {
                Phase::Reading(reason) => reason.clone(),
                Phase::Ended(refusal) => return Err(refusal.clone()),
                Phase::Live => break,
            };
            let changed = timeout_at(deadline, self.watcher.changed()).await;
            changed.map_err(|_| reason.unwrap_or_else(late))?;
        }
        while self.live_next()? < self.at_least {
            if Instant::now() >= deadline {
                let message = "the live query has not come to this transaction in time";
                let refusal = Refusal::new(Code::TimestampNotReached, message);
                return Err(refusal.with_hint(
                    "come again later; if the cluster was made anew, without a transaction and \
                     Last-Event-ID",
                ));
            }
            self.wait(deadline.min(Instant::now() + LOOK_AGAIN)).await;
        }
        Ok(())
    }

    /// How far the view is.
    fn live_next(&self) -> Result<TxnId, Refusal> {
        let state = self.view.state.get();
        match &state.phase {
            Phase::Ended(refusal) => Err(refusal.clone()),
            Phase::Reading(_) | Phase::Live => Ok(state.next()),
        }
    }

    /// What to send next.
    ///
    /// # Errors
    /// Why no more will come.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Refusal> {
        if !std::mem::replace(&mut self.has_greeted, true) {
            return Ok(event::greeting());
        }
        let quiet_until = Instant::now() + QUIET;
        let shutdown = self.live.0.shutdown.clone();
        loop {
            self.caller.check_current()?;
            if shutdown.has_begun() {
                return Err(Refusal::stopping());
            }
            if let Some(piece) = self.sending.as_mut().and_then(Sending::piece) {
                return Ok(piece);
            }
            self.sending = None;
            if let Some(text) = self.look()? {
                return Ok(text);
            }
            if self.sending.is_some() {
                continue;
            }
            if let Place::Unknown(next) = self.place {
                let compared = tokio::select! {
                    biased;
                    () = shutdown.begun() => None,
                    compared = self.compare(next) => compared,
                };
                match compared {
                    Some(text) if self.caller.check_current().is_ok() => return Ok(text),
                    _ => continue,
                }
            }
            if Instant::now() >= quiet_until {
                return Ok(self.progress());
            }
            tokio::select! {
                biased;
                () = shutdown.begun() => {}
                () = self.wait(quiet_until.min(Instant::now() + ASK_AGAIN)) => {}
            }
        }
    }

    /// Waits until something has changed, not longer than until then.
    async fn wait(&mut self, until: Instant) {
        tokio::select! {
            biased;
            () = self.watcher.changed() => {}
            () = sleep_until(until) => {}
        }
    }

    /// What there is for it in the log; or all rows are to be sent, or it is to be compared.
    fn look(&mut self) -> Result<Option<Bytes>, Refusal> {
        let state = self.watcher.see();
        match &state.phase {
            Phase::Reading(_) => return Ok(None),
            Phase::Ended(refusal) => return Err(refusal.clone()),
            Phase::Live => {}
        }
        let at = match self.place {
            Place::At(at) | Place::Back(at) => at,
            Place::Unknown(_) => return Ok(None),
            Place::Start => {
                let next = state.next();
                self.place = Place::At(next);
                self.sending = Some(Sending::new(state.snapshot(), next, &self.view.tags));
                return Ok(None);
            }
        };
        let Some(events) = state.log.after(at) else {
            self.place = match self.place {
                Place::Back(_) if planted!(ForgetsWhatWasMissed) => Place::At(state.next()),
                Place::Back(_) if !self.view.is_grouped() => Place::Unknown(at),
                _ => Place::Start,
            };
            drop(state);
            return self.look();
        };
        let mut text = BytesMut::new();
        let mut place = at;
        for (next, event) in events {
            text.extend_from_slice(event);
            place = next;
            if text.len() >= PIECE_BYTES {
                break;
            }
        }
        drop(state);
        self.place = Place::At(place);
        Ok((!text.is_empty()).then(|| text.freeze()))
    }

    /// How the rows differ from those that it has, as far as that can be found out; else it is sent all.
    async fn compare(&mut self, next: TxnId) -> Option<Bytes> {
        self.place = Place::Start;
        let txn = next.0.checked_sub(1).map(TxnId)?;
        let (now, before) = {
            let _place = self.live.0.comparing.try_acquire().ok()?;
            self.live.rows(&self.view.asked, At::Exactly(txn)).await.ok()?
        };
        if now != next {
            return None;
        }
        let state = self.watcher.see();
        if !matches!(state.phase, Phase::Live) {
            return None;
        }
        let (changes, next) = (state.rows.since(&before), state.next());
        drop(state);
        self.place = Place::At(next);
        let (tags, is_sorted) = (&self.view.tags, self.view.is_sorted());
        Some(match changes.is_empty() {
            true => event::progress(next, tags),
            false => event::change(next, tags, &changes, is_sorted),
        })
    }

    /// How far it is.
    fn progress(&mut self) -> Bytes {
        let state = self.view.state.get();
        match self.place {
            // Nothing is in the log behind it, or it would have been sent.
            Place::At(at) if state.log.after(at).is_some_and(|mut rest| rest.next().is_none()) => {
                self.place = Place::At(state.next());
                event::progress(state.next(), &self.view.tags)
            }
            _ => event::alive(),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.view.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}
