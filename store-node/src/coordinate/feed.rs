//! The feeds of all partitions as one: every transaction once, in order, with the changes of all
//! partitions in the order of the partitions.
//!
//! Each partition's feed comes from one of its replicas, and from another one at the same position
//! once that one fails. Replicas give the changes of a transaction in the same order (ST-2), so of
//! one that was cut the changes that came before are passed over. The merged feed keeps the promise
//! of a single one: the same changes in the same order each time. What no replica of a partition has
//! any more is lost to that partition, and what the others have comes all the same.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::grpc;
use anabranch_runtime::retry::Backoff;
use anabranch_schemas::encode;
use anabranch_schemas::records::Lost;
use anabranch_schemas::store as proto;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::Coordinator;
use super::replicas::{Hedge, is_trimmed};
use crate::rpc::Replies;

/// How long to wait before another replica is asked to go on, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_millis(500);
/// Whoever reads the feed is told of a partition of which no replica gives it for this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A replica that gives nothing for this long although another one has more is left.
const SILENCE: Duration = Duration::from_secs(1);
/// About how large a reply becomes.
const REPLY_BYTES: usize = 4 << 20;

/// Opens the feed of a partition from a transaction on.
type Open = Arc<
    dyn Fn(TxnId) -> BoxFuture<'static, Result<Replies<proto::FeedReply>, Status>> + Send + Sync,
>;
/// Up to where any replica of a partition has applied, as far as was heard.
type Farthest = Arc<dyn Fn() -> TxnId + Send + Sync>;

/// The merged feed of all partitions.
pub(super) async fn open(
    coordinator: &Coordinator,
    request: proto::FeedRequest,
) -> Result<Replies<proto::FeedReply>, Status> {
    let membership = coordinator.view.membership();
    let from = TxnId(request.from);
    let mut sources = Vec::new();
    for partition in membership.configuration().partitions() {
        let open = opening(coordinator, partition, &request);
        let view = Arc::clone(&coordinator.view);
        let farthest = Arc::new(move || {
            let candidates = view.candidates(partition).into_iter();
            candidates.map(|candidate| candidate.base).max().unwrap_or_default()
        });
        let (start, stream) = open_from(&open, from, request.has_part).await?;
        let mut source = Source::new(open, farthest, Some(stream), start);
        if start > from {
            tracing::error!(
                %partition, %from, before = %start,
                "no store node has the changes of these transactions in this partition any more: \
                 whoever reads the feed is told that they are lost"
            );
            let mut slices = coordinator.view.slices_of(partition);
            slices.retain(|slice| is_wanted(&request, *slice));
            source.waiting.extend(lost(from..start, &slices));
        }
        sources.push(source);
    }
    let merged = Merged { sources, told: from };
    let shutdown = coordinator.shutdown.clone();
    let replies = stream::try_unfold(merged, |mut merged| async move {
        let reply = merged.next().await?;
        Ok(Some((reply, merged)))
    });
    Ok(replies.take_until(async move { shutdown.begun().await }).boxed())
}

fn is_wanted(request: &proto::FeedRequest, slice: Slice) -> bool {
    request.slices.is_empty() || request.slices.contains(&slice.0.into())
}

/// The feed of a partition, and from where on it has it: later than asked for if none of its replicas
/// goes back so far. Whoever `has_part` of the first transaction is told that instead.
async fn open_from(
    open: &Open,
    from: TxnId,
    has_part: bool,
) -> Result<(TxnId, Replies<proto::FeedReply>), Status> {
    let mut start = from;
    loop {
        let status = match open(start).await {
            Ok(stream) => return Ok((start, stream)),
            Err(status) => status,
        };
        let later = grpc::number_of(&status, grpc::FEED_START_KEY).map(TxnId);
        match later.filter(|later| is_trimmed(&status) && *later > start && !has_part) {
            Some(later) => start = later,
            None => return Err(status),
        }
    }
}

/// That the changes of these transactions are lost to these slices: said with the first of them, before
/// whoever reads has come past it. The last one is given as well, for its mark.
fn lost(txns: Range<TxnId>, slices: &[Slice]) -> Vec<proto::FeedTransaction> {
    if slices.is_empty() {
        return Vec::new();
    }
    let last = TxnId(txns.end.0 - 1);
    let change = |slice: &Slice| {
        let event = encode(&Lost { slice: *slice, from: txns.start, to: last });
        proto::FeedChange { slice: slice.0.into(), document_id: Bytes::new(), event }
    };
    let changes = slices.iter().map(change).collect();
    let slices: Vec<_> = slices.iter().map(|slice| slice.0.into()).collect();
    let first = proto::FeedTransaction { txn: txns.start.0, slices: slices.clone(), changes };
    let rest = proto::FeedTransaction { txn: last.0, slices, changes: Vec::new() };
    [Some(first), Some(rest).filter(|_| last > txns.start)].into_iter().flatten().collect()
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
                .ask(partition, from, Hedge::Never, |replica| {
                    let slices = slices.clone();
                    replica.feed(proto::FeedRequest { slices, from: from.0, has_part: false })
                })
                .await
        }
        .boxed()
    })
}

/// The feed of one partition.
struct Source {
    open: Open,
    farthest: Farthest,
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
    fn new(
        open: Open,
        farthest: Farthest,
        stream: Option<Replies<proto::FeedReply>>,
        from: TxnId,
    ) -> Self {
        let waiting = VecDeque::new();
        Source { open, farthest, stream, waiting, next: from, came: 0, again: 0 }
    }

    /// Waits for the next reply, whichever replica it comes from.
    async fn advance(&mut self) -> Result<(), Status> {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        let began = Instant::now();
        loop {
            let reply = match &mut self.stream {
                Some(stream) => match timeout(SILENCE, stream.next()).await {
                    Ok(reply) => reply.unwrap_or_else(|| Err(broken("it has ended"))),
                    Err(_) if (self.farthest)() > self.next => Err(broken("it is silent")),
                    Err(_) => continue,
                },
                None => match (self.open)(self.next).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.again = self.came;
                        continue;
                    }
                    // What none of them has any more. One that says so within its stream has copied
                    // what it lacked meanwhile.
                    Err(status) if is_trimmed(&status) => return Err(status),
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
                    if began.elapsed() > PATIENCE {
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

    /// Whether something of a transaction waits to be given.
    fn waits_for(&self, txn: TxnId) -> bool {
        self.waiting.front().is_some_and(|first| first.txn == txn.0)
    }
}

fn broken(why: &str) -> Status {
    Status::unavailable(format!("the feed of a replica: {why}"))
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
            let (transactions, next) = self.ready();
            if next > self.told || !transactions.is_empty() {
                self.told = next;
                return Ok(proto::FeedReply { transactions, next: next.0 });
            }
            // Whoever is behind: in the order of partitions, so that of a transaction that is cut
            // no more waits than one reply of each of those that follow.
            let complete = self.complete();
            let behind = self.sources.iter_mut().find(|source| source.next == complete);
            behind.expect("one of them is the last").advance().await?;
        }
    }

    /// Everything below it came from all partitions.
    fn complete(&self) -> TxnId {
        self.sources.iter().map(|source| source.next).min().expect("a cluster has a partition")
    }

    /// What can be given now, up to a bound, and up to where everything is given with it.
    fn ready(&mut self) -> (Vec<proto::FeedTransaction>, TxnId) {
        let complete = self.complete();
        let (mut transactions, mut bytes) = (Vec::new(), 0);
        while let Some(txn) = self.first().filter(|txn| *txn < complete) {
            let (parts, is_whole) = self.parts(txn, &mut bytes, self.sources.len());
            transactions.extend(joined(parts));
            if !is_whole {
                return (transactions, txn);
            }
            if bytes >= REPLY_BYTES {
                return (transactions, self.first().unwrap_or(complete).min(complete));
            }
        }
        // A transaction that is cut may be very large: what came of it is given at once, up to the
        // first partition of which more is to come.
        let behind = self.sources.iter().position(|source| source.next == complete);
        let behind = behind.expect("one of them is the last");
        if self.sources[behind].came > 0 {
            let (parts, _) = self.parts(complete, &mut bytes, behind + 1);
            transactions.extend(joined(parts));
        }
        (transactions, complete)
    }

    /// The first transaction that waits.
    fn first(&self) -> Option<TxnId> {
        let firsts = self.sources.iter().filter_map(|source| source.waiting.front());
        firsts.map(|first| TxnId(first.txn)).min()
    }

    /// What the first `count` partitions have of a transaction, as long as the reply has room, and
    /// whether that is all that they have.
    fn parts(
        &mut self,
        txn: TxnId,
        bytes: &mut usize,
        count: usize,
    ) -> (Vec<proto::FeedTransaction>, bool) {
        let mut parts = Vec::new();
        for source in &mut self.sources[..count] {
            if !source.waits_for(txn) {
                continue;
            }
            if *bytes >= REPLY_BYTES {
                return (parts, false);
            }
            let part = source.waiting.pop_front().expect("it waits");
            *bytes += part
                .changes
                .iter()
                .map(|change| change.document_id.len() + change.event.len())
                .sum::<usize>();
            parts.push(part);
        }
        (parts, true)
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
