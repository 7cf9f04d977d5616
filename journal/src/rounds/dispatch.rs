//! Which lane writes which round next. No threads and no clock here.
//!
//! A transaction costs far more than what is in it, so there are to be few: while one is under way
//! what comes waits, and shares the next one. That one is begun by the lane that has rested longest
//! and takes all that waits, up to the bounds of a transaction. Only a round that has waited for
//! [`PATIENCE`], behind a transaction that is large or does not end, is taken by another lane
//! beside the first; a third one has more patience than the second.
//!
//! Whoever waits for his round comes back with the next one right after. So when a transaction of
//! several ends, the next is not begun at once, or half of them would always wait for the others.
//!
//! While nothing is under way, a round goes to its home, the lane of its first slice, if that is
//! free: of what little is to be done, transactions then touch few partitions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anabranch_core::ids::TxnId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::EncodedRound;
use crate::error::Error;

/// How long a round waits for each transaction that is under way, before another begins.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// The share of the time that a transaction took for which the next one is put off, at most for
/// [`PATIENCE`].
const PUT_OFF: u32 = 8;

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
    /// Whether it goes into a transaction of its own: one of several rounds was refused, and it may
    /// be the one at fault.
    pub(super) alone: bool,
    pub(super) ticket: Arc<Ticket>,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<TxnId, Error>>,
}

impl Pending {
    /// Whether its caller still waits. Who does not may have been told that it was not written.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

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

/// The rounds that wait, and the lanes.
#[derive(Debug)]
pub(super) struct Dispatch {
    lanes: Vec<Phase>,
    queue: VecDeque<Pending>,
    /// Size of the rounds in the queue, and how many documents they have.
    bytes: usize,
    documents: usize,
    limits: Limits,
    closed: bool,
    /// No transaction is begun before, unless there is enough for one.
    put_off: Option<Instant>,
    /// Why the last lane that went down did.
    trouble: Option<String>,
}

impl Dispatch {
    /// All lanes are down at first.
    pub(super) fn new(lanes: usize, limits: Limits) -> Self {
        Dispatch {
            lanes: vec![Phase::Down; lanes],
            queue: VecDeque::new(),
            bytes: 0,
            documents: 0,
            limits,
            closed: false,
            put_off: None,
            trouble: None,
        }
    }

    /// Takes in a round; returns the lane to be told, if one has to be: it begins, or watches how
    /// long the round waits.
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
                return Err(Error::Busy { waiting: self.queue.len() });
            }
        }
        let slice = pending.round.first_slice().unwrap_or_default();
        let home = usize::from(slice.0) % self.lanes.len();
        let (is_first, was_enough) = (self.queue.is_empty(), self.is_enough());
        self.count(&pending);
        self.queue.push_back(pending);
        if !is_first {
            // Whoever was told of the first one sees to the others too, but may still put it off.
            let is_news = !was_enough && self.is_enough();
            return Ok(self.free(now).filter(|_| is_news));
        }
        if self.lanes.contains(&Phase::Busy) {
            return Ok(self.free(now));
        }
        let free = if self.rested(home, now).is_some() { Some(home) } else { self.free(now) };
        if let Some(free) = free {
            self.lanes[free] = Phase::Busy;
        }
        Ok(free)
    }

    /// What a lane that is free does now.
    pub(super) fn next(&mut self, lane: usize, now: Instant) -> Turn {
        if let Phase::Idle(rested) = self.lanes[lane]
            && now < rested
            && !self.closed
        {
            return Turn::Wait(Some(rested));
        }
        if let Some(begins) = self.begins(lane)
            && now < begins
            && !self.closed
        {
            if self.lanes[lane] == Phase::Busy {
                self.lanes[lane] = Phase::Idle(now);
            }
            return Turn::Wait(Some(begins));
        }
        let batch = self.batch();
        if !batch.is_empty() {
            self.lanes[lane] = Phase::Busy;
            return Turn::Write(batch);
        }
        if self.closed {
            return Turn::Stop;
        }
        if self.lanes[lane] == Phase::Busy {
            // It was told of a round that another lane took first.
            self.lanes[lane] = Phase::Idle(now);
        }
        Turn::Wait(None)
    }

    /// A lane has a writer that can write from `rested` on.
    pub(super) fn idle(&mut self, lane: usize, rested: Instant) {
        self.lanes[lane] = Phase::Idle(rested);
    }

    /// A lane has written so many rounds in a transaction that began then, and rests.
    pub(super) fn written(
        &mut self,
        lane: usize,
        rounds: usize,
        (begun, ended): (Instant, Instant),
        rest: Duration,
    ) {
        self.idle(lane, ended + rest);
        self.put_off = (rounds > 1).then(|| ended + PATIENCE.min((ended - begun) / PUT_OFF));
    }

    /// A lane has no writer.
    pub(super) fn down(&mut self, lane: usize, trouble: Option<String>) {
        self.lanes[lane] = Phase::Down;
        if trouble.is_some() {
            self.trouble = trouble;
        }
    }

    /// Rounds that were not written wait again, before all others.
    pub(super) fn put_back(&mut self, batch: Vec<Pending>) {
        for pending in batch.into_iter().rev() {
            pending.ticket.put_back();
            self.count(&pending);
            self.queue.push_front(pending);
        }
    }

    /// The lane to be told of what waits already, if anything does: the free one that has rested
    /// longest.
    pub(super) fn free(&self, now: Instant) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let lanes = 0..self.lanes.len();
        let rested = lanes.filter_map(|lane| self.rested(lane, now).map(|rested| (rested, lane)));
        rested.min().map(|(_, lane)| lane)
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
        (self.bytes, self.documents) = (0, 0);
        self.queue.drain(..).collect()
    }

    /// How many rounds wait, and their size.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// How many lanes have no writer.
    pub(super) fn lanes_down(&self) -> usize {
        self.lanes.iter().filter(|phase| **phase == Phase::Down).count()
    }

    /// What a caller is told whose round nobody took.
    pub(super) fn why_waiting(&self) -> String {
        match &self.trouble {
            Some(trouble) if self.lanes_down() > 0 => trouble.clone(),
            _ => format!("{} rounds are waiting", self.queue.len()),
        }
    }

    fn is_full(&self, pending: &Pending) -> bool {
        // A round that is above the limit by itself is taken in when nothing waits.
        self.queue.len() >= self.limits.waiting_rounds
            || (!self.queue.is_empty()
                && self.bytes + pending.round.bytes() > self.limits.waiting_bytes)
    }

    /// When a lane that is free had rested.
    fn rested(&self, lane: usize, now: Instant) -> Option<Instant> {
        match self.lanes[lane] {
            Phase::Idle(rested) if rested <= now => Some(rested),
            _ => None,
        }
    }

    /// When a lane is to begin a transaction for what waits, seeing what others do and have done.
    fn begins(&self, lane: usize) -> Option<Instant> {
        let busy = |(other, phase): &(usize, &Phase)| *other != lane && **phase == Phase::Busy;
        let others = self.lanes.iter().enumerate().filter(busy).count();
        let others = u32::try_from(others).expect("there are a few lanes");
        let begins = self.queue.front()?.since + others * PATIENCE;
        let put_off = self.put_off.filter(|_| !self.is_enough());
        Some(put_off.map_or(begins, |put_off| begins.max(put_off)))
    }

    /// What goes into one transaction: at least one round, if one is still wanted.
    fn batch(&mut self) -> Vec<Pending> {
        let mut batch = Vec::new();
        let (mut documents, mut bytes) = (0, 0);
        while let Some(next) = self.queue.front() {
            let larger = documents + next.round.documents() > self.limits.batch_documents
                || bytes + next.round.bytes() > self.limits.batch_bytes;
            if (larger || next.alone) && !batch.is_empty() {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            self.bytes -= next.round.bytes();
            self.documents -= next.round.documents();
            if next.ticket.take() {
                documents += next.round.documents();
                bytes += next.round.bytes();
                let alone = next.alone;
                batch.push(next);
                if alone {
                    break;
                }
            }
        }
        batch
    }

    fn count(&mut self, pending: &Pending) {
        self.bytes += pending.round.bytes();
        self.documents += pending.round.documents();
    }

    /// Whether a transaction has no room for more than what waits.
    fn is_enough(&self) -> bool {
        let Limits { batch_documents, batch_bytes, .. } = self.limits;
        self.documents >= batch_documents || self.bytes >= batch_bytes
    }

    fn forget_withdrawn(&mut self) {
        self.queue.retain(|pending| !pending.ticket.is_withdrawn());
        self.bytes = self.queue.iter().map(|pending| pending.round.bytes()).sum();
        self.documents = self.queue.iter().map(|pending| pending.round.documents()).sum();
    }
}
