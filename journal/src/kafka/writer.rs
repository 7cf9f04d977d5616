//! Transactions on Kafka.
//!
//! What librdkafka (2.12) needs, and what was found by trying:
//!
//! * `commit_transaction` waits 100 ms for nothing unless the producer's queue is empty when it is
//!   called. So [`KafkaWriter::commit`] awaits every delivery and then `in_flight_count() == 0`,
//!   which is the case a moment later; the commit itself takes 2 ms.
//! * It does not speak KIP-890: an EndTxn delayed in the network can end a later transaction of the
//!   same producer (KAFKA-17754). After an error from commit or abort, and after a commit that took
//!   so long that it may have been sent twice, the writer is spent.
//! * Kafka answers a producer whose transaction timed out like one that was fenced. Which it was is
//!   told by how long the transaction was open.
//! * "Fenced" as the answer to a commit does not say that it did not happen: the first EndTxn may
//!   have been carried out and its answer lost, and a newer writer come before the second. It is
//!   certain only of a commit that was sent once, which [`SENT_ONCE`] tells. So it is with every
//!   other error of a commit, and a broker's "unknown error" is never certain: it is what becomes
//!   of anything that the coordinator did not expect, whenever it came.
//!
//! A crash between begin and commit leaves the transaction open: the next writer of the id, or the
//! coordinator after [`TRANSACTION_TIMEOUT`], aborts it. A crash during commit leaves it committed
//! or open.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::config::{SENT_ONCE, TRANSACTION_TIMEOUT};
use super::{Shared, Trouble, errors, open};
use crate::error::Error;
use crate::log::{NewRecord, Offset, TopicPartition, TransactionalId, Writer};

/// A commit that took longer is taken for sent twice, whether a connection broke or not.
const SLOW: Duration = Duration::from_secs(2);

/// How long dropping a writer waits for the abort of what it left open.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// A transactional producer.
pub(super) struct KafkaWriter {
    shared: Arc<Shared>,
    id: TransactionalId,
    producer: ThreadedProducer<Context>,
    deliveries: Arc<Deliveries>,
    state: State,
    /// Where the open transaction has said whose it is.
    signed: HashSet<TopicPartition>,
    was_fenced: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// `since` the first record, or the begin while there is none.
    Open {
        since: Instant,
    },
    /// Open, but the broker did not answer: an abort is not worth waiting for.
    Unreachable {
        since: Instant,
    },
    Spent,
}

impl KafkaWriter {
    pub(super) fn open(shared: Arc<Shared>, id: &TransactionalId) -> Result<Self, Error> {
        if id.as_str().is_empty() {
            return Err(Error::Invalid("a writer needs a transactional id".to_owned()));
        }
        let deliveries = Arc::new(Deliveries::default());
        let context =
            Context { deliveries: Arc::clone(&deliveries), trouble: shared.trouble.clone() };
        let producer: ThreadedProducer<Context> = shared
            .config
            .producer(id)
            .create_with_context(context)
            .map_err(|error| errors::creation(&error))?;
        let writer = KafkaWriter {
            shared,
            id: id.clone(),
            producer,
            deliveries,
            state: State::Ready,
            signed: HashSet::new(),
            was_fenced: Cell::new(false),
        };
        let deadline = Instant::now() + writer.shared.config.request_timeout;
        writer.connect(deadline)?;
        writer
            .producer
            .init_transactions(deadline.saturating_duration_since(Instant::now()))
            .map_err(|error| writer.error("open a writer", &error, None))?;
        Ok(writer)
    }

    /// Waits until a broker answers. librdkafka would look for one when it begins to initialise
    /// transactions, and if none is connected at that moment look again 500 ms later.
    fn connect(&self, deadline: Instant) -> Result<(), Error> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        match self.producer.client().fetch_cluster_id(timeout) {
            Some(_) => Ok(()),
            None => {
                let code = Code::OperationTimedOut;
                Err(self.classify("open a writer", Some(code), &code.to_string(), None))
            }
        }
    }

    /// Since when the transaction is open.
    fn opened(&self) -> Result<Instant, Error> {
        match self.state {
            State::Open { since } | State::Unreachable { since } => Ok(since),
            State::Ready => Err(Error::Invalid("no transaction is open".to_owned())),
            State::Spent => Err(spent()),
        }
    }

    /// Our error for one that says that nothing was committed.
    fn error(&self, what: &str, error: &KafkaError, since: Option<Instant>) -> Error {
        let code = errors::code(error);
        self.classify(what, code, &error.to_string(), since)
    }

    /// Once something fatal happened, a producer answers everything with errors that say less.
    fn fatal_code(&self, error: &KafkaError) -> Option<Code> {
        let fatal = self.producer.client().fatal_error();
        fatal.map(|(code, _)| code).or_else(|| errors::code(error))
    }

    fn classify(
        &self,
        what: &str,
        code: Option<Code>,
        text: &str,
        since: Option<Instant>,
    ) -> Error {
        // See `fatal_code`.
        let fatal = self.producer.client().fatal_error();
        let (code, text) = match &fatal {
            Some((code, reason)) => (Some(*code), reason.as_str()),
            None => (code, text),
        };
        if code.is_some_and(errors::is_fenced) {
            return match since {
                Some(since) if since.elapsed() >= TRANSACTION_TIMEOUT => {
                    Error::Aborted(format!("it was open for more than {TRANSACTION_TIMEOUT:?}"))
                }
                _ => {
                    self.note_fence();
                    Error::Fenced(self.id.clone())
                }
            };
        }
        match errors::from_code(what, code, text, &self.shared.trouble) {
            Error::Unavailable(text) if fatal.is_some() || aborts(code) => Error::Aborted(text),
            error => error,
        }
    }

    /// A commit or abort that began then has come back; gives whether it was sent only once. If not,
    /// there is a straggler, which could end a later transaction of this producer (KAFKA-17754).
    fn ended(&mut self, well: bool, started: Instant) -> bool {
        let took = started.elapsed();
        let sent_once = took < SENT_ONCE || (took < SLOW && !self.shared.trouble.is_since(started));
        self.state = if well && sent_once { State::Ready } else { State::Spent };
        sent_once
    }

    /// Our error for one from a commit that was sent.
    fn commit_error(&self, error: &KafkaError, since: Instant, sent_once: bool) -> Error {
        let (fatal, aborted) = match error {
            KafkaError::Transaction(error) => (error.is_fatal(), error.txn_requires_abort()),
            _ => (false, false),
        };
        let code = errors::code(error);
        let not_sent = aborted && code == Some(Code::Inconsistent);
        let refused = aborted && code != Some(Code::Unknown);
        // Of what else is fatal the broker may have committed it all the same.
        let fenced = fatal && self.fatal_code(error).is_some_and(errors::is_fenced);
        if not_sent || ((refused || fenced) && sent_once) {
            match self.error("commit", error, Some(since)) {
                Error::Unavailable(text) => Error::Aborted(text),
                error => error,
            }
        } else {
            if fenced {
                self.note_fence();
            }
            Error::Unknown(format!("commit by '{}': {error}", self.id))
        }
    }

    /// Once for each writer: its next one says so, and is given more time.
    fn note_fence(&self) {
        if !self.was_fenced.replace(true) {
            self.shared.fences.lock().note(&self.id, Instant::now());
        }
    }

    /// Hands the record to librdkafka, waiting for room in its queue. The first one of each partition
    /// says whose transaction it is.
    fn send(&mut self, record: &NewRecord, opaque: usize) -> Result<(), KafkaError> {
        let deadline = Instant::now() + self.shared.config.request_timeout;
        let mut message = BaseRecord::with_opaque_to(record.at.topic.as_str(), opaque)
            .partition(i32::from(record.at.partition.0))
            .key(record.key.as_ref());
        if let Some(value) = &record.value {
            message = message.payload(value.as_ref());
        }
        if self.signed.insert(record.at.clone()) {
            let fenced = self.shared.fences.lock().count(&self.id, Instant::now());
            message = message.headers(open::signature(&self.id, fenced));
        }
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    message = back;
                    self.deliveries.wait_for_one(deadline);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

/// Waits until librdkafka has let go of every record it was given. It does so right after the last
/// delivery is reported.
pub(crate) fn settle(in_flight: impl Fn() -> i32) {
    let deadline = Instant::now() + Duration::from_millis(50);
    while in_flight() > 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Codes that say that the broker can be reached but the transaction cannot go on.
fn aborts(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::Inconsistent
                | Code::State
                | Code::PurgeQueue
                | Code::PurgeInflight
                | Code::InvalidProducerIdMapping
                | Code::UnknownProducerId
                | Code::InvalidTransactionalState
                | Code::OutOfOrderSequenceNumber
        )
    )
}

fn spent() -> Error {
    Error::Aborted("the writer is spent and must be made anew".to_owned())
}

impl Writer for KafkaWriter {
    fn begin(&mut self) -> Result<(), Error> {
        match self.state {
            State::Ready => {}
            State::Open { .. } | State::Unreachable { .. } => {
                return Err(Error::Invalid("a transaction is open already".to_owned()));
            }
            State::Spent => return Err(spent()),
        }
        self.producer.begin_transaction().map_err(|error| self.error("begin", &error, None))?;
        self.deliveries.begin();
        self.signed.clear();
        self.state = State::Open { since: Instant::now() };
        Ok(())
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        let since = self.opened()?;
        let limit = self.shared.record_limit(&record.at)?;
        let bytes = size(&record);
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let (opaque, first) = self.deliveries.expect();
        // The coordinator's clock starts with the first record.
        let since = if first { Instant::now() } else { since };
        if let State::Open { since: noted } = &mut self.state {
            *noted = since;
        }
        self.send(&record, opaque).map_err(|error| {
            self.deliveries.forget();
            match errors::code(&error) {
                Some(Code::QueueFull) => {
                    Error::Unavailable("the broker does not take records".to_owned())
                }
                _ => self.error(&format!("append to {}", record.at), &error, Some(since)),
            }
        })
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        let since = self.opened()?;
        let deadline = Instant::now() + self.shared.config.request_timeout;
        match self.deliveries.wait_for_all(deadline) {
            Flushed::All(offsets) => Ok(offsets),
            Flushed::Refused(code) => {
                if code == Code::MessageTimedOut {
                    self.state = State::Unreachable { since };
                }
                Err(self.classify("append", Some(code), &code.to_string(), Some(since)))
            }
            Flushed::Late => {
                self.state = State::Unreachable { since };
                let timeout = Code::OperationTimedOut;
                Err(self.classify("append", Some(timeout), &timeout.to_string(), Some(since)))
            }
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        let since = self.opened()?;
        self.flush()?;
        settle(|| self.producer.in_flight_count());
        let started = Instant::now();
        let result = self.producer.commit_transaction(self.shared.config.request_timeout);
        let sent_once = self.ended(result.is_ok(), started);
        result.map_err(|error| self.commit_error(&error, since, sent_once))
    }

    fn abort(&mut self) -> Result<(), Error> {
        let since = self.opened()?;
        let timeout = match self.state {
            State::Unreachable { .. } => Duration::from_millis(100),
            _ => self.shared.config.request_timeout,
        };
        let started = Instant::now();
        let result = self.producer.abort_transaction(timeout);
        self.ended(result.is_ok(), started);
        result.map_err(|error| match self.error("abort", &error, Some(since)) {
            Error::Unavailable(text) => Error::Unknown(text),
            error => error,
        })
    }

    fn is_spent(&self) -> bool {
        self.state == State::Spent
    }
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            let timeout = DROP_PATIENCE.min(self.shared.config.request_timeout);
            if let Err(error) = self.producer.abort_transaction(timeout) {
                // The next writer of this id aborts it, or the coordinator after the timeout.
                tracing::debug!(id = %self.id, %error, "a dropped transaction was left open");
            }
        }
    }
}

fn size(record: &NewRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, |value| value.len())
}

/// What became of the records of a transaction.
#[derive(Default)]
struct Deliveries {
    state: Mutex<DeliveryState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeliveryState {
    /// Tells late reports of an earlier transaction from those of this one.
    transaction: u32,
    /// Of each record appended since the last flush the offset, once it is known.
    offsets: Vec<Option<Offset>>,
    outstanding: usize,
    refused: Option<Code>,
    /// A record was sent.
    begun: bool,
}

enum Flushed {
    All(Vec<Offset>),
    Refused(Code),
    Late,
}

impl Deliveries {
    fn begin(&self) {
        let mut state = self.state.lock();
        let transaction = state.transaction.wrapping_add(1);
        *state = DeliveryState { transaction, ..DeliveryState::default() };
    }

    /// Takes note of a record that is about to be sent; gives what its report will carry, and
    /// whether it is the transaction's first.
    fn expect(&self) -> (usize, bool) {
        let mut state = self.state.lock();
        let index = state.offsets.len();
        state.offsets.push(None);
        state.outstanding += 1;
        let first = !std::mem::replace(&mut state.begun, true);
        (((state.transaction as usize) << 32) | index, first)
    }

    /// The last record noted was not sent after all.
    fn forget(&self) {
        let mut state = self.state.lock();
        state.offsets.pop();
        state.outstanding -= 1;
    }

    fn report(&self, opaque: usize, result: Result<Offset, Code>) {
        let mut state = self.state.lock();
        if opaque >> 32 != state.transaction as usize {
            return;
        }
        let index = opaque & u32::MAX as usize;
        let Some(slot) = state.offsets.get_mut(index) else { return };
        match result {
            Ok(offset) => *slot = Some(offset),
            // What follows the first refusal is refused for its sake, with a code that says less.
            Err(code) => {
                state.refused.get_or_insert(code);
            }
        }
        state.outstanding -= 1;
        if state.outstanding == 0 || state.refused.is_some() {
            self.changed.notify_all();
        }
    }

    /// Waits for a report, for a moment at most: reports of other transactions also make room.
    fn wait_for_one(&self, deadline: Instant) {
        let mut state = self.state.lock();
        let soon = deadline.min(Instant::now() + Duration::from_millis(1));
        self.changed.wait_until(&mut state, soon);
    }

    /// Waits for the reports of all records since the last flush, or for the first refusal.
    fn wait_for_all(&self, deadline: Instant) -> Flushed {
        let mut state = self.state.lock();
        loop {
            if let Some(code) = state.refused {
                return Flushed::Refused(code);
            }
            if state.outstanding == 0 {
                let offsets = std::mem::take(&mut state.offsets);
                return Flushed::All(offsets.into_iter().flatten().collect());
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Flushed::Late;
            }
        }
    }
}

/// What librdkafka calls.
struct Context {
    deliveries: Arc<Deliveries>,
    trouble: Trouble,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.note(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let result = match result {
            // librdkafka takes a batch for written when a later one is, or when the broker knows it
            // already: then nobody says where. The record is of no use without.
            Ok(message) => errors::offset(message.offset()).map_err(|_| Code::Fail),
            Err((error, _)) => Err(errors::code(error).unwrap_or(Code::Fail)),
        };
        self.deliveries.report(opaque, result);
    }
}

#[cfg(test)]
mod tests;
