//! A journal some of whose commits have an unknown outcome: half of those happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_journal::embedded::EmbeddedJournal;
use anabranch_journal::{
    Bounds, Error, Journal, NewRecord, Offset, ReadFrom, Reader, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};

/// The journal.
pub(crate) struct Fateful {
    log: Arc<EmbeddedJournal>,
    /// Writers whose id contains this meet their fate.
    whose: &'static str,
    percent: u32,
    /// How many commits had an unknown outcome.
    pub(crate) done: Arc<AtomicU64>,
}

impl Fateful {
    /// Of `log`; this share of the commits of writers whose id contains `whose` fails.
    pub(crate) fn new(log: Arc<EmbeddedJournal>, whose: &'static str, percent: u32) -> Self {
        Fateful { log, whose, percent, done: Arc::default() }
    }
}

impl Journal for Fateful {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.log.ensure_topics(topics)
    }
    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        let writer = self.log.writer(id)?;
        if !id.as_str().contains(self.whose) {
            return Ok(writer);
        }
        let (percent, done) = (self.percent, self.done.clone());
        Ok(Box::new(FatefulWriter { writer, percent, done }))
    }
    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        self.log.reader(from)
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

struct FatefulWriter {
    writer: Box<dyn Writer>,
    percent: u32,
    done: Arc<AtomicU64>,
}

impl Writer for FatefulWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.writer.begin()
    }
    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        self.writer.append(record)
    }
    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        self.writer.flush()
    }
    fn commit(&mut self) -> Result<(), Error> {
        if rand::random_range(0..100) >= self.percent {
            return self.writer.commit();
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        if rand::random_bool(0.5) {
            self.writer.commit()?;
        }
        Err(Error::Unknown("the answer was lost".to_owned()))
    }
    fn abort(&mut self) -> Result<(), Error> {
        self.writer.abort()
    }
}
