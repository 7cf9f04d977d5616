//! A journal that can be out of reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_journal::{
    Bounds, Error, Journal, Offset, ReadFrom, Reader, Record, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};

/// Passes everything on, unless it is down.
pub struct FlakyJournal {
    inner: Arc<dyn Journal>,
    down: Arc<AtomicBool>,
    is_silent: bool,
}

impl FlakyJournal {
    /// A journal, and the switch that takes it down.
    pub fn new(inner: Arc<dyn Journal>) -> (Arc<Self>, Arc<AtomicBool>) {
        Self::make(inner, false)
    }

    /// One whose readers say nothing when it is down, as those of Kafka do.
    pub fn silent(inner: Arc<dyn Journal>) -> (Arc<Self>, Arc<AtomicBool>) {
        Self::make(inner, true)
    }

    fn make(inner: Arc<dyn Journal>, is_silent: bool) -> (Arc<Self>, Arc<AtomicBool>) {
        let down = Arc::new(AtomicBool::new(false));
        (Arc::new(FlakyJournal { inner, down: Arc::clone(&down), is_silent }), down)
    }
}

fn check(down: &AtomicBool) -> Result<(), Error> {
    if down.load(Ordering::SeqCst) {
        Err(Error::Unavailable("the switch is off".to_owned()))
    } else {
        Ok(())
    }
}

struct FlakyReader {
    inner: Box<dyn Reader>,
    down: Arc<AtomicBool>,
    is_silent: bool,
}

impl Reader for FlakyReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        if self.is_silent && self.down.load(Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        check(&self.down)?;
        self.inner.poll(timeout.min(Duration::from_millis(5)))
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}

impl Journal for FlakyJournal {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.inner.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        self.inner.writer(id)
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        if !self.is_silent {
            check(&self.down)?;
        }
        let inner = self.inner.reader(from)?;
        let (down, is_silent) = (Arc::clone(&self.down), self.is_silent);
        Ok(Box::new(FlakyReader { inner, down, is_silent }))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        check(&self.down)?;
        self.inner.bounds(at)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.inner.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        self.inner.rest_after_commit()
    }
}
