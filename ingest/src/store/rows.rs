//! The rows of a SELECT, as they come from the store nodes: from the first on, or behind one that came
//! before.

use anabranch_core::ids::{AppId, TxnId};
use anabranch_core::query::{self, Args, Statement};
use anabranch_runtime::grpc;
use anabranch_schemas::store as proto;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use super::{At, Store, may_pass, millis, refusal, too_late, wait_within};
use crate::access::{Caller, Readable};
use crate::error::{Code, Refusal};

/// The rows of a SELECT, as they arrive.
pub(crate) struct Rows {
    /// The snapshot.
    pub(crate) txn: Option<TxnId>,
    first: Option<Vec<proto::QueryItem>>,
    stream: Streaming<proto::QueryReply>,
    store: Store,
    /// What was asked, from behind the last row that came; as of when is said each time.
    rest: proto::QueryRequest,
    /// How many rows came.
    came: u64,
    /// How many may come, once that is not for the node to say.
    limit: Option<u64>,
    /// For whom, if they have to be asked again whether they may.
    caller: Option<Caller>,
}

/// A SELECT.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) app: AppId,
    pub(crate) statement: &'a str,
    pub(crate) args: &'a Args,
    /// What of its collection may be read.
    pub(crate) readable: &'a Readable,
    /// How many rows are taken at most, if fewer than the statement asks for.
    pub(crate) most: Option<u64>,
}

/// Where rows are read on.
pub(crate) struct Behind {
    /// The snapshot.
    pub(crate) txn: TxnId,
    /// How many rows came before.
    pub(crate) came: u64,
    /// Where the last of them stands.
    pub(crate) place: Bytes,
}

impl Store {
    /// The rows of a SELECT. When it returns, the first are there or the end is.
    pub(crate) async fn query(
        &self,
        question: Question<'_>,
        at: At,
        deadline: Instant,
    ) -> Result<Rows, Refusal> {
        let rest = question.request(Bytes::new());
        let at = || self.read_at(at, deadline);
        let (stream, first) = self.open(&rest, at, deadline, refusal).await?;
        self.note_stable(first.as_ref().and_then(|reply| reply.stable));
        let txn = first.as_ref().and_then(|reply| reply.txn);
        let first = first.map(|reply| reply.items);
        let (store, txn) = (self.clone(), txn.map(TxnId));
        let (came, limit, caller) = (0, None, None);
        Ok(Rows { txn, first, stream, store, rest, came, limit, caller })
    }

    /// The same behind a row that came before, of the same snapshot; its LIMIT counts that, too.
    pub(crate) async fn query_behind(
        &self,
        question: Question<'_>,
        behind: Behind,
        limit: Option<u64>,
        deadline: Instant,
    ) -> Result<Rows, Refusal> {
        let Behind { txn, came, place } = behind;
        let rest = question.request(place);
        let at = || self.read_at(At::Exactly(txn), deadline);
        let (stream, first) = self.open(&rest, at, deadline, refusal_behind).await?;
        // What is stable was told with the first page.
        let first = first.map(|reply| reply.items);
        let (txn, store, caller) = (Some(txn), self.clone(), None);
        Ok(Rows { txn, first, stream, store, rest, came, limit, caller })
    }

    /// Asks for rows. When it returns, the first are there or the end is.
    async fn open(
        &self,
        request: &proto::QueryRequest,
        at: impl Fn() -> proto::ReadAt,
        deadline: Instant,
        refuse: fn(&Status) -> Refusal,
    ) -> Result<(Streaming<proto::QueryReply>, Option<proto::QueryReply>), Refusal> {
        self.ask_or(deadline, refuse, |mut client| {
            let request = proto::QueryRequest { at: Some(at()), ..request.clone() };
            // Without a deadline for the whole: a large result takes its time.
            async move {
                let mut stream = client.query(request).await?.into_inner();
                let first = stream.message().await?;
                Ok((stream, first))
            }
        })
        .await
    }
}

impl Rows {
    /// The same, as long as the caller's key is valid.
    pub(crate) fn for_caller(self, caller: Caller) -> Self {
        Rows { caller: Some(caller), ..self }
    }

    /// The next rows, at least one; `None` at the end. If the node that gave them dies, or does not
    /// wait any longer for rows to be taken, another one goes on, or the same one.
    pub(crate) async fn next(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<Vec<proto::QueryItem>>, Refusal> {
        if let Some(caller) = &self.caller {
            caller.check_current()?;
        }
        loop {
            let mut items = match self.first.take() {
                Some(items) => items,
                None if self.limit.is_some_and(|limit| self.came >= limit) => return Ok(None),
                None => match timeout_at(deadline, self.stream.message()).await {
                    Ok(Ok(Some(reply))) => reply.items,
                    Ok(Ok(None)) => return Ok(None),
                    Ok(Err(status)) if may_pass(&status) && self.txn.is_some() => {
                        self.go_on(deadline).await?;
                        continue;
                    }
                    Ok(Err(status)) => return Err(refusal(&status)),
                    Err(_) => return Err(too_late()),
                },
            };
            if let Some(limit) = self.limit {
                let left = usize::try_from(limit.saturating_sub(self.came)).unwrap_or(usize::MAX);
                items.truncate(left);
            }
            if let Some(last) = items.last() {
                self.came += items.len() as u64;
                self.rest.after = Bytes::copy_from_slice(last.stands_at());
                return Ok(Some(items));
            }
        }
    }

    /// Asks a node for what is left, of the same snapshot.
    async fn go_on(&mut self, deadline: Instant) -> Result<(), Refusal> {
        if Instant::now() >= deadline {
            return Err(too_late());
        }
        let args: Args = serde_json::from_str(&self.rest.args).expect("they were encoded here");
        // A node counts only the rows that it gives itself.
        self.limit = match query::parse(&self.rest.statement, &args) {
            Ok(Statement::Select(select)) => select.limit,
            _ => None,
        };
        let exactly = self.txn.map(|txn| txn.0);
        let at = || {
            let wait_ms = millis(wait_within(deadline));
            proto::ReadAt { at_least: None, exactly, wait_ms }
        };
        let (stream, first) = self.store.open(&self.rest, at, deadline, refusal).await?;
        (self.stream, self.first) = (stream, first.map(|reply| reply.items));
        Ok(())
    }
}

impl Question<'_> {
    /// It as it is sent, behind a place.
    fn request(self, after: Bytes) -> proto::QueryRequest {
        let Question { app, statement, args, readable, most } = self;
        proto::QueryRequest {
            app: Bytes::copy_from_slice(app.0.as_bytes()),
            statement: statement.to_owned(),
            args: serde_json::to_string(args).expect("arguments have string keys"),
            at: None,
            after,
            readable: readable.as_str().to_owned(),
            most,
        }
    }
}

/// The same of a read that was begun long ago.
fn refusal_behind(status: &Status) -> Refusal {
    match grpc::code_of(status) {
        Some("too_old") => {
            Refusal::new(Code::SnapshotGone, format!("store node: {}", status.message()))
        }
        _ => refusal(status),
    }
}
