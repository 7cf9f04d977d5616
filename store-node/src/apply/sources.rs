//! What reads the log, each on a thread of its own: one the commit records, one the parts of rounds.
//! They decode and hand over; what cannot be reached is tried again for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::{
    Error as JournalError, Journal, Offset, ReadFrom, Reader, Record, TopicPartition,
};
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::records::{TxnsRecord, part_checksum};
use anabranch_schemas::{RecordError, decode};

use super::assembler::{Committed, Part};
use super::demand::{Demand, Wanted};
use crate::error::Error;
use crate::metrics;
use crate::status::{Status, Trouble};

/// How long one poll waits, and so how long a shutdown takes to be seen.
pub(super) const POLL: Duration = Duration::from_millis(100);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// What the reading threads hand over.
#[derive(Debug)]
pub(super) enum Input {
    /// Commit records, and up to where all of them were given.
    Commits(Vec<Committed>, TxnId),
    /// Parts, and up to where in each slice all of them were given.
    Parts(Vec<Part>, Vec<(Slice, Offset)>),
    /// Nothing can be applied past what was given.
    Failed(Error),
}

/// What both threads need.
pub(super) struct Source {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) demand: Arc<Demand>,
    pub(super) status: Arc<Status>,
    pub(super) shutdown: Shutdown,
    pub(super) inputs: SyncSender<Input>,
    /// How long to wait for what is not there yet.
    pub(super) poll: Duration,
}

impl Source {
    /// Whether there is nobody to read for any more.
    fn is_over(&self) -> bool {
        self.shutdown.has_begun() || self.demand.is_closed()
    }

    /// Hands over; false if the applying thread is gone.
    fn give(&self, input: Input) -> bool {
        self.inputs.send(input).is_ok()
    }

    /// After an error: false if it is final. Otherwise waits before the next try.
    fn survive(&self, trouble: Trouble, error: JournalError, backoff: &mut Backoff) -> bool {
        match error.kind() {
            ErrorKind::Shutdown => false,
            ErrorKind::Corrupt => {
                self.give(Input::Failed(error.into()));
                false
            }
            _ => {
                self.status.set_trouble(trouble, Some(error.to_string()));
                let delay = backoff.next_delay();
                tracing::warn!(%error, ?delay, "the journal cannot be read; trying again");
                self.pause(delay);
                true
            }
        }
    }

    fn pause(&self, delay: Duration) {
        let mut left = delay;
        while !left.is_zero() && !self.is_over() {
            let step = left.min(POLL);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

/// Reads topic `txns`.
pub(super) struct Commits {
    source: Source,
    at: TopicPartition,
    next: TxnId,
    backoff: Backoff,
    reader: Option<Box<dyn Reader>>,
}

impl Commits {
    /// From `next` on.
    pub(super) fn new(source: Source, at: TopicPartition, next: TxnId) -> Self {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        Commits { source, at, next, backoff, reader: None }
    }

    /// Reads for as long as there is anybody to read for.
    pub(super) fn run(mut self) {
        while !self.source.is_over() && self.step() {}
    }

    /// Reads once, if something is wanted; false if that was the last time.
    pub(super) fn step(&mut self) -> bool {
        if !self.source.demand.commits() {
            self.source.demand.wait(self.source.poll);
            return true;
        }
        match self.poll() {
            Ok(records) => {
                self.backoff.reset();
                self.source.status.set_trouble(Trouble::Commits, None);
                self.hand_over(&records)
            }
            Err(error) => {
                self.reader = None;
                self.source.survive(Trouble::Commits, error, &mut self.backoff)
            }
        }
    }

    fn poll(&mut self) -> Result<Vec<Record>, JournalError> {
        let from = || vec![(self.at.clone(), ReadFrom::Offset(Offset(self.next.0)))];
        reader(&*self.source.journal, &mut self.reader, from)?.poll(self.source.poll)
    }

    fn hand_over(&mut self, records: &[Record]) -> bool {
        metrics::record_log_read("txns", records.iter().map(bytes).sum());
        let commits = match records.iter().map(decode_txn).collect::<Result<Vec<_>, _>>() {
            Ok(commits) => commits,
            Err(error) => {
                self.source.give(Input::Failed(error));
                return false;
            }
        };
        let position = self.reader.as_ref().and_then(|reader| reader.position(&self.at));
        let position = position.map_or(self.next, |position| TxnId(position.0));
        if commits.is_empty() && position <= self.next {
            return true;
        }
        self.next = self.next.max(position);
        self.source.demand.commits_read(commits.len());
        self.source.give(Input::Commits(commits, self.next))
    }
}

fn decode_txn(record: &Record) -> Result<Committed, Error> {
    let decoded = TxnsRecord::decode(record.value.as_deref().unwrap_or_default());
    let decoded = decoded.map_err(|error| corrupt(&record.at, record.offset, &error))?;
    let txn = TxnId(record.offset.0);
    Ok(Committed { txn, timestamp_ms: record.timestamp_ms, record: decoded })
}

/// A record that has to be applied and does not decode.
pub(super) fn corrupt(at: &TopicPartition, offset: Offset, error: &RecordError) -> Error {
    Error::CorruptRecord { at: at.to_string(), offset: offset.0, reason: error.to_string() }
}

/// The partitions of topic `rounds`, and where each is to be read on.
pub(super) struct Slices {
    /// Those that are read at all.
    pub(super) read: Vec<Slice>,
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) positions: Vec<Offset>,
}

/// Reads topic `rounds`, all that is of interest or what is wanted of it.
pub(super) struct Parts {
    source: Source,
    slices: Slices,
    by_partition: BTreeMap<TopicPartition, Slice>,
    backoff: Backoff,
    /// What the reader reads.
    reading: Vec<Slice>,
    reader: Option<Box<dyn Reader>>,
}

impl Parts {
    pub(super) fn new(source: Source, slices: Slices) -> Self {
        let by_partition = slices.partitions.iter().cloned().zip((0..).map(Slice)).collect();
        let (backoff, reading) = (Backoff::new(RETRY_FIRST, RETRY_MOST), slices.read.clone());
        Parts { source, slices, by_partition, backoff, reading, reader: None }
    }

    /// Reads for as long as there is anybody to read for.
    pub(super) fn run(mut self) {
        while !self.source.is_over() && self.step() {}
    }

    /// Reads once, if something is wanted; false if that was the last time.
    pub(super) fn step(&mut self) -> bool {
        let wanted = match self.source.demand.parts() {
            Wanted::All => self.slices.read.clone(),
            Wanted::Only(missing) => missing,
            Wanted::Nothing => {
                self.source.demand.wait(self.source.poll);
                return true;
            }
        };
        if wanted != self.reading {
            self.reading = wanted;
            self.reader = None;
        }
        match self.poll() {
            Ok(records) => {
                self.backoff.reset();
                self.source.status.set_trouble(Trouble::Parts, None);
                self.hand_over(records)
            }
            Err(error) => {
                self.reader = None;
                self.source.survive(Trouble::Parts, error, &mut self.backoff)
            }
        }
    }

    fn poll(&mut self) -> Result<Vec<Record>, JournalError> {
        let from = || self.slices.from(&self.reading);
        reader(&*self.source.journal, &mut self.reader, from)?.poll(self.source.poll)
    }

    fn hand_over(&mut self, records: Vec<Record>) -> bool {
        metrics::record_log_read("rounds", records.iter().map(bytes).sum());
        let parts: Vec<Part> =
            records.into_iter().map(|record| decode_part(record, &self.by_partition)).collect();
        let moved = match &self.reader {
            Some(reader) => self.slices.move_to(&self.reading, reader.as_ref()),
            None => Vec::new(),
        };
        if parts.is_empty() && moved.is_empty() {
            return true;
        }
        self.source.demand.parts_read(parts.iter().map(|part| part.bytes).sum());
        self.source.give(Input::Parts(parts, moved))
    }
}

impl Slices {
    fn from(&self, reading: &[Slice]) -> Vec<(TopicPartition, ReadFrom)> {
        let from = |slice: &Slice| {
            let index = usize::from(slice.0);
            (self.partitions[index].clone(), ReadFrom::Offset(self.positions[index]))
        };
        reading.iter().map(from).collect()
    }

    /// Notes how far a reader has come; returns the slices in which it has moved.
    fn move_to(&mut self, reading: &[Slice], reader: &dyn Reader) -> Vec<(Slice, Offset)> {
        let mut moved = Vec::new();
        for slice in reading {
            let index = usize::from(slice.0);
            let position = reader.position(&self.partitions[index]);
            if let Some(position) = position.filter(|position| *position > self.positions[index]) {
                self.positions[index] = position;
                moved.push((*slice, position));
            }
        }
        moved
    }
}

fn decode_part(record: Record, slices: &BTreeMap<TopicPartition, Slice>) -> Part {
    let value = record.value.unwrap_or_default();
    Part {
        slice: slices[&record.at],
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        bytes: value.len(),
        checksum: part_checksum(&value),
        content: decode(&value),
    }
}

/// How much of the log a record is, without what the log adds.
fn bytes(record: &Record) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, |value| value.len())
}

/// The reader, which is made if there is none.
fn reader<'a>(
    journal: &dyn Journal,
    reader: &'a mut Option<Box<dyn Reader>>,
    from: impl FnOnce() -> Vec<(TopicPartition, ReadFrom)>,
) -> Result<&'a mut Box<dyn Reader>, JournalError> {
    match reader {
        Some(reader) => Ok(reader),
        None => Ok(reader.insert(journal.reader(&from())?)),
    }
}
