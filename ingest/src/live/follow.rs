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
use anabranch_runtime::tasks::{self, blocking};
use anabranch_schemas::records::{ChangesRecord, Operation};
use anabranch_schemas::state;
use anabranch_schemas::store as proto;
use tokio::time::{Instant, interval, sleep};

use super::view::{Changed, ChangedDocument, Told};
use super::{ByCollection, Live, Taken};
use crate::error::{Code, Refusal};
use crate::metrics;

/// How often it is looked whether anybody wants it.
const TICK: Duration = Duration::from_secs(5);
/// How long to wait before the feed is opened again, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_secs(1);
/// A transaction of which more than this comes is not looked at: whoever follows reads again.
pub(super) const MAX_TRANSACTION_BYTES: usize = 16 << 20;
/// More than this is handed out beside other tasks and not among them.
const SMALL_BYTES: usize = 64 << 10;

/// Follows the feed until there is nobody to tell, or the shutdown begins.
pub(super) async fn follow(live: Live) {
    // What follows may break down; who subscribes relies on it.
    while let Err(error) = tasks::spawn(follow_once(live.clone())).await {
        tracing::error!(%error, "what follows changes for live queries broke down, and begins anew");
        sleep(MOST_DELAY).await;
    }
}

async fn follow_once(live: Live) {
    let shutdown = live.0.shutdown.clone();
    let mut follower = Follower { live, next: None, cut: None };
    let following = async {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        loop {
            let began = Instant::now();
            let Err(refusal) = follower.follow().await else { return };
            follower.note_failure(refusal);
            if began.elapsed() > MOST_DELAY {
                backoff.reset();
            }
            sleep(backoff.next_delay()).await;
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

/// A transaction of which more is to come.
#[derive(Debug)]
enum Cut {
    /// What came so far.
    Kept(proto::FeedTransaction),
    /// It is too large to be looked at.
    PassedOver(TxnId),
}

/// What came of the feed.
#[derive(Debug, Default)]
struct Came {
    transactions: Vec<proto::FeedTransaction>,
    /// The last one that was passed over, if any was.
    passed_over: Option<TxnId>,
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
        let mut ticks = interval(TICK);
        // How far it was when it was looked last, and how far it could have been.
        let (mut was_at, mut applied) = (next, next);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    let is_at = self.next.unwrap_or_default();
                    if is_at == was_at && is_at < applied {
                        let message = "the feed of changes has fallen silent";
                        return Err(Refusal::new(Code::StoreUnavailable, message));
                    }
                    applied = store.applied(deadline()).await?;
                    was_at = is_at;
                    metrics::live_lag(applied.0.saturating_sub(is_at.0));
                }
                reply = feed.next() => {
                    self.take(reply?).await?;
                }
            }
            if self.ends().is_break() {
                return Ok(());
            }
        }
    }

    /// Why the feed is not open; it is opened again.
    fn note_failure(&self, refusal: Refusal) {
        tracing::debug!(error = %refusal, "the feed of live queries is opened again");
        self.live.0.taken.change(|taken| {
            if taken.failure.is_none() {
                tracing::warn!(error = %refusal, "live queries are not told of changes");
            }
            taken.failure = Some(refusal);
        });
    }

    /// Begins with what is not below `next`. Views that were read before have missed what is.
    fn begin_at(&mut self, next: TxnId) {
        let is_first = self.live.0.taken.get().next.is_none();
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
        shared.taken.change(|taken| *taken = Taken::default());
        shared.handed_out.store(0, Ordering::Release);
        ControlFlow::Break(())
    }

    /// Takes a reply of the feed.
    async fn take(&mut self, reply: proto::FeedReply) -> Result<(), Refusal> {
        let next = TxnId(reply.next);
        let came = came(&mut self.cut, reply);
        let watched = self.take_up_to(next);
        if let Some(txn) = came.passed_over {
            // Whoever reads it does so as of its end.
            tell_all(&watched, &Told::Missed(txn.next()));
        }
        let bytes = came.transactions.iter().map(size).sum::<usize>();
        let handing_out =
            move || came.transactions.into_iter().for_each(|it| hand_out(&watched, it));
        if bytes <= SMALL_BYTES {
            handing_out();
        } else {
            blocking(handing_out).await.map_err(|_| Refusal::stopping())?;
        }
        self.live.0.handed_out.store(next.0, Ordering::Release);
        self.next = Some(next);
        Ok(())
    }

    /// The views to be told of everything below this; one that is registered later reads as of it.
    fn take_up_to(&self, next: TxnId) -> Arc<ByCollection> {
        let registry = self.live.0.registry.lock();
        self.live.0.taken.change(|taken| *taken = Taken { next: Some(next), failure: None });
        Arc::clone(&registry.watched)
    }
}

/// The transactions that a reply makes whole, with what came of the first before.
fn came(cut: &mut Option<Cut>, reply: proto::FeedReply) -> Came {
    let mut came = Came { transactions: reply.transactions, passed_over: None };
    match cut.take() {
        None => {}
        Some(Cut::PassedOver(txn)) => {
            came.transactions.retain(|transaction| transaction.txn != txn.0);
            came.passed_over = Some(txn);
        }
        Some(Cut::Kept(mut begun)) => {
            let rest = came.transactions.first_mut().filter(|first| first.txn == begun.txn);
            match rest {
                Some(rest) => {
                    begun.changes.append(&mut rest.changes);
                    *rest = begun;
                }
                None => came.transactions.insert(0, begun),
            }
        }
    }
    // Of the last one more is to come.
    let is_cut = |txn: u64| txn == reply.next;
    if let Some(txn) = came.passed_over.filter(|txn| is_cut(txn.0)) {
        came.passed_over = None;
        *cut = Some(Cut::PassedOver(txn));
    } else if came.transactions.last().is_some_and(|last| is_cut(last.txn)) {
        let begun = came.transactions.pop().expect("there is a last one");
        *cut = Some(match size(&begun) > MAX_TRANSACTION_BYTES {
            true => Cut::PassedOver(TxnId(begun.txn)),
            false => Cut::Kept(begun),
        });
    }
    came
}

/// How large the changes of a transaction are.
fn size(transaction: &proto::FeedTransaction) -> usize {
    transaction.changes.iter().map(|change| change.event.len()).sum()
}

fn tell_all(watched: &ByCollection, told: &Told) {
    watched.values().flatten().for_each(|view| view.tell(told.clone()));
}

fn hand_out(watched: &ByCollection, transaction: proto::FeedTransaction) {
    let txn = TxnId(transaction.txn);
    if size(&transaction) > MAX_TRANSACTION_BYTES {
        tell_all(watched, &Told::Missed(txn.next()));
        return;
    }
    let mut by_collection: HashMap<Vec<u8>, (usize, Vec<ChangedDocument>)> = HashMap::new();
    for change in transaction.changes {
        if change.document_id.is_empty() {
            tell_of_loss(watched, txn, &change.event);
            continue;
        }
        let Some(prefix) = DocumentId::collection_prefix_of(&change.document_id) else {
            tracing::error!(%txn, "a change is of no document: live queries are read again");
            tell_all(watched, &Told::Missed(txn.next()));
            continue;
        };
        let Some(views) = watched.get(prefix) else { continue };
        match decode(&change.event) {
            Ok(document) => {
                let (bytes, documents) = match by_collection.get_mut(prefix) {
                    Some(changed) => changed,
                    None => by_collection.entry(prefix.to_vec()).or_default(),
                };
                *bytes += change.event.len();
                documents.push(document);
            }
            Err(reason) => {
                tracing::error!(%txn, %reason, "a change cannot be read: live queries are read again");
                views.iter().for_each(|view| view.tell(Told::Missed(txn.next())));
            }
        }
    }
    for (prefix, (bytes, documents)) in by_collection {
        let changed = Told::Changed(Arc::new(Changed { txn, documents, bytes }));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A reply: transactions with the sizes of their changes, and what is to come next.
    type Reply<'a> = (&'a [(u64, &'a [usize])], u64);

    fn transaction(txn: u64, bytes: &[usize]) -> proto::FeedTransaction {
        let change = |bytes: &usize| proto::FeedChange {
            slice: 0,
            document_id: Bytes::new(),
            event: vec![0; *bytes].into(),
        };
        proto::FeedTransaction { txn, slices: vec![], changes: bytes.iter().map(change).collect() }
    }

    /// Each transaction that came whole, with the number of its changes; and the one passed over.
    fn all(replies: &[Reply<'_>]) -> (Vec<(u64, usize)>, Vec<TxnId>) {
        let (mut cut, mut whole, mut passed) = (None, Vec::new(), Vec::new());
        for (transactions, next) in replies {
            let transactions = transactions.iter().map(|(txn, bytes)| transaction(*txn, bytes));
            let reply = proto::FeedReply { transactions: transactions.collect(), next: *next };
            let came = came(&mut cut, reply);
            whole.extend(came.transactions.iter().map(|it| (it.txn, it.changes.len())));
            passed.extend(came.passed_over);
        }
        (whole, passed)
    }

    #[test]
    fn a_transaction_that_is_cut_is_handed_out_when_it_is_whole() {
        let replies: &[Reply<'_>] = &[
            (&[(1, &[1]), (2, &[1, 1])], 2),
            (&[(2, &[1])], 2),
            (&[(2, &[1]), (3, &[1]), (4, &[1])], 4),
            (&[], 5),
            (&[(7, &[1])], 9),
        ];
        let whole = vec![(1, 1), (2, 4), (3, 1), (4, 1), (7, 1)];
        assert_eq!(all(replies), (whole, vec![]));
    }

    #[test]
    fn nothing_of_one_that_is_too_large_is_handed_out() {
        let large = MAX_TRANSACTION_BYTES / 2 + 1;
        let replies: &[Reply<'_>] = &[
            (&[(1, &[1]), (2, &[large])], 2),
            (&[(2, &[large])], 2),
            (&[(2, &[1])], 2),
            (&[(2, &[1]), (3, &[1])], 4),
        ];
        assert_eq!(all(replies), (vec![(1, 1), (3, 1)], vec![TxnId(2)]));
    }
}
