//! Results as streams of pages.

use std::pin::Pin;
use std::sync::Arc;

use anabranch_core::ids::{AppId, Collection, DocumentId, TxnId};
use anabranch_core::query::Select;
use anabranch_schemas::store as proto;
use futures::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::page::{Page, QueryCursor, ScanCursor};
use super::{Reads, Snapshot, blocking};
use crate::error::Error;
use crate::metrics::OpenStream;
use crate::storage::Storage;

/// The result of a query.
pub(crate) type QueryStream = Pin<Box<dyn Stream<Item = Result<proto::QueryReply, Error>> + Send>>;
/// The result of a scan.
pub(crate) type ScanStream = Pin<Box<dyn Stream<Item = Result<proto::ScanReply, Error>> + Send>>;

/// What a stream keeps until it ends or is dropped.
struct Open<C> {
    storage: Arc<Storage>,
    snapshot: Snapshot,
    /// `None` once the last page was read, and from the start if there is nothing to read.
    cursor: Option<C>,
    replied: bool,
    deadline: Instant,
    max_read_ms: u64,
    _permit: OwnedSemaphorePermit,
    _open: OpenStream,
}

impl Reads {
    fn open<C>(
        &self,
        kind: &'static str,
        snapshot: Snapshot,
        cursor: impl FnOnce(TxnId) -> C,
    ) -> Result<Open<C>, Error> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        Ok(Open {
            storage: Arc::clone(&self.storage),
            cursor: snapshot.txn.map(cursor),
            snapshot,
            replied: false,
            deadline: Instant::now() + self.max_read,
            max_read_ms: u64::try_from(self.max_read.as_millis()).unwrap_or(u64::MAX),
            _permit: permit.map_err(|_| Error::Overloaded(self.max_streams))?,
            _open: OpenStream::new(kind),
        })
    }

    /// The documents that a SELECT returns. There is always at least one reply.
    pub(crate) fn query(
        &self,
        app: AppId,
        select: Select,
        snapshot: Snapshot,
    ) -> Result<QueryStream, Error> {
        let open = self.open("query", snapshot, |at| QueryCursor::new(app, select, at))?;
        Ok(Box::pin(stream::try_unfold(open, |mut open| async {
            let items = open.next(QueryCursor::next).await?;
            let txn = open.snapshot.txn.map(|txn| txn.0);
            Ok(items.map(|items| (proto::QueryReply { txn, items }, open)))
        })))
    }

    /// The states of all documents of a collection. There is always at least one reply.
    pub(crate) fn scan(
        &self,
        app: AppId,
        collection: &Collection,
        after: Option<Vec<u8>>,
        snapshot: Snapshot,
    ) -> Result<ScanStream, Error> {
        let prefix = DocumentId::collection_prefix(app, collection);
        if after.as_ref().is_some_and(|after| !after.starts_with(&prefix)) {
            let what = "a scan can start after a document of its own collection only";
            return Err(Error::InvalidRequest(what.to_owned()));
        }
        let open = self.open("scan", snapshot, |at| ScanCursor::new(prefix, after, at))?;
        Ok(Box::pin(stream::try_unfold(open, |mut open| async {
            let items = open.next(ScanCursor::next).await?;
            let txn = open.snapshot.txn.map(|txn| txn.0);
            Ok(items.map(|items| (proto::ScanReply { txn, items }, open)))
        })))
    }
}

impl<C: Send + 'static> Open<C> {
    /// The items of the next reply; `None` after the last.
    async fn next<T: Send + 'static>(
        &mut self,
        read: fn(&mut C, &Storage) -> Result<Page<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        while let Some(mut cursor) = self.cursor.take() {
            if Instant::now() >= self.deadline {
                return Err(Error::Expired(self.max_read_ms));
            }
            let storage = Arc::clone(&self.storage);
            let (page, cursor) =
                blocking(move || read(&mut cursor, &storage).map(|page| (page, cursor))).await?;
            let Page { items, is_last } = page;
            self.cursor = (!is_last).then_some(cursor);
            if !items.is_empty() {
                self.replied = true;
                return Ok(Some(items));
            }
        }
        let first = !std::mem::replace(&mut self.replied, true);
        Ok(first.then(Vec::new))
    }
}
