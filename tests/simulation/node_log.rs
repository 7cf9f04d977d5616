//! The log as one node sees it: it may not reach it. To whoever reads that is silence, as it is with
//! brokers that are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::{
    Bounds, Error, Journal, Offset, ReadFrom, Reader, Record, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};

/// The log as one node sees it.
#[derive(Clone)]
pub(crate) struct NodeLog {
    log: MemoryJournal,
    is_cut: Arc<AtomicBool>,
}

struct NodeReader {
    reader: Box<dyn Reader>,
    is_cut: Arc<AtomicBool>,
}

impl NodeLog {
    pub(crate) fn new(log: MemoryJournal) -> Self {
        NodeLog { log, is_cut: Arc::default() }
    }

    /// It cannot be reached any more, or again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    fn reached(&self) -> Result<&MemoryJournal, Error> {
        match self.is_cut.load(Ordering::Relaxed) {
            true => Err(Error::Unavailable("no broker answers".to_owned())),
            false => Ok(&self.log),
        }
    }
}

impl Journal for NodeLog {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.reached()?.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        self.reached()?.writer(id)
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        let reader = self.log.reader(from)?;
        Ok(Box::new(NodeReader { reader, is_cut: Arc::clone(&self.is_cut) }))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.reached()?.bounds(at)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.reached()?.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        Duration::ZERO
    }
}

impl Reader for NodeReader {
    /// Nothing can come while it would wait: all happens in one thread.
    fn poll(&mut self, _: Duration) -> Result<Vec<Record>, Error> {
        match self.is_cut.load(Ordering::Relaxed) {
            true => Ok(Vec::new()),
            false => self.reader.poll(Duration::ZERO),
        }
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.reader.position(at)
    }
}
