//! Reading on Kafka: `assign` only, no consumer groups.
//!
//! **Positions past holes.** librdkafka hands over records, not the markers and aborted records
//! between them. When it reaches the end of a partition it says so, with the offset in the text of
//! the event and only there (2.12: "... reached end of partition at offset N ..."); rdkafka passes
//! the text to the context just before it returns the event. All records below N came before it
//! on the same queue, so the position may move to N. The conformance suite fails if a newer
//! version words it otherwise.
//!
//! **A queue for each partition.** The event names its partition, not its topic. With a queue of
//! its own a partition needs no name. Queues are split before the partitions are assigned, so
//! nothing is delivered elsewhere first.
//!
//! **Away.** While no broker can be reached `poll` finds nothing; after some seconds it says so once
//! and for all. Then the reader is to be made anew: it would mostly go on by itself, but librdkafka
//! can lose sight of all brokers for good. For the same reason it says so when a partition stands
//! still (see [`super::progress`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::progress::{self, Progress};
use super::{Shared, Trouble, errors};
use crate::error::Error;
use crate::log::{Offset, ReadFrom, Reader, Record, TopicPartition};

/// The most one `poll` returns.
const POLL_RECORDS: usize = 10_000;
const POLL_BYTES: usize = 4 << 20;
/// How much one partition gives before it is the next one's turn. Whoever reads rounds can apply
/// them only when he has read all partitions to the same point.
const TURN_BYTES: usize = 128 << 10;

/// Between two attempts to find out why a position is out of range.
const OUT_OF_RANGE_RETRY: Duration = Duration::from_millis(10);

/// Nothing tells whether there are more: more than come between two looks.
const EVENTS_AT_ONCE: usize = 16;

/// After so long without a broker a reader is given up.
const AWAY: Duration = Duration::from_secs(5);

/// How long to wait for where partitions end. Meanwhile nothing is read.
const LOOK: Duration = Duration::from_secs(1);

/// The group that no reader joins; its name is what brokers with access control check.
pub(super) const GROUP: &str = "anabranch";

/// Reads committed records of some partitions.
pub(super) struct KafkaReader {
    // Dropped before the consumer whose queues they are.
    partitions: Vec<Assigned>,
    progress: Progress,
    ready: Arc<Ready>,
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
}

struct Assigned {
    at: TopicPartition,
    queue: PartitionQueue<Context>,
    position: Offset,
    /// Nothing was read yet, and whatever is oldest was asked for.
    from_start: bool,
    health: Health,
}

enum Health {
    Good,
    /// The broker does not have the position; why is still to be found out.
    OutOfRange,
    /// Every poll says so.
    Trimmed {
        start: Offset,
    },
    PastEnd {
        end: Offset,
    },
    /// It cannot be read, or not by this reader.
    Failed(Error),
}

impl KafkaReader {
    pub(super) fn open(
        shared: Arc<Shared>,
        from: &[(TopicPartition, ReadFrom)],
    ) -> Result<Self, Error> {
        let mut starts = Vec::with_capacity(from.len());
        for (at, from) in from {
            shared.facts(at)?;
            starts.push(match from {
                ReadFrom::Start => shared.bounds(at)?.start,
                ReadFrom::Offset(offset) => *offset,
                ReadFrom::End => shared.bounds(at)?.end,
            });
        }
        let ready = Arc::new(Ready::default());
        let context = Context {
            end: Mutex::default(),
            down_since: Mutex::default(),
            trouble: shared.trouble.clone(),
        };
        let consumer: BaseConsumer<Context> = shared
            .config
            .consumer(Some(GROUP))
            .create_with_context(context)
            .map_err(|error| errors::creation(&error))?;
        let consumer = Arc::new(consumer);
        let mut partitions = Vec::with_capacity(from.len());
        for (index, ((at, from), position)) in from.iter().zip(starts).enumerate() {
            let number = i32::from(at.partition.0);
            let mut queue = consumer
                .split_partition_queue(at.topic.as_str(), number)
                .ok_or_else(|| Error::UnknownTopic(at.to_string()))?;
            let ready = Arc::clone(&ready);
            queue.set_nonempty_callback(move || ready.add(index));
            let from_start = *from == ReadFrom::Start;
            let at = at.clone();
            partitions.push(Assigned { at, queue, position, from_start, health: Health::Good });
        }
        let positions = partitions.iter().map(|partition| partition.position);
        let progress = Progress::new(positions, progress::INTERVAL);
        let reader = KafkaReader { partitions, progress, ready, consumer, shared };
        reader.assign()?;
        Ok(reader)
    }

    /// Starts fetching every partition from its position.
    fn assign(&self) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for partition in &self.partitions {
            let topic = partition.at.topic.as_str();
            let number = i32::from(partition.at.partition.0);
            let offset = KafkaOffset::Offset(errors::signed(partition.position.0)?);
            list.add_partition_offset(topic, number, offset)
                .map_err(|error| self.shared.error("assign", &error))?;
        }
        self.consumer.assign(&list).map_err(|error| self.shared.error("assign", &error))
    }

    /// Finds out why positions are out of range, and fails if records are gone.
    fn check(&mut self) -> Result<(), Error> {
        let mut reassign = false;
        for partition in &mut self.partitions {
            if matches!(partition.health, Health::OutOfRange) {
                // Unavailable is asked again at the next poll.
                let Ok(bounds) = self.shared.bounds(&partition.at) else { continue };
                if partition.position >= bounds.start {
                    partition.health = Health::PastEnd { end: bounds.end };
                } else if partition.from_start {
                    partition.position = bounds.start;
                    partition.health = Health::Good;
                    reassign = true;
                } else {
                    partition.health = Health::Trimmed { start: bounds.start };
                }
            }
            let (at, wanted) = (&partition.at, partition.position);
            match &partition.health {
                Health::Good | Health::OutOfRange => {}
                Health::Trimmed { start } => {
                    return Err(Error::Trimmed { at: at.clone(), wanted, start: *start });
                }
                Health::PastEnd { end } => {
                    return Err(Error::Corrupt(format!(
                        "offset {wanted} of {at} is past its end {end}: records that were read \
                         before are lost, or the topic was made anew"
                    )));
                }
                Health::Failed(error) => return Err(error.clone()),
            }
        }
        if reassign { self.assign() } else { Ok(()) }
    }

    /// Fails if all brokers have been away for too long.
    fn check_brokers(&self) -> Result<(), Error> {
        let down = *self.consumer.context().down_since.lock();
        match down.filter(|since| since.elapsed() > AWAY) {
            None => Ok(()),
            Some(_) => {
                let reason = self.shared.trouble.last().unwrap_or_default();
                Err(Error::Unavailable(format!("no broker can be reached: {reason}")))
            }
        }
    }

    /// Gives up partitions that stand still: the next poll says so.
    fn look_for_progress(&mut self) {
        let positions: Vec<_> = self.partitions.iter().map(|p| p.position).collect();
        let (partitions, shared) = (&self.partitions, &self.shared);
        let stuck = self.progress.look(&positions, |still| {
            let still: Vec<_> = still.iter().map(|index| &partitions[*index].at).collect();
            shared.query.ends(&still, LOOK).unwrap_or_default()
        });
        for index in stuck {
            let Assigned { at, position, health, .. } = &mut self.partitions[index];
            if matches!(health, Health::Good) {
                let text = format!("{at} has more, but nothing comes after offset {position}");
                tracing::warn!("{text}; the reader is given up");
                *health = Health::Failed(Error::Unavailable(text));
            }
        }
    }

    /// Takes what one partition has, as much as a turn has room for. Gives whether there may be
    /// more. What fails is told by the next poll: this one has what came before.
    fn drain(&mut self, index: usize, batch: &mut Batch) -> Result<bool, Error> {
        let partition = &mut self.partitions[index];
        let turn = batch.bytes + TURN_BYTES;
        while !batch.is_full() && batch.bytes < turn {
            let Some(event) = partition.queue.poll(Duration::ZERO) else { return Ok(false) };
            if matches!(event, Ok(_) | Err(KafkaError::PartitionEOF(_))) {
                *self.consumer.context().down_since.lock() = None;
            }
            match event {
                Ok(message) => {
                    let offset = errors::offset(message.offset())?;
                    if offset >= partition.position {
                        partition.position = Offset(offset.0 + 1);
                        partition.from_start = false;
                        batch.push(record(&partition.at, offset, &message));
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    let end = self.consumer.context().end.lock().take();
                    if let Some(end) = end.filter(|end| *end > partition.position) {
                        partition.position = end;
                        batch.passed_hole = true;
                    }
                }
                Err(error) => match errors::code(&error) {
                    Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                        partition.health = Health::OutOfRange;
                        return Ok(false);
                    }
                    Some(code) if errors::is_damage(code) => {
                        partition.health = Health::Failed(Error::Corrupt(format!(
                            "records of {} at or after offset {} are damaged: {error}",
                            partition.at, partition.position
                        )));
                        return Ok(false);
                    }
                    _ => {
                        let what = partition.at.to_string();
                        match errors::plain(&what, &error, &self.shared.trouble) {
                            // librdkafka goes on by itself.
                            Error::Unavailable(reason) => {
                                tracing::debug!(reason, "reading goes on later");
                            }
                            error => {
                                partition.health = Health::Failed(error);
                                return Ok(false);
                            }
                        }
                    }
                },
            }
        }
        Ok(true)
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        let deadline = Instant::now() + timeout;
        let mut batch = Batch::default();
        loop {
            // Log lines and the client's own errors; records never come this way.
            for _ in 0..EVENTS_AT_ONCE {
                self.consumer.poll(Duration::ZERO);
            }
            self.check()?;
            self.check_brokers()?;
            if self.progress.is_overdue() {
                self.look_for_progress();
            }
            let mut ready = VecDeque::from(self.ready.take());
            while !batch.is_full()
                && let Some(index) = ready.pop_front()
            {
                if self.drain(index, &mut batch)? {
                    ready.push_back(index);
                }
            }
            // Who has not had his turn has it in the next poll.
            ready.into_iter().for_each(|index| self.ready.add(index));
            if batch.is_worth_returning() {
                return Ok(batch.records);
            }
            // What is in hand is not to wait for an answer.
            if Instant::now() >= self.progress.due() {
                self.look_for_progress();
            }
            if Instant::now() >= deadline {
                return Ok(batch.records);
            }
            let good = self.partitions.iter().all(|p| matches!(p.health, Health::Good));
            let again = Instant::now() + OUT_OF_RANGE_RETRY;
            let again = if good { self.progress.due() } else { again };
            self.ready.wait(deadline.min(again));
        }
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.partitions.iter().find(|partition| partition.at == *at).map(|found| found.position)
    }
}

/// What one poll has collected.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
    /// A position moved although no record came.
    passed_hole: bool,
}

impl Batch {
    /// Whoever waits for a position to reach the end must not wait for a record after it.
    fn is_worth_returning(&self) -> bool {
        !self.records.is_empty() || self.passed_hole
    }

    fn is_full(&self) -> bool {
        self.records.len() >= POLL_RECORDS || self.bytes >= POLL_BYTES
    }

    fn push(&mut self, record: Record) {
        self.bytes += record.key.len() + record.value.as_ref().map_or(0, |value| value.len());
        self.records.push(record);
    }
}

fn record(at: &TopicPartition, offset: Offset, message: &BorrowedMessage<'_>) -> Record {
    let timestamp = message.timestamp().to_millis().unwrap_or_default();
    Record {
        at: at.clone(),
        offset,
        timestamp_ms: u64::try_from(timestamp).unwrap_or_default(),
        key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
        value: message.payload().map(Bytes::copy_from_slice),
    }
}

/// The partitions whose queues have something. librdkafka's threads add to it.
#[derive(Default)]
struct Ready {
    indexes: Mutex<Vec<usize>>,
    added: Condvar,
}

impl Ready {
    fn add(&self, index: usize) {
        let mut indexes = self.indexes.lock();
        if !indexes.contains(&index) {
            indexes.push(index);
        }
        self.added.notify_one();
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.indexes.lock())
    }

    fn wait(&self, deadline: Instant) {
        let mut indexes = self.indexes.lock();
        if indexes.is_empty() {
            self.added.wait_until(&mut indexes, deadline);
        }
    }
}

/// What librdkafka calls.
struct Context {
    /// Where the partition ends that the event being handled is about.
    end: Mutex<Option<Offset>>,
    /// Since when no broker can be reached, for all that is known.
    down_since: Mutex<Option<Instant>>,
    trouble: Trouble,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match errors::code(&error) {
            Some(Code::PartitionEOF) => *self.end.lock() = end_offset(reason),
            Some(Code::AllBrokersDown) => {
                self.down_since.lock().get_or_insert_with(Instant::now);
            }
            _ => self.trouble.note(&error, reason),
        }
    }
}

impl ConsumerContext for Context {}

/// The offset in "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 43)".
fn end_offset(reason: &str) -> Option<Offset> {
    let (_, rest) = reason.split_once("at offset ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Offset)
}

#[cfg(test)]
mod tests;
