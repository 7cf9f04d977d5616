//! Statements.
//!
//! A SELECT or EXPLAIN goes to the store node as it is. An index is declared in the metadata store.
//! INSERT, UPDATE, DELETE and EVICT, one or several that belong together, become a [`plan::Plan`]:
//! what they have to know is read first, then they are one round of mutations of single documents,
//! which is written or not as a whole (IN-1, IN-2).
//!
//! Whether a condition holds, be it that an id is free or that a document has not changed, the store
//! nodes decide when they apply the round, in the order of the log: whoever looked before may be
//! wrong by then. They are asked what they decided before the client is answered.
//!
//! A request with an `Idempotency-Key` is looked up before it runs. One that has nothing to do, or
//! cannot run on account of what was read, is written as a round of nothing: a first try may have
//! been applied meanwhile, which then is found, or may still be on its way, which then is none. After
//! writing, the store node says which commit of the round counts. So however often a request is
//! sent under one key, it is applied once or refused for good, and every reply is of the same
//! transaction.

mod change;
mod conflict;
mod cursor;
mod indexes;
mod insert;
mod plan;
mod repeat;
mod run;
mod seen;
mod select;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anabranch_core::ids::{AppId, TxnId};
use anabranch_core::query::{self, Args, Select, Statement, Taken};
use anabranch_journal::metadata::OpenedLater;
use tokio::time::Instant;

use crate::access::{Caller, Readable};
use crate::config::IngestConfig;
use crate::document::{DocumentName, Warning, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::{Digest, IdempotencyKey, RequestName};
use crate::rounds::Rounds;
use crate::store::{At, Behind, Question, Rows, Store};

use indexes::check_plain;
use run::Run;

pub(crate) use cursor::{Cursor, MAX_ROWS, Page, Paged, USUAL_ROWS};
pub(crate) use repeat::RoundLog;
pub(crate) use seen::LogEnd;

/// How much of an argument's name is told.
const MAX_NAME_BYTES: usize = 64;
/// How many statements a transaction has at most.
pub(crate) const MAX_STATEMENTS: usize = 100;

/// Runs statements.
pub(crate) struct Executor {
    store: Store,
    rounds: Rounds,
    log: RoundLog,
    log_end: LogEnd,
    metadata: Arc<OpenedLater>,
    /// How many documents one request may write.
    max_changed_documents: usize,
    /// How large a request's mutations may be together.
    max_round_bytes: usize,
}

/// What is to be done at once.
pub(crate) struct Request {
    pub(crate) app: AppId,
    pub(crate) caller: Caller,
    pub(crate) statements: Vec<Asked>,
    /// All of it or nothing, whatever is there.
    pub(crate) atomic: bool,
    /// How much of the rows is wanted; all of them, if it is not said.
    pub(crate) page: Option<Page>,
    /// What is read includes this transaction.
    pub(crate) at_least: Option<TxnId>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) deadline: Instant,
}

impl Request {
    /// What is wrong with one of its statements.
    fn of_statement(&self, number: usize, refusal: Refusal) -> Refusal {
        match self.statements.len() {
            1 => refusal,
            _ => refusal.within(&format!("statement {number}")),
        }
    }
}

/// A statement, and the transaction since which its documents have to be unchanged.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) statement: String,
    pub(crate) args: Args,
    pub(crate) unchanged_since: Option<TxnId>,
}

/// What a statement did.
pub(crate) enum Executed {
    /// Of a SELECT or EXPLAIN, with its kind.
    Rows(Box<Rows>, &'static str),
    /// A page of a SELECT.
    Page(Paged),
    /// Of any other.
    Written(Written),
}

/// What was written.
pub(crate) struct Written {
    /// Of one statement its kind, such as `insert`; of several `transaction`.
    pub(crate) query_type: &'static str,
    /// Where; or, if there was nothing to write, what was read.
    pub(crate) txn: Option<TxnId>,
    /// The documents that were written.
    pub(crate) documents: Vec<DocumentName>,
    pub(crate) warnings: Vec<Warning>,
    /// If there were conditions: how they were decided.
    pub(crate) decided: Option<Decided>,
    /// Why not all of it was written.
    pub(crate) refusal: Option<Refusal>,
}

/// How the conditions of a request were decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decided {
    /// All together: everything was written or nothing. So it is where all documents are in one slice
    /// of the keyspace.
    Whole,
    /// Each by itself: those documents were written whose own condition held.
    PerDocument,
}

impl Executor {
    pub(crate) fn new(
        config: &IngestConfig,
        store: Store,
        rounds: Rounds,
        log: RoundLog,
        log_end: LogEnd,
        metadata: Arc<OpenedLater>,
    ) -> Self {
        let IngestConfig { max_changed_documents, max_round_bytes, .. } = *config;
        Executor { store, rounds, log, log_end, metadata, max_changed_documents, max_round_bytes }
    }

    /// Runs a request of one statement. Says what it did, and what is not well about the statement.
    pub(crate) async fn execute(
        &self,
        request: Request,
    ) -> Result<(Executed, Vec<Warning>), Refusal> {
        let mut request = Parsed::new(request).await?;
        let warnings = std::mem::take(&mut request.warnings).into_list();
        Ok((self.execute_parsed(request).await?, warnings))
    }

    async fn execute_parsed(&self, mut request: Parsed) -> Result<Executed, Refusal> {
        if let Some(page) = request.asked.page.take() {
            return self.page(request, page).await.map(Executed::Page);
        }
        match &request.statements[..] {
            [Statement::Select(select)] => {
                let readable = request.asked.caller.readable(&select.collection)?;
                self.select(request.asked, &readable, "select").await
            }
            [Statement::Explain(explain)] => {
                request.asked.caller.check_reads_all(explain.statement.collection())?;
                self.explain(request).await
            }
            [Statement::CreateIndex(_) | Statement::DropIndex(_)] => {
                self.declare(request).await.map(Executed::Written)
            }
            _ => self.run(request).await.map(Executed::Written),
        }
    }

    /// Runs a request that only writes.
    pub(crate) async fn transact(&self, request: Request) -> Result<Written, Refusal> {
        let mut request = Parsed::new(request).await?;
        for (number, statement) in (1..).zip(&request.statements) {
            let message = match statement {
                Statement::Select(_) | Statement::Explain(_) => "a SELECT writes nothing",
                Statement::CreateIndex(_) | Statement::DropIndex(_) => {
                    "an index is no part of a transaction"
                }
                Statement::Insert(_)
                | Statement::Update(_)
                | Statement::Delete(_)
                | Statement::Evict(_) => continue,
            };
            let refusal = Refusal::new(Code::Unsupported, message);
            let refusal = refusal.with_hint("send it by itself, to store/execute");
            return Err(request.asked.of_statement(number, refusal));
        }
        let warnings = std::mem::take(&mut request.warnings).into_list();
        let mut written = self.run(request).await?;
        written.warnings.extend(warnings);
        Ok(written)
    }

    async fn select(
        &self,
        request: Request,
        readable: &Readable,
        kind: &'static str,
    ) -> Result<Executed, Refusal> {
        check_plain(&request, kind)?;
        let Request { app, caller, at_least, deadline, statements, .. } = request;
        let Asked { statement, args, .. } = &statements[0];
        let question = Question { app, statement, args, readable, most: None };
        let at = At::Newest(at_least);
        let rows = self.log_end.seen(at, self.store.query(question, at, deadline)).await?;
        Ok(Executed::Rows(Box::new(rows.for_caller(caller)), kind))
    }

    /// The next rows of a SELECT, as of the transaction of the first ones.
    async fn page(&self, request: Parsed, page: Page) -> Result<Paged, Refusal> {
        let [Statement::Select(Select { collection, limit, .. })] = &request.statements[..] else {
            let refusal = Refusal::new(Code::InvalidRequest, "only a SELECT has pages");
            return Err(refusal.with_hint("leave out 'pageSize' and 'cursor'"));
        };
        check_plain(&request.asked, "select")?;
        let Request { app, at_least, deadline, ref statements, ref caller, .. } = request.asked;
        let Asked { statement, args, .. } = &statements[0];
        let readable = &caller.readable(collection)?;
        // One more tells whether the page is the last.
        let most = Some(page.rows as u64 + 1);
        let question = Question { app, statement, args, readable, most };
        let seal = cursor::seal(self.store.cluster(), app, caller, statement, args);
        let Page { rows: most, cursor } = page;
        let (rows, came) = match cursor {
            None => {
                let at = At::Newest(at_least);
                (self.log_end.seen(at, self.store.query(question, at, deadline)).await?, 0)
            }
            Some(cursor) => {
                cursor.check(&seal)?;
                if at_least.is_some_and(|least| least > cursor.txn) {
                    let message = "the cursor is of an older transaction than what is to be read";
                    let refusal = Refusal::new(Code::InvalidRequest, message);
                    return Err(refusal.with_hint("leave out X-Anabranch-Txn-Id with a cursor"));
                }
                let behind = Behind { txn: cursor.txn, came: cursor.came, place: cursor.place };
                let rows = self.store.query_behind(question, behind, *limit, deadline);
                (rows.await?, cursor.came)
            }
        };
        Paged::read(rows, most, came, &seal, deadline).await
    }

    async fn run(&self, request: Parsed) -> Result<Written, Refusal> {
        let Parsed { asked, statements, name, digest, warnings: _ } = request;
        let run = Run::new(&asked, &statements, name, digest)?;
        let written = self.write(&run, statements).await;
        written.map_err(|refusal| if run.round.has_key { keyed(refusal) } else { refusal })
    }
}

/// A request of which the statements were read.
struct Parsed {
    asked: Request,
    statements: Vec<Statement>,
    name: RequestName,
    digest: Vec<u8>,
    /// What is not well about how they are asked.
    warnings: Warnings,
}

impl Parsed {
    async fn new(mut asked: Request) -> Result<Self, Refusal> {
        let name = RequestName::new(asked.app, &asked.caller, asked.key.take());
        // Parsing may take documents out of the arguments.
        let digest = if name.has_key() { digest(&asked) } else { Vec::new() };
        let mut statements = Vec::with_capacity(asked.statements.len());
        let mut warnings = Warnings::default();
        for index in 0..asked.statements.len() {
            // Many long ones take a while, in which others are to go on.
            if index > 0 {
                tokio::task::yield_now().await;
            }
            let Asked { statement, args, .. } = &mut asked.statements[index];
            let taken = match query::parse_taking(statement, args) {
                Ok(taken) => taken,
                Err(error) => return Err(asked.of_statement(index + 1, error.into())),
            };
            warn_of_unused(&taken, args, &mut warnings);
            statements.push(taken.statement);
        }
        Ok(Parsed { asked, statements, name, digest, warnings })
    }
}

/// Warns of arguments that a statement does not name: one may have been meant that it does.
fn warn_of_unused(taken: &Taken, args: &Args, warnings: &mut Warnings) {
    for name in args.keys().filter(|name| !taken.names(name)) {
        let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
        let message = format!("the statement does not name the argument ':{name}'");
        warnings.push(Warning::new("unused_argument", message));
    }
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

fn digest(request: &Request) -> Vec<u8> {
    let mut digest = Digest::default().with(b"execute").with(&[request.atomic.into()]);
    for Asked { statement, args, unchanged_since } in &request.statements {
        let args = serde_json::to_vec(args).expect("arguments have string keys");
        let since = unchanged_since.map_or_else(String::new, |since| since.to_string());
        digest = digest.with(statement.as_bytes()).with(&args).with(since.as_bytes());
    }
    digest.finish()
}
