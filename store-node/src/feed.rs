//! The feed of what was applied: from a transaction on, in order, first from the store, then as it
//! happens. Every transaction appears, whether it changed anything or not.
//!
//! A reply holds whole transactions, up to a bound. Only a transaction that is larger than
//! [`SPLIT_BYTES`] comes in several replies: the `next` of all but its last is the transaction
//! itself, since not everything below the one after it was sent.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::watched::Watcher;
use anabranch_schemas::store as proto;
use futures::{Stream, stream};

use crate::error::Error;
use crate::metrics::OpenStream;
use crate::read::blocking;
use crate::status::{Applied, Status};
use crate::storage::{FeedPosition, IndexedChange, Storage};

/// A reply ends with the transaction that reaches one of these.
const REPLY_CHANGES: usize = 1_000;
const REPLY_BYTES: usize = 1 << 20;
const REPLY_TRANSACTIONS: usize = 1_000;
/// A transaction larger than this is cut.
const SPLIT_BYTES: usize = 8 << 20;

/// What a feed gives.
pub(crate) type FeedStream = Pin<Box<dyn Stream<Item = Result<proto::FeedReply, Error>> + Send>>;

/// Opens feeds.
#[derive(Clone)]
pub(crate) struct Feeds {
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
    pub(crate) slices: SliceCount,
    pub(crate) shutdown: Shutdown,
}

/// The slices that a feed is of; `None` for all.
type Wanted = Option<Arc<BTreeSet<Slice>>>;

struct Feed {
    storage: Arc<Storage>,
    shutdown: Shutdown,
    applied: Watcher<Applied>,
    wanted: Wanted,
    from: From,
    _open: OpenStream,
}

impl Feeds {
    /// The feed of some slices, of all if none is named, from a transaction on.
    pub(crate) fn open(&self, slices: &[u32], from: TxnId) -> Result<FeedStream, Error> {
        let wanted = self.wanted(slices)?;
        let start = self.storage.feed_start();
        if from < start {
            return Err(Error::FeedTrimmed { wanted: from, start });
        }
        let feed = Feed {
            storage: Arc::clone(&self.storage),
            shutdown: self.shutdown.clone(),
            applied: self.status.watch(),
            wanted,
            from: From { position: FeedPosition { txn: from, chunk: 0 }, slices: Vec::new() },
            _open: OpenStream::new("feed"),
        };
        Ok(Box::pin(stream::try_unfold(feed, |mut feed| async {
            let reply = feed.next().await?;
            Ok(reply.map(|reply| (reply, feed)))
        })))
    }

    fn wanted(&self, slices: &[u32]) -> Result<Wanted, Error> {
        if slices.is_empty() {
            return Ok(None);
        }
        let known = |slice: &u32| {
            let slice = u16::try_from(*slice).ok().filter(|slice| *slice < self.slices.get());
            slice.map(Slice).ok_or_else(|| {
                let what = "a slice that this cluster does not have was asked for";
                Error::InvalidRequest(what.to_owned())
            })
        };
        let wanted = slices.iter().map(known).collect::<Result<BTreeSet<_>, _>>()?;
        Ok(Some(Arc::new(wanted)))
    }
}

impl Feed {
    /// The next reply, as soon as there is anything to say. Ends when the node stops.
    async fn next(&mut self) -> Result<Option<proto::FeedReply>, Error> {
        loop {
            // Marked as seen before it is read: what comes later wakes this feed again.
            let applied = self.applied.see().clone();
            if applied.may_be_told && applied.next > self.from.position.txn {
                let (storage, wanted, from) =
                    (Arc::clone(&self.storage), self.wanted.clone(), self.from.clone());
                let (reply, from) =
                    blocking(move || read(&storage, &wanted, from, applied.next)).await?;
                self.from = from;
                return Ok(Some(reply));
            }
            if let Some(reason) = applied.halted {
                return Err(Error::Halted(reason.to_string()));
            }
            tokio::select! {
                biased;
                () = self.shutdown.begun() => return Err(Error::Shutdown),
                () = self.applied.changed() => {}
            }
        }
    }
}

/// Where a feed goes on.
#[derive(Clone, Debug)]
struct From {
    position: FeedPosition,
    /// Within a transaction that was cut: the slices that it names.
    slices: Vec<u32>,
}

/// One reply: transactions from `from` on, below `until`, and where to go on.
fn read(
    storage: &Storage,
    wanted: &Wanted,
    from: From,
    until: TxnId,
) -> Result<(proto::FeedReply, From), Error> {
    let position = from.position;
    let mut reply = Reply::new(wanted, from);
    storage.changes(position, until, |at, slices, changes| Ok(reply.add(at, &slices, changes)))?;
    Ok(reply.finish(until))
}

/// A reply under construction.
struct Reply<'a> {
    wanted: &'a Wanted,
    transactions: Vec<proto::FeedTransaction>,
    changes: usize,
    /// Of everything that was looked at.
    bytes: usize,
    /// The transaction that is being read: how large it is so far, and the slices it names of
    /// those wanted.
    current: Option<TxnId>,
    current_bytes: usize,
    slices: Vec<u32>,
    /// Where the reply ends, if that is before `until`.
    stopped_at: Option<FeedPosition>,
}

impl<'a> Reply<'a> {
    fn new(wanted: &'a Wanted, from: From) -> Self {
        let mut reply = Reply {
            wanted,
            transactions: Vec::new(),
            changes: 0,
            bytes: 0,
            current: None,
            current_bytes: 0,
            slices: from.slices,
            stopped_at: None,
        };
        if from.position.chunk > 0 {
            reply.begin(from.position.txn);
        }
        reply
    }

    fn is_wanted(&self, slice: Slice) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&slice))
    }

    fn begin(&mut self, txn: TxnId) {
        self.current = Some(txn);
        self.current_bytes = 0;
        if self.wanted.is_none() || !self.slices.is_empty() {
            let slices = self.slices.clone();
            let transaction = proto::FeedTransaction { txn: txn.0, slices, changes: Vec::new() };
            self.transactions.push(transaction);
        }
    }

    fn add(
        &mut self,
        at: FeedPosition,
        slices: &[Slice],
        changes: Vec<IndexedChange>,
    ) -> ControlFlow<()> {
        let is_new = self.current != Some(at.txn);
        let full = if is_new {
            self.changes >= REPLY_CHANGES
                || self.bytes >= REPLY_BYTES
                || self.transactions.len() >= REPLY_TRANSACTIONS
        } else {
            self.current_bytes >= SPLIT_BYTES
        };
        if full {
            self.stopped_at = Some(at);
            return ControlFlow::Break(());
        }
        if is_new {
            let wanted = slices.iter().filter(|slice| self.is_wanted(**slice));
            self.slices = wanted.map(|slice| u32::from(slice.0)).collect();
            self.begin(at.txn);
        }
        for IndexedChange { slice, id, event } in changes {
            let bytes = id.len() + event.len();
            self.bytes += bytes;
            if !self.is_wanted(slice) {
                continue;
            }
            // One that changed a wanted slice names it, so it was begun.
            let Some(transaction) = self.transactions.last_mut() else { continue };
            self.current_bytes += bytes;
            self.changes += 1;
            transaction.changes.push(proto::FeedChange {
                slice: u32::from(slice.0),
                document_id: id,
                event,
            });
        }
        ControlFlow::Continue(())
    }

    fn finish(self, until: TxnId) -> (proto::FeedReply, From) {
        let position = self.stopped_at.unwrap_or(FeedPosition { txn: until, chunk: 0 });
        let slices = if position.chunk > 0 { self.slices } else { Vec::new() };
        let reply = proto::FeedReply { transactions: self.transactions, next: position.txn.0 };
        (reply, From { position, slices })
    }
}
