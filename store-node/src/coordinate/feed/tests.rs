//! The merged feed, of partitions whose replicas break off, fall silent or have copied.

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
        (0..5).map(|txn| (2 * txn, vec![(partition, 100 * u64::from(partition) + txn)])).collect()
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
    let opened = |from, has_part| runtime.block_on(open_from(&trimmed_open, TxnId(from), has_part));
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
