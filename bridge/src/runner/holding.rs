//! What this cluster holds, asked of its store node: of one document, or of a range for a remote
//! that sends a snapshot. Each as of the end of the log as it is when that is asked, so that
//! nothing that was received before is missed.

use std::sync::Arc;

use tokio::runtime::Handle;

use anabranch_core::ids::TxnId;
use anabranch_journal::{Offset, TopicPartition};
use anabranch_runtime::threads;

use super::Context;
use crate::error::Error;
use crate::receive::{Handed, Held, List, Listing, ListingLimits, Preparer};
use crate::store::{Store, go_on};

/// Looks up one document, once all that this link was handed is written.
pub(super) fn held(context: &Context, handed: Arc<Handed>) -> Held {
    let (journal, store) = (context.journal.clone(), context.store.clone());
    let txns = TopicPartition::new(context.cluster.name.txns(), 0);
    let runtime = Handle::current();
    Arc::new(move |id| {
        let written = handed.settle()?;
        let end = journal.bounds(&txns)?.end;
        match last(written, end) {
            Some(least) => threads::block_on(&runtime, store.document(id, least)),
            None => Ok(None),
        }
    })
}

/// Lists what a remote is told, from behind a document id on.
pub(super) fn list(context: &Context, preparer: Preparer, handed: Arc<Handed>) -> List {
    let (journal, store) = (context.journal.clone(), context.store.clone());
    let txns = TopicPartition::new(context.cluster.name.txns(), 0);
    let runtime = Handle::current();
    Arc::new(move |after, may_go_on| {
        let mut listing = Listing::new(&preparer, after, ListingLimits::default());
        let end = journal.bounds(&txns)?.end;
        let has_more = match last(handed.last_txn(), end) {
            Some(least) => {
                let scanning = scan(&store, &preparer, &mut listing, least, may_go_on);
                threads::block_on(&runtime, scanning)?
            }
            None => false,
        };
        Ok(listing.finish(has_more))
    })
}

/// The last transaction of a log that is seen to end at `end`. Right after a commit the end may not
/// have moved yet: what was `written` is in the log nevertheless.
fn last(written: Option<TxnId>, end: Offset) -> Option<TxnId> {
    written.max(end.0.checked_sub(1).map(TxnId))
}

/// Adds documents until the listing is full; whether it is.
async fn scan(
    store: &Store,
    preparer: &Preparer,
    listing: &mut Listing<'_>,
    least: TxnId,
    may_go_on: &dyn Fn() -> bool,
) -> Result<bool, Error> {
    for collection in preparer.queries.collections() {
        let Some(after) = go_on(preparer.app, collection, listing.last()) else { continue };
        let mut scan = store.scan(preparer.app, collection, least, false, after).await?;
        while let Some(reply) = scan.next().await? {
            if !may_go_on() {
                return Err(Error::Closed);
            }
            for item in reply.items {
                listing.add(item)?;
                if listing.is_full() {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_in_the_log_before_its_end_has_moved() {
        let txn = |txn| Some(TxnId(txn));
        assert_eq!(last(None, Offset(0)), None);
        assert_eq!(last(None, Offset(5)), txn(4));
        assert_eq!(last(txn(4), Offset(0)), txn(4));
        assert_eq!(last(txn(7), Offset(5)), txn(7));
        assert_eq!(last(txn(3), Offset(5)), txn(4), "others write too");
    }
}
