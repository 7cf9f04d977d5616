//! One run of transactions that are written together.

use std::collections::HashMap;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_runtime::planted;
use anabranch_schemas::records::Commit;
use bytes::Bytes;

use super::assembler::Round;
use super::documents::BatchDocuments;
use super::round::{self, Effects};
use crate::error::Error;
use crate::log::Log;
use crate::metrics::BatchCounts;
use crate::storage::{Batch, Catalog, Outcome, Storage, Timeline};

/// How far a writer's clock can be ahead of the log's: `max_clock_drift`. No setting, since every
/// replica has to compute the same time.
const MAX_DRIFT_MS: u64 = 60_000;

/// A batch under construction.
pub(super) struct Run<'s, 'r> {
    log: &'r Log,
    storage: &'s Storage,
    indexes: &'r Catalog,
    documents: BatchDocuments<'s, 'r>,
    timeline: &'r mut Timeline,
    /// What became of the rounds in this batch: the store does not know them yet.
    rounds: HashMap<RoundId, Outcome>,
    done: Done,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Its last transaction; `None` if it had none.
    pub(super) last: Option<TxnId>,
    /// The log's time.
    pub(super) time: Hlc,
    pub(super) counts: BatchCounts,
}

/// The log's time once a record is applied, by which things are kept and forgotten: the time of
/// the commit record, but not far ahead of when the log took it, and never earlier than before.
/// One writer whose clock is a day ahead makes nothing a day older.
pub(super) fn log_time(previous: Hlc, hlc: Hlc, appended_ms: u64) -> Hlc {
    let latest = Hlc::from_millis(appended_ms.saturating_add(MAX_DRIFT_MS));
    previous.max(hlc.min(latest))
}

impl<'s, 'r> Run<'s, 'r> {
    /// Nothing yet; `time` is the log's so far.
    pub(super) fn new(
        log: &'r Log,
        storage: &'s Storage,
        indexes: &'r Catalog,
        documents: BatchDocuments<'s, 'r>,
        timeline: &'r mut Timeline,
        time: Hlc,
    ) -> Self {
        let done = Done { time, ..Done::default() };
        Run { log, storage, indexes, documents, timeline, rounds: HashMap::new(), done }
    }

    /// Whether it is to be written before the next transaction.
    pub(super) fn is_full(&self) -> bool {
        self.documents.batch.bytes() >= self.documents.full_bytes
    }

    /// What was done, and the batch that is to be written.
    pub(super) fn finish(self) -> (Batch<'s>, Done) {
        (self.documents.batch, self.done)
    }

    /// Applies a round. After an error nothing of it is in the batch, and no other may follow.
    pub(super) fn apply(&mut self, round: Round) -> Result<(), Error> {
        let (mark, before) = (self.documents.batch.mark(), self.done);
        let applied = self.try_apply(round);
        if applied.is_err() {
            self.documents.batch.go_back(mark);
            self.done = before;
        }
        applied
    }

    /// Applies a round, unless one of this id was applied already: then it is a no-op that only
    /// the index of changes shows.
    fn try_apply(&mut self, round: Round) -> Result<(), Error> {
        let txn = round.txn;
        let time = log_time(self.done.time, round.commit.hlc, round.timestamp_ms);
        self.done.last = Some(txn);
        self.done.time = time;
        self.done.counts.transactions += 1;
        if let Some(sample) = self.timeline.note(time, txn) {
            self.documents.batch.put_sample(sample);
        }
        self.documents.batch.begin_changes(txn, &touched_slices(&round.commit, self.log));
        self.declare_lost(&round);
        let before = self.last_outcome(round.commit.round)?;
        let is_known = |before: &Outcome| self.storage.remembers(before.time, time);
        if before.as_ref().is_some_and(is_known) && !planted!(AppliesRepeated) {
            self.done.counts.repeated += 1;
        } else {
            self.apply_new(round, time, before)?;
        }
        self.documents.batch.end_changes();
        Ok(())
    }

    /// Applies a round; `before` is what had become of it if it is one that was forgotten.
    fn apply_new(&mut self, round: Round, time: Hlc, before: Option<Outcome>) -> Result<(), Error> {
        let Round { txn, ref commit, .. } = round;
        let id = commit.round;
        let digest = Bytes::copy_from_slice(&commit.digest);
        let is_atomic = commit.atomic;
        // Of a round that is lost as a whole nothing is applied: a repeat of it is the first.
        let is_lost = (round.parts.is_empty() || is_atomic) && !round.lost.is_empty();
        self.documents.txn = txn;
        if is_lost {
            return Ok(());
        }
        let effects = round::apply(round, self.log, self.indexes, &mut self.documents)?;
        let Effects { documents, conflicts, kept, too_large, misplaced } = effects;
        let counts = &mut self.done.counts;
        counts.documents += documents;
        counts.conflicts += conflicts.len() as u64;
        counts.too_large += too_large.len() as u64;
        counts.misplaced += misplaced;
        if misplaced > 0 {
            tracing::warn!(%txn, misplaced, "mutations stand where they cannot");
        }
        if !too_large.is_empty() {
            let documents = too_large.len();
            tracing::warn!(%txn, documents, "documents stay as they are: they would be too large");
        }
        if let Some(before) = before {
            self.documents.batch.put_earlier_outcome(id, &before);
        }
        let outcome = Outcome { txn, time, digest, is_atomic, conflicts, kept, too_large };
        self.documents.batch.put_outcome(id, &outcome);
        self.rounds.insert(id, outcome);
        Ok(())
    }

    fn last_outcome(&self, round: RoundId) -> Result<Option<Outcome>, Error> {
        match self.rounds.get(&round) {
            Some(outcome) => Ok(Some(outcome.clone())),
            None => self.storage.last_outcome(round),
        }
    }

    /// Records parts whose data is not in the log; the rest of their round is applied (ST-5).
    fn declare_lost(&mut self, round: &Round) {
        for part in &round.lost {
            tracing::error!(
                txn = %round.txn,
                round = %round.commit.round,
                slice = part.slice.0,
                offset = part.offset,
                "data of a committed round is not in the log: it is lost"
            );
            self.documents.batch.put_lost(round.txn, round.commit.round, part);
            if self.log.reads(part.slice) {
                self.documents.batch.put_lost_changes(part.slice, round.txn);
            }
        }
        self.done.counts.lost += round.lost.len() as u64;
    }
}

/// The slices that a commit record names, of those that are read, in order.
fn touched_slices(commit: &Commit, log: &Log) -> Vec<Slice> {
    let named = commit.parts.iter().map(|part| part.slice);
    let mut slices: Vec<_> = named.filter(|slice| log.reads(*slice)).collect();
    slices.sort_unstable();
    slices.dedup();
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_time_is_not_that_of_a_clock_that_is_ahead_and_never_goes_back() {
        let at = Hlc::from_millis;
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(log_time(at(1_000), at(2_000), 2_100), at(2_000));
        assert_eq!(log_time(at(1_000), at(2_000 + day), 2_100), at(2_100 + MAX_DRIFT_MS));
        assert_eq!(log_time(at(5_000), at(2_000), 2_100), at(5_000));
    }
}
