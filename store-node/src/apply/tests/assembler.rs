//! Rounds are released in order, each once, whole or with its losses named.

use std::collections::BTreeMap;

use anabranch_core::document::Mutation;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_core::query::OnConflict;
use anabranch_journal::Offset;
use anabranch_schemas::records::{Expiry, TxnsRecord, part_checksum};
use bytes::Bytes;
use proptest::prelude::*;

use super::support::{TestLog, TestRound, arbitrary_rounds, commit_of, everything, json, slices};
use crate::apply::assembler::{Assembler, Committed, Part, Round};
use crate::storage::SliceRead;

fn assembler() -> Assembler {
    Assembler::new(
        &everything(),
        TxnId(0),
        &vec![SliceRead::default(); usize::from(slices().get())],
    )
}

fn insert(number: i64) -> (i64, Mutation) {
    let fields = json("{}");
    (number, Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate })
}

/// A round with a part in every slice, and what it is made of.
fn one_round() -> (TestLog, Committed, Vec<Part>) {
    let mut log = TestLog::default();
    let mutations = (0..20).map(insert).collect();
    log.append(&TestRound::new(1, mutations));
    let parts: Vec<_> = log.parts.keys().map(|slice| log.part(*slice, 0)).collect();
    assert_eq!(parts.len(), 4, "twenty documents fall into all slices");
    let committed = log.committed(0);
    (log, committed, parts)
}

fn released(assembler: &mut Assembler) -> Vec<Round> {
    std::iter::from_fn(|| assembler.release().unwrap()).collect()
}

#[test]
fn a_round_waits_for_its_parts_and_says_which() {
    let (_, committed, parts) = one_round();
    let mut assembler = assembler();
    assembler.add_commit(committed);
    assert_eq!(assembler.missing(), [0, 1, 2, 3].map(Slice));
    for part in parts {
        assert!(assembler.release().unwrap().is_none());
        assembler.add_part(part);
    }
    assert!(assembler.missing().is_empty());
    let rounds = released(&mut assembler);
    assert_eq!(rounds.len(), 1);
    assert!(rounds[0].lost.is_empty());
    let mutations = rounds[0].parts.iter().map(|(_, part)| part.mutations.len());
    assert_eq!(mutations.sum::<usize>(), 20);
    assert_eq!((assembler.buffered_bytes(), assembler.next()), (0, TxnId(1)));
}

#[test]
fn a_part_that_its_partition_has_passed_is_lost_and_the_rest_is_applied() {
    let (_, committed, mut parts) = one_round();
    let mut assembler = assembler();
    let lost = parts.remove(2);
    assembler.add_commit(committed);
    parts.into_iter().for_each(|part| assembler.add_part(part));
    assert!(assembler.release().unwrap().is_none());
    assembler.parts_read_to(lost.slice, Offset(lost.offset.0 + 1));
    let rounds = released(&mut assembler);
    assert_eq!(rounds[0].lost.iter().map(|part| part.slice).collect::<Vec<_>>(), [lost.slice]);
    assert_eq!(rounds[0].parts.len(), 3);
}

#[test]
fn another_record_in_the_place_of_a_part_is_a_loss() {
    let (_, committed, parts) = one_round();
    for change in 0..4 {
        let mut assembler = assembler();
        for mut part in parts
            .iter()
            .map(|part| Part { content: Ok(part.content.as_ref().unwrap().clone()), ..*part })
        {
            if part.slice == Slice(1) {
                let content = part.content.as_mut().unwrap();
                match change {
                    0 => part.checksum ^= 1,
                    1 => content.round.0 = uuid::Uuid::from_u128(99),
                    2 => content.index = 4,
                    _ => content.count = 5,
                }
            }
            assembler.add_part(part);
        }
        let (txn, timestamp_ms) = (committed.txn, committed.timestamp_ms);
        assembler.add_commit(Committed { txn, timestamp_ms, record: committed.record.clone() });
        let rounds = released(&mut assembler);
        assert_eq!(rounds[0].lost.len(), 1, "change {change}");
        assert_eq!(rounds[0].lost[0].slice, Slice(1));
        assert_eq!(assembler.buffered_bytes(), 0);
    }
}

#[test]
fn a_part_that_does_not_decode_stops_at_its_round_if_the_commit_record_vouches_for_it() {
    let (mut log, _, _) = one_round();
    let garbage = Bytes::from_static(b"garbage");
    let location = log.append_part(Slice(0), &garbage);
    let mut assembler = assembler();
    for slice in log.parts.keys() {
        (0..log.parts[slice].len()).for_each(|index| assembler.add_part(log.part(*slice, index)));
    }
    assembler.add_commit(log.committed(0));
    let mut second = log.committed(0);
    second.txn = TxnId(2);
    commit_of(&mut second).parts = vec![location];
    assert_eq!(location.checksum, part_checksum(&garbage));
    assembler.add_commit(second);
    assert!(assembler.release().unwrap().is_some());
    for _ in 0..2 {
        let broken = assembler.release().unwrap_err();
        assert_eq!((broken.slice, broken.offset), (Slice(0), Offset(location.offset)));
        assert_eq!(assembler.next(), TxnId(2));
    }
}

#[test]
fn parts_without_a_commit_record_are_dropped_long_after() {
    // In a cluster that rests there are only expiries.
    [false, true].into_iter().for_each(drop_orphan);
}

fn drop_orphan(by_an_expiry: bool) {
    let (mut log, committed, _) = one_round();
    log.append_part(Slice(3), &Bytes::from_static(b"an orphan"));
    let mut assembler = assembler();
    for slice in log.parts.keys() {
        (0..log.parts[slice].len()).for_each(|index| assembler.add_part(log.part(*slice, index)));
    }
    let mut later = log.committed(0);
    assembler.add_commit(committed);
    assert_eq!(released(&mut assembler).len(), 1);
    let kept_from = assembler.read()[3].position();
    assert_eq!(kept_from, Offset(2), "it may still get its commit record");
    assert_eq!(assembler.take_orphans(), 0);
    later.txn = TxnId(2);
    later.timestamp_ms += 10 * 60 * 1000;
    match by_an_expiry {
        true => later.record = TxnsRecord::Expiry(Expiry { hlc: Hlc(1), time_to_live_ms: 1 }),
        false => commit_of(&mut later).parts.clear(),
    }
    assembler.add_commit(later);
    match by_an_expiry {
        true => assembler.pass_expiring(),
        false => assert_eq!(released(&mut assembler).len(), 1),
    }
    assert_eq!(assembler.take_orphans(), 1);
    assert_eq!(assembler.buffered_bytes(), 0);
    assert_eq!(assembler.read()[3].position(), Offset(3));
}

#[test]
fn a_part_that_is_done_with_is_dropped_when_it_is_read_again() {
    let mut log = TestLog::default();
    for id in 0..3 {
        log.append(&TestRound::new(id, vec![insert(1)]));
    }
    let slice = *log.parts.keys().next().unwrap();
    let at = usize::from(slice.0);
    // The lane of the second round was faster: its commit record came first.
    let mut first = log.committed(1);
    first.txn = TxnId(0);
    let mut second = log.committed(0);
    second.txn = TxnId(2);
    let mut running = assembler();
    (0..3).for_each(|index| running.add_part(log.part(slice, index)));
    running.add_commit(first);
    assert_eq!(released(&mut running).len(), 1);
    let read = running.read();
    assert_eq!(read[at].waiting, [Offset(0), Offset(4)]);

    // What was remembered holds while it is read again, too.
    let mut again = Assembler::new(&everything(), running.next(), &read);
    assert_eq!(again.read(), read);
    for index in 0..3 {
        again.add_part(log.part(slice, index));
        assert_eq!(again.read(), read);
    }
    again.add_commit(second);
    assert_eq!(released(&mut again).len(), 1);
    assert_eq!(again.read()[at].waiting, [Offset(4)], "the last one may still get its record");
    let mut third = log.committed(2);
    third.txn = TxnId(4);
    again.add_commit(third);
    assert_eq!(released(&mut again).len(), 1);
    assert_eq!(again.buffered_bytes(), 0, "the first one is no orphan");
    assert_eq!(again.read()[at].position(), Offset(5));
}

#[test]
fn of_very_many_waiting_parts_the_first_ones_are_remembered() {
    let mut log = TestLog::default();
    for id in 0..100 {
        log.append(&TestRound::new(id, vec![insert(1)]));
    }
    let slice = *log.parts.keys().next().unwrap();
    let mut running = assembler();
    (0..100).for_each(|index| running.add_part(log.part(slice, index)));
    let read = running.read().remove(usize::from(slice.0));
    assert_eq!((read.waiting.len(), read.end), (64, Offset(128)));
    assert!((0..300).all(|offset| !read.is_done(Offset(offset)) || offset % 2 == 1));
}

proptest! {
    /// Whatever the order in which partitions are read, the same rounds come out; and reading on
    /// from any point's positions gives the rounds that were not released before it.
    #[test]
    fn the_order_of_reading_makes_no_difference(
        rounds in arbitrary_rounds(12),
        picks in prop::collection::vec(0_usize..5, 0..80),
        restart in 0_usize..80,
    ) {
        let mut log = TestLog::default();
        let txns: Vec<_> = rounds.iter().map(|round| log.append(round)).collect();
        let mut out = Vec::new();
        let mut reading = Reading::from(assembler(), &log);
        for (step, pick) in picks.into_iter().chain((0..5).cycle().take(200)).enumerate() {
            if step == restart {
                let fresh = Assembler::new(&everything(), reading.assembler.next(), &reading.assembler.read());
                reading = Reading::from(fresh, &log);
            }
            reading.step(pick);
            loop {
                if let Some(expiring) = reading.assembler.expiring() {
                    prop_assert!(reading.assembler.release().unwrap().is_none(), "not before");
                    reading.assembler.pass_expiring();
                    out.push(expiring.txn);
                    continue;
                }
                let Some(round) = reading.assembler.release().unwrap() else { break };
                prop_assert!(round.lost.is_empty());
                let mutations: usize =
                    round.parts.iter().map(|(_, part)| part.mutations.len()).sum();
                prop_assert_eq!(mutations, rounds[out.len()].mutations.len());
                out.push(round.txn);
            }
        }
        prop_assert_eq!(out, txns);
        prop_assert_eq!(reading.assembler.buffered_bytes(), 0, "nothing is left over");
    }
}

/// A log that is being read.
struct Reading<'a> {
    log: &'a TestLog,
    assembler: Assembler,
    commits: usize,
    parts: BTreeMap<Slice, usize>,
}

impl<'a> Reading<'a> {
    fn from(assembler: Assembler, log: &'a TestLog) -> Self {
        let next = assembler.next();
        let positions: Vec<_> = assembler.read().iter().map(SliceRead::position).collect();
        let commits = log.commits.partition_point(|(txn, _, _)| *txn < next);
        let parts = log
            .parts
            .iter()
            .map(|(slice, parts)| {
                let from = positions[usize::from(slice.0)];
                (*slice, parts.partition_point(|(offset, _)| *offset < from))
            })
            .collect();
        Reading { log, assembler, commits, parts }
    }

    /// Reads one record of the picked partition: 4 is that of commit records.
    fn step(&mut self, pick: usize) {
        if pick == 4 {
            if self.commits < self.log.commits.len() {
                self.assembler.add_commit(self.log.committed(self.commits));
                self.commits += 1;
            }
            return;
        }
        let slice = Slice(u16::try_from(pick).unwrap());
        let Some(next) = self.parts.get_mut(&slice) else { return };
        if *next < self.log.parts[&slice].len() {
            self.assembler.add_part(self.log.part(slice, *next));
            *next += 1;
        }
    }
}
