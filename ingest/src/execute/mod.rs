//! Statements.
//!
//! A SELECT goes to the store node as it is. An INSERT, UPDATE or DELETE becomes a [`Plan`]: what
//! it has to know is read first, then it is one round of mutations of single documents, which is
//! written or not as a whole (IN-1, IN-2).
//!
//! A statement with an `Idempotency-Key` is looked up before it runs. One that has nothing to do, or
//! cannot run on account of what was read, is written as a round of nothing: a first try may have
//! been applied meanwhile, which then is found, or may still be on its way, which then is none. After
//! writing, the store node says which commit of the round counts. So however often a statement is
//! sent under one key, it is applied once or refused for good, and every reply is of the same
//! transaction.

mod change;
mod insert;
mod repeat;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use anabranch_core::ErrorKind;
use anabranch_core::document::MAX_BYTES;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_core::query::{self, Args, OnConflict, Statement};
use anabranch_journal::rounds::Round;
use anabranch_runtime::planted;
use anabranch_schemas::records::DocumentMutation;
use tokio::time::Instant;

use crate::config::IngestConfig;
use crate::document::{Warning, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::{Digest, IdempotencyKey, RequestName};
use crate::rounds::{Committed, Patience, Rounds};
use crate::store::{Outcome, Rows, Store};

pub(crate) use repeat::RoundLog;

/// Runs statements.
pub(crate) struct Executor {
    store: Store,
    rounds: Rounds,
    log: RoundLog,
    /// How many documents one statement may write.
    max_changed_documents: usize,
    /// How large a statement's mutations may be together.
    max_round_bytes: usize,
}

/// A statement to run.
pub(crate) struct Request {
    pub(crate) app: AppId,
    pub(crate) statement: String,
    pub(crate) args: Args,
    /// What it reads includes this transaction.
    pub(crate) at_least: Option<TxnId>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) deadline: Instant,
}

/// What a statement did.
pub(crate) enum Executed {
    /// Of a SELECT.
    Rows(Box<Rows>),
    /// Of any other.
    Written(Written),
}

/// What a statement wrote.
pub(crate) struct Written {
    /// `insert`, `update` or `delete`.
    pub(crate) query_type: &'static str,
    /// Where; or, if it had nothing to write, what it read.
    pub(crate) txn: Option<TxnId>,
    /// The documents that it wrote.
    pub(crate) ids: Vec<DocumentKey>,
    pub(crate) warnings: Vec<Warning>,
    /// Why not all of it was written.
    pub(crate) refusal: Option<Refusal>,
}

/// What a statement is about to write.
#[derive(Default)]
struct Plan {
    mutations: Vec<DocumentMutation>,
    warnings: Warnings,
    /// Whether the store node may find documents there that must not be.
    may_conflict: bool,
    /// Whether documents may become too large with what is there already. Who writes a little at a
    /// time is not asked for the outcome, which would double the time of each write.
    may_outgrow: bool,
}

impl Plan {
    fn keys(&self) -> Vec<DocumentKey> {
        self.mutations.iter().map(|mutation| mutation.key.clone()).collect()
    }
}

/// How the round of a statement is known again.
struct RoundName {
    id: RoundId,
    digest: Vec<u8>,
    has_key: bool,
}

/// A statement that writes, without what it writes.
struct Run<'a> {
    request: &'a Request,
    query_type: &'static str,
    /// What an INSERT does about ids that are taken.
    on_conflict: Option<OnConflict>,
    /// Of an INSERT under a key: its ids, which a repeat has to know again.
    inserted: Vec<DocumentKey>,
    /// And their collection.
    inserted_into: Option<Collection>,
    name: RequestName,
    round: RoundName,
}

impl<'a> Run<'a> {
    fn new(
        request: &'a Request,
        statement: &Statement,
        name: RequestName,
        digest: Vec<u8>,
    ) -> Result<Self, Refusal> {
        let has_key = name.has_key();
        let (mut on_conflict, mut inserted, mut inserted_into) = (None, Vec::new(), None);
        if let Statement::Insert(insert) = statement {
            on_conflict = Some(insert.on_conflict);
            if has_key {
                inserted = insert::keys(insert, &name)?;
                inserted_into = Some(insert.collection.clone());
            }
        }
        let round = RoundName { id: name.round(0), digest, has_key };
        let query_type = statement.kind();
        Ok(Run { request, query_type, on_conflict, inserted, inserted_into, name, round })
    }

    /// The documents that it inserts, as far as a repeat knows them.
    fn inserted_ids(&self) -> impl Iterator<Item = DocumentId> {
        let app = self.request.app;
        let collection = self.inserted_into.clone();
        self.inserted
            .iter()
            .zip(collection.into_iter().cycle())
            .map(move |(key, collection)| DocumentId { app, collection, key: key.clone() })
    }

    /// Its round.
    fn entry(&self, digest: Vec<u8>, mutations: Vec<DocumentMutation>) -> Round {
        let (id, app) = (self.round.id, self.request.app);
        Round { id, app, origin: None, digest, mutations }
    }

    /// What was written as `txn`.
    fn written(&self, txn: Option<TxnId>, ids: Vec<DocumentKey>, warnings: Warnings) -> Written {
        let (query_type, warnings) = (self.query_type, warnings.into_list());
        Written { query_type, txn, ids, warnings, refusal: None }
    }
}

impl Executor {
    pub(crate) fn new(config: &IngestConfig, store: Store, rounds: Rounds, log: RoundLog) -> Self {
        let IngestConfig { max_changed_documents, max_round_bytes, .. } = *config;
        Executor { store, rounds, log, max_changed_documents, max_round_bytes }
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, mut request: Request) -> Result<Executed, Refusal> {
        let name = RequestName::new(request.app, request.key.take());
        // Parsing may take documents out of the arguments.
        let digest = if name.has_key() { digest(&request) } else { Vec::new() };
        match query::parse_taking(&request.statement, &mut request.args)? {
            Statement::Select(_) => self.select(&request).await.map(Box::new).map(Executed::Rows),
            statement => {
                let run = Run::new(&request, &statement, name, digest)?;
                let written = self.write(&run, statement).await.map(Executed::Written);
                written.map_err(|refusal| if run.round.has_key { keyed(refusal) } else { refusal })
            }
        }
    }

    async fn select(&self, request: &Request) -> Result<Rows, Refusal> {
        let Request { app, statement, args, at_least, deadline, .. } = request;
        self.store.query(*app, statement, args, *at_least, *deadline).await
    }

    async fn write(&self, run: &Run<'_>, statement: Statement) -> Result<Written, Refusal> {
        let has_key = run.round.has_key;
        if has_key && let Some(written) = self.earlier(run).await? {
            return Ok(written);
        }
        let mut read = None;
        let plan = match self.plan(run, statement, &mut read).await {
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

    /// What a statement is to write. What is read for it is read as of `read`, also if it then cannot
    /// run.
    async fn plan(
        &self,
        run: &Run<'_>,
        statement: Statement,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
        let Run { request, name, .. } = run;
        match statement {
            Statement::Insert(insert) => self.plan_insert(request, insert, name, read).await,
            Statement::Update(update) => self.plan_update(request, update, read).await,
            Statement::Delete(delete) => self.plan_delete(request, delete, read).await,
            Statement::Select(_) => Ok(Plan::default()),
        }
    }

    async fn commit(&self, run: &Run<'_>, plan: Plan) -> Result<Written, Refusal> {
        let ids = plan.keys();
        let Run { request, round, .. } = run;
        let entry = run.entry(round.digest.clone(), plan.mutations);
        let has_outcome = round.has_key || plan.may_conflict || plan.may_outgrow;
        if !has_outcome {
            let txn = self.rounds.write(entry, request.deadline, Patience::None).await?;
            return Ok(run.written(Some(txn), ids, plan.warnings));
        }
        let mut written = run.written(None, ids, plan.warnings);
        let (txn, outcome) = self.write_settled(run, &entry).await?;
        check_digest(&outcome, round)?;
        if round.has_key && outcome.txn != txn && !planted!(RepeatsNameTheirOwn) {
            // Another try under the same key was first. It may have read something else, and so have
            // touched other partitions; what an INSERT touches is always the same.
            let outcome = match run.on_conflict {
                Some(_) => outcome,
                None => self.settled(round.id, txn, &BTreeSet::new(), request.deadline).await?,
            };
            return self.repeated(run, outcome).await;
        }
        written.txn = Some(outcome.txn);
        written.leave_out(&outcome, run.on_conflict);
        Ok(written)
    }

    /// Refuses a statement under a key for good, by a round of nothing that says so: a first try that
    /// is still to come is none. If that one came before, it was not refused.
    async fn refuse(&self, run: &Run<'_>, refusal: Refusal) -> Result<Written, Refusal> {
        let entry = run.entry(refused(&run.round.digest), Vec::new());
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
        Ok((txn, self.settled(entry.id, txn, &slices, deadline).await?))
    }

    /// What became of a round that is committed as `txn`.
    async fn settled(
        &self,
        round: RoundId,
        txn: TxnId,
        slices: &BTreeSet<Slice>,
        deadline: Instant,
    ) -> Result<Outcome, Refusal> {
        let unknown = |reason: &str| {
            let message = format!("transaction {txn} was written, but not its effect: {reason}");
            Refusal::new(Code::OutcomeUnknown, message).with_txn(txn)
        };
        match self.store.outcome(round, Some(txn), slices, deadline).await {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Err(unknown("the store node does not know the round")),
            Err(refusal) => Err(unknown(refusal.message())),
        }
    }
}

impl Written {
    /// Takes out the documents that were in the way of an INSERT, which is a failure if it said so,
    /// and those that would have become too large, which always is.
    fn leave_out(&mut self, outcome: &Outcome, on_conflict: Option<OnConflict>) {
        let Outcome { conflicts, too_large, .. } = outcome;
        if conflicts.is_empty() && too_large.is_empty() {
            return;
        }
        let left: HashSet<_> = conflicts.iter().chain(too_large).collect();
        self.ids.retain(|id| !left.contains(id));
        if !too_large.is_empty() {
            let message = format!(
                "{} would become larger than {MAX_BYTES} bytes with what is there already; what \
                 was there stays, {} others were written",
                insert::list(too_large),
                self.ids.len()
            );
            let refusal = Refusal::new(Code::DocumentTooLarge, message).with_txn(outcome.txn);
            self.refusal = Some(refusal);
            return;
        }
        if on_conflict != Some(OnConflict::Fail) {
            return;
        }
        let written = self.ids.len();
        let refusal = insert::conflict(&outcome.conflicts);
        let message = format!(
            "{}; they came into being while the statement ran, {written} others were written",
            refusal.message()
        );
        self.refusal = Some(Refusal::new(Code::IdConflict, message).with_txn(outcome.txn));
    }
}

fn check_digest(outcome: &Outcome, round: &RoundName) -> Result<(), Refusal> {
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

/// A refusal as it is under a key: that this try has written nothing tells little.
fn keyed(refusal: Refusal) -> Refusal {
    match refusal.code() {
        Code::JournalUnavailable
        | Code::StoreUnavailable
        | Code::DeadlineExceeded
        | Code::DiskFull => refusal.with_hint(
            "send the request again later under the same Idempotency-Key: an earlier try may have \
             been written",
        ),
        _ => refusal,
    }
}

/// The digest of a round that says that a request of this digest was refused.
fn refused(digest: &[u8]) -> Vec<u8> {
    [digest, b"refused"].concat()
}

fn digest(request: &Request) -> Vec<u8> {
    let args = serde_json::to_vec(&request.args).expect("arguments have string keys");
    Digest::default().with(b"execute").with(request.statement.as_bytes()).with(&args).finish()
}
