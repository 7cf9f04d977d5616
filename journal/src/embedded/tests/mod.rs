//! What the conformance suite does not know of: the directory, the disk, ages, timeouts.

mod disk_full;
mod durable;
mod ends;
mod model;
mod opening;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{EmbeddedConfig, EmbeddedJournal};
use crate::error::Error;
use crate::log::{
    Cleanup, Journal, NewRecord, Offset, ReadFrom, Reader, Record, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that a test sets.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

/// Without syncs, which the tests of the log's own logic do not need.
fn config(path: &Path, clock: &Clock) -> EmbeddedConfig {
    let clock = clock.clone();
    EmbeddedConfig {
        sync: false,
        now_ms: Arc::new(move || clock.0.load(Ordering::SeqCst)),
        ..EmbeddedConfig::new(path.join("log"))
    }
}

fn open(path: &Path) -> Arc<EmbeddedJournal> {
    EmbeddedJournal::open(config(path, &Clock::default())).expect("the log opens")
}

fn topic(journal: &EmbeddedJournal, name: &str, cleanup: Cleanup) -> TopicPartition {
    let spec = TopicSpec { name: name.into(), partitions: 2, cleanup, max_record_bytes: 1 << 20 };
    journal.ensure_topics(&[spec]).expect("the topic can be made");
    TopicPartition::new(name, 0)
}

fn kept(journal: &EmbeddedJournal) -> TopicPartition {
    topic(journal, "kept", Cleanup::Delete { retention_ms: None })
}

fn writer(journal: &EmbeddedJournal, id: &str) -> Box<dyn Writer> {
    journal.writer(&TransactionalId::from(id)).expect("a writer can be made")
}

fn record(at: &TopicPartition, key: &str, value: Option<&str>) -> NewRecord {
    NewRecord {
        at: at.clone(),
        key: key.to_owned().into(),
        value: value.map(|value| value.to_owned().into()),
    }
}

/// Begins a transaction with one record.
fn begin(writer: &mut dyn Writer, at: &TopicPartition, text: &str) -> Result<Offset, Error> {
    writer.begin()?;
    writer.append(record(at, text, Some(text)))?;
    Ok(writer.flush()?[0])
}

/// Writes one record.
fn write(writer: &mut dyn Writer, at: &TopicPartition, text: &str) -> Result<Offset, Error> {
    let offset = begin(writer, at, text)?;
    writer.commit().map(|()| offset)
}

fn put(writer: &mut dyn Writer, at: &TopicPartition, key: &str, value: Option<&str>) {
    writer.begin().unwrap();
    writer.append(record(at, key, value)).unwrap();
    writer.commit().unwrap();
}

fn reader(journal: &EmbeddedJournal, at: &TopicPartition, from: ReadFrom) -> Box<dyn Reader> {
    journal.reader(&[(at.clone(), from)]).expect("a reader can be made")
}

/// All records that are visible now.
fn all(journal: &EmbeddedJournal, at: &TopicPartition) -> Vec<Record> {
    let end = journal.bounds(at).unwrap().end;
    let mut reader = reader(journal, at, ReadFrom::Start);
    let mut records = Vec::new();
    while reader.position(at).unwrap() < end {
        records.extend(reader.poll(PATIENCE).unwrap());
    }
    records
}

fn texts(journal: &EmbeddedJournal, at: &TopicPartition) -> Vec<String> {
    let text = |record: Record| {
        let value = record.value.as_deref().map(String::from_utf8_lossy);
        value.map_or_else(|| "(removed)".to_owned(), String::from)
    };
    all(journal, at).into_iter().map(text).collect()
}
