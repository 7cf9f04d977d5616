//! Which lane writes which round next. No threads and no clock here.
//!
//! A round has a home: the lane of its first slice, so that most transactions touch few
//! partitions. It goes there if that lane is free, else to a free lane, the one that has rested
//! longest, else it waits at home. A lane that becomes free takes what waits at home, up to the
//! bounds of a transaction; nothing there, or something that waits elsewhere for much longer, and
//! it takes that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anabranch_core::ids::TxnId;
use tokio::sync::oneshot;

use super::EncodedRound;
use crate::error::Error;

/// How much longer a round must have waited elsewhere for a lane to pass over its own.
const STEAL_AFTER: Duration = Duration::from_millis(20);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Settles who has a round: the caller, who may give it up while it waits, or a lane.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    /// Gives the round up. Fails if a lane has it: then it may be written.
    pub(super) fn withdraw(&self) -> bool {
        self.swap(WAITING, WITHDRAWN) || self.0.load(Ordering::Acquire) == WITHDRAWN
    }

    fn take(&self) -> bool {
        self.swap(WAITING, TAKEN)
    }

    fn put_back(&self) {
        self.swap(TAKEN, WAITING);
    }

    fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire) == WITHDRAWN
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A round that is to be written.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) round: EncodedRound,
    pub(super) ticket: Arc<Ticket>,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<TxnId, Error>>,
}

impl Pending {
    /// Tells the caller, if it still waits.
    pub(super) fn answer(self, result: Result<TxnId, Error>) {
        let _ = self.answer.send(result);
    }
}

/// How much may wait, and how much goes into a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) waiting_rounds: usize,
    pub(super) waiting_bytes: usize,
    pub(super) batch_documents: usize,
    pub(super) batch_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Has no writer.
    Down,
    /// Writes, or was told of a round to write.
    Busy,
    /// Can write from this time on.
    Idle(Instant),
}

#[derive(Debug)]
struct Lane {
    phase: Phase,
    queue: VecDeque<Pending>,
}

/// What a lane does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Write these.
    Write(Vec<Pending>),
    /// Look again when told, or at this time.
    Wait(Option<Instant>),
    /// Nothing more will come.
    Stop,
}

/// The queues of all lanes.
#[derive(Debug)]
pub(super) struct Dispatch {
    lanes: Vec<Lane>,
    limits: Limits,
    rounds: usize,
    bytes: usize,
    closed: bool,
    /// Why the last lane that went down did.
    trouble: Option<String>,
}

impl Dispatch {
    /// All lanes are down at first.
    pub(super) fn new(lanes: usize, limits: Limits) -> Self {
        let lane = |_| Lane { phase: Phase::Down, queue: VecDeque::new() };
        Dispatch {
            lanes: (0..lanes).map(lane).collect(),
            limits,
            rounds: 0,
            bytes: 0,
            closed: false,
            trouble: None,
        }
    }

    /// Takes in a round; returns the lane to be told, if one is free.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many are waiting, [`Error::Shutdown`] after [`Dispatch::close`].
    pub(super) fn submit(
        &mut self,
        pending: Pending,
        now: Instant,
    ) -> Result<Option<usize>, Error> {
        if self.closed {
            return Err(Error::Shutdown);
        }
        if self.is_full(&pending) {
            self.forget_withdrawn();
            if self.is_full(&pending) {
                return Err(Error::Busy { waiting: self.rounds });
            }
        }
        let home = self.home(&pending);
        let free = self.free_lane(home, now);
        let lane = free.unwrap_or(home);
        self.count(&pending);
        self.lanes[lane].queue.push_back(pending);
        if let Some(free) = free {
            self.lanes[free].phase = Phase::Busy;
        }
        Ok(free)
    }

    /// What a lane that is free does now.
    pub(super) fn next(&mut self, lane: usize, now: Instant) -> Turn {
        if let Phase::Idle(rested) = self.lanes[lane].phase
            && now < rested
            && !self.closed
        {
            return Turn::Wait(Some(rested));
        }
        loop {
            let Some(from) = self.oldest(lane) else {
                if self.closed {
                    return Turn::Stop;
                }
                if self.lanes[lane].phase == Phase::Busy {
                    // It was told of a round that another lane took first.
                    self.lanes[lane].phase = Phase::Idle(now);
                }
                return Turn::Wait(None);
            };
            let batch = self.batch(from);
            if !batch.is_empty() {
                self.lanes[lane].phase = Phase::Busy;
                return Turn::Write(batch);
            }
        }
    }

    /// A lane has a writer that can write from `rested` on.
    pub(super) fn idle(&mut self, lane: usize, rested: Instant) {
        self.lanes[lane].phase = Phase::Idle(rested);
    }

    /// A lane has no writer.
    pub(super) fn down(&mut self, lane: usize, trouble: Option<String>) {
        self.lanes[lane].phase = Phase::Down;
        if trouble.is_some() {
            self.trouble = trouble;
        }
    }

    /// Rounds that were not written wait again, before all others of the lane.
    pub(super) fn put_back(&mut self, lane: usize, batch: Vec<Pending>) {
        for pending in batch.into_iter().rev() {
            pending.ticket.put_back();
            self.count(&pending);
            self.lanes[lane].queue.push_front(pending);
        }
    }

    /// A lane that is free and could take rounds that wait elsewhere.
    pub(super) fn any_free(&self, now: Instant) -> Option<usize> {
        (0..self.lanes.len()).find(|lane| self.rested(*lane, now).is_some())
    }

    /// Takes in no more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether no more are taken in.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// All that wait, when there is no lane any more.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        (self.rounds, self.bytes) = (0, 0);
        self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..)).collect()
    }

    /// How many rounds wait, and their size.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.rounds, self.bytes)
    }

    /// How many lanes have no writer.
    pub(super) fn lanes_down(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.phase == Phase::Down).count()
    }

    /// What a caller is told whose round nobody took.
    pub(super) fn why_waiting(&self) -> String {
        match &self.trouble {
            Some(trouble) if self.lanes_down() > 0 => trouble.clone(),
            _ => format!("{} rounds are waiting", self.rounds),
        }
    }

    fn is_full(&self, pending: &Pending) -> bool {
        // A round that is above the limit by itself is taken in when nothing waits.
        self.rounds >= self.limits.waiting_rounds
            || (self.rounds > 0 && self.bytes + pending.round.bytes() > self.limits.waiting_bytes)
    }

    fn home(&self, pending: &Pending) -> usize {
        let slice = pending.round.first_slice().unwrap_or_default();
        usize::from(slice.0) % self.lanes.len()
    }

    /// When a free lane had rested.
    fn rested(&self, lane: usize, now: Instant) -> Option<Instant> {
        match self.lanes[lane].phase {
            Phase::Idle(rested) if rested <= now => Some(rested),
            _ => None,
        }
    }

    fn free_lane(&self, home: usize, now: Instant) -> Option<usize> {
        if self.rested(home, now).is_some() {
            return Some(home);
        }
        let rested = (0..self.lanes.len())
            .filter_map(|lane| self.rested(lane, now).map(|rested| (rested, lane)));
        rested.min().map(|(_, lane)| lane)
    }

    /// The queue that `lane` is to take from.
    fn oldest(&self, lane: usize) -> Option<usize> {
        let since = |lane: usize| self.lanes[lane].queue.front().map(|pending| pending.since);
        let (elsewhere, from) = (0..self.lanes.len())
            .filter_map(|other| since(other).map(|since| (since, other)))
            .min()?;
        match since(lane) {
            Some(own) if own <= elsewhere + STEAL_AFTER => Some(lane),
            _ => Some(from),
        }
    }

    /// What goes into one transaction: at least one round, if one is still wanted.
    fn batch(&mut self, from: usize) -> Vec<Pending> {
        let mut batch = Vec::new();
        let (mut documents, mut bytes) = (0, 0);
        while let Some(next) = self.lanes[from].queue.front() {
            let larger = documents + next.round.documents() > self.limits.batch_documents
                || bytes + next.round.bytes() > self.limits.batch_bytes;
            if larger && !batch.is_empty() {
                break;
            }
            documents += next.round.documents();
            bytes += next.round.bytes();
            let Some(next) = self.lanes[from].queue.pop_front() else { break };
            self.rounds -= 1;
            self.bytes -= next.round.bytes();
            if next.ticket.take() {
                batch.push(next);
            } else {
                documents -= next.round.documents();
                bytes -= next.round.bytes();
            }
        }
        batch
    }

    fn count(&mut self, pending: &Pending) {
        self.rounds += 1;
        self.bytes += pending.round.bytes();
    }

    fn forget_withdrawn(&mut self) {
        for lane in &mut self.lanes {
            lane.queue.retain(|pending| !pending.ticket.is_withdrawn());
        }
        let waiting = || self.lanes.iter().flat_map(|lane| &lane.queue);
        (self.rounds, self.bytes) =
            (waiting().count(), waiting().map(|pending| pending.round.bytes()).sum());
    }
}
