//! Reads: one document, the documents that match, all documents of a collection; each of one
//! snapshot, which sees exactly the transactions up to its own (ST-4).
//!
//! A read holds its snapshot, so no version that it sees is dropped while it runs. Streams read
//! page by page on threads for blocking calls, each page when the one before was taken: a client
//! that is slow keeps no thread and no file busy. One that takes nothing any more is given up when
//! its time is over: else it would hold its snapshot for as long as it stays connected.

mod access;
mod checksum;
mod explain;
mod find;
mod page;
mod places;
mod query;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::query::{Explain, Predicate, Select, Statement, parse, parse_filter};
use anabranch_runtime::planted;
use anabranch_runtime::tasks::{self, Shutdown};
use anabranch_schemas::store as proto;
use tokio::time::Instant;

use crate::error::Error;
use crate::status::Status;
use crate::storage::{Hold, Storage, decode_state, in_haste};
use crate::wishes::Wishes;

pub(crate) use self::checksum::{ChecksumStream, Cut, Sum};
pub(crate) use self::page::Page;
use self::places::Places;
#[cfg(test)]
pub(crate) use self::query::all_rows;
pub(crate) use self::query::{MAX_KEPT_BYTES, check as check_kept, group_of};
pub(crate) use self::stream::{Kind, QueryStream, Replies, ScanStream};

/// What reads need.
#[derive(Clone)]
pub(crate) struct Reads {
    storage: Arc<Storage>,
    status: Arc<Status>,
    wishes: Arc<Wishes>,
    streams: Arc<Places>,
    /// Those of replicas that copy or compare: clients that take nothing are not in their way.
    replica_streams: Arc<Places>,
    max_read: Duration,
    shutdown: Shutdown,
}

/// A snapshot, readable until this is dropped.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Every transaction up to and including this one; `None` before the first.
    pub(crate) txn: Option<TxnId>,
    _hold: Option<Hold>,
}

/// A document as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// With its `_id`.
    pub(crate) value: Value,
    /// The transaction that wrote it last.
    pub(crate) txn: TxnId,
    /// How long its state is, in bytes.
    pub(crate) bytes: usize,
}

impl Reads {
    pub(crate) fn new(
        storage: Arc<Storage>,
        status: Arc<Status>,
        wishes: Arc<Wishes>,
        max_streams: usize,
        max_read: Duration,
        shutdown: Shutdown,
    ) -> Self {
        let [streams, replica_streams] = [(); 2].map(|()| Places::new(max_streams));
        Reads { storage, status, wishes, streams, replica_streams, max_read, shutdown }
    }

    /// The snapshot that a request asks for, waited for as long as it says.
    pub(crate) async fn snapshot(&self, at: Option<proto::ReadAt>) -> Result<Snapshot, Error> {
        let at = at.unwrap_or_default();
        let deadline = Instant::now() + Duration::from_millis(at.wait_ms.into());
        let patience = || deadline.saturating_duration_since(Instant::now());
        let mut applied = self.status.catch_up(patience()).await?;
        if let Some(exactly) = at.exactly.map(TxnId) {
            if at.at_least.is_some_and(|least| least > exactly.0) {
                let what = "a read cannot be exactly at a timestamp and at least at a later one";
                return Err(Error::InvalidRequest(what.to_owned()));
            }
            if !planted!(ReadsUnreached) {
                self.status.reach(exactly, patience()).await?;
            }
            return self.held(exactly);
        }
        let least = at.at_least.map(TxnId);
        if let Some(least) = least {
            applied = self.status.reach(least, patience()).await?;
        }
        loop {
            // Not every number is a transaction; who has read at one reads at no smaller one again.
            let newest = applied.last.max(least);
            let Some(newest) = newest else { return Ok(Snapshot { txn: None, _hold: None }) };
            match self.held(newest) {
                Ok(snapshot) => return Ok(snapshot),
                // It was the newest a moment ago, and with a very short history no longer is.
                Err(Error::TooOld { oldest, .. }) => {
                    applied = self.status.reach(oldest, patience()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The snapshot at a transaction that was applied.
    pub(crate) fn held(&self, txn: TxnId) -> Result<Snapshot, Error> {
        let hold = self.storage.history().hold(txn)?;
        Ok(Snapshot { txn: Some(txn), _hold: Some(hold) })
    }

    /// One document, if there is one of which this holds.
    pub(crate) async fn get(
        &self,
        id: DocumentId,
        readable: Option<Predicate>,
        snapshot: &Snapshot,
    ) -> Result<Option<Found>, Error> {
        let Some(at) = snapshot.txn else { return Ok(None) };
        let found = soon(&self.storage, move |storage| find(storage, &id, at)).await?;
        Ok(found.filter(|found| readable.is_none_or(|readable| readable.matches(&found.value))))
    }

    /// What became of a round, if it is remembered.
    pub(crate) async fn outcome(
        &self,
        round: anabranch_core::ids::RoundId,
    ) -> Result<Option<crate::storage::Outcome>, Error> {
        let (storage, now) = (Arc::clone(&self.storage), self.status.applied().time);
        blocking(move || storage.outcome(round, now)).await
    }
}

/// What is asked of documents.
#[derive(Debug)]
pub(crate) enum Question {
    /// Which there are.
    Select(Arc<Select>),
    /// How these are found; whether to find them for it.
    Explain(Arc<Select>, bool),
}

/// Reads a SELECT, or an EXPLAIN of one, with its arguments, a JSON object: of those documents that may
/// be read.
pub(crate) fn parse_question(request: &proto::QueryRequest) -> Result<Question, Error> {
    let proto::QueryRequest { statement, args, readable, most, .. } = request;
    let mut question = parse_with(statement, args)?;
    // Rows that are made of groups are numbered from the first on, also for who has come behind some.
    if let (Some(most), Question::Select(select)) = (*most, &mut question)
        && !select.is_grouped()
    {
        let limit = select.limit.map_or(most, |limit| limit.min(most));
        Arc::make_mut(select).limit = Some(limit);
    }
    if !readable.is_empty() {
        let (Question::Select(select) | Question::Explain(select, _)) = &mut question;
        Arc::make_mut(select).restrict(parse_filter(readable)?);
    }
    Ok(question)
}

fn parse_with(statement: &str, args: &str) -> Result<Question, Error> {
    let args = match args {
        "" => Value::Object(Default::default()),
        text => Value::from_json(text.as_bytes()).map_err(|error| {
            Error::InvalidRequest(format!("the arguments are no JSON: {error}"))
        })?,
    };
    let Value::Object(args) = args else {
        let found = args.type_name();
        return Err(Error::InvalidRequest(format!("arguments are an object, not {found}")));
    };
    match parse(statement, &args)? {
        Statement::Select(select) => Ok(Question::Select(Arc::new(select))),
        Statement::Explain(Explain { analyze, statement }) => match *statement {
            Statement::Select(select) => Ok(Question::Explain(Arc::new(select), analyze)),
            other => Err(unreadable(&other)),
        },
        other => Err(unreadable(&other)),
    }
}

fn unreadable(statement: &Statement) -> Error {
    Error::InvalidRequest(format!("only SELECT can be read, not {}", statement.kind()))
}

/// Runs what reads little: here if that is in memory, else where it may wait for the disk.
async fn soon<T: Send + 'static>(
    storage: &Arc<Storage>,
    work: impl Fn(&Storage) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match in_haste(|| work(storage)) {
        Err(error) if error.is_of_haste() => {
            let storage = Arc::clone(storage);
            blocking(move || work(&storage)).await
        }
        done => done,
    }
}

/// Runs what blocks where that is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tasks::blocking(work).await.map_err(|_| Error::Shutdown)?
}

/// One document, if a reader sees it.
fn find(storage: &Storage, id: &DocumentId, at: TxnId) -> Result<Option<Found>, Error> {
    let found = storage.document(&id.to_bytes(), at, |txn, state| {
        let value = decode_state(state)?.value();
        let bytes = state.len();
        Ok(value.map(|value| Found { value: id.key.add_to(value), txn, bytes }))
    })?;
    Ok(found.flatten())
}

pub(crate) fn decode_id(id: &[u8]) -> Result<DocumentId, Error> {
    DocumentId::from_bytes(id).map_err(|error| Error::CorruptStore(error.to_string()))
}
