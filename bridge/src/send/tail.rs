//! Reads this cluster's log from a transaction on and makes batches of rounds, on a thread of its
//! own.
//!
//! Two readers, since commit records are to be a little ahead of the changes they order: were both
//! read evenly, a backlog of many small rounds would pile up changes that wait for commit records.
//!
//! Nothing is kept between runs: wherever it stops, the receiver's position says where the next run
//! starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::{
    Error as JournalError, Journal, Offset, ReadFrom, Reader, Record, TopicPartition,
};
use anabranch_schemas::records::{ChangesRecord, Commit};
use anabranch_schemas::topics::ClusterName;

use super::batch::BatchLimits;
use super::locate::find_start;
use super::rounds::{Outgoing, Rounds, Source};
use crate::error::Error;

/// How long a poll waits; the stop flag is looked at in between.
const POLL: Duration = Duration::from_millis(100);
/// Commit records are read ahead up to this many.
const MAX_PENDING: usize = 50_000;
/// A receiver for which there is nothing is told its new position this often.
const POSITION_INTERVAL: Duration = Duration::from_secs(5);

/// What the thread reads, and for whom.
pub(crate) struct Tail {
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
    /// What was to be read is gone: the receiver needs a snapshot.
    Gone,
}

/// The two readers.
struct Readers {
    commits: Box<dyn Reader>,
    changes: Box<dyn Reader>,
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
        let Some(mut readers) = self.open()? else { return Ok(Ended::Gone) };
        let mut rounds = Rounds::new(self.source.clone(), self.from, BatchLimits::default());
        let mut told = (self.from, Instant::now());
        while self.may_go_on() {
            if rounds.pending() < MAX_PENDING {
                let wait = if rounds.lacks_commits() { POLL } else { Duration::ZERO };
                for record in readers.commits.poll(wait)? {
                    read_commit(&mut rounds, &record)?;
                }
            }
            if !self.hand_out(&mut rounds, &mut told) {
                return Ok(Ended::Stopped);
            }
            if rounds.lacks_commits() {
                continue;
            }
            for record in readers.changes.poll(POLL)? {
                self.read_change(&mut rounds, record)?;
            }
            if !self.hand_out(&mut rounds, &mut told) {
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Stopped)
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
        Ok(Some(Readers {
            commits: self.journal.reader(&[(txns, ReadFrom::Offset(from))])?,
            changes: self.journal.reader(&starts)?,
        }))
    }

    fn read_change(&self, rounds: &mut Rounds, record: Record) -> Result<(), Error> {
        let slice = Slice(record.at.partition.0);
        // Keys of marks are empty; a record without value is none of ours.
        let Some(value) = record.value else { return Ok(()) };
        if !record.key.is_empty() && !self.source.selector.may_want(&record.key) {
            return Ok(());
        }
        let what = || format!("{} at {}", record.at, record.offset);
        let decoded = ChangesRecord::decode(&value)
            .map_err(|source| Error::Record { what: what(), source })?;
        match decoded {
            ChangesRecord::Resolved(mark) if mark.slice == slice => rounds.mark(slice, mark.txn),
            ChangesRecord::Resolved(mark) => {
                let named = mark.slice.0;
                Err(Error::Corrupt(format!("{}: a mark of slice {named}", what())))
            }
            ChangesRecord::Change(change) if rounds.needs(change.txn) => {
                match self.source.selector.select(record.key, change)? {
                    Some(selected) => rounds.change(slice, selected),
                    None => Ok(()),
                }
            }
            ChangesRecord::Change(_) => Ok(()),
        }
    }

    /// Hands whole rounds over, waiting while the receiver is busy. Whether to go on.
    fn hand_out(&self, rounds: &mut Rounds, told: &mut (TxnId, Instant)) -> bool {
        while let Some(batch) = rounds.take() {
            *told = (batch.next, Instant::now());
            if self.batches.blocking_send(batch).is_err() {
                return false;
            }
        }
        let next = rounds.next();
        if next > told.0 && told.1.elapsed() >= POSITION_INTERVAL {
            *told = (next, Instant::now());
            return self.batches.blocking_send(Outgoing { rounds: Vec::new(), next }).is_ok();
        }
        true
    }
}

fn read_commit(rounds: &mut Rounds, record: &Record) -> Result<(), Error> {
    let what = || format!("{} at {}", record.at, record.offset);
    let Some(value) = &record.value else {
        return Err(Error::Corrupt(format!("{}: a commit record without value", what())));
    };
    let commit: Commit = anabranch_schemas::decode(value)
        .map_err(|source| Error::Record { what: what(), source })?;
    rounds.commit(TxnId(record.offset.0), &commit)
}
