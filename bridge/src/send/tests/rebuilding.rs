//! Rounds come out whole, in order and once, however the partitions interleave.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::link;
use anabranch_schemas::records::{Commit, PartLocation};

use crate::error::Error;
use crate::queries::Queries;
use crate::send::batch::BatchLimits;
use crate::send::rounds::{Outgoing, Rounds, Source};
use crate::send::select::{Selected, Selector};

const SLICES: u16 = 4;
const APP: AppId = AppId(Uuid::from_u128(1));
const HERE: ActorId = ActorId(Uuid::from_u128(10));
const RECEIVER: ActorId = ActorId(Uuid::from_u128(20));

fn source() -> Source {
    Source {
        app: APP,
        slices: SliceCount::try_from(SLICES).unwrap(),
        actor: HERE,
        selector: Arc::new(Selector::new(APP, Queries::default(), RECEIVER)),
        replays_until: TxnId(0),
    }
}

fn commit(app: AppId, origin: Option<(ActorId, TxnId)>, slices: &[u16]) -> Commit {
    let part = |slice: &u16| PartLocation { slice: Slice(*slice), offset: 0, checksum: 0 };
    Commit {
        round: RoundId(Uuid::nil()),
        app,
        origin: origin.map_or(HERE, |(actor, _)| actor),
        origin_txn: origin.map(|(_, txn)| txn),
        hlc: Hlc(7),
        digest: Vec::new(),
        atomic: false,
        mutations: 1,
        parts: slices.iter().map(part).collect(),
    }
}

fn selected(txn: u64, number: u8, bytes: usize) -> Selected {
    let document_id = Bytes::copy_from_slice(&[number]);
    let change = link::Change { document_id, state: vec![number; bytes].into(), left: false };
    Selected { txn: TxnId(txn), change }
}

/// A transaction of a generated log: its app, and for each slice it touches its changes.
#[derive(Clone, Debug)]
struct Planned {
    ours: bool,
    /// Slice, and whether the receiver is sent what is in it.
    touched: Vec<(u16, bool)>,
}

fn planned() -> impl Strategy<Value = Vec<Planned>> {
    let touched = prop::collection::btree_map(0..SLICES, any::<bool>(), 1..4);
    let planned = (prop::bool::weighted(0.8), touched)
        .prop_map(|(ours, touched)| Planned { ours, touched: touched.into_iter().collect() });
    prop::collection::vec(planned, 0..25)
}

proptest! {
    #[test]
    fn every_round_comes_out_once_in_order_and_whole(
        log in planned(),
        from in 0_u64..30,
        turns in prop::collection::vec((0..=SLICES, any::<bool>()), 0..400),
        captured in prop::collection::vec(1_usize..4, 30),
        max_documents in 1_usize..5,
    ) {
        // Transaction ids are even, so that there are holes. What is written at once is marked
        // at once.
        let txn = |index: usize| 2 * index as u64;
        let mut partitions: Vec<Vec<(u64, bool)>> = vec![Vec::new(); usize::from(SLICES)];
        let (mut index, mut batches) = (0, captured.into_iter().cycle());
        while index < log.len() {
            let until = (index + batches.next().unwrap()).min(log.len());
            for (index, planned) in log.iter().enumerate().take(until).skip(index) {
                for (slice, sent) in &planned.touched {
                    if *sent && planned.ours {
                        partitions[usize::from(*slice)].push((txn(index), true));
                    }
                }
            }
            for slice in log[index..until].iter().flat_map(|planned| &planned.touched) {
                let mark = (txn(until - 1), false);
                let partition = &mut partitions[usize::from(slice.0)];
                if partition.last() != Some(&mark) {
                    partition.push(mark);
                }
            }
            index = until;
        }
        let limits = BatchLimits { max_bytes: 1 << 20, max_documents, max_round_bytes: 1 << 20 };
        let mut rounds = Rounds::new(source(), TxnId(from), limits);
        let mut read = vec![0; usize::from(SLICES) + 1];
        let mut out: Vec<Outgoing> = Vec::new();
        // At random first, then all that is left.
        let rest = (0..=SLICES).flat_map(|partition| vec![(partition, true); 100]);
        for (partition, take) in turns.into_iter().chain(rest) {
            let at = read[usize::from(partition)];
            if partition == SLICES {
                if let Some(planned) = log.get(at) {
                    let app = if planned.ours { APP } else { AppId(Uuid::nil()) };
                    let slices: Vec<u16> = planned.touched.iter().map(|(slice, _)| *slice).collect();
                    rounds.commit(TxnId(txn(at)), &commit(app, None, &slices)).unwrap();
                }
            } else if let Some((txn, is_change)) = partitions[usize::from(partition)].get(at) {
                let slice = Slice(partition);
                if *is_change {
                    rounds.change(slice, selected(*txn, u8::try_from(partition).unwrap(), 1)).unwrap();
                } else {
                    rounds.mark(slice, TxnId(*txn)).unwrap();
                }
            }
            read[usize::from(partition)] += 1;
            if take {
                out.extend(rounds.take());
            }
        }
        while let Some(batch) = rounds.take() {
            out.push(batch);
        }
        let expected: Vec<(u64, Vec<u8>)> = log
            .iter()
            .enumerate()
            .filter(|(index, planned)| planned.ours && txn(*index) >= from)
            .map(|(index, planned)| {
                let sent = planned.touched.iter().filter(|(_, sent)| *sent);
                (txn(index), sent.map(|(slice, _)| u8::try_from(*slice).unwrap()).collect())
            })
            .filter(|(_, sent): &(u64, Vec<u8>)| !sent.is_empty())
            .collect();
        let mut next = from;
        let mut found = Vec::new();
        for batch in out {
            prop_assert!(batch.next.0 >= next, "a position went back");
            for round in batch.rounds {
                prop_assert!(round.origin_txn >= next && round.origin_txn < batch.next.0);
                let mut changes: Vec<u8> = round.changes.iter().map(|c| c.document_id[0]).collect();
                changes.sort_unstable();
                found.push((round.origin_txn, changes));
            }
            next = batch.next.0;
        }
        prop_assert_eq!(found, expected);
        let end = log.len().checked_sub(1).map_or(from, |last| from.max(txn(last) + 1));
        prop_assert_eq!(rounds.next(), TxnId(end));
        prop_assert_eq!((rounds.held_bytes(), rounds.pending()), (0, 0));
    }
}

fn limits(max_round_bytes: usize) -> BatchLimits {
    BatchLimits { max_bytes: 1 << 20, max_documents: 100, max_round_bytes }
}

#[test]
fn a_round_too_large_for_a_batch_is_cut_and_the_position_waits_for_its_last_piece() {
    let mut rounds = Rounds::new(source(), TxnId(0), limits(100));
    for number in 0..5 {
        rounds.change(Slice(0), selected(4, number, 30)).unwrap();
    }
    rounds.change(Slice(0), selected(6, 9, 30)).unwrap();
    rounds.commit(TxnId(4), &commit(APP, None, &[0])).unwrap();
    rounds.commit(TxnId(6), &commit(APP, None, &[0])).unwrap();
    assert_eq!(rounds.take(), None);
    rounds.mark(Slice(0), TxnId(6)).unwrap();
    let mut taken = Vec::new();
    while let Some(Outgoing { rounds, next }) = rounds.take() {
        let numbers = |round: &link::Round| {
            let ids = round.changes.iter().map(|change| change.document_id[0]);
            (round.origin_txn, ids.collect::<Vec<_>>())
        };
        taken.push((rounds.iter().map(numbers).collect::<Vec<_>>(), next.0));
    }
    let expected = vec![
        (vec![(4, vec![0, 1])], 4),
        (vec![(4, vec![2, 3])], 4),
        (vec![(4, vec![4]), (6, vec![9])], 7),
    ];
    assert_eq!(taken, expected);
}

#[test]
fn what_became_of_the_receivers_own_round_is_told_as_ours() {
    let other = ActorId(Uuid::from_u128(30));
    let mut rounds = Rounds::new(source(), TxnId(0), limits(100));
    for (txn, origin) in [(0, None), (1, Some(RECEIVER)), (2, Some(other))] {
        rounds.change(Slice(0), selected(txn, 0, 1)).unwrap();
        let origin = origin.map(|actor| (actor, TxnId(77)));
        rounds.commit(TxnId(txn), &commit(APP, origin, &[0])).unwrap();
    }
    rounds.mark(Slice(0), TxnId(2)).unwrap();
    let sent = rounds.take().unwrap().rounds;
    let origin = |round: &link::Round| ActorId(Uuid::from_slice(&round.origin).unwrap());
    let origins: Vec<_> = sent.iter().map(|round| (origin(round), round.origin_txn)).collect();
    assert_eq!(origins, vec![(HERE, 0), (HERE, 1), (other, 77)]);
}

#[test]
fn records_that_contradict_each_other_are_corruption() {
    let is_corrupt = |result: Result<(), Error>| matches!(result, Err(Error::Corrupt(_)));
    let mut rounds = Rounds::new(source(), TxnId(0), limits(100));
    rounds.mark(Slice(0), TxnId(5)).unwrap();
    assert!(is_corrupt(rounds.change(Slice(0), selected(5, 0, 1))), "CDC-2");
    rounds.change(Slice(1), selected(5, 0, 1)).unwrap();
    rounds.commit(TxnId(5), &commit(APP, None, &[1])).unwrap();
    assert!(is_corrupt(rounds.commit(TxnId(5), &commit(APP, None, &[1]))));
    assert!(is_corrupt(rounds.commit(TxnId(6), &commit(APP, None, &[SLICES]))));
    assert!(is_corrupt(rounds.mark(Slice(SLICES), TxnId(5))));
}

#[test]
fn what_is_no_round_moves_the_position_on_in_its_turn() {
    let mut rounds = Rounds::new(source(), TxnId(0), BatchLimits::default());
    rounds.commit(TxnId(0), &commit(APP, None, &[1])).unwrap();
    rounds.pass(TxnId(2)).unwrap();
    assert_eq!(rounds.next(), TxnId(0), "the round before it is not whole");
    rounds.mark(Slice(1), TxnId(0)).unwrap();
    assert_eq!((rounds.next(), rounds.pending()), (TxnId(3), 0));
    rounds.pass(TxnId(2)).unwrap();
    assert_eq!(rounds.next(), TxnId(3), "it was handed out");
    assert!(rounds.pass(TxnId(4)).and(rounds.pass(TxnId(4))).is_ok());
}
