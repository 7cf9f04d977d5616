//! One run of transactions that are written together.

use std::collections::HashMap;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::records::Commit;
use bytes::Bytes;

use super::assembler::Round;
use super::documents::{BatchDocuments, RecentStates};
use super::round::{self, Effects, NewVersion};
use crate::error::Error;
use crate::metrics::BatchCounts;
use crate::storage::{Batch, Outcome, Storage, Timeline, Version};

/// Whose log is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    pub(super) actor: ActorId,
    pub(super) slices: SliceCount,
}

/// A batch under construction.
pub(super) struct Run<'s, 'r> {
    log: Log,
    storage: &'s Storage,
    batch: Batch<'s>,
    documents: BatchDocuments<'s, 'r>,
    timeline: &'r mut Timeline,
    /// The rounds in this batch, and their times: the store does not know them yet.
    rounds: HashMap<RoundId, Hlc>,
    done: Done,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Its last transaction; `None` if it had none.
    pub(super) last: Option<TxnId>,
    /// The latest time of any so far.
    pub(super) hlc: Hlc,
    pub(super) counts: BatchCounts,
}

impl<'s, 'r> Run<'s, 'r> {
    /// An empty batch; `hlc` is the latest time so far.
    pub(super) fn new(
        log: Log,
        storage: &'s Storage,
        recent: &'r mut RecentStates,
        timeline: &'r mut Timeline,
        hlc: Hlc,
    ) -> Self {
        Run {
            log,
            storage,
            batch: Batch::new(storage),
            documents: BatchDocuments { recent, stored: storage.newest_versions() },
            timeline,
            rounds: HashMap::new(),
            done: Done { hlc, ..Done::default() },
        }
    }

    /// About how many bytes are to be written.
    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// What was done, and the batch that is to be written.
    pub(super) fn finish(self) -> (Batch<'s>, Done) {
        (self.batch, self.done)
    }

    /// Applies a round, unless one of this id was applied already: then it is a no-op that only
    /// the index of changes shows.
    pub(super) fn apply(&mut self, round: Round) -> Result<(), Error> {
        let (txn, hlc) = (round.txn, round.commit.hlc);
        self.done.last = Some(txn);
        self.done.hlc = self.done.hlc.max(hlc);
        self.done.counts.transactions += 1;
        if let Some(sample) = self.timeline.note(self.done.hlc, txn) {
            self.batch.put_sample(sample);
        }
        self.declare_lost(&round);
        let slices = touched_slices(&round.commit);
        if self.is_repeated(&round.commit)? {
            self.done.counts.repeated += 1;
            self.batch.put_changes(txn, &slices, &[]);
            return Ok(());
        }
        let id = round.commit.round;
        let digest = Bytes::copy_from_slice(&round.commit.digest);
        let effects = round::apply(round, self.log.actor, self.log.slices, &mut self.documents)?;
        let Effects { versions, changes, conflicts, misplaced } = effects;
        let counts = &mut self.done.counts;
        counts.documents += versions.len() as u64;
        counts.conflicts += conflicts.len() as u64;
        counts.misplaced += misplaced;
        if misplaced > 0 {
            tracing::warn!(%txn, misplaced, "mutations stand in a slice that is not theirs");
        }
        self.batch.put_changes(txn, &slices, &changes);
        self.batch.put_outcome(id, &Outcome { txn, hlc, digest, conflicts });
        self.rounds.insert(id, hlc);
        for NewVersion { id, state } in versions {
            let version = state.as_deref().map_or(Version::Evicted, Version::State);
            self.batch.put_version(&id, txn, version);
            self.documents.recent.put(id, state);
        }
        Ok(())
    }

    /// A round id counts as seen for the retention window, by the log's time: whether what is
    /// older has been dropped already makes no difference.
    fn is_repeated(&self, commit: &Commit) -> Result<bool, Error> {
        let seen = match self.rounds.get(&commit.round) {
            Some(hlc) => Some(*hlc),
            None => self.storage.outcome(commit.round)?.map(|outcome| outcome.hlc),
        };
        let remembered_ms = self.storage.round_retention_ms();
        Ok(seen
            .is_some_and(|seen| seen.millis().saturating_add(remembered_ms) >= commit.hlc.millis()))
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
            self.batch.put_lost(round.txn, round.commit.round, part);
        }
        self.done.counts.lost += round.lost.len() as u64;
    }
}

/// The slices that a commit record names, in order.
fn touched_slices(commit: &Commit) -> Vec<Slice> {
    let mut slices: Vec<_> = commit.parts.iter().map(|part| part.slice).collect();
    slices.sort_unstable();
    slices.dedup();
    slices
}
