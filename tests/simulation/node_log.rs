//! The log as one process sees it: it may not reach it, and what it writes takes a while. To whoever
//! reads a log that cannot be reached that is silence, as it is with brokers that are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::{
    Bounds, Error, Journal, NewRecord, Offset, OpenTransaction, ReadFrom, Reader, Record,
    Signature, TopicPartition, TopicSpec, TransactionalId, Writer,
};
use anabranch_runtime::{chance, simulation, threads};

/// How long a step of a transaction takes at most, in microseconds.
const STEP_US: u64 = 4_000;
/// How long it takes to find out that no broker answers.
const TIMEOUT: Duration = Duration::from_millis(700);

/// The log as one process sees it.
#[derive(Clone)]
pub(crate) struct NodeLog {
    log: MemoryJournal,
    way: Arc<Way>,
}

/// How a process gets to the log.
#[derive(Default)]
struct Way {
    is_cut: AtomicBool,
    /// The process has died: nothing of it ends what it has begun.
    is_dead: AtomicBool,
    /// Of how many commits one gets no answer; 0: all get one.
    unanswered: AtomicU64,
}

struct NodeReader {
    reader: Box<dyn Reader>,
    way: Arc<Way>,
}

/// A writer whose steps take their time.
struct NodeWriter {
    /// Gone once nobody knows what became of its transaction.
    writer: Option<Box<dyn Writer>>,
    way: Arc<Way>,
}

impl NodeLog {
    pub(crate) fn new(log: MemoryJournal) -> Self {
        NodeLog { log, way: Arc::default() }
    }

    /// It cannot be reached any more, or again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.way.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// One commit in so many gets no answer; 0: all get one.
    pub(crate) fn leave_unanswered(&self, one_in: u64) {
        self.way.unanswered.store(one_in, Ordering::Relaxed);
    }

    /// The process dies: what it has open stays so.
    pub(crate) fn die(&self) {
        self.way.is_dead.store(true, Ordering::Relaxed);
    }

    /// The log as the next process of that name sees it.
    pub(crate) fn revive(&self) -> Self {
        let way = Way::default();
        way.is_cut.store(self.way.is_cut(), Ordering::Relaxed);
        NodeLog { log: self.log.clone(), way: Arc::new(way) }
    }

    fn reached(&self) -> Result<&MemoryJournal, Error> {
        self.way.check().map(|()| &self.log)
    }
}

impl Way {
    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), Error> {
        match self.is_cut() {
            true => Err(Error::Unavailable("no broker answers".to_owned())),
            false => Ok(()),
        }
    }

    fn loses_answer(&self) -> bool {
        let one_in = self.unanswered.load(Ordering::Relaxed);
        one_in > 0 && chance::number().is_multiple_of(one_in)
    }
}

impl Journal for NodeLog {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.reached()?.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        take_time();
        let writer = Some(self.reached()?.writer(id)?);
        Ok(Box::new(NodeWriter { writer, way: Arc::clone(&self.way) }))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        let reader = self.log.reader(from)?;
        Ok(Box::new(NodeReader { reader, way: Arc::clone(&self.way) }))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.reached()?.bounds(at)
    }

    fn written(&self, at: &TopicPartition) -> Result<Offset, Error> {
        take_time();
        if self.way.is_cut() {
            wait(TIMEOUT);
        }
        self.reached()?.written(at)
    }

    fn open_transactions(&self, of: &[TopicPartition]) -> Result<Vec<OpenTransaction>, Error> {
        self.reached()?.open_transactions(of)
    }

    fn writer_of(&self, open: &OpenTransaction) -> Result<Option<Signature>, Error> {
        self.reached()?.writer_of(open)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.reached()?.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        Duration::ZERO
    }
}

impl Reader for NodeReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        // Elsewhere nothing can come while it would wait: all happens in one thread.
        let timeout = if simulation::may_wait() { timeout } else { Duration::ZERO };
        if self.way.is_cut() {
            if !timeout.is_zero() {
                threads::sleep(timeout);
            }
            return Ok(Vec::new());
        }
        self.reader.poll(timeout)
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.reader.position(at)
    }
}

impl NodeWriter {
    /// The writer, after a while.
    fn asked(&mut self) -> Result<&mut dyn Writer, Error> {
        take_time();
        self.writer()
    }

    fn writer(&mut self) -> Result<&mut dyn Writer, Error> {
        self.way.check()?;
        match &mut self.writer {
            Some(writer) => Ok(writer.as_mut()),
            None => Err(Error::Aborted("the writer has to be opened anew".to_owned())),
        }
    }

    /// What was sent is on its way for some time, whatever becomes of the process meanwhile.
    fn commit_late(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let on_its_way = simulation::on_thread(move || {
            threads::sleep(TIMEOUT.mul_f64(chance::number() as f64 / u64::MAX as f64 * 2.0));
            // Unless another one has ended it by then.
            if writer.commit().is_err() {
                std::mem::forget(writer);
            }
        });
        drop(tokio::spawn(on_its_way));
    }

    /// Nobody knows what became of it: what is open stays so.
    fn forget(&mut self) {
        std::mem::forget(self.writer.take());
    }
}

impl Writer for NodeWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.asked()?.begin()
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        self.writer()?.append(record)
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        self.asked()?.flush()
    }

    fn commit(&mut self) -> Result<(), Error> {
        let unknown = || Error::Unknown("the commit gets no answer".to_owned());
        let gets_no_answer = self.way.loses_answer();
        match self.asked().map(drop) {
            Ok(()) if gets_no_answer && chance::number().is_multiple_of(2) => self.commit_late(),
            Ok(()) => self.writer()?.commit()?,
            Err(_) => {
                wait(TIMEOUT);
                self.forget();
                return Err(unknown());
            }
        }
        take_time();
        if self.way.is_cut() || gets_no_answer {
            wait(TIMEOUT);
            self.forget();
            return Err(unknown());
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.asked()?.abort()
    }

    fn is_spent(&self) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.is_spent())
    }
}

impl Drop for NodeWriter {
    fn drop(&mut self) {
        if self.way.is_cut() || self.way.is_dead.load(Ordering::Relaxed) {
            self.forget();
        }
    }
}

/// What asks brokers takes a while, on a thread that can wait.
fn take_time() {
    wait(Duration::from_micros(chance::number() % STEP_US));
}

fn wait(time: Duration) {
    if simulation::may_wait() {
        threads::sleep(time);
    }
}
