//! Results as streams of pages.
//!
//! A task reads the pages and holds what a stream takes: its place among those that may be open,
//! and its snapshot. It ends when its time is over or the node stops, whatever the client does: one
//! that has stopped taking pages would else keep both for as long as its connection lives.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::{AppId, Collection, DocumentId, TxnId};
use anabranch_core::query::Select;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::store as proto;
use futures::future::ready;
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::page::{Page, ScanCursor};
use super::places::Place;
use super::query::QueryCursor;
use super::{Reads, Snapshot, blocking, soon};
use crate::error::Error;
use crate::metrics::OpenStream;
use crate::storage::Storage;

/// Replies, one after the other.
pub(crate) type Replies<R> = Pin<Box<dyn Stream<Item = Result<R, Error>> + Send>>;
/// The result of a query.
pub(crate) type QueryStream = Replies<proto::QueryReply>;
/// The result of a scan.
pub(crate) type ScanStream = Replies<proto::ScanReply>;

/// Reads the next page.
type Read<C, T> = fn(&mut C, &Storage) -> Result<Page<T>, Error>;

/// How long nobody may take a page that is there. A stream has one of few places.
const IDLE: Duration = Duration::from_secs(30);

/// What a stream is, and so whose places it takes one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Query(AppId),
    Scan(AppId),
    Checksum,
    Entries,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Query(_) => "query",
            Kind::Scan(_) => "scan",
            Kind::Checksum => "checksum",
            Kind::Entries => "entries",
        }
    }

    /// The app whose documents it reads; `None` if replicas ask each other.
    fn app(self) -> Option<AppId> {
        match self {
            Kind::Query(app) | Kind::Scan(app) => Some(app),
            Kind::Checksum | Kind::Entries => None,
        }
    }
}

/// What reads the pages of a stream.
struct Pages<C, T> {
    storage: Arc<Storage>,
    /// `None` if there is nothing to read.
    cursor: Option<C>,
    read: Read<C, T>,
    taken: mpsc::Sender<Vec<T>>,
    deadline: Instant,
    max_read_ms: u64,
    shutdown: Shutdown,
    _snapshot: Snapshot,
    _place: Place,
    _open: OpenStream,
}

impl Reads {
    /// A stream of what a cursor reads from a snapshot, if there is anything; it may take so long.
    pub(crate) fn open<C: Send + 'static, T: Send + 'static, R: Send + 'static>(
        &self,
        kind: Kind,
        max_read: Duration,
        snapshot: Snapshot,
        cursor: Option<C>,
        read: Read<C, T>,
        reply: fn(Option<u64>, Vec<T>) -> R,
    ) -> Result<Replies<R>, Error> {
        let app = kind.app();
        let places = if app.is_some() { &self.streams } else { &self.replica_streams };
        let txn = snapshot.txn.map(|txn| txn.0);
        // One page waits while the next is read.
        let (taken, pages) = mpsc::channel(1);
        let reading = Pages {
            storage: Arc::clone(&self.storage),
            cursor,
            read,
            taken,
            deadline: Instant::now() + max_read,
            max_read_ms: u64::try_from(max_read.as_millis()).unwrap_or(u64::MAX),
            shutdown: self.shutdown.clone(),
            _snapshot: snapshot,
            _place: places.take(app)?,
            _open: OpenStream::new(kind.name()),
        };
        let open = Open { pages, reading: Some(tokio::spawn(reading.run())) };
        Ok(Box::pin(stream::try_unfold(open, move |mut open| async move {
            let items = open.next().await?;
            Ok(items.map(|items| (reply(txn, items), open)))
        })))
    }

    /// What a SELECT finds here, behind the place `after`. There is always at least one reply. If it
    /// `is_short`, to look at it takes no time.
    pub(crate) async fn query(
        &self,
        app: AppId,
        (select, is_short): (Arc<Select>, bool),
        after: &[u8],
        snapshot: Snapshot,
    ) -> Result<QueryStream, Error> {
        let reply = |txn, items| proto::QueryReply { txn, items, stable: None };
        if let Some(at) = snapshot.txn.filter(|_| is_short) {
            let (select, after) = (Arc::clone(&select), after.to_vec());
            let wishes = Arc::clone(&self.wishes);
            let at_once = move |storage: &Storage| {
                let (select, wishes) = (Arc::clone(&select), Arc::clone(&wishes));
                QueryCursor::new(app, select, after.clone(), at, wishes)?.at_once(storage)
            };
            if let Some(items) = soon(&self.storage, at_once).await? {
                return Ok(stream::once(ready(Ok(reply(Some(at.0), items)))).boxed());
            }
        }
        let cursor = |at| self.cursor(app, select, after.to_vec(), at);
        let cursor = snapshot.txn.map(cursor).transpose()?;
        self.open(Kind::Query(app), self.max_read, snapshot, cursor, QueryCursor::next, reply)
    }

    pub(super) fn cursor(
        &self,
        app: AppId,
        select: Arc<Select>,
        after: Vec<u8>,
        at: TxnId,
    ) -> Result<QueryCursor, Error> {
        QueryCursor::new(app, select, after, at, Arc::clone(&self.wishes))
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
        let cursor = snapshot.txn.map(|at| ScanCursor::new(prefix, after, at));
        let reply = |txn, items| proto::ScanReply { txn, items };
        self.open(Kind::Scan(app), self.max_read, snapshot, cursor, ScanCursor::next, reply)
    }
}

impl<C: Send + 'static, T: Send + 'static> Pages<C, T> {
    /// Gives page after page until the last, the deadline or the shutdown. That nobody takes them
    /// any more is no error: nobody would hear of it.
    async fn run(mut self) -> Result<(), Error> {
        let mut replied = false;
        while let Some(mut cursor) = self.cursor.take() {
            let (storage, read) = (Arc::clone(&self.storage), self.read);
            self.check()?;
            let taken = self.taken.clone();
            let reading = blocking(move || {
                // Who has gone away while this waited for a thread wants none of it.
                if taken.is_closed() {
                    return Ok(None);
                }
                read(&mut cursor, &storage).map(|page| Some((page, cursor)))
            });
            let Some((page, cursor)) = reading.await? else { return Ok(()) };
            let Page { items, is_last } = page;
            self.cursor = (!is_last).then_some(cursor);
            replied = true;
            // Also when nothing matched: whoever waits sees that the node is at work.
            if !self.give(items).await? {
                return Ok(());
            }
        }
        if !replied {
            self.give(Vec::new()).await?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.shutdown.has_begun() {
            return Err(Error::Shutdown);
        }
        if Instant::now() >= self.deadline {
            return Err(Error::Expired(self.max_read_ms));
        }
        Ok(())
    }

    /// False if nobody takes pages any more.
    async fn give(&mut self, items: Vec<T>) -> Result<bool, Error> {
        let (idle_ms, idle) = (IDLE.as_millis(), Instant::now() + IDLE);
        tokio::select! {
            biased;
            given = self.taken.send(items) => Ok(given.is_ok()),
            () = tokio::time::sleep_until(self.deadline) => Err(Error::Expired(self.max_read_ms)),
            () = tokio::time::sleep_until(idle) => {
                Err(Error::Untaken(u64::try_from(idle_ms).unwrap_or(u64::MAX)))
            }
            () = self.shutdown.begun() => Err(Error::Shutdown),
        }
    }
}

/// What a client takes pages from.
struct Open<T> {
    pages: mpsc::Receiver<Vec<T>>,
    /// Says how it ended, once.
    reading: Option<JoinHandle<Result<(), Error>>>,
}

impl<T> Open<T> {
    /// The items of the next reply; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<T>>, Error> {
        if let Some(items) = self.pages.recv().await {
            return Ok(Some(items));
        }
        match self.reading.take() {
            None => Ok(None),
            Some(reading) => match reading.await {
                Ok(ended) => ended.map(|()| None),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is being shut down.
                Err(_) => Err(Error::Shutdown),
            },
        }
    }
}
