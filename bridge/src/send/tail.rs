//! Reads this cluster's log from a transaction on and makes batches of rounds, on a thread of its
//! own.
//!
//! Two readers, since commit records are to be a little ahead of the changes they order: were both
//! read evenly, a backlog of many small rounds would pile up changes that wait for commit records.
//!
//! A reader of several slices may deliver one of them far ahead of the others. Then commit records
//! wait for a slice that was not read, and neither a full queue of those nor the lack of the ones
//! that belong to the slice ahead may stop the reading of changes. When what waits weighs too much,
//! only the slices that the first rounds wait for are read on: those rounds become whole, and what
//! waits is handed out.
//!
//! Nothing is kept between runs: wherever it stops, the receiver's position says where the next run
//! starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::{
    Error as JournalError, Journal, Offset, ReadFrom, Reader, Record, TopicPartition,
};
use anabranch_runtime::threads;
use anabranch_schemas::records::{ChangesRecord, TxnsRecord};
use anabranch_schemas::topics::ClusterName;

use super::batch::BatchLimits;
use super::locate::find_start;
use super::rounds::{Outgoing, Rounds, Source};
use crate::error::Error;

/// How long a poll waits; the stop flag is looked at in between.
const POLL: Duration = Duration::from_millis(100);
/// Slices are read again, all or some, by the rounds that wait first: this many.
const AWAITED_ROUNDS: usize = 1_000;
/// A receiver for which there is nothing is told its new position this often.
const POSITION_INTERVAL: Duration = Duration::from_secs(5);

/// How much may wait for the rest of its rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailLimits {
    /// Commit records are read ahead up to this many.
    pub(crate) max_pending: usize,
    /// Past this many bytes of changes only the slices that are behind are read. Each adds what one
    /// transaction of change data capture wrote at most, so this is overstepped by little.
    pub(crate) max_held_bytes: usize,
}

impl Default for TailLimits {
    fn default() -> Self {
        TailLimits { max_pending: 50_000, max_held_bytes: 64 * 1024 * 1024 }
    }
}

/// What the thread reads, and for whom.
pub(crate) struct Tail {
    pub(crate) limits: TailLimits,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) cluster: ClusterName,
    pub(crate) source: Source,
    pub(crate) from: TxnId,
    pub(crate) batches: mpsc::Sender<Outgoing>,
    pub(crate) stop: Arc<AtomicBool>,
}

/// How a tail ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to, or nobody takes its batches.
    Stopped,
    /// Some of what was to be read is gone: the receiver needs a snapshot.
    Gone,
}

impl Tail {
    /// Reads and sends until it is stopped.
    pub(crate) fn run(self) -> Result<Ended, Error> {
        match self.follow() {
            Err(Error::Journal(JournalError::Trimmed { .. })) => Ok(Ended::Gone),
            Err(Error::Shutdown) => Ok(Ended::Stopped),
            other => other,
        }
    }

    fn follow(&self) -> Result<Ended, Error> {
        let Some(Readers { mut commits, mut changes }) = self.open()? else {
            return Ok(Ended::Gone);
        };
        let mut rounds = Rounds::new(self.source.clone(), self.from, BatchLimits::default());
        let mut told = (self.from, Instant::now());
        while self.may_go_on() {
            let may_read_commits = rounds.pending() < self.limits.max_pending;
            if may_read_commits {
                let wait = if rounds.lacks_commits() { POLL } else { Duration::ZERO };
                for record in commits.poll(wait)? {
                    read_txn(&mut rounds, &record)?;
                }
            }
            if !self.hand_out(&mut rounds, &*commits, &mut told) {
                return Ok(Ended::Stopped);
            }
            if rounds.lacks_commits() && may_read_commits {
                continue;
            }
            let slices = self.to_read(&rounds, changes.reads_all());
            changes.choose(&*self.journal, slices.as_ref())?;
            for record in changes.poll()? {
                if let Some(ended) = self.read_change(&mut rounds, record)? {
                    return Ok(ended);
                }
            }
            if !self.hand_out(&mut rounds, &*commits, &mut told) {
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Stopped)
    }

    /// The slices to read; `None` is all. All are read again once much less is waiting: each change
    /// of slices takes a new reader.
    fn to_read(&self, rounds: &Rounds, reads_all: bool) -> Option<BTreeSet<Slice>> {
        let most = self.limits.max_held_bytes / if reads_all { 1 } else { 2 };
        (rounds.held_bytes() > most)
            .then(|| rounds.awaited(AWAITED_ROUNDS))
            .filter(|awaited| !awaited.is_empty())
    }

    fn may_go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// `None` if what is to be read is gone.
    fn open(&self) -> Result<Option<Readers>, Error> {
        let txns = TopicPartition::new(self.cluster.txns(), 0);
        let bounds = self.journal.bounds(&txns)?;
        let from = Offset(self.from.0);
        if from < bounds.start {
            return Ok(None);
        }
        if from > bounds.end {
            tracing::warn!(
                position = self.from.0,
                end = bounds.end.0,
                "the receiver is past the end of this log, which must have lost its end; \
                 it is sent a snapshot"
            );
            return Ok(None);
        }
        let may_go_on = || self.may_go_on();
        let slices = self.source.slices;
        let starts = find_start(&*self.journal, &self.cluster, slices, self.from, &may_go_on)?;
        let Some(starts) = starts else { return Ok(None) };
        let commits = self.journal.reader(&[(txns, ReadFrom::Offset(from))])?;
        let changes = ChangesReader::open(&*self.journal, starts)?;
        Ok(Some(Readers { commits, changes }))
    }

    /// Takes in a record; how this ends, if it says that changes are lost.
    fn read_change(&self, rounds: &mut Rounds, record: Record) -> Result<Option<Ended>, Error> {
        let slice = Slice(record.at.partition.0);
        // Keys of marks are empty; a record without value is none of ours.
        let Some(value) = record.value else { return Ok(None) };
        if !record.key.is_empty() && !self.source.selector.may_want(&record.key) {
            return Ok(None);
        }
        let what = || format!("{} at {}", record.at, record.offset);
        let decoded = ChangesRecord::decode(&value)
            .map_err(|source| Error::Record { what: what(), source })?;
        match decoded {
            ChangesRecord::Resolved(mark) if mark.slice == slice => rounds.mark(slice, mark.txn)?,
            ChangesRecord::Resolved(mark) => {
                let named = mark.slice.0;
                return Err(Error::Corrupt(format!("{}: a mark of slice {named}", what())));
            }
            ChangesRecord::Change(change) if rounds.needs(change.txn) => {
                let Source { selector, actor, replays_until, .. } = &self.source;
                let is_replayed = change.txn < *replays_until;
                let selected = selector.select(*actor, record.key, change, is_replayed)?;
                if let Some(selected) = selected {
                    rounds.change(slice, selected)?;
                }
            }
            // What those changed can only be seen by reading the documents.
            ChangesRecord::Lost(lost) if rounds.needs(lost.to) => {
                tracing::warn!(slice = slice.0, from = %lost.from, to = %lost.to, "changes are lost");
                return Ok(Some(Ended::Gone));
            }
            ChangesRecord::Change(_) | ChangesRecord::Lost(_) => {}
        }
        Ok(None)
    }

    /// Hands whole rounds over, waiting while the receiver is busy. Whether to go on.
    fn hand_out(
        &self,
        rounds: &mut Rounds,
        commits: &dyn Reader,
        told: &mut (TxnId, Instant),
    ) -> bool {
        while let Some(batch) = rounds.take() {
            *told = (batch.next, Instant::now());
            if threads::send(&self.batches, batch).is_err() {
                return false;
            }
        }
        let next = self.come_to(rounds, commits);
        let until = self.source.replays_until;
        let is_due = told.1.elapsed() >= POSITION_INTERVAL || (told.0 < until && next >= until);
        if next > told.0 && is_due {
            *told = (next, Instant::now());
            return threads::send(&self.batches, Outgoing { rounds: Vec::new(), next }).is_ok();
        }
        true
    }

    /// Everything below this was handed out, or holds nothing for the receiver: behind the last
    /// transaction there may be what readers never see.
    fn come_to(&self, rounds: &Rounds, commits: &dyn Reader) -> TxnId {
        let txns = TopicPartition::new(self.cluster.txns(), 0);
        let read = commits.position(&txns).filter(|_| rounds.pending() == 0);
        rounds.next().max(TxnId(read.map_or(0, |read| read.0)))
    }
}

/// The two readers.
struct Readers {
    commits: Box<dyn Reader>,
    changes: ChangesReader,
}

/// Reads all slices of the topic of changes, or for a while only some.
struct ChangesReader {
    reader: Box<dyn Reader>,
    /// Where each slice is read on that is not being read.
    resting: Vec<(TopicPartition, ReadFrom)>,
    reading: Vec<(TopicPartition, ReadFrom)>,
}

impl ChangesReader {
    fn open(journal: &dyn Journal, starts: Vec<(TopicPartition, ReadFrom)>) -> Result<Self, Error> {
        let reader = journal.reader(&starts)?;
        Ok(ChangesReader { reader, resting: Vec::new(), reading: starts })
    }

    fn reads_all(&self) -> bool {
        self.resting.is_empty()
    }

    fn poll(&mut self) -> Result<Vec<Record>, Error> {
        Ok(self.reader.poll(POLL)?)
    }

    /// Reads these slices from now on, each from where it was left; `None` is all.
    fn choose(
        &mut self,
        journal: &dyn Journal,
        slices: Option<&BTreeSet<Slice>>,
    ) -> Result<(), Error> {
        let wanted = |(at, _): &(TopicPartition, ReadFrom)| {
            slices.is_none_or(|slices| slices.contains(&Slice(at.partition.0)))
        };
        if self.reading.iter().all(wanted) && !self.resting.iter().any(wanted) {
            return Ok(());
        }
        let reader = &self.reader;
        let left = std::mem::take(&mut self.reading).into_iter().map(|(at, from)| {
            let from = reader.position(&at).map_or(from, ReadFrom::Offset);
            (at, from)
        });
        let all = left.chain(std::mem::take(&mut self.resting));
        (self.reading, self.resting) = all.partition(wanted);
        self.reader = journal.reader(&self.reading)?;
        Ok(())
    }
}

fn read_txn(rounds: &mut Rounds, record: &Record) -> Result<(), Error> {
    let what = || format!("{} at {}", record.at, record.offset);
    let Some(value) = &record.value else {
        return Err(Error::Corrupt(format!("{}: a commit record without value", what())));
    };
    let txn = TxnId(record.offset.0);
    match TxnsRecord::decode(value).map_err(|source| Error::Record { what: what(), source })? {
        TxnsRecord::Commit(commit) => rounds.commit(txn, &commit),
        // Each cluster drops what it hides by its own log.
        TxnsRecord::Expiry(_) => rounds.pass(txn),
    }
}
