//! Follows the feed of the store nodes, and hands out what changed to the views of its collection.
//!
//! There is one, as long as there are views. Of what no view watches nothing is decoded. What the feed
//! no longer has, or says is lost, every view reads for itself.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_runtime::retry::Backoff;
use anabranch_schemas::records::{ChangesRecord, Operation};
use anabranch_schemas::state;
use anabranch_schemas::store as proto;
use tokio::time::{Instant, sleep};

use super::view::{Changed, ChangedDocument, Told};
use super::{ByCollection, Live};
use crate::error::{Code, Refusal};

/// How often it is looked whether anybody wants it.
const TICK: Duration = Duration::from_secs(5);
/// How long to wait before the feed is opened again, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_secs(1);
/// A transaction that comes in several parts waits until it is whole, if it is not larger than this.
const MAX_CUT_BYTES: usize = 256 << 20;

/// Follows the feed until there is nobody to tell, or the shutdown begins.
pub(super) async fn follow(live: Live) {
    let shutdown = live.0.shutdown.clone();
    let mut follower = Follower { live, next: None, cut: None };
    let following = async {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        loop {
            let began = Instant::now();
            match follower.follow().await {
                Ok(()) => return,
                Err(refusal) => {
                    tracing::debug!(error = %refusal, "the feed of live queries is opened again");
                    if began.elapsed() > MOST_DELAY {
                        backoff.reset();
                    }
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.begun() => {}
        () = following => {}
    }
}

struct Follower {
    live: Live,
    /// Everything below came; `None` if it begins with what comes next.
    next: Option<TxnId>,
    /// What came of a transaction of which more is to come.
    cut: Option<Cut>,
}

struct Cut {
    transaction: proto::FeedTransaction,
    bytes: usize,
}

impl Follower {
    /// Until there is nobody to tell, or the feed breaks off.
    async fn follow(&mut self) -> Result<(), Refusal> {
        let store = self.live.0.store.clone();
        let timeout = self.live.0.read_timeout;
        let deadline = || Instant::now() + timeout;
        // What came of a transaction that was cut comes again.
        self.cut = None;
        let next = match self.next {
            Some(next) => next,
            None => {
                let next = store.applied(deadline()).await?;
                self.begin_at(next);
                next
            }
        };
        let mut feed = match store.feed(next, deadline()).await {
            Err(refusal) if refusal.code() == Code::SnapshotGone => {
                tracing::warn!(%next, "live queries are read again: the changes since are gone");
                self.next = None;
                return Err(refusal);
            }
            feed => feed?,
        };
        loop {
            tokio::select! {
                biased;
                reply = feed.next() => self.take(reply?),
                () = sleep(TICK) => {}
            }
            if self.ends().is_break() {
                return Ok(());
            }
        }
    }

    /// Begins with what is not below `next`. Views that were read before have missed what is.
    fn begin_at(&mut self, next: TxnId) {
        let is_first = self.live.0.taken.get().is_none();
        let watched = self.take_up_to(next);
        if !is_first {
            tell_all(&watched, &Told::Missed(next));
        }
        self.live.0.handed_out.store(next.0, Ordering::Release);
        self.next = Some(next);
    }

    /// Ends if there are no views.
    fn ends(&self) -> ControlFlow<()> {
        let shared = &self.live.0;
        let mut registry = shared.registry.lock();
        if !registry.views.is_empty() {
            return ControlFlow::Continue(());
        }
        // The next one begins anew.
        registry.is_followed = false;
        shared.taken.change(|taken| *taken = None);
        ControlFlow::Break(())
    }

    /// Takes a reply of the feed.
    fn take(&mut self, reply: proto::FeedReply) {
        let next = TxnId(reply.next);
        let mut transactions = reply.transactions;
        if let Some(cut) = self.cut.take() {
            match transactions.first_mut().filter(|first| first.txn == cut.transaction.txn) {
                Some(first) => {
                    let rest = std::mem::replace(first, cut.transaction);
                    first.changes.extend(rest.changes);
                }
                None => transactions.insert(0, cut.transaction),
            }
        }
        if transactions.last().is_some_and(|last| last.txn == next.0) {
            let transaction = transactions.pop().expect("there is a last one");
            let bytes = transaction.changes.iter().map(|change| change.event.len()).sum();
            self.cut = Some(Cut { transaction, bytes });
        }
        let watched = self.take_up_to(next);
        for transaction in transactions {
            hand_out(&watched, transaction);
        }
        if self.cut.as_ref().is_some_and(|cut| cut.bytes > MAX_CUT_BYTES) {
            // Whoever reads it does so as of its end.
            self.cut = None;
            tell_all(&watched, &Told::Missed(next.next()));
        }
        self.live.0.handed_out.store(next.0, Ordering::Release);
        self.next = Some(next);
    }

    /// The views to be told of everything below this; one that is registered later reads as of it.
    fn take_up_to(&self, next: TxnId) -> Arc<ByCollection> {
        let registry = self.live.0.registry.lock();
        self.live.0.taken.change(|taken| *taken = Some(next));
        Arc::clone(&registry.watched)
    }
}

fn tell_all(watched: &ByCollection, told: &Told) {
    watched.values().flatten().for_each(|view| view.tell(told.clone()));
}

fn hand_out(watched: &ByCollection, transaction: proto::FeedTransaction) {
    let txn = TxnId(transaction.txn);
    let mut by_collection: HashMap<Vec<u8>, Vec<ChangedDocument>> = HashMap::new();
    for change in transaction.changes {
        if change.document_id.is_empty() {
            tell_of_loss(watched, txn, &change.event);
            continue;
        }
        let Some(prefix) = DocumentId::collection_prefix_of(&change.document_id) else { continue };
        let Some(views) = watched.get(prefix) else { continue };
        match decode(&change.event) {
            Ok(document) => match by_collection.get_mut(prefix) {
                Some(documents) => documents.push(document),
                None => drop(by_collection.insert(prefix.to_vec(), vec![document])),
            },
            Err(reason) => {
                tracing::error!(%txn, %reason, "a change cannot be read: live queries are read again");
                views.iter().for_each(|view| view.tell(Told::Missed(txn.next())));
            }
        }
    }
    for (prefix, documents) in by_collection {
        let changed = Told::Changed(Arc::new(Changed { txn, documents }));
        watched[&prefix].iter().for_each(|view| view.tell(changed.clone()));
    }
}

/// What some transactions changed is lost: it is in what is read, all the same.
fn tell_of_loss(watched: &ByCollection, txn: TxnId, event: &[u8]) {
    let next = match ChangesRecord::decode(event) {
        Ok(ChangesRecord::Lost(lost)) => lost.to.next(),
        _ => txn.next(),
    };
    tell_all(watched, &Told::Missed(next));
}

fn decode(event: &[u8]) -> Result<ChangedDocument, String> {
    let ChangesRecord::Change(change) =
        ChangesRecord::decode(event).map_err(|error| error.to_string())?
    else {
        return Err("it is no change of a document".to_owned());
    };
    let after = match change.operation {
        Operation::Evict => None,
        Operation::Insert | Operation::Update | Operation::Delete => {
            state::decode(&change.state).map_err(|error| error.to_string())?.value()
        }
    };
    let after = after.map(|fields| change.key.add_to(fields));
    Ok(ChangedDocument { change, after })
}
