//! The feeds of all partitions as one: every transaction once, in order, with the changes of all
//! partitions in the order of the partitions.
//!
//! Each partition's feed comes from one of its replicas, and from another one at the same position
//! once that one fails. Replicas give the changes of a transaction in the same order (ST-2), so of
//! one that was cut the changes that came before are passed over. The merged feed keeps the promise
//! of a single one: the same changes in the same order each time. What no replica of a partition has
//! any more is lost to that partition, and what the others have comes all the same.

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// A change: the slice, and a number that tells it from all others.
    type Changed = (u32, u64);
    /// What a partition has of each transaction.
    type Log = BTreeMap<u64, Vec<Changed>>;

    fn transaction(txn: u64, changes: &[Changed]) -> proto::FeedTransaction {
        let mut slices: Vec<_> = changes.iter().map(|(slice, _)| *slice).collect();
        slices.dedup();
        let change = |(slice, number): &Changed| proto::FeedChange {
            slice: *slice,
            document_id: number.to_be_bytes().to_vec().into(),
            event: vec![0; 8].into(),
        };
        proto::FeedTransaction { txn, slices, changes: changes.iter().map(change).collect() }
    }

    /// The replies of a replica from a transaction on: `cut` changes at most in one of them.
    fn replies(log: &Log, from: TxnId, end: u64, cut: usize) -> Vec<proto::FeedReply> {
        let mut replies = Vec::new();
        for (txn, changes) in log.range(from.0..) {
            let mut pieces = changes.chunks(cut).peekable();
            if pieces.peek().is_none() {
                let transactions = vec![transaction(*txn, &[])];
                replies.push(proto::FeedReply { transactions, next: txn + 1 });
            }
            while let Some(piece) = pieces.next() {
                let next = if pieces.peek().is_some() { *txn } else { txn + 1 };
                let transactions = vec![transaction(*txn, piece)];
                replies.push(proto::FeedReply { transactions, next });
            }
        }
        replies.push(proto::FeedReply { transactions: vec![], next: end });
        replies
    }

    /// The feed of a partition whose replicas cut differently, and of which each breaks off after
    /// as many replies as `breaks` says, in turn; the last one stays.
    fn source(log: Log, end: u64, cuts: Vec<usize>, breaks: Vec<usize>) -> Source {
        let opened = Arc::new(AtomicU32::new(0));
        let open: Open = Arc::new(move |from| {
            let turn = usize::try_from(opened.fetch_add(1, Ordering::Relaxed)).unwrap();
            let replies = replies(&log, from, end, cuts[turn % cuts.len()]);
            let most = breaks.get(turn).copied().unwrap_or(usize::MAX);
            let some = stream::iter(replies.into_iter().take(most).map(Ok));
            let stays = breaks.get(turn).is_none();
            async move {
                let replies: Replies<_> =
                    if stays { some.chain(stream::pending()).boxed() } else { some.boxed() };
                Ok(replies)
            }
            .boxed()
        });
        Source::new(open, Arc::new(|| TxnId(0)), None, TxnId(0))
    }

    fn partitions() -> impl Strategy<Value = Vec<Log>> {
        let one = prop::collection::vec(prop::collection::vec(0_u32..3, 0..6), 1..6);
        prop::collection::vec(one, 1..4).prop_map(|partitions| {
            let transactions = partitions.iter().map(Vec::len).max().unwrap();
            let mut number = 0;
            let mut log = |(partition, changes): (usize, Vec<Vec<u32>>)| -> Log {
                let changes = (0..transactions).map(|txn| {
                    let slices = changes.get(txn).cloned().unwrap_or_default();
                    let changed = slices.into_iter().map(|slice| {
                        number += 1;
                        (10 * u32::try_from(partition).unwrap() + slice, number)
                    });
                    (txn as u64 * 2, changed.collect())
                });
                changes.collect()
            };
            partitions.into_iter().enumerate().map(&mut log).collect()
        })
    }

    proptest! {
        /// CDC-1 rests on it: the same changes in the same order, however they are cut and
        /// whichever replicas break off; and a position is never ahead of what was given.
        #[test]
        fn it_is_the_feeds_of_all_partitions_one_after_the_other(
            logs in partitions(),
            cuts in prop::collection::vec(1_usize..4, 1..4),
            breaks in prop::collection::vec(0_usize..5, 0..4),
        ) {
            let end = logs[0].keys().last().unwrap() + 2;
            let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (txn, changes) in logs.iter().flatten() {
                expected.entry(*txn).or_default().extend(changes.iter().map(|(_, number)| number));
            }
            let sources = logs.into_iter().map(|log| source(log, end, cuts.clone(), breaks.clone()));
            let mut merged = Merged { sources: sources.collect(), told: TxnId(0) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let mut next = 0;
            while next < end {
                let reply = runtime.as_ref().unwrap().block_on(merged.next()).unwrap();
                for transaction in &reply.transactions {
                    prop_assert!(transaction.txn >= next, "nothing comes after its position");
                    prop_assert!(found.keys().all(|txn| *txn <= transaction.txn), "in order");
                    let numbers = transaction.changes.iter().map(|change| {
                        u64::from_be_bytes(change.document_id.as_ref().try_into().unwrap())
                    });
                    found.entry(transaction.txn).or_default().extend(numbers);
                }
                prop_assert!(reply.next >= next);
                next = reply.next;
                for (txn, changes) in expected.range(..next) {
                    prop_assert_eq!(&found[txn], changes, "all of {} was given", txn);
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    /// CDC-1: what one partition has lost takes nothing from the others, and is told before anything
    /// comes past it.
    #[test]
    fn what_a_partition_no_longer_has_is_lost_to_its_slices_only() {
        let log = |partition: u32| -> Log {
            (0..5)
                .map(|txn| (2 * txn, vec![(partition, 100 * u64::from(partition) + txn)]))
                .collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let whole = source(log(0), 10, vec![1], vec![]);
        let trimmed = source(log(1), 10, vec![1], vec![]);
        let open = Arc::clone(&trimmed.open);
        let trimmed_open: Open = Arc::new(move |from| match from.0 {
            // It is trimmed once more meanwhile.
            ..1 => trimmed_to(from, 4),
            1..6 => trimmed_to(from, 6),
            _ => open(from),
        });
        let opened =
            |from, has_part| runtime.block_on(open_from(&trimmed_open, TxnId(from), has_part));
        assert!(opened(0, true).is_err_and(|status| is_trimmed(&status)), "parts have to fit");
        assert_eq!(opened(8, true).map(|(start, _)| start).ok(), Some(TxnId(8)));
        let (start, stream) = opened(0, false).unwrap();
        assert_eq!(start, TxnId(6));
        let mut source = Source { stream: Some(stream), next: start, ..trimmed };
        source.waiting.extend(lost(TxnId(0)..start, &[Slice(1)]));
        let mut merged = Merged { sources: vec![whole, source], told: TxnId(0) };
        let (mut found, mut touched) = (Vec::new(), Vec::new());
        while merged.told < TxnId(10) {
            for transaction in runtime.block_on(merged.next()).unwrap().transactions {
                touched.extend(transaction.slices.contains(&1).then_some(transaction.txn));
                found.extend(transaction.changes.into_iter().map(|change| {
                    let lost = anabranch_schemas::decode::<Lost>(&change.event).ok();
                    (transaction.txn, change.slice, lost.map(|lost| (lost.from.0, lost.to.0)))
                }));
            }
        }
        let lost = Some((0, 5));
        let expected = [
            (0, 0, None),
            (0, 1, lost),
            (2, 0, None),
            (4, 0, None),
            (6, 0, None),
            (6, 1, None),
            (8, 0, None),
            (8, 1, None),
        ];
        assert_eq!(found, expected);
        assert_eq!(touched, [0, 5, 6, 8], "the last one that is lost gets a mark");
        assert_eq!(super::lost(TxnId(3)..TxnId(4), &[Slice(1)]).len(), 1, "it is one transaction");
    }

    fn trimmed_to(
        wanted: TxnId,
        start: u64,
    ) -> BoxFuture<'static, Result<Replies<proto::FeedReply>, Status>> {
        let start = TxnId(start);
        async move { Err(crate::rpc::refuse(&crate::error::Error::FeedTrimmed { wanted, start })) }
            .boxed()
    }

    #[test]
    fn a_silent_replica_is_left_once_another_has_more() {
        let log: Log = [(0, vec![(0, 1)])].into();
        let mut source = source(log, 2, vec![1], vec![]);
        source.farthest = Arc::new(|| TxnId(2));
        source.stream = Some(stream::pending().boxed());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(source.advance()).unwrap();
        assert_eq!(source.next, TxnId(1));
    }
}
