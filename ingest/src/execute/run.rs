//! A request that writes, from its plan to what became of it.

use std::collections::BTreeSet;

use anabranch_core::ErrorKind;
use anabranch_core::ids::{DocumentId, RoundId, TxnId};
use anabranch_core::query::{OnConflict, Statement};
use anabranch_journal::rounds::Round;
use anabranch_runtime::planted;
use anabranch_schemas::records::{DocumentMutation, Restriction};

use super::plan::Plan;
use super::{Executor, Request, Written, insert};
use crate::document::{DocumentName, Warning, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::RequestName;
use crate::rounds::{Committed, Patience};
use crate::store::Outcome;

/// How the round of a request is known again.
pub(super) struct RoundName {
    pub(super) id: RoundId,
    pub(super) digest: Vec<u8>,
    pub(super) has_key: bool,
}

/// A request that writes, without what it writes.
pub(super) struct Run<'a> {
    pub(super) request: &'a Request,
    pub(super) query_type: &'static str,
    /// Whether documents may be found in a state in which they are not written, which is a failure.
    pub(super) is_conditional: bool,
    /// What the caller may do, where that is not everything.
    restrictions: Vec<Restriction>,
    /// Whether there may be some that are left alone, which is none.
    may_keep: bool,
    /// Of INSERTs under a key: their documents, which a repeat has to know again.
    pub(super) inserted: Option<Vec<DocumentName>>,
    pub(super) name: RequestName,
    pub(super) round: RoundName,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        request: &'a Request,
        statements: &[Statement],
        name: RequestName,
        digest: Vec<u8>,
    ) -> Result<Self, Refusal> {
        let has_key = name.has_key();
        let collections: BTreeSet<_> = statements.iter().map(Statement::collection).collect();
        let restrictions = collections.into_iter().map(|it| request.caller.restriction(it));
        let restrictions =
            restrictions.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        let policies = || statements.iter().filter_map(given_policy);
        let has_since = request.statements.iter().any(|asked| asked.unchanged_since.is_some());
        let is_conditional = has_since
            || policies().any(|policy| policy == OnConflict::Fail)
            || !restrictions.is_empty();
        let may_keep = policies().any(|policy| policy == OnConflict::DoNothing);
        let inserted = if has_key { insert::names(statements, &name)? } else { None };
        let round = RoundName { id: name.round(0), digest, has_key };
        let query_type = match statements {
            [statement] => statement.kind(),
            _ => "transaction",
        };
        Ok(Run {
            request,
            query_type,
            is_conditional,
            restrictions,
            may_keep,
            inserted,
            name,
            round,
        })
    }

    /// The documents that it inserts, as far as a repeat knows them.
    pub(super) fn inserted_ids(&self) -> impl Iterator<Item = DocumentId> {
        let app = self.request.app;
        self.inserted.iter().flatten().map(move |name| name.id(app))
    }

    /// Its round.
    fn entry(&self, digest: Vec<u8>, atomic: bool, mutations: Vec<DocumentMutation>) -> Round {
        let (id, app) = (self.round.id, self.request.app);
        let restrictions = self.restrictions.clone();
        Round { id, app, origin: None, digest, atomic, mutations, restrictions }
    }

    /// What was written as `txn`.
    pub(super) fn written(
        &self,
        txn: Option<TxnId>,
        documents: Vec<DocumentName>,
        warnings: Warnings,
    ) -> Written {
        let (query_type, warnings) = (self.query_type, warnings.into_list());
        Written { query_type, txn, documents, warnings, decided: None, refusal: None }
    }
}

/// What an INSERT does about ids that are taken, if it brings some: those that are drawn are free.
fn given_policy(statement: &Statement) -> Option<OnConflict> {
    match statement {
        Statement::Insert(insert) => {
            let is_given = insert.documents.iter().any(|document| document.get(&["_id"]).is_some());
            is_given.then_some(insert.on_conflict)
        }
        _ => None,
    }
}

impl Executor {
    pub(super) async fn write(
        &self,
        run: &Run<'_>,
        statements: Vec<Statement>,
    ) -> Result<Written, Refusal> {
        let has_key = run.round.has_key;
        if has_key && let Some(written) = self.earlier(run).await? {
            return Ok(written);
        }
        let mut read = None;
        let plan = match self.plan(run, statements, &mut read).await {
            Ok(plan) => plan,
            // What was read may be what the first try left behind, or what that one comes after.
            Err(refusal) if has_key && read.is_some() && refusal.kind() == ErrorKind::Invalid => {
                return self.refuse(run, refusal).await;
            }
            Err(refusal) => return Err(refusal),
        };
        // Under a key a round of nothing is written: so a first try that is still to come is none.
        if plan.mutations.is_empty() && (!has_key || planted!(LeavesNothingUnwritten)) {
            return Ok(run.written(read, Vec::new(), plan.warnings));
        }
        self.commit(run, plan).await
    }

    async fn commit(&self, run: &Run<'_>, plan: Plan) -> Result<Written, Refusal> {
        let documents = plan.documents();
        let Run { request, round, .. } = run;
        let has_outcome = round.has_key || run.is_conditional || run.may_keep || request.atomic;
        let may_outgrow = !has_outcome && self.may_outgrow(request, &plan).await;
        let entry = run.entry(round.digest.clone(), plan.is_atomic, plan.mutations);
        let mut written = run.written(None, documents, plan.warnings);
        if !has_outcome {
            self.write_unsettled(run, entry, may_outgrow, &mut written).await?;
            return Ok(written);
        }
        let (txn, outcome) = self.write_settled(run, &entry).await?;
        check_digest(&outcome, round)?;
        if round.has_key && outcome.txn != txn && !planted!(RepeatsNameTheirOwn) {
            // Another try under the same key was first. It may have read something else, and so have
            // touched other partitions; what INSERTs touch is always the same.
            let outcome = match run.inserted {
                Some(_) => outcome,
                None => {
                    self.rounds.settled(round.id, txn, &BTreeSet::new(), request.deadline).await?
                }
            };
            return self.repeated(run, outcome).await;
        }
        written.settle(run, outcome);
        Ok(written)
    }

    /// Writes a round of which no outcome is to be told but that documents may have become too large.
    async fn write_unsettled(
        &self,
        run: &Run<'_>,
        entry: Round,
        may_outgrow: bool,
        written: &mut Written,
    ) -> Result<(), Refusal> {
        let deadline = run.request.deadline;
        if !may_outgrow {
            written.txn = Some(self.rounds.write(entry, deadline, Patience::None).await?);
            return Ok(());
        }
        let Committed { txn, .. } = self.rounds.commit(&entry, deadline, Patience::None).await?;
        written.txn = Some(txn);
        match self.rounds.effect(&entry, txn, deadline).await {
            Some(outcome) => written.settle(run, outcome),
            None => written.warnings.push(Warning::effect_unknown(txn, txn)),
        }
        Ok(())
    }

    /// Refuses a request under a key for good, by a round of nothing that says so: a first try that
    /// is still to come is none. If that one came before, it was not refused.
    async fn refuse(&self, run: &Run<'_>, refusal: Refusal) -> Result<Written, Refusal> {
        let entry = run.entry(refused(&run.round.digest), false, Vec::new());
        let (_, outcome) = self.write_settled(run, &entry).await?;
        if outcome.digest == entry.digest || planted!(RefusesRepeats) {
            return Err(refusal);
        }
        check_digest(&outcome, &run.round)?;
        self.repeated(run, outcome).await
    }

    /// Writes a round; as which transaction, and what became of it.
    async fn write_settled(
        &self,
        run: &Run<'_>,
        entry: &Round,
    ) -> Result<(TxnId, Outcome), Refusal> {
        let deadline = run.request.deadline;
        let slices = self.store.slices_of(entry);
        let Committed { txn, .. } = self.rounds.commit(entry, deadline, Patience::None).await?;
        Ok((txn, self.rounds.settled(entry.id, txn, &slices, deadline).await?))
    }
}

pub(super) fn check_digest(outcome: &Outcome, round: &RoundName) -> Result<(), Refusal> {
    if !round.has_key || outcome.digest == round.digest {
        return Ok(());
    }
    if outcome.digest == refused(&round.digest) {
        let message = "this request was refused under its Idempotency-Key, and nothing was written";
        return Err(Refusal::new(Code::KeyRefused, message));
    }
    let message = "this Idempotency-Key was used for another request";
    Err(Refusal::new(Code::KeyReused, message))
}

/// The digest of a round that says that a request of this digest was refused.
fn refused(digest: &[u8]) -> Vec<u8> {
    [digest, b"refused"].concat()
}
