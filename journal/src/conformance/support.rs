//! What the properties share: names, topics, records, and waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::{Harness, PATIENCE};
use crate::error::Error;
use crate::log::{
    Cleanup, Journal, NewRecord, Offset, ReadFrom, Reader, Record, TopicName, TopicPartition,
    TopicSpec, TransactionalId, Writer,
};

/// One poll; short, so that a condition is looked at often.
const POLL: Duration = Duration::from_millis(50);

/// The largest record of the topics made here.
pub(super) const RECORD_LIMIT: usize = 64 * 1024;

/// A name that nothing else has.
pub(super) fn unique(what: &str) -> String {
    format!("conformance-{what}-{}", Uuid::new_v4().simple())
}

/// Unwraps, saying what should have worked.
#[track_caller]
pub(super) fn must<T>(result: Result<T, Error>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error} ({error:?})"),
    }
}

/// A log with one topic, and what tests do to it.
pub(super) struct Bench {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) topic: TopicName,
    partitions: u16,
}

impl Bench {
    /// Opens the log and makes a topic that keeps its records.
    pub(super) fn new(harness: &impl Harness, partitions: u16) -> Self {
        Self::with_cleanup(harness, partitions, Cleanup::Delete { retention_ms: None })
    }

    pub(super) fn with_cleanup(harness: &impl Harness, partitions: u16, cleanup: Cleanup) -> Self {
        Self::on(harness.open(), partitions, cleanup)
    }

    /// Another topic of the same log.
    pub(super) fn sibling(&self, partitions: u16, cleanup: Cleanup) -> Self {
        Self::on(Arc::clone(&self.journal), partitions, cleanup)
    }

    fn on(journal: Arc<dyn Journal>, partitions: u16, cleanup: Cleanup) -> Self {
        let topic = TopicName::from(unique("topic"));
        let spec =
            TopicSpec { name: topic.clone(), partitions, cleanup, max_record_bytes: RECORD_LIMIT };
        must(journal.ensure_topics(&[spec]), "make a topic");
        Bench { journal, topic, partitions }
    }

    /// A partition of the topic.
    pub(super) fn at(&self, partition: u16) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), partition)
    }

    pub(super) fn all(&self) -> Vec<TopicPartition> {
        (0..self.partitions).map(|partition| self.at(partition)).collect()
    }

    /// A writer of an id that nothing else has.
    pub(super) fn writer(&self) -> Box<dyn Writer> {
        self.writer_of(&TransactionalId::from(unique("writer")))
    }

    pub(super) fn writer_of(&self, id: &TransactionalId) -> Box<dyn Writer> {
        must(self.journal.writer(id), "make a writer")
    }

    /// A record for a partition, its key and value being this text.
    pub(super) fn record(&self, partition: u16, text: &str) -> NewRecord {
        record(self.at(partition), text)
    }

    /// Commits these texts to one partition as one transaction.
    pub(super) fn commit(
        &self,
        writer: &mut dyn Writer,
        partition: u16,
        texts: &[&str],
    ) -> Vec<Offset> {
        let offsets = self.fill(writer, partition, texts);
        must(writer.commit(), "commit");
        offsets
    }

    /// Aborts these texts after they were flushed.
    pub(super) fn abort(&self, writer: &mut dyn Writer, partition: u16, texts: &[&str]) {
        self.fill(writer, partition, texts);
        must(writer.abort(), "abort");
    }

    /// Begins a transaction, appends and flushes, and leaves it open.
    pub(super) fn fill(
        &self,
        writer: &mut dyn Writer,
        partition: u16,
        texts: &[&str],
    ) -> Vec<Offset> {
        must(writer.begin(), "begin");
        for text in texts {
            must(writer.append(self.record(partition, text)), "append");
        }
        must(writer.flush(), "flush")
    }

    /// A reader of every partition, from its start.
    pub(super) fn reader(&self) -> Box<dyn Reader> {
        let from: Vec<_> = self.all().into_iter().map(|at| (at, ReadFrom::Start)).collect();
        must(self.journal.reader(&from), "make a reader")
    }

    pub(super) fn reader_from(&self, partition: u16, from: ReadFrom) -> Box<dyn Reader> {
        must(self.journal.reader(&[(self.at(partition), from)]), "make a reader")
    }

    /// All that one partition holds now.
    pub(super) fn texts(&self, partition: u16) -> Vec<String> {
        let mut reader = self.reader_from(partition, ReadFrom::Start);
        let records = read_to_end(self.journal.as_ref(), reader.as_mut(), &[self.at(partition)]);
        records.iter().map(text).collect()
    }

    /// Waits until readers may see everything below `offset` of a partition. A commit returns
    /// before that: what it promises is durability.
    pub(super) fn wait_visible(&self, partition: u16, offset: Offset) {
        wait("a committed record becomes visible", || {
            must(self.journal.bounds(&self.at(partition)), "bounds").end > offset
        });
    }
}

/// A record whose key and value are this text.
pub(super) fn record(at: TopicPartition, text: &str) -> NewRecord {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    NewRecord { at, key: bytes.clone(), value: Some(bytes) }
}

/// A record's value as text.
pub(super) fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// Waits for a condition.
#[track_caller]
pub(super) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "this did not happen within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Polls until `done` says that what was read so far is enough.
#[track_caller]
pub(super) fn read_until(
    reader: &mut dyn Reader,
    what: &str,
    mut done: impl FnMut(&dyn Reader, &[Record]) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    wait(what, || {
        if !done(reader, &records) {
            records.extend(must(reader.poll(POLL), "poll"));
        }
        done(reader, &records)
    });
    records
}

/// Reads `count` records.
#[track_caller]
pub(super) fn read(reader: &mut dyn Reader, count: usize) -> Vec<Record> {
    let records = read_until(reader, &format!("a reader returns {count} records"), |_, records| {
        records.len() >= count
    });
    assert_eq!(records.len(), count, "more records than were committed: {records:?}");
    records
}

/// Reads these partitions to where they end now.
#[track_caller]
pub(super) fn read_to_end(
    journal: &dyn Journal,
    reader: &mut dyn Reader,
    partitions: &[TopicPartition],
) -> Vec<Record> {
    let ends: Vec<_> =
        partitions.iter().map(|at| (at, must(journal.bounds(at), "bounds").end)).collect();
    read_until(reader, "a reader's position reaches the end of the log", |reader, _| {
        ends.iter().all(|(at, end)| reader.position(at).is_some_and(|position| position >= *end))
    })
}

/// Offset and text of each record, by partition, in the order they were read.
pub(super) fn by_partition(records: &[Record]) -> BTreeMap<TopicPartition, Vec<(Offset, String)>> {
    let mut sorted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        sorted.entry(record.at.clone()).or_default().push((record.offset, text(record)));
    }
    sorted
}

/// A random sequence that its seed repeats (SplitMix64, Steele et al. 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
