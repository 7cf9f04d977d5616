//! A journal for tests that passes everything on to another and goes wrong where a test says so.
//!
//! Tests of the other crates have it with the feature `doubles`.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::log::{
    Bounds, Journal, NewRecord, Offset, OpenTransaction, ReadFrom, Reader, Signature,
    TopicPartition, TopicSpec, TransactionalId, Writer,
};

/// What is about to be done, and by the writer of which id.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A writer is made.
    Writer(&'a TransactionalId),
    /// It begins a transaction.
    Begin(&'a TransactionalId),
    /// It appends a record.
    Append(&'a TransactionalId),
    /// It flushes.
    Flush(&'a TransactionalId),
    /// It commits.
    Commit(&'a TransactionalId),
    /// It aborts.
    Abort(&'a TransactionalId),
    /// A partition is asked for its ends.
    Bounds(&'a TopicPartition),
    /// A partition is asked how far it is written.
    Written(&'a TopicPartition),
}

/// What becomes of a step.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is done, and its writer says that it is not to be used again.
    DoneAndSpent,
    /// It is done, and the answer is this error.
    DoneBut(Error),
    /// It is not done, and the answer is this error. What a transaction has appended stays open
    /// until its writer is dropped or fenced.
    Fails(Error),
}

type Decide = dyn Fn(Step<'_>) -> Fate + Send + Sync;
type Opened = Result<Box<dyn Reader>, Error>;
type OpenReader = dyn Fn(&dyn Journal, &[(TopicPartition, ReadFrom)]) -> Opened + Send + Sync;

/// The journal.
pub struct FaultyJournal {
    inner: Arc<dyn Journal>,
    decide: Arc<Decide>,
    open_reader: Box<OpenReader>,
}

impl FaultyJournal {
    /// Passes all on to `inner`; what becomes of each step is what `decide` says just before it.
    pub fn new(
        inner: Arc<dyn Journal>,
        decide: impl Fn(Step<'_>) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let open_reader = Box::new(|inner: &dyn Journal, from: &[_]| inner.reader(from));
        FaultyJournal { inner, decide: Arc::new(decide), open_reader }
    }

    /// With readers that are made by `open`, which is given the journal below.
    #[must_use]
    pub fn with_readers(
        self,
        open: impl Fn(&dyn Journal, &[(TopicPartition, ReadFrom)]) -> Opened + Send + Sync + 'static,
    ) -> Self {
        FaultyJournal { open_reader: Box::new(open), ..self }
    }
}

impl Journal for FaultyJournal {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.inner.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        let fate = (self.decide)(Step::Writer(id));
        let is_spent = matches!(fate, Fate::DoneAndSpent);
        let inner = meet(fate, || self.inner.writer(id))?;
        let decide = Arc::clone(&self.decide);
        Ok(Box::new(FaultyWriter { inner, id: id.clone(), decide, is_spent }))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        (self.open_reader)(self.inner.as_ref(), from)
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        meet((self.decide)(Step::Bounds(at)), || self.inner.bounds(at))
    }

    fn written(&self, at: &TopicPartition) -> Result<Offset, Error> {
        meet((self.decide)(Step::Written(at)), || self.inner.written(at))
    }

    fn open_transactions(&self, at: &[TopicPartition]) -> Result<Vec<OpenTransaction>, Error> {
        self.inner.open_transactions(at)
    }

    fn writer_of(&self, open: &OpenTransaction) -> Result<Option<Signature>, Error> {
        self.inner.writer_of(open)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.inner.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        self.inner.rest_after_commit()
    }
}

fn meet<T>(fate: Fate, step: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    match fate {
        Fate::Done | Fate::DoneAndSpent => step(),
        Fate::DoneBut(error) => step().and(Err(error)),
        Fate::Fails(error) => Err(error),
    }
}

struct FaultyWriter {
    inner: Box<dyn Writer>,
    id: TransactionalId,
    decide: Arc<Decide>,
    is_spent: bool,
}

impl FaultyWriter {
    fn meet<T>(
        &mut self,
        fate: Fate,
        step: impl FnOnce(&mut dyn Writer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.is_spent |= matches!(fate, Fate::DoneAndSpent);
        meet(fate, || step(self.inner.as_mut()))
    }
}

impl Writer for FaultyWriter {
    fn begin(&mut self) -> Result<(), Error> {
        let fate = (self.decide)(Step::Begin(&self.id));
        self.meet(fate, |inner| inner.begin())
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        let fate = (self.decide)(Step::Append(&self.id));
        self.meet(fate, |inner| inner.append(record))
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        let fate = (self.decide)(Step::Flush(&self.id));
        self.meet(fate, |inner| inner.flush())
    }

    fn commit(&mut self) -> Result<(), Error> {
        let fate = (self.decide)(Step::Commit(&self.id));
        self.meet(fate, |inner| inner.commit())
    }

    fn abort(&mut self) -> Result<(), Error> {
        let fate = (self.decide)(Step::Abort(&self.id));
        self.meet(fate, |inner| inner.abort())
    }

    fn is_spent(&self) -> bool {
        self.is_spent || self.inner.is_spent()
    }
}
