//! A journal whose readers deliver one partition to its end before they begin the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_journal::doubles::{Fate, FaultyJournal};
use anabranch_journal::{Error, Journal, Offset, Reader, Record, TopicName, TopicPartition};

/// How many records a poll delivers.
const RECORDS: usize = 5;

/// What was delivered, in order.
#[derive(Clone, Default)]
pub(crate) struct Delivered(Arc<Mutex<Vec<(TopicName, u16)>>>);

impl Delivered {
    /// The partitions of `topic` of which records were delivered, in order.
    pub(crate) fn of(&self, topic: &str) -> Vec<u16> {
        let delivered = self.0.lock().unwrap();
        let of_topic = delivered.iter().filter(|(name, _)| name.as_str() == topic);
        of_topic.map(|(_, partition)| *partition).collect()
    }
}

/// The journal, on `log`, and what it has delivered.
pub(crate) fn unfair(log: Arc<dyn Journal>) -> (Arc<dyn Journal>, Delivered) {
    let delivered = Delivered::default();
    let of_readers = delivered.clone();
    let journal = FaultyJournal::new(log, |_| Fate::Done).with_readers(move |log, from| {
        let mut readers = Vec::new();
        for (at, from) in from {
            readers.push((at.clone(), log.reader(&[(at.clone(), *from)])?));
        }
        readers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let waiting = vec![Vec::new(); readers.len()];
        Ok(Box::new(UnfairReader { readers, waiting, delivered: of_readers.clone() }))
    });
    (Arc::new(journal), delivered)
}

struct UnfairReader {
    readers: Vec<(TopicPartition, Box<dyn Reader>)>,
    /// What was read of each and not delivered yet.
    waiting: Vec<Vec<Record>>,
    delivered: Delivered,
}

impl Reader for UnfairReader {
    fn poll(&mut self, _: Duration) -> Result<Vec<Record>, Error> {
        for ((_, reader), waiting) in self.readers.iter_mut().zip(&mut self.waiting) {
            if waiting.is_empty() {
                *waiting = reader.poll(Duration::ZERO)?;
            }
            if !waiting.is_empty() {
                let records: Vec<_> = waiting.drain(..RECORDS.min(waiting.len())).collect();
                let mut delivered = self.delivered.0.lock().unwrap();
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
