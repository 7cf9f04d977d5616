//! The feeds of all partitions as one: every transaction once, in order, with the changes of all
//! partitions in the order of the partitions.
//!
//! Each partition's feed comes from one of its replicas, and from another one at the same position
//! once that one fails. Replicas give the changes of a transaction in the same order (ST-2), so of
//! one that was cut the changes that came before are passed over. The merged feed keeps the promise
//! of a single one: the same changes in the same order each time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::grpc;
use anabranch_runtime::retry::Backoff;
use anabranch_schemas::store as proto;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::Coordinator;
use crate::rpc::Replies;

/// How long to wait before another replica is asked to go on, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_millis(500);
/// Whoever reads the feed is told of a partition of which no replica gives it for this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the feed of a partition from a transaction on.
type Open = Arc<
    dyn Fn(TxnId) -> BoxFuture<'static, Result<Replies<proto::FeedReply>, Status>> + Send + Sync,
>;

/// The merged feed of all partitions.
pub(super) async fn open(
    coordinator: &Coordinator,
    request: proto::FeedRequest,
) -> Result<Replies<proto::FeedReply>, Status> {
    let membership = coordinator.view.membership();
    let partitions = membership.configuration().partitions();
    let opens: Vec<_> =
        partitions.map(|partition| opening(coordinator, partition, &request)).collect();
    let from = TxnId(request.from);
    let mut sources = Vec::new();
    for open in opens {
        // What none of them has any more is told at once.
        let stream = open(from).await?;
        sources.push(Source::new(open, stream, from));
    }
    let merged = Merged { sources, told: from };
    let shutdown = coordinator.shutdown.clone();
    let replies = stream::try_unfold(merged, |mut merged| async move {
        let reply = merged.next().await?;
        Ok(Some((reply, merged)))
    });
    Ok(replies.take_until(async move { shutdown.begun().await }).boxed())
}

fn opening(
    coordinator: &Coordinator,
    partition: PartitionId,
    request: &proto::FeedRequest,
) -> Open {
    let (coordinator, slices) = (coordinator.clone(), request.slices.clone());
    Arc::new(move |from| {
        let (coordinator, slices) = (coordinator.clone(), slices.clone());
        async move {
            coordinator
                .ask(partition, from, |replica| {
                    replica.feed(proto::FeedRequest { slices: slices.clone(), from: from.0 })
                })
                .await
        }
        .boxed()
    })
}

/// The feed of one partition.
struct Source {
    open: Open,
    stream: Option<Replies<proto::FeedReply>>,
    /// Transactions that came and were not yet given; of one that is cut, what came of it so far.
    waiting: VecDeque<proto::FeedTransaction>,
    /// Everything below came.
    next: TxnId,
    /// How many changes came of `next`, which is cut.
    came: usize,
    /// How many of those that come now came before, from another replica.
    again: usize,
}

impl Source {
    fn new(open: Open, stream: Replies<proto::FeedReply>, from: TxnId) -> Self {
        let waiting = VecDeque::new();
        Source { open, stream: Some(stream), waiting, next: from, came: 0, again: 0 }
    }

    /// Waits for the next reply, whichever replica it comes from.
    async fn advance(&mut self) -> Result<(), Status> {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        let began = Instant::now();
        loop {
            let reply = match &mut self.stream {
                Some(stream) => stream
                    .next()
                    .await
                    .unwrap_or_else(|| Err(Status::unavailable("the feed of a replica has ended"))),
                None => match (self.open)(self.next).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.again = self.came;
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match reply {
                Ok(reply) => {
                    self.take(reply);
                    return Ok(());
                }
                Err(status) => {
                    self.stream = None;
                    let is_gone = grpc::code_of(&status) == Some("feed_trimmed");
                    if is_gone || began.elapsed() > PATIENCE {
                        return Err(status);
                    }
                    tracing::debug!(%status, "the feed of a partition broke off; another goes on");
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn take(&mut self, reply: proto::FeedReply) {
        for mut transaction in reply.transactions {
            if transaction.txn == self.next.0 && self.again > 0 {
                let before = self.again.min(transaction.changes.len());
                transaction.changes.drain(..before);
                self.again -= before;
            }
            self.came = match reply.next == transaction.txn {
                true => self.came + transaction.changes.len(),
                false => 0,
            };
            match self.waiting.back_mut() {
                Some(last) if last.txn == transaction.txn => {
                    last.changes.append(&mut transaction.changes);
                }
                _ => self.waiting.push_back(transaction),
            }
        }
        if reply.next > self.next.0 {
            self.again = 0;
        }
        self.next = TxnId(reply.next);
    }

    /// What waits of a transaction.
    fn give(&mut self, txn: TxnId) -> Option<proto::FeedTransaction> {
        self.waiting.pop_front_if(|first| first.txn == txn.0)
    }
}

struct Merged {
    /// In the order of the partitions.
    sources: Vec<Source>,
    /// Everything below was given.
    told: TxnId,
}

impl Merged {
    /// The next reply, as soon as there is anything to say.
    async fn next(&mut self) -> Result<proto::FeedReply, Status> {
        loop {
            let complete = self.complete();
            let transactions = self.ready(complete);
            if complete > self.told || !transactions.is_empty() {
                self.told = complete;
                return Ok(proto::FeedReply { transactions, next: complete.0 });
            }
            // Whoever is behind: in the order of partitions, so that of a transaction that is cut
            // no more waits than one reply of each of those that follow.
            let behind = self.sources.iter_mut().find(|source| source.next == complete);
            behind.expect("one of them is the last").advance().await?;
        }
    }

    /// Everything below it came from all partitions.
    fn complete(&self) -> TxnId {
        self.sources.iter().map(|source| source.next).min().expect("a cluster has a partition")
    }

    /// The transactions below `complete`, and what can be given of that one itself.
    fn ready(&mut self, complete: TxnId) -> Vec<proto::FeedTransaction> {
        let mut transactions: Vec<proto::FeedTransaction> = Vec::new();
        let first = |sources: &[Source]| {
            let firsts = sources.iter().filter_map(|source| source.waiting.front());
            firsts.map(|first| TxnId(first.txn)).min()
        };
        while let Some(txn) = first(&self.sources).filter(|txn| *txn < complete) {
            let parts: Vec<_> =
                self.sources.iter_mut().filter_map(|source| source.give(txn)).collect();
            transactions.extend(joined(parts));
        }
        // A transaction that is cut may be very large: what came of it is given at once, up to the
        // first partition of which more is to come.
        let behind = self.sources.iter().position(|source| source.next == complete);
        let behind = behind.expect("one of them is the last");
        if self.sources[behind].came > 0 {
            let parts =
                self.sources[..=behind].iter_mut().filter_map(|source| source.give(complete));
            transactions.extend(joined(parts.collect()));
        }
        transactions
    }
}

/// The parts of a transaction as one.
fn joined(parts: Vec<proto::FeedTransaction>) -> Option<proto::FeedTransaction> {
    parts.into_iter().reduce(|mut all, mut part| {
        all.changes.append(&mut part.changes);
        all.slices.append(&mut part.slices);
        all.slices.sort_unstable();
        all.slices.dedup();
        all
    })
}
