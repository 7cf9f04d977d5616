//! Statements.
//!
//! A SELECT goes to the store node as it is. An INSERT, UPDATE or DELETE becomes a [`Plan`]: what
//! it has to know is read first, then it is one round of mutations of single documents, which is
//! written or not as a whole (IN-1, IN-2).
//!
//! A statement with an `Idempotency-Key` is looked up before it runs, and again when what it read
//! says that it cannot run: the first try may have been applied in between. After writing, the
//! store node says which commit of the round counts. So however often a statement is sent under
//! one key, it is applied once, and every reply names the same transaction.

mod change;
mod insert;
mod repeat;
mod select;
#[cfg(test)]
mod tests;

use anabranch_core::ids::{AppId, DocumentKey, RoundId, TxnId};
use anabranch_core::query::{self, Args, Statement};
use anabranch_journal::rounds::Round;
use anabranch_schemas::records::DocumentMutation;
use tokio::time::Instant;

use crate::config::IngestConfig;
use crate::document::{Warning, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::{Digest, IdempotencyKey, RequestName};
use crate::rounds::{Patience, Rounds};
use crate::store::{Outcome, Rows, Store};

pub(crate) use repeat::RoundLog;

/// Runs statements.
pub(crate) struct Executor {
    store: Store,
    rounds: Rounds,
    log: RoundLog,
    /// How many documents one UPDATE or DELETE may change.
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
    Rows(Rows),
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
    /// What was read for it.
    read: Option<TxnId>,
    /// Whether the store node may find documents there that must not be.
    may_conflict: bool,
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

impl Executor {
    pub(crate) fn new(config: &IngestConfig, store: Store, rounds: Rounds, log: RoundLog) -> Self {
        let IngestConfig { max_changed_documents, max_round_bytes, .. } = *config;
        Executor { store, rounds, log, max_changed_documents, max_round_bytes }
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, request: Request) -> Result<Executed, Refusal> {
        match query::parse(&request.statement, &request.args)? {
            Statement::Select(_) => self.select(&request).await.map(Executed::Rows),
            statement => self.write(&request, &statement).await.map(Executed::Written),
        }
    }

    async fn select(&self, request: &Request) -> Result<Rows, Refusal> {
        let Request { app, statement, args, at_least, deadline, .. } = request;
        self.store.query(*app, statement, args, *at_least, *deadline).await
    }

    async fn write(&self, request: &Request, statement: &Statement) -> Result<Written, Refusal> {
        let name = RequestName::new(request.app, request.key.clone());
        let round = RoundName {
            id: name.round(0),
            digest: if name.has_key() { digest(request) } else { Vec::new() },
            has_key: name.has_key(),
        };
        if let Some(written) = self.earlier(request, statement, &name, &round).await? {
            return Ok(written);
        }
        let planned = match self.plan(request, statement, &name).await {
            Ok(plan) if !plan.mutations.is_empty() => Ok(plan),
            nothing_to_write => {
                // What was read may be what the first try left behind.
                if let Some(written) = self.earlier(request, statement, &name, &round).await? {
                    return Ok(written);
                }
                nothing_to_write
            }
        };
        let plan = planned?;
        let query_type = statement.kind();
        if plan.mutations.is_empty() {
            let warnings = plan.warnings.into_list();
            let txn = plan.read;
            return Ok(Written { query_type, txn, ids: Vec::new(), warnings, refusal: None });
        }
        self.commit(request, statement, &name, round, plan).await
    }

    async fn plan(
        &self,
        request: &Request,
        statement: &Statement,
        name: &RequestName,
    ) -> Result<Plan, Refusal> {
        match statement {
            Statement::Insert(insert) => self.plan_insert(request, insert, name).await,
            Statement::Update(update) => self.plan_update(request, update).await,
            Statement::Delete(delete) => self.plan_delete(request, delete).await,
            Statement::Select(_) => Ok(Plan::default()),
        }
    }

    async fn commit(
        &self,
        request: &Request,
        statement: &Statement,
        name: &RequestName,
        round: RoundName,
        plan: Plan,
    ) -> Result<Written, Refusal> {
        let ids = plan.keys();
        let entry = Round {
            id: round.id,
            app: request.app,
            origin: None,
            digest: round.digest.clone(),
            mutations: plan.mutations,
        };
        let txn = self.rounds.write(entry, request.deadline, Patience::None).await?;
        let mut written = Written {
            query_type: statement.kind(),
            txn: Some(txn),
            ids,
            warnings: plan.warnings.into_list(),
            refusal: None,
        };
        if !(round.has_key || plan.may_conflict) {
            return Ok(written);
        }
        let outcome = self.settled(round.id, txn, request.deadline).await?;
        check_digest(&outcome, &round)?;
        if outcome.txn == txn {
            written.leave_out(&outcome);
            return Ok(written);
        }
        // Another try under the same key was first.
        self.repeated(request, statement, name, outcome).await
    }

    /// What became of a round that is committed as `txn`.
    async fn settled(
        &self,
        round: RoundId,
        txn: TxnId,
        deadline: Instant,
    ) -> Result<Outcome, Refusal> {
        let unknown = |reason: &str| {
            let message = format!("transaction {txn} was written, but not its effect: {reason}");
            Refusal::new(Code::OutcomeUnknown, message).with_txn(txn)
        };
        match self.store.outcome(round, Some(txn), deadline).await {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Err(unknown("the store node does not know the round")),
            Err(refusal) => Err(unknown(refusal.message())),
        }
    }
}

impl Written {
    /// Takes out the documents that were in the way of an INSERT.
    fn leave_out(&mut self, outcome: &Outcome) {
        if outcome.conflicts.is_empty() {
            return;
        }
        self.ids.retain(|id| !outcome.conflicts.contains(id));
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
    let message = "this Idempotency-Key was used for another request";
    Err(Refusal::new(Code::KeyReused, message))
}

fn digest(request: &Request) -> Vec<u8> {
    let args = serde_json::to_vec(&request.args).expect("arguments have string keys");
    Digest::default().with(b"execute").with(request.statement.as_bytes()).with(&args).finish()
}
