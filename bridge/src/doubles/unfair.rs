//! A journal whose readers deliver one partition to its end before they begin the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_journal::embedded::EmbeddedJournal;
use anabranch_journal::{
    Bounds, Error, Journal, Offset, ReadFrom, Reader, Record, TopicName, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};

/// How many records a poll delivers.
const RECORDS: usize = 5;

/// The journal.
pub(crate) struct Unfair {
    log: Arc<EmbeddedJournal>,
    /// What was delivered, in order.
    delivered: Arc<Mutex<Vec<(TopicName, u16)>>>,
}

impl Unfair {
    /// Of `log`.
    pub(crate) fn new(log: Arc<EmbeddedJournal>) -> Self {
        Unfair { log, delivered: Arc::default() }
    }

    /// The partitions of `topic` of which records were delivered, in order.
    pub(crate) fn delivered(&self, topic: &str) -> Vec<u16> {
        let delivered = self.delivered.lock().unwrap();
        let of_topic = delivered.iter().filter(|(name, _)| name.as_str() == topic);
        of_topic.map(|(_, partition)| *partition).collect()
    }
}

impl Journal for Unfair {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.log.ensure_topics(topics)
    }
    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        self.log.writer(id)
    }
    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        let mut readers = Vec::new();
        for (at, from) in from {
            readers.push((at.clone(), self.log.reader(&[(at.clone(), *from)])?));
        }
        readers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let waiting = vec![Vec::new(); readers.len()];
        Ok(Box::new(UnfairReader { readers, waiting, delivered: self.delivered.clone() }))
    }
    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.log.bounds(at)
    }
    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.log.trim(at, before)
    }
    fn rest_after_commit(&self) -> Duration {
        self.log.rest_after_commit()
    }
}

struct UnfairReader {
    readers: Vec<(TopicPartition, Box<dyn Reader>)>,
    /// What was read of each and not delivered yet.
    waiting: Vec<Vec<Record>>,
    delivered: Arc<Mutex<Vec<(TopicName, u16)>>>,
}

impl Reader for UnfairReader {
    fn poll(&mut self, _: Duration) -> Result<Vec<Record>, Error> {
        for ((_, reader), waiting) in self.readers.iter_mut().zip(&mut self.waiting) {
            if waiting.is_empty() {
                *waiting = reader.poll(Duration::ZERO)?;
            }
            if !waiting.is_empty() {
                let records: Vec<_> = waiting.drain(..RECORDS.min(waiting.len())).collect();
                let mut delivered = self.delivered.lock().unwrap();
                delivered.extend(records.iter().map(|r| (r.at.topic.clone(), r.at.partition.0)));
                return Ok(records);
            }
        }
        Ok(Vec::new())
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        let mut readers = self.readers.iter().zip(&self.waiting);
        let ((_, reader), waiting) = readers.find(|((own, _), _)| own == at)?;
        waiting.first().map(|record| record.offset).or_else(|| reader.position(at))
    }
}
