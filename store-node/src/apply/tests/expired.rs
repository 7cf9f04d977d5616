//! What was deleted long ago is dropped by a record of the log: on every replica the same, whatever
//! happens in between (ST-1, ST-2).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::Epoch;
use anabranch_core::document::{Document, Mutation};
use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_journal::metadata::{Agreed, LostRange};
use anabranch_schemas::state;

use super::backfilled::{backfill, check as check_against, nobody, status_of, trimmed};
use super::support::{EXPIRES_AT_MOST, TestLog, TestRound, id, json};
use super::whole::{LONG, applier, build, catch_up, check, feed, inputs, open, put};
use crate::apply::applier::Retention;
use crate::backfill::{Agreement, Backfill, Reason};
use crate::error::Error;
use crate::storage::{Opened, Storage};

/// Documents 0 to 4 are put, 0 to 3 deleted, 3 is put anew; what was deleted expires; then 0 is put
/// anew and 1 written to.
fn rounds() -> Vec<TestRound> {
    let delete = |number| (number, Mutation::Delete);
    let write = |number| {
        let set = vec![(super::support::path("late"), json("1"))];
        (number, Mutation::Update { set, unset: vec![], increment: vec![] })
    };
    let round = |id, mutations| TestRound::new(id, mutations);
    vec![
        round(1, (0..5).map(|number| put(number, 7)).collect()),
        round(2, (0..4).map(delete).collect()),
        round(3, vec![put(3, 8)]),
        TestRound::expiry(300),
        round(4, vec![put(0, 9), write(1)]),
    ]
}

fn document(storage: &Storage, number: i64, at: TxnId) -> Option<Document> {
    let read = |_, stored: &[u8]| Ok(state::decode(stored).unwrap());
    storage.document(&id(number).to_bytes(), at, read).unwrap()
}

/// How many fields each document has as of a transaction, hidden ones too.
fn fields(storage: &Storage, at: TxnId) -> BTreeMap<i64, usize> {
    let counted = |number| Some((number, document(storage, number, at)?.fields.len()));
    (0..6).filter_map(counted).collect()
}

#[test]
fn hidden_fields_go_and_nothing_that_is_read_changes() {
    let (log, model) = build(&rounds());
    let dir = tempfile::tempdir().unwrap();
    let opened = catch_up(dir.path(), &log, 2);
    check(&opened, &log, &model);
    let Opened { storage, .. } = &opened;
    let txn = |index: usize| log.commits[index].0;
    let all = |counts: [usize; 5]| (0..5).zip(counts).collect::<BTreeMap<_, _>>();
    assert_eq!(fields(storage, txn(2)), all([1, 1, 1, 1, 1]));
    assert_eq!(fields(storage, txn(3)), all([0, 0, 0, 1, 1]));
    // A write that comes too late does nothing: what it would bring back is not here any more.
    assert_eq!(fields(storage, txn(4)), all([1, 0, 0, 1, 1]));
    assert!(document(storage, 1, txn(4)).unwrap().deleted.is_some());
    assert!(document(storage, 0, txn(4)).unwrap().generation.is_some(), "it hides what it was");
    drop(opened);
    // Once nobody can read it any more it is not on disk.
    let opened = open(dir.path());
    let short = Retention { history_ms: 1, ..LONG };
    let mut longer = log;
    (0..200).for_each(|id| {
        longer.append(&TestRound::new(10 + id, vec![put(5, 1)]));
    });
    let all = inputs(&longer, &opened.head.progress, 5);
    applier(opened, short).run(&feed(all)).unwrap();
    let Opened { storage, .. } = open(dir.path());
    storage.flush().unwrap();
    storage.compact();
    assert_eq!(storage.versions_for_test(&id(2).to_bytes()), [longer.commits[3].0]);
}

/// What is listed is dropped from the list: the next expiry looks only at what came since.
#[test]
fn each_is_looked_at_once() {
    let (log, _) = build(&rounds());
    let dir = tempfile::tempdir().unwrap();
    let Opened { storage, head, .. } = catch_up(dir.path(), &log, 2);
    let listed = storage.tombstones(head.progress.time, None, 100).unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}

/// A node that dies between the batches of an expiry goes through all of it again.
#[test]
fn a_crash_in_the_midst_changes_nothing() {
    let (log, model) = build(&rounds());
    for writes in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let died = die_after(dir.path(), &log, writes);
        let opened = catch_up(dir.path(), &log, 1);
        check(&opened, &log, &model);
        let storage = &opened.storage;
        let counts = fields(storage, log.commits[3].0).into_values().collect::<Vec<_>>();
        assert_eq!(counts, [0, 0, 0, 1, 1], "after {writes} writes, {died}");
    }
}

/// Applies a log with a store that dies after so many writes, which are durable; whether it did.
fn die_after(dir: &Path, log: &TestLog, writes: usize) -> bool {
    let opened = open(dir);
    let all = inputs(log, &opened.head.progress, 1);
    let mut running = applier(opened, LONG);
    running.persistence = running.persistence.clone().dying_after(writes);
    let received = feed(all);
    let died = loop {
        match running.apply_inputs(&received) {
            Ok(true) => {}
            Ok(false) => break false,
            Err(_) => break true,
        }
    };
    running.storage.flush().unwrap();
    died
}

/// More is due than one record drops: the rest waits for the next, and is in its order.
#[test]
fn one_record_drops_so_many_and_no_more() {
    let all = |of: fn(i64) -> (i64, Mutation)| (0..6).map(of).collect::<Vec<_>>();
    let rounds = [
        TestRound::new(1, all(|number| put(number, 7))),
        TestRound::new(2, all(|number| (number, Mutation::Delete))),
        TestRound::expiry(0),
        TestRound::expiry(0),
    ];
    let (log, model) = build(&rounds);
    for writes in 0..9 {
        let dir = tempfile::tempdir().unwrap();
        die_after(dir.path(), &log, writes);
        let opened = catch_up(dir.path(), &log, 2);
        check(&opened, &log, &model);
        let left = |index: usize| {
            let counts = fields(&opened.storage, log.commits[index].0);
            counts.into_values().filter(|count| *count > 0).count()
        };
        assert_eq!([1, 2, 3].map(left), [6, 6 - EXPIRES_AT_MOST, 0]);
    }
}

/// Half of an expiry is written when the log loses it, for all replicas: nobody has it.
#[test]
fn half_an_expiry_that_is_lost_is_taken_back() {
    let (log, _) = build(&rounds());
    let (lost, before) = (log.commits[3].0, log.commits[2].0);
    let half = (0..9).find_map(|writes| {
        let dir = tempfile::tempdir().unwrap();
        die_after(dir.path(), &log, writes);
        let opened = open(dir.path());
        let is_half = opened.head.progress.next == lost
            && fields(&opened.storage, lost) != fields(&opened.storage, before);
        is_half.then_some((dir, opened))
    });
    let (_dir, Opened { storage, head, .. }) = half.expect("it takes more than one batch");
    let before = fields(&storage, before);
    let storage = Arc::new(storage);
    let range = LostRange::new(PartitionId(0), lost, lost.next(), []);
    let passing_over = Backfill {
        agreement: Box::new(Says(Agreed { number: 0, range })),
        lost_after: Duration::ZERO,
        ..backfill(&storage, &status_of(&head), nobody(&storage))
    };
    let head = passing_over.run(head, Reason::Trimmed(trimmed())).unwrap();
    assert_eq!(head.progress.next, lost.next());
    assert_eq!(fields(&storage, lost), before);
}

/// What everybody has agreed on.
struct Says(Agreed);

impl Agreement for Says {
    fn lost_from(&self, _: TxnId, _: Option<u32>, _: Epoch) -> Result<Option<Agreed>, Error> {
        Ok(Some(self.0.clone()))
    }
}

/// A store of the first format has its tombstones listed when it is opened.
#[test]
fn a_store_without_a_list_gets_one() {
    let (log, model) = build(&rounds());
    let before = {
        let mut log = TestLog::default();
        rounds()[..3].iter().for_each(|round| {
            log.append(round);
        });
        log
    };
    let (dir, whole_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opened = catch_up(dir.path(), &before, 2);
    opened.storage.without_list_for_test();
    drop(opened);
    let opened = catch_up(dir.path(), &log, 2);
    check(&opened, &log, &model);
    check_against(&opened, &catch_up(whole_dir.path(), &log, 2), &log);
}
