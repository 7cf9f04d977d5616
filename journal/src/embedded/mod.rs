//! The embedded log: [`Journal`] in one process, on RocksDB.
//!
//! A commit is one RocksDB batch, synced: records of all partitions or none (IN-2), on disk before
//! the commit returns (IN-1). Offsets are given out in memory and become durable with the records
//! that carry them: what a transaction was given and did not commit leaves a hole, or is given out
//! again after a restart if nothing was written behind it. Nobody has seen those: see `state`.
//!
//! What is on disk when the process stops: before the batch is written, nothing of a transaction;
//! after, all of it. There is no state between. Who holds which transactional id is not stored:
//! the directory is locked by the one process that can hold a writer.

mod keys;
mod layout;
mod reader;
mod retention;
mod state;
mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rocksdb::WriteBatch;

use self::layout::{TopicEntry, topic_key};
use self::reader::EmbeddedReader;
use self::retention::Retention;
use self::state::State;
use self::store::{Range, Store, WriteFailure};
use self::writer::EmbeddedWriter;
use crate::error::Error;
use crate::log::{
    Bounds, Journal, Offset, ReadFrom, Reader, TopicPartition, TopicSpec, TransactionalId, Writer,
};
use crate::topics::check_settings;

/// How an embedded log is opened.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// The directory; it is made if it is missing.
    pub path: PathBuf,
    /// Whether a commit waits until it is on the disk. Without, what was committed shortly before
    /// a power failure is lost; a crash of the process alone loses nothing either way.
    pub sync: bool,
    /// How long a transaction may stay open before it is aborted.
    pub transaction_timeout: Duration,
    /// How many bytes of records one poll returns at most, roughly.
    pub poll_max_bytes: usize,
    /// How many bytes are kept in memory before they go into a file; three times this is used at
    /// most.
    pub write_buffer_bytes: usize,
    /// Milliseconds since the Unix epoch: when records are written, and how old they are.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl EmbeddedConfig {
    /// The usual settings for a log in the directory `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        EmbeddedConfig {
            path: path.into(),
            sync: true,
            transaction_timeout: Duration::from_secs(10),
            poll_max_bytes: 4 << 20,
            write_buffer_bytes: 16 << 20,
            now_ms: Arc::new(system_now_ms),
        }
    }
}

impl fmt::Debug for EmbeddedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EmbeddedConfig {
            path,
            sync,
            transaction_timeout,
            poll_max_bytes,
            write_buffer_bytes,
            now_ms: _,
        } = self;
        f.debug_struct("EmbeddedConfig")
            .field("path", path)
            .field("sync", sync)
            .field("transaction_timeout", transaction_timeout)
            .field("poll_max_bytes", poll_max_bytes)
            .field("write_buffer_bytes", write_buffer_bytes)
            .finish_non_exhaustive()
    }
}

fn system_now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// What writers, readers and the log itself share. The directory stays locked until the last of
/// them is dropped.
struct Shared {
    store: Store,
    state: Mutex<State>,
    /// Notified when a commit is over, for a new writer that waits for the one before.
    commit_over: Condvar,
    retention: Retention,
    config: EmbeddedConfig,
}

impl Shared {
    /// The state, with what took too long aborted.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.expire(Instant::now(), self.config.transaction_timeout);
        state
    }

    /// Writes a batch that is not a transaction's.
    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.store.write(batch).map_err(|failure| match failure {
            WriteFailure::Refused(error) => error,
            WriteFailure::Unknown(failure) => {
                self.state.lock().fail(failure.clone());
                Error::Unknown(failure)
            }
        })
    }
}

/// A log in a directory.
pub struct EmbeddedJournal {
    shared: Arc<Shared>,
}

impl fmt::Debug for EmbeddedJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedJournal").field("config", &self.shared.config).finish()
    }
}

impl EmbeddedJournal {
    /// Opens the log in a directory, or makes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another process has it open, if the directory holds something else,
    /// or if it was written by a newer version; [`Error::Corrupt`] if it does not decode.
    pub fn open(config: EmbeddedConfig) -> Result<Arc<Self>, Error> {
        let store = Store::open(&config)?;
        let mut state = State::default();
        for (name, entry) in store.topics()? {
            state.add_topic(name.clone(), entry);
            let partitions: Vec<_> =
                state.topic(&name).into_iter().flat_map(|topic| topic.partitions()).collect();
            for index in partitions {
                load_partition(&store, &mut state, index, config.poll_max_bytes)?;
            }
        }
        let shared = Shared {
            store,
            state: Mutex::new(state),
            commit_over: Condvar::new(),
            retention: Retention::default(),
            config,
        };
        shared.retain_if_due();
        Ok(Arc::new(EmbeddedJournal { shared: Arc::new(shared) }))
    }
}

fn load_partition(
    store: &Store,
    state: &mut State,
    index: state::PartitionIndex,
    max_bytes: usize,
) -> Result<(), Error> {
    let (start, end) = store.ends(state.partition(index).key)?;
    state.load(index, start, end);
    let partition = state.partition_mut(index);
    let Some(keys) = &mut partition.keys else { return Ok(()) };
    let mut from = start;
    while from < end {
        let mut records = Vec::new();
        let range = Range { at: &partition.at, key: partition.key, from, to: end };
        from = store.read(&range, max_bytes, &mut records)?;
        for record in records {
            let removed_ms = record.value.is_none().then_some(record.timestamp_ms);
            keys.note(record.key, record.offset, removed_ms);
        }
    }
    Ok(())
}

/// What to do about a topic with other settings.
const HINT: &str = "an embedded log keeps the settings it was made with: configure those, or start \
                    with a new data directory";

impl Journal for EmbeddedJournal {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        // Held until the topics are written, so that two callers do not give out one number twice.
        let mut state = self.shared.state();
        state.check()?;
        let mut number =
            state.topics().map(|(_, topic)| topic.entry.number + 1).max().unwrap_or_default();
        let mut new: Vec<(&TopicSpec, TopicEntry)> = Vec::new();
        for spec in topics {
            if let Some(topic) = state.topic(&spec.name) {
                check_settings(spec, &topic.entry.spec(&spec.name), HINT)?;
            } else if !new.iter().any(|(other, _)| other.name == spec.name) {
                new.push((spec, TopicEntry::new(number, spec)));
                number += 1;
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for (spec, entry) in &new {
            let encoded = serde_json::to_vec(entry).expect("plain fields always encode");
            batch.put(topic_key(&spec.name), encoded);
        }
        self.shared.store.write(batch).map_err(|failure| match failure {
            WriteFailure::Refused(error) => error,
            WriteFailure::Unknown(failure) => {
                state.fail(failure.clone());
                Error::Unknown(failure)
            }
        })?;
        for (spec, entry) in new {
            state.add_topic(spec.name.clone(), entry);
        }
        Ok(())
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(EmbeddedWriter::open(Arc::clone(&self.shared), id)?))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(EmbeddedReader::open(Arc::clone(&self.shared), from)?))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        let index = self.shared.state().find(at)?;
        // If that fails, the end before it is as true.
        if let Err(error) = self.shared.show_ends(&[index]) {
            tracing::debug!(%error, %at, "the end of a partition could not be stored");
        }
        Ok(self.shared.state().partition(index).bounds())
    }

    fn written(&self, at: &TopicPartition) -> Result<Offset, Error> {
        let state = self.shared.state();
        Ok(state.partition(state.find(at)?).next())
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        let index = self.shared.state().find(at)?;
        self.shared.trim(index, before)
    }

    fn rest_after_commit(&self) -> Duration {
        Duration::ZERO
    }
}
