//! The applying thread: takes what the reading threads hand over, lets the pure core say what it
//! does, and writes it.
//!
//! One batch holds as many whole transactions as are ready, up to a bound, and with them the
//! progress that they make (ST-1): there is no state on disk between two batches. A crash before
//! the write loses the batch and the progress alike, one after it neither, up to what the last
//! flush made durable; the log gives the rest again.
//!
//! A store that cannot be written is tried again for ever ([`Persistence`]).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_journal::{Error as JournalError, Offset, TopicPartition};
use anabranch_schemas::records::PartLocation;

use super::assembler::{Assembler, BrokenPart};
use super::demand::Demand;
use super::documents::{BatchDocuments, RecentStates};
use super::run::{Done, Run};
use super::sources::Input;
use crate::backfill::Reason;
use crate::error::Error;
use crate::log::Log;
use crate::metrics::{self, BatchCounts};
use crate::persistence::Persistence;
use crate::status::Status;
use crate::storage::{Batch, Head, Progress, SliceRead, Storage, Timeline};
use crate::wishes::Wishes;

/// A batch is written once it is this large: latency is bounded while catching up.
const BATCH_BYTES: usize = 1 << 20;
/// How often it is looked whether indexes are to be made or given up, if nothing else is to be done.
const TEND_INTERVAL: Duration = Duration::from_millis(100);
/// Otherwise, for how long: one of so many parts of the time that applying takes.
const TENDED_SHARE: u32 = 2;

/// How long things are kept, in milliseconds of the log's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) history_ms: u64,
    pub(crate) feed_ms: u64,
}

/// Applies rounds to a store.
pub(super) struct Applier {
    pub(super) storage: Arc<Storage>,
    pub(super) status: Arc<Status>,
    pub(super) demand: Arc<Demand>,
    pub(super) log: Arc<Log>,
    /// The partitions of topic `rounds`, to name them in errors.
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) retention: Retention,
    pub(super) progress: Progress,
    pub(super) timeline: Timeline,
    pub(super) assembler: Assembler,
    pub(super) recent: RecentStates,
    /// Bytes and commit records that were received and are not yet told to be released.
    pub(super) held: Held,
    pub(super) persistence: Persistence,
    pub(super) wishes: Arc<Wishes>,
    /// How many documents an expiry drops, and how many it looks at for a batch.
    pub(super) expires_at_most: usize,
    pub(super) expires_at_once: usize,
    /// How many documents are looked at at once for an index that is being built.
    pub(super) indexed_at_once: u64,
}

/// How applying ended.
pub(crate) enum Ended {
    /// For as long as the process runs: it stops, or the node is halted.
    ForGood,
    /// The log no longer has what comes after this.
    Trimmed(Box<Head>, JournalError),
}

impl Ended {
    /// Where to go on, and why something is to be taken from other replicas; `None` if it ended for
    /// good.
    pub(crate) fn trimmed(self) -> Option<(Head, Reason)> {
        match self {
            Ended::ForGood => None,
            Ended::Trimmed(head, trimmed) => {
                tracing::warn!(%trimmed, "the log no longer has what comes next");
                Some((*head, Reason::Trimmed(trimmed)))
            }
        }
    }
}

/// What the reading threads count as waiting.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: usize,
    commits: usize,
}

impl Applier {
    /// Applies until the reading threads are gone, then makes it durable. What cannot be applied
    /// halts the node: it goes on answering from what was applied before.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) -> Result<Ended, Error> {
        let error = loop {
            match self.apply_inputs(inputs) {
                Ok(true) => {}
                Ok(false) => break Error::Shutdown,
                Err(error) => break error,
            }
        };
        self.end(error)
    }

    /// Ends with what was applied, which it makes durable.
    pub(super) fn end(self, error: Error) -> Result<Ended, Error> {
        self.demand.close();
        if let Err(error) = self.storage.flush() {
            tracing::warn!(%error, "the log has to give again what was applied last");
        }
        match error {
            Error::Journal(trimmed @ JournalError::Trimmed { .. }) => {
                let Applier { progress, timeline, .. } = self;
                Ok(Ended::Trimmed(Box::new(Head { progress, timeline }), trimmed))
            }
            error if error.kind() == ErrorKind::Shutdown => Ok(Ended::ForGood),
            error => self.status.halt_if_corrupt(error).map(|()| Ended::ForGood),
        }
    }

    /// Applies what is there, then waits a while for more. False if there will be no more.
    pub(super) fn apply_inputs(&mut self, inputs: &Receiver<Input>) -> Result<bool, Error> {
        let mut began = Instant::now();
        while self.apply_batch()? {
            // Also while there is always more to apply.
            let until = Instant::now() + began.elapsed() / TENDED_SHARE;
            while self.tend_indexes()? && Instant::now() < until {}
            began = Instant::now();
        }
        self.tell_demand();
        let wait = if self.tend_indexes()? { Duration::ZERO } else { TEND_INTERVAL };
        match inputs.recv_timeout(wait) {
            Ok(first) => self.take_all(first, inputs)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    /// Applies what is there.
    #[cfg(feature = "simulation")]
    pub(super) fn apply_waiting(&mut self, inputs: &Receiver<Input>) -> Result<(), Error> {
        while let Ok(first) = inputs.try_recv() {
            self.take_all(first, inputs)?;
        }
        while self.apply_batch()? {}
        self.tend_indexes()?;
        self.tell_demand();
        Ok(())
    }

    /// Takes in what the reading threads have given so far, up to about a batch.
    fn take_all(&mut self, first: Input, inputs: &Receiver<Input>) -> Result<(), Error> {
        let mut failure = self.take(first).err();
        while failure.is_none() && self.assembler.buffered_bytes() < BATCH_BYTES {
            match inputs.try_recv() {
                Ok(input) => failure = self.take(input).err(),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                // What came before it is as good as ever.
                while self.apply_batch()? {}
                Err(error)
            }
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Commits(commits, position) => {
                self.held.commits += commits.len();
                for commit in commits {
                    self.assembler.add_commit(commit);
                }
                self.assembler.commits_read_to(position);
            }
            Input::Parts(parts, positions) => {
                for part in parts {
                    self.held.bytes += part.bytes;
                    self.assembler.add_part(part);
                }
                for (slice, position) in positions {
                    self.assembler.parts_read_to(slice, position);
                }
            }
            Input::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn tell_demand(&mut self) {
        let (bytes, commits) = (self.assembler.buffered_bytes(), self.assembler.pending_commits());
        let released = (self.held.bytes - bytes, self.held.commits - commits);
        self.held = Held { bytes, commits };
        self.demand.released(released.0, released.1, self.assembler.missing());
        metrics::set_waiting(bytes, commits);
    }

    /// Applies as many rounds as are ready and fit a batch, or an expiry. False if there was none.
    fn apply_batch(&mut self) -> Result<bool, Error> {
        if let Some(expiring) = self.assembler.expiring() {
            return self.apply_expiry(expiring).map(|()| true);
        }
        let began = Instant::now();
        let storage = Arc::clone(&self.storage);
        // What is written is about twice what was read: versions and changes.
        let capacity = (2 * self.assembler.buffered_bytes()).min(BATCH_BYTES) + 1024;
        let batch = Batch::new(&storage, capacity);
        let (recent, timeline) = (&mut self.recent, &mut self.timeline);
        let time = self.progress.time;
        let indexes = storage.indexes();
        let documents = BatchDocuments {
            recent,
            stored: storage.newest_versions(),
            batch,
            txn: TxnId(0),
            full_bytes: BATCH_BYTES,
        };
        let mut run = Run::new(&self.log, &storage, &indexes, documents, timeline, time);
        let mut failed = None;
        while failed.is_none() && !run.is_full() {
            match self.assembler.release() {
                Ok(Some(round)) => {
                    let (txn, parts) = (round.txn, round.commit.parts.clone());
                    let applied = run.apply(round);
                    failed = applied.err().map(|error| Failed { error, round: Some((txn, parts)) });
                }
                Ok(None) => break,
                Err(part) => {
                    failed = Some(Failed { error: broken(&self.partitions, part), round: None });
                }
            }
        }
        let (batch, done) = run.finish();
        let counts = BatchCounts { orphans: self.assembler.take_orphans(), ..done.counts };
        let come = self.come_to(failed.as_ref());
        if done.last.is_some() || come.has_moved(&self.progress) {
            self.write(batch, &done, come)?;
            metrics::record_batch(counts, began.elapsed());
        }
        failed.map_or(Ok(done.last.is_some()), |failed| Err(failed.error))
    }

    /// How far the assembler has come, but not past a round that failed: it is still to be applied.
    pub(super) fn come_to(&self, failed: Option<&Failed>) -> Come {
        let mut come = Come { next: self.assembler.next(), slices: self.assembler.read() };
        if let Some((txn, parts)) = failed.and_then(|failed| failed.round.as_ref()) {
            come.next = *txn;
            for part in parts {
                if let Some(read) = come.slices.get_mut(usize::from(part.slice.0)) {
                    read.wait_for(Offset(part.offset));
                }
            }
        }
        come
    }

    pub(super) fn write(
        &mut self,
        mut batch: Batch<'_>,
        done: &Done,
        come: Come,
    ) -> Result<(), Error> {
        let mut progress = self.progress.clone();
        progress.observe(self.log.owned(), come.next);
        progress.slices = come.slices;
        if let Some(last) = done.last {
            progress.last = Some(last);
            progress.time = done.time;
            self.retain(&mut progress, &mut batch);
        }
        self.persistence.write(batch, &progress)?;
        self.progress = progress;
        self.recent.batch_written();
        if done.counts.lost > 0 {
            self.status.add_lost_parts(done.counts.lost);
        }
        let Progress { next, last, time, .. } = self.progress;
        self.status.set_applied(next, last, time);
        Ok(())
    }

    /// Gives up what is past its retention.
    fn retain(&mut self, progress: &mut Progress, batch: &mut Batch<'_>) {
        let Retention { history_ms, feed_ms } = self.retention;
        if let Some(sample) = self.timeline.before(progress.time, history_ms) {
            // Of the transactions below the sample's only the last can still be read.
            let oldest = TxnId(sample.txn.0.saturating_sub(1));
            progress.oldest_readable = self.storage.history().advance(oldest);
        }
        if let Some(sample) = self.timeline.before(progress.time, feed_ms.max(history_ms)) {
            batch.delete_samples(&self.timeline.forget_before(sample));
        }
        let feed = self.timeline.before(progress.time, feed_ms);
        if let Some(sample) = feed.filter(|sample| sample.txn > progress.feed_start) {
            batch.drop_changes(progress.feed_start..sample.txn);
            progress.feed_start = sample.txn;
        }
    }
}

/// How far a batch comes.
pub(super) struct Come {
    next: TxnId,
    slices: Vec<SliceRead>,
}

impl Come {
    /// Whether there is something to write even without a round: positions that moved past holes.
    /// The log may be trimmed up to there before the next round comes.
    fn has_moved(&self, progress: &Progress) -> bool {
        let now = self.slices.iter().map(SliceRead::position);
        self.next != progress.next || now.ne(progress.slices.iter().map(SliceRead::position))
    }
}

/// What ends a batch before its time.
pub(super) struct Failed {
    error: Error,
    /// The round that the assembler has given and that was not applied.
    round: Option<(TxnId, Vec<PartLocation>)>,
}

fn broken(partitions: &[TopicPartition], part: BrokenPart) -> Error {
    let BrokenPart { slice, offset, reason } = part;
    let at = partitions[usize::from(slice.0)].to_string();
    Error::CorruptRecord { at, offset: offset.0, reason }
}
