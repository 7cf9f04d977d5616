//! Sends a receiver what it lacks, document by document, when the log does not tell it: at the
//! beginning, and when it was away for longer than the log is kept.
//!
//! What has left what it asked for is not among what matches now, so the receiver is asked to say
//! what it holds (BR-1). It lists that in ranges of document ids, of which it is sent one after the
//! other: what it lacks there, and what has left. Its position is the document id up to which this
//! was done, and it reaches the tail only once all was. So there is nothing besides the position
//! that a restart of either side must find again: the receiver lists on from there.

use std::sync::Arc;

use bytes::Bytes;

use anabranch_core::ids::{Collection, TxnId};

use super::batch::BatchLimits;
use super::chunks::Chunks;
use super::listed::Listed;
use super::position::At;
use super::serve::{Sender, Subscription};
use crate::error::Error;
use crate::store::{ScanError, go_on};

impl Sender {
    /// Chooses the timestamp of a snapshot, and tells the receiver that it begins.
    pub(super) async fn begin(&self, subscription: &mut Subscription<'_>) -> Result<(), Error> {
        let next = self.store.applied().await?.next;
        self.meters.snapshots.increment(1);
        (self.is_at)(next, next > TxnId(0));
        tracing::info!(app = %self.app, txn = next.0, "a receiver is sent a snapshot");
        if next == TxnId(0) {
            subscription.at = Some(At::Tail(next));
            return Ok(());
        }
        subscription.listed = None;
        self.send(subscription, Vec::new(), At::Snapshot { next, after: Bytes::new() }).await
    }

    /// Sends what remains of one range of a snapshot. If the store no longer reads as of its
    /// timestamp, the rest is sent as it is now: the tail, which begins at that timestamp, makes up
    /// the difference.
    pub(super) async fn snapshot(
        &self,
        subscription: &mut Subscription<'_>,
        next: TxnId,
        after: Bytes,
    ) -> Result<(), Error> {
        let listed = subscription.listed(&after).await?;
        let hlc = self.store.applied().await?.hlc;
        let txn = TxnId(next.0.saturating_sub(1));
        let selector = subscription.selector.clone();
        let limits = BatchLimits::default();
        let mut chunks = Chunks::new(self.actor, txn, hlc, after, listed.clone(), limits);
        let mut exactly = true;
        for collection in selector.queries().collections() {
            loop {
                let range = Range { collection, next, txn, listed: &listed, exactly };
                match self.scan(subscription, &mut chunks, &range).await {
                    Ok(()) => break,
                    Err(ScanError::TooOld) if exactly => exactly = false,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let (rounds, _) = chunks.take();
        self.send(subscription, rounds, listed.end(next)).await
    }

    /// Sends what remains of one collection, up to the end of the range.
    async fn scan(
        &self,
        subscription: &mut Subscription<'_>,
        chunks: &mut Chunks,
        range: &Range<'_>,
    ) -> Result<(), ScanError> {
        let Range { collection, next, txn, listed, exactly } = *range;
        let Some(after) = go_on(self.app, collection, chunks.after()) else { return Ok(()) };
        let mut scan = self.store.scan(self.app, collection, txn, exactly, after).await?;
        let selector = subscription.selector.clone();
        while let Some(reply) = scan.next().await? {
            for item in reply.items {
                if !listed.includes(&item.document_id) {
                    return Ok(());
                }
                chunks.add(&selector, item).map_err(ScanError::Failed)?;
                if chunks.is_full() {
                    let (rounds, after) = chunks.take();
                    let at = At::Snapshot { next, after };
                    self.send(subscription, rounds, at).await.map_err(ScanError::Failed)?;
                }
            }
        }
        Ok(())
    }
}

/// What of a snapshot is scanned, and how.
struct Range<'a> {
    collection: &'a Collection,
    next: TxnId,
    /// Its timestamp, the last transaction below `next`.
    txn: TxnId,
    listed: &'a Listed,
    exactly: bool,
}

impl Subscription<'_> {
    /// What the receiver says it holds from `after` on.
    async fn listed(&mut self, after: &Bytes) -> Result<Arc<Listed>, Error> {
        loop {
            // What was listed for a position that did not hold is passed over.
            if let Some(listed) = self.listed.as_ref().filter(|listed| listed.goes_on_from(after)) {
                return Ok(listed.clone());
            }
            let holdings = self.holdings.recv().await.ok_or(Error::Closed)?;
            self.listed = Some(Arc::new(Listed::from_wire(holdings)?));
        }
    }
}
