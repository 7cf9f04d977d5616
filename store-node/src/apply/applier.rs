//! The applying thread: takes what the reading threads hand over, lets the pure core say what it
//! does, and writes it.
//!
//! One batch holds as many whole transactions as are ready, up to a bound, and with them the
//! progress that they make (ST-1): there is no state on disk between two batches. A crash before
//! the write loses the batch and the progress alike, one after it neither, up to what the last
//! flush made durable; the log gives the rest again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_journal::TopicPartition;

use super::assembler::{Assembler, BrokenPart};
use super::demand::Demand;
use super::documents::RecentStates;
use super::run::{Done, Log, Run};
use super::sources::Input;
use crate::error::Error;
use crate::metrics::{self, BatchCounts};
use crate::status::Status;
use crate::storage::{Batch, Progress, Storage, Timeline};

/// A batch is written once it is this large: latency is bounded while catching up.
const BATCH_BYTES: usize = 4 << 20;

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
    pub(super) log: Log,
    /// The partitions of topic `rounds`, to name them in errors.
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) retention: Retention,
    pub(super) progress: Progress,
    pub(super) timeline: Timeline,
    pub(super) assembler: Assembler,
    pub(super) recent: RecentStates,
    /// Bytes and commit records that were received and are not yet told to be released.
    pub(super) held: Held,
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
    pub(super) fn run(mut self, inputs: &Receiver<Input>) -> Result<(), Error> {
        let halted = loop {
            match self.apply_inputs(inputs) {
                Ok(true) => {}
                Ok(false) => break None,
                // What was read of the store or of the log makes no sense, now and for ever.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    break Some(error);
                }
                Err(error) => return Err(error),
            }
        };
        if let Some(error) = halted {
            tracing::error!(%error, next = %self.progress.next, "applying has stopped");
            self.status.halt(&error.to_string());
        }
        self.storage.flush()
    }

    /// Applies what is there, then waits for more. False if there will be no more.
    pub(super) fn apply_inputs(&mut self, inputs: &Receiver<Input>) -> Result<bool, Error> {
        while self.apply_batch()? {}
        self.tell_demand();
        let Ok(first) = inputs.recv() else { return Ok(false) };
        let mut failure = self.take(first).err();
        while failure.is_none() && self.assembler.buffered_bytes() < BATCH_BYTES {
            match inputs.try_recv() {
                Ok(input) => failure = self.take(input).err(),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        match failure {
            None => Ok(true),
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

    /// Applies as many rounds as are ready and fit a batch. False if none was.
    fn apply_batch(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        let storage = Arc::clone(&self.storage);
        let (recent, timeline) = (&mut self.recent, &mut self.timeline);
        let mut run = Run::new(self.log, &storage, recent, timeline, self.progress.hlc);
        let mut broken = None;
        while broken.is_none() && run.bytes() < BATCH_BYTES {
            match self.assembler.release() {
                Ok(Some(round)) => run.apply(round)?,
                Ok(None) => break,
                Err(part) => broken = Some(part),
            }
        }
        let (batch, done) = run.finish();
        let counts = BatchCounts { orphans: self.assembler.take_orphans(), ..done.counts };
        if self.has_moved(&done) {
            self.write(batch, &done)?;
            metrics::record_batch(counts, began.elapsed());
        }
        match broken {
            None => Ok(done.last.is_some()),
            Some(BrokenPart { slice, offset, reason }) => Err(Error::CorruptRecord {
                at: self.partitions[usize::from(slice.0)].to_string(),
                offset: offset.0,
                reason,
            }),
        }
    }

    /// Whether there is anything to write: rounds, or only positions that moved past holes. These
    /// are written too, since the log may be trimmed up to there before the next round comes.
    fn has_moved(&self, done: &Done) -> bool {
        done.last.is_some()
            || self.assembler.next() != self.progress.next
            || self.assembler.positions() != self.progress.positions
    }

    fn write(&mut self, mut batch: Batch<'_>, done: &Done) -> Result<(), Error> {
        let progress = &mut self.progress;
        let next = self.assembler.next();
        progress.observed.splice_all(progress.next..next);
        progress.next = next;
        progress.positions = self.assembler.positions();
        if let Some(last) = done.last {
            progress.last = Some(last);
            progress.hlc = done.hlc;
            self.retain(&mut batch);
        }
        batch.write(&self.progress)?;
        self.recent.batch_written();
        if done.counts.lost > 0 {
            self.status.add_lost_parts(done.counts.lost);
        }
        let Progress { next, last, hlc, .. } = self.progress;
        self.status.set_applied(next, last, hlc);
        Ok(())
    }

    /// Gives up what is past its retention.
    fn retain(&mut self, batch: &mut Batch<'_>) {
        let Retention { history_ms, feed_ms } = self.retention;
        let progress = &mut self.progress;
        if let Some(sample) = self.timeline.before(progress.hlc, history_ms) {
            // Of the transactions below the sample's only the last can still be read.
            let oldest = TxnId(sample.txn.0.saturating_sub(1));
            progress.oldest_readable = self.storage.history().advance(oldest);
        }
        if let Some(sample) = self.timeline.before(progress.hlc, feed_ms.max(history_ms)) {
            batch.delete_samples(&self.timeline.forget_before(sample));
        }
        let feed = self.timeline.before(progress.hlc, feed_ms);
        if let Some(sample) = feed.filter(|sample| sample.txn > progress.feed_start) {
            batch.drop_changes(progress.feed_start..sample.txn);
            progress.feed_start = sample.txn;
        }
    }
}
