//! A log in memory, for simulations: everything of one process and gone with it, with a clock that
//! its owner moves. It keeps every promise of a journal but to be there after a crash, and passes
//! the same conformance suite.
//!
//! As on Kafka a transaction leaves a hole of one offset in each partition that it touches.

mod partition;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_runtime::threads::Signal;
use parking_lot::{Mutex, MutexGuard};

use self::partition::PartitionLog;
use self::reader::MemoryReader;
use self::writer::MemoryWriter;
use crate::error::Error;
use crate::log::{
    Bounds, Journal, Offset, OpenTransaction, ReadFrom, Reader, Signature, TopicName,
    TopicPartition, TopicSpec, TransactionalId, Writer,
};
use crate::topics::check_settings;

/// A log in memory.
#[derive(Clone, Default)]
pub struct MemoryJournal {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Signal,
    now_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<TopicName, Topic>,
    /// The newest writer of each id.
    epochs: BTreeMap<TransactionalId, u64>,
    /// How often a writer of each id found out that it was fenced.
    fenced: BTreeMap<TransactionalId, u32>,
    /// What the open transaction of each id wrote.
    open: BTreeMap<TransactionalId, Vec<(TopicPartition, Offset)>>,
}

struct Topic {
    spec: TopicSpec,
    partitions: Vec<PartitionLog>,
}

impl MemoryJournal {
    /// A log without topics.
    pub fn new() -> Self {
        MemoryJournal::default()
    }

    /// Records that are appended from now on are of this time, in milliseconds since the Unix
    /// epoch.
    pub fn set_time(&self, now_ms: u64) {
        self.shared.now_ms.store(now_ms, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Acquire)
    }
}

impl State {
    fn partition(&self, at: &TopicPartition) -> Result<&PartitionLog, Error> {
        let topic = self.topics.get(&at.topic);
        let found = topic.and_then(|topic| topic.partitions.get(usize::from(at.partition.0)));
        found.ok_or_else(|| Error::UnknownTopic(at.to_string()))
    }

    fn record_limit(&self, at: &TopicPartition) -> Result<usize, Error> {
        let topic = self.topics.get(&at.topic);
        let topic = topic.ok_or_else(|| Error::UnknownTopic(at.to_string()))?;
        Ok(topic.spec.max_record_bytes)
    }

    fn partition_mut(&mut self, at: &TopicPartition) -> Result<&mut PartitionLog, Error> {
        let topic = self.topics.get_mut(&at.topic);
        let found = topic.and_then(|topic| topic.partitions.get_mut(usize::from(at.partition.0)));
        found.ok_or_else(|| Error::UnknownTopic(at.to_string()))
    }

    /// Ends the open transaction of an id.
    fn end(&mut self, id: &TransactionalId, commits: bool) {
        let mut touched = Vec::new();
        for (at, offset) in self.open.remove(id).unwrap_or_default() {
            let partition = self.partition_mut(&at).expect("a topic is never removed");
            partition.end_record(offset, commits);
            if !touched.contains(&at) {
                touched.push(at);
            }
        }
        for at in touched {
            self.partition_mut(&at).expect("a topic is never removed").append_marker();
        }
    }
}

impl Journal for MemoryJournal {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        let mut state = self.shared.lock();
        for spec in topics {
            match state.topics.get(&spec.name) {
                Some(topic) => check_settings(
                    spec,
                    &topic.spec,
                    "a log in memory keeps the settings it was made with",
                )?,
                None => {
                    let partitions = (0..spec.partitions).map(|_| PartitionLog::default());
                    let partitions = partitions.collect();
                    let topic = Topic { spec: spec.clone(), partitions };
                    state.topics.insert(spec.name.clone(), topic);
                }
            }
        }
        Ok(())
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        let mut state = self.shared.lock();
        state.end(id, false);
        let epoch = state.epochs.entry(id.clone()).or_default();
        *epoch += 1;
        let writer = MemoryWriter::new(Arc::clone(&self.shared), id.clone(), *epoch);
        drop(state);
        self.shared.changed.notify_all();
        Ok(Box::new(writer))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        let state = self.shared.lock();
        let mut positions = BTreeMap::new();
        for (at, from) in from {
            let partition = state.partition(at)?;
            let position = match from {
                ReadFrom::Start => partition.start(),
                ReadFrom::Offset(offset) => *offset,
                ReadFrom::End => partition.stable_end(),
            };
            positions.insert(at.clone(), position);
        }
        drop(state);
        Ok(Box::new(MemoryReader::new(Arc::clone(&self.shared), positions)))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        let state = self.shared.lock();
        let partition = state.partition(at)?;
        Ok(Bounds { start: partition.start(), end: partition.stable_end() })
    }

    fn written(&self, at: &TopicPartition) -> Result<Offset, Error> {
        Ok(self.shared.lock().partition(at)?.end())
    }

    fn open_transactions(&self, of: &[TopicPartition]) -> Result<Vec<OpenTransaction>, Error> {
        let state = self.shared.lock();
        let mut found = Vec::new();
        for at in of {
            let partition = state.partition(at)?;
            let (first, end) = (partition.stable_end(), partition.end());
            if first < end {
                found.push(OpenTransaction { at: at.clone(), first, end });
            }
        }
        Ok(found)
    }

    fn writer_of(&self, open: &OpenTransaction) -> Result<Option<Signature>, Error> {
        let state = self.shared.lock();
        let is_it = |written: &(TopicPartition, Offset)| *written == (open.at.clone(), open.first);
        let of = state.open.iter().find(|(_, written)| written.iter().any(is_it));
        Ok(of.map(|(writer, _)| {
            let fenced = state.fenced.get(writer).copied().unwrap_or_default();
            Signature { writer: writer.clone(), fenced }
        }))
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let partition = state.partition_mut(at)?;
        let end = partition.stable_end();
        if before > end {
            let what = format!("{at} ends at {end}; it cannot be trimmed to {before}");
            return Err(Error::Invalid(what));
        }
        partition.trim(before);
        Ok(())
    }

    fn rest_after_commit(&self) -> Duration {
        Duration::ZERO
    }
}
