//! A lane: a thread with a writer of its own that writes one transaction of rounds after the other.
//!
//! What a caller is told: the transaction id once the commit returned (IN-1); `Unknown` if the
//! commit may have happened, and then the round is never written again from here; otherwise the
//! round waits for another try until its deadline. Any error costs the lane its writer. The new
//! one has the same transactional id and so aborts what the old one left open. The process may
//! stop anywhere: a transaction is in the log whole or, aborted by the lane's next writer or by
//! its timeout, not at all (IN-2).

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::threads::Signal;
use anabranch_runtime::watched::Watched;
use metrics::{counter, gauge, histogram};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::RoundAppender;
use super::dispatch::{Dispatch, Pending, Turn};
use crate::error::Error;
use crate::log::{Journal, TransactionalId, Writer};
use crate::metrics as names;
use crate::rotating::run_transaction;

const FIRST_DELAY: Duration = Duration::from_millis(10);
const MOST_DELAY: Duration = Duration::from_secs(2);
/// After being fenced so often in a row it is no straggler of an earlier process, and nobody who ends
/// what was open for long.
const FENCED_TOO_OFTEN: u32 = 10;

/// What all lanes and the front share.
pub(super) struct Shared {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) appender: RoundAppender,
    pub(super) server: String,
    pub(super) dispatch: Mutex<Dispatch>,
    /// One for each lane.
    pub(super) wake: Vec<Signal>,
    /// How many lanes have not ended.
    pub(super) running: Watched<usize>,
}

impl Shared {
    /// Lets all lanes finish what waits and end.
    pub(super) fn close(&self) {
        self.dispatch.lock().close();
        for wake in &self.wake {
            wake.notify_one();
        }
    }

    /// Shows how much waits.
    pub(super) fn show(dispatch: &Dispatch) {
        let (rounds, bytes) = dispatch.waiting();
        gauge!(names::QUEUE_ROUNDS).set(to_f64(rounds));
        gauge!(names::QUEUE_BYTES).set(to_f64(bytes));
        gauge!(names::LANES_DOWN).set(to_f64(dispatch.lanes_down()));
    }
}

fn to_f64(count: usize) -> f64 {
    // Exact up to 2^53.
    count as f64
}

/// The thread's state.
pub(super) struct Lane {
    shared: Arc<Shared>,
    number: usize,
    id: TransactionalId,
    writer: Option<Box<dyn Writer>>,
    backoff: Backoff,
    /// How often in a row a transaction or the opening of a writer failed.
    failures: u32,
    fenced: u32,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, number: usize, id: TransactionalId) -> Self {
        let backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        Lane { shared, number, id, writer: None, backoff, failures: 0, fenced: 0 }
    }

    /// Writes rounds until the front is closed and nothing waits.
    pub(super) fn run(mut self) {
        while self.has_writer() {
            let Some(batch) = self.next_batch() else { break };
            self.write(batch);
        }
    }

    /// Makes a writer if there is none; false if the front was closed before that succeeded.
    fn has_writer(&mut self) -> bool {
        while self.writer.is_none() {
            if !self.rest_after_failure() {
                return false;
            }
            self.make_writer();
        }
        true
    }

    /// Tries once to make a writer.
    fn make_writer(&mut self) {
        match self.shared.journal.writer(&self.id) {
            Ok(writer) => {
                self.writer = Some(writer);
                let mut dispatch = self.shared.dispatch.lock();
                dispatch.idle(self.number, Instant::now());
                Shared::show(&dispatch);
            }
            Err(error) => {
                tracing::warn!(writer = %self.id, %error, "no writer for rounds; trying on");
                self.failures += 1;
                self.go_down(Some(&error));
            }
        }
    }

    /// Waits for longer and longer while everything fails; false if the front was closed
    /// meanwhile.
    fn rest_after_failure(&mut self) -> bool {
        if self.failures == 0 {
            return true;
        }
        let until = Instant::now() + self.backoff.next_delay();
        let wake = &self.shared.wake[self.number];
        let mut dispatch = self.shared.dispatch.lock();
        while !dispatch.is_closed() && Instant::now() < until {
            wake.wait(&mut dispatch, Some(until));
        }
        !dispatch.is_closed()
    }

    fn next_batch(&self) -> Option<Vec<Pending>> {
        let mut dispatch = self.shared.dispatch.lock();
        let wake = &self.shared.wake[self.number];
        loop {
            match dispatch.next(self.number, Instant::now()) {
                Turn::Write(batch) => {
                    Shared::show(&dispatch);
                    // Of what did not go in with it, another sees how long it waits.
                    self.offer(&dispatch);
                    return Some(batch);
                }
                Turn::Stop => return None,
                Turn::Wait(until) => wake.wait(&mut dispatch, until),
            }
        }
    }

    fn write(&mut self, batch: Vec<Pending>) {
        let Some(writer) = self.writer.as_mut() else { return self.retry(batch, &no_writer()) };
        let rounds: Vec<_> = batch.iter().map(|pending| &pending.round).collect();
        histogram!(names::BATCH_ROUNDS).record(to_f64(rounds.len()));
        let bytes = rounds.iter().map(|round| round.bytes()).sum();
        histogram!(names::BATCH_BYTES).record(to_f64(bytes));
        let begun = Instant::now();
        for pending in &batch {
            histogram!(names::QUEUE_SECONDS).record(begun - pending.since);
        }
        let appender = &self.shared.appender;
        let written =
            run_transaction(writer.as_mut(), |writer| appender.append_encoded(writer, &rounds));
        histogram!(names::TRANSACTION_SECONDS).record(begun.elapsed());
        match written {
            Ok(txns) => self.committed(batch, &txns, begun),
            Err(error) => self.failed(batch, &error),
        }
    }

    fn committed(&mut self, batch: Vec<Pending>, txns: &[TxnId], begun: Instant) {
        let rest = self.shared.journal.rest_after_commit();
        if self.writer.as_ref().is_some_and(|writer| writer.is_spent()) {
            self.drop_writer("spent", None);
        } else {
            let mut dispatch = self.shared.dispatch.lock();
            dispatch.written(self.number, batch.len(), (begun, Instant::now()), rest);
            // A lane that does not rest takes at once what came meanwhile.
            if !rest.is_zero() {
                self.offer(&dispatch);
            }
        }
        (self.failures, self.fenced) = (0, 0);
        self.backoff.reset();
        counter!(names::ROUNDS, "outcome" => "committed").increment(batch.len() as u64);
        for (pending, txn) in batch.into_iter().zip(txns) {
            counter!(names::DOCUMENTS).increment(pending.round.documents() as u64);
            pending.answer(Ok(*txn));
        }
    }

    fn failed(&mut self, mut batch: Vec<Pending>, error: &Error) {
        self.failures += 1;
        let kind = error.kind();
        let reason = match kind {
            ErrorKind::Unknown => "unknown",
            ErrorKind::Fenced => "fenced",
            _ => "failed",
        };
        let fenced = (kind == ErrorKind::Fenced).then(|| self.fenced(error));
        let error = fenced.as_ref().unwrap_or(error);
        self.drop_writer(reason, Some(error));
        match kind {
            // Nothing of it was written: it is written again.
            ErrorKind::Fenced => self.retry(batch, error),
            ErrorKind::Retry if !matches!(error, Error::DiskFull(_)) => {
                tracing::warn!(writer = %self.id, %error, "a transaction of rounds failed");
                self.retry(batch, error);
            }
            ErrorKind::Invalid if batch.len() > 1 => {
                // One of them is at fault; the others are not.
                batch.iter_mut().for_each(|pending| pending.alone = true);
                self.retry(batch, error);
            }
            _ => {
                if kind == ErrorKind::Unknown {
                    counter!(names::UNKNOWN).increment(1);
                }
                tracing::warn!(writer = %self.id, %error, "a transaction of rounds failed");
                refuse(batch, error);
            }
        }
    }

    /// Another writer of this id has taken over: one of those who end what was open for too long, or
    /// a server of the same name. What to tell whoever waits.
    fn fenced(&mut self, error: &Error) -> Error {
        self.fenced += 1;
        if self.fenced < FENCED_TOO_OFTEN {
            tracing::warn!(writer = %self.id, "fenced; taking over again");
            return error.clone();
        }
        let told = format!(
            "writer '{}' was fenced {} times in a row: another process may write as server '{}'; each \
             needs a name of its own",
            self.id, self.fenced, self.shared.server
        );
        tracing::error!("{told}");
        Error::Unavailable(told)
    }

    /// Lets rounds that were not written wait again, if they still can.
    fn retry(&self, batch: Vec<Pending>, error: &Error) {
        let now = Instant::now();
        let (again, late): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|pending| pending.deadline > now && pending.is_awaited());
        refuse(late, &as_unavailable(error));
        let mut dispatch = self.shared.dispatch.lock();
        dispatch.put_back(again);
        Shared::show(&dispatch);
        self.offer(&dispatch);
    }

    fn drop_writer(&mut self, reason: &'static str, error: Option<&Error>) {
        counter!(names::RESTARTS, "reason" => reason).increment(1);
        self.go_down(error);
        // After the lane is down: this may take its time, and others can write meanwhile.
        self.writer = None;
    }

    fn go_down(&self, error: Option<&Error>) {
        let mut dispatch = self.shared.dispatch.lock();
        dispatch.down(self.number, error.map(Error::to_string));
        Shared::show(&dispatch);
        self.offer(&dispatch);
    }

    /// What this lane was told of, or could not write, is for whoever is free.
    fn offer(&self, dispatch: &Dispatch) {
        if let Some(free) = dispatch.free(Instant::now()) {
            self.shared.wake[free].notify_one();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut left = Vec::new();
        self.shared.running.change(|running| {
            *running -= 1;
            if *running == 0 {
                left = self.shared.dispatch.lock().drain();
            }
        });
        refuse(left, &Error::Shutdown);
    }
}

fn refuse(batch: Vec<Pending>, error: &Error) {
    let outcome = if error.kind() == ErrorKind::Unknown { "unknown" } else { "failed" };
    counter!(names::ROUNDS, "outcome" => outcome).increment(batch.len() as u64);
    for pending in batch {
        pending.answer(Err(error.clone()));
    }
}

fn no_writer() -> Error {
    Error::Unavailable("the lane has no writer".to_owned())
}

/// To the caller all that matters is that nothing happened.
fn as_unavailable(error: &Error) -> Error {
    match error {
        Error::Unavailable(_) => error.clone(),
        other => Error::Unavailable(other.to_string()),
    }
}
