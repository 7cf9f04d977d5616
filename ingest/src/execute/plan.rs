//! What a request is to write: what its statements have to know is read, all of it as of one
//! transaction, and each document that changes gets a mutation.
//!
//! The statements do not see each other's changes: each finds its documents as they were before.
//! What they ask of one document applies in their order.

use std::collections::HashSet;

use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::query::{Args, Statement};
use anabranch_schemas::records::DocumentMutation;
use futures::TryStreamExt;
use futures::stream::FuturesOrdered;

use super::run::Run;
use super::{Asked, Executor, Request};
use crate::access::Readable;
use crate::document::{DocumentName, Warnings};
use crate::error::{Code, Refusal};
use crate::store::{At, Found, Question, Rows};

/// How many documents are read at once.
const AT_ONCE: usize = 16;

/// What a request is about to write.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) mutations: Vec<DocumentMutation>,
    pub(super) warnings: Warnings,
    /// Bytes of the mutations as JSON, about.
    pub(super) bytes: usize,
    /// How many documents INSERTs gave so far.
    pub(super) given: u64,
    /// All of it applies or nothing.
    pub(super) is_atomic: bool,
    /// Whether documents that were read may become too large.
    pub(super) may_outgrow: bool,
    /// Whether documents are merged into others that were not read.
    pub(super) merges: bool,
}

impl Plan {
    /// The documents that it touches, in order of their first mutation.
    pub(super) fn documents(&self) -> Vec<DocumentName> {
        let mut seen = HashSet::with_capacity(self.mutations.len());
        let names = self.mutations.iter().map(DocumentName::of);
        names.filter(|name| seen.insert(name.clone())).collect()
    }
}

/// A plan under construction.
pub(super) struct Planning<'a> {
    pub(super) executor: &'a Executor,
    pub(super) run: &'a Run<'a>,
    pub(super) plan: Plan,
    /// What INSERTs gave so far.
    pub(super) inserted: HashSet<DocumentName>,
    /// As of which transaction was read.
    read: &'a mut Option<TxnId>,
}

impl Executor {
    /// What a request is to write. What is read for it is read as of `read`, also if it then cannot
    /// run.
    pub(super) async fn plan(
        &self,
        run: &Run<'_>,
        statements: Vec<Statement>,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
        let (plan, inserted) = (Plan::default(), HashSet::new());
        let mut planning = Planning { executor: self, run, plan, inserted, read };
        let Request { app, statements: asked, atomic, .. } = run.request;
        for (number, (asked, statement)) in (1..).zip(asked.iter().zip(statements)) {
            let added = planning.statement(asked, statement).await;
            added.map_err(|refusal| run.request.of_statement(number, refusal))?;
        }
        let mut plan = planning.plan;
        if !*atomic && !run.is_conditional {
            return Ok(plan);
        }
        let ids = plan.mutations.iter().map(|mutation| mutation.id(*app));
        let slices = self.store.slices(ids).len();
        if *atomic && slices > 1 {
            return Err(not_atomic(slices));
        }
        plan.is_atomic = slices == 1;
        Ok(plan)
    }
}

impl Planning<'_> {
    async fn statement(&mut self, asked: &Asked, statement: Statement) -> Result<(), Refusal> {
        match statement {
            Statement::Insert(insert) => self.insert(asked, insert),
            Statement::Update(update) => self.update(asked, update).await,
            Statement::Delete(delete) => self.delete(asked, delete).await,
            Statement::Evict(evict) => self.evict(asked, evict).await,
            Statement::Select(_)
            | Statement::Explain(_)
            | Statement::CreateIndex(_)
            | Statement::DropIndex(_) => unreachable!("they write no documents"),
        }
    }

    /// Documents, in the order of their ids here; some at once, as soon as it is known as of when.
    pub(super) async fn get(
        &mut self,
        ids: &[DocumentId],
        readable: &Readable,
    ) -> Result<Vec<Found>, Refusal> {
        let (executor, deadline) = (self.executor, self.run.request.deadline);
        let store = &executor.store;
        let Some((first, rest)) = ids.split_first() else { return Ok(Vec::new()) };
        let at = self.at();
        let mut found =
            vec![executor.log_end.seen(at, store.get(first, readable, at, deadline)).await?];
        *self.read = self.read.or(found[0].txn);
        let at = self.at();
        for ids in rest.chunks(AT_ONCE) {
            let mut asked = FuturesOrdered::new();
            for id in ids {
                asked.push_back(store.get(id, readable, at, deadline));
            }
            found.extend(asked.try_collect::<Vec<_>>().await?);
        }
        Ok(found)
    }

    /// The rows of a SELECT.
    pub(super) async fn query(
        &mut self,
        statement: &str,
        args: &Args,
        readable: &Readable,
    ) -> Result<Rows, Refusal> {
        let Request { app, deadline, .. } = *self.run.request;
        let question = Question { app, statement, args, readable, most: None };
        let (executor, at) = (self.executor, self.at());
        let rows = executor.log_end.seen(at, executor.store.query(question, at, deadline)).await?;
        *self.read = self.read.or(rows.txn);
        Ok(rows)
    }

    /// As of when to read: all that is read is as of one transaction.
    fn at(&self) -> At {
        let Request { at_least, statements, .. } = self.run.request;
        let since = statements.iter().filter_map(|asked| asked.unchanged_since).max();
        self.read.map_or_else(|| At::Newest((*at_least).max(since)), At::Exactly)
    }

    /// Adds a mutation of so many bytes.
    pub(super) fn add(
        &mut self,
        mutation: DocumentMutation,
        bytes: usize,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let unchanged_since = asked.unchanged_since;
        self.plan.bytes += bytes + mutation.key.as_str().len() + mutation.collection.as_str().len();
        self.plan.mutations.push(DocumentMutation { unchanged_since, ..mutation });
        self.check_round(0)
    }

    /// A request is one transaction, which must not get too large: with `more` documents.
    pub(super) fn check_round(&self, more: usize) -> Result<(), Refusal> {
        let Executor { max_changed_documents, max_round_bytes, .. } = self.executor;
        let Plan { mutations, bytes, .. } = &self.plan;
        if mutations.len() + more > *max_changed_documents {
            let message =
                format!("more than {max_changed_documents} documents would be written at once");
            return Err(Refusal::new(Code::TooManyDocuments, message));
        }
        if bytes > max_round_bytes {
            let message =
                format!("more than {max_round_bytes} bytes of mutations would be written at once");
            return Err(Refusal::new(Code::RoundTooLarge, message));
        }
        Ok(())
    }
}

fn not_atomic(slices: usize) -> Refusal {
    let message = format!(
        "the documents are in {slices} slices of the keyspace, and only those of one slice can be \
         decided as a whole"
    );
    Refusal::new(Code::NotAtomic, message)
}
