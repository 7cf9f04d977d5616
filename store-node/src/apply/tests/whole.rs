//! The applying thread over a store, without the reading threads: what is stored is what a model
//! says, at every timestamp (ST-4), whatever the batches; a crash at any point leaves data and
//! position that agree, and reading on gives the rest (ST-1); each change is in the index once,
//! with the right image before it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{DocumentId, RoundId, TxnId};
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::Slice;
use anabranch_core::query::OnConflict;
use anabranch_journal::{Offset, TopicPartition};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::records::{Change, Lost};
use anabranch_schemas::{decode, state};
use proptest::prelude::*;

use super::support::{
    APP, EXPIRES_AT_MOST, Model, TestLog, TestRound, arbitrary_rounds, everything, id, json, slices,
};
use crate::apply::applier::{Applier, Held, Retention};
use crate::apply::assembler::Assembler;
use crate::apply::demand::Demand;
use crate::apply::documents::RecentStates;
use crate::apply::sources::Input;
use crate::error::Error;
use crate::log::Log;
use crate::persistence::Persistence;
use crate::status::Status;
use crate::storage::{FeedPosition, Head, Opened, Progress, Storage, StoreOptions};
use crate::wishes::Wishes;

pub(super) const LONG: Retention = Retention { history_ms: u64::MAX, feed_ms: u64::MAX };

pub(super) fn options(path: &Path) -> StoreOptions {
    StoreOptions {
        path: path.to_owned(),
        write_buffer_bytes: 1 << 20,
        block_cache_bytes: 1 << 20,
        round_retention_ms: u64::MAX,
    }
}

pub(super) fn open(path: &Path) -> Opened {
    Storage::open(&options(path), &everything()).unwrap()
}

pub(super) fn applier(opened: Opened, retention: Retention) -> Applier {
    applier_of(opened, &everything(), retention)
}

pub(super) fn applier_of(opened: Opened, log: &Log, retention: Retention) -> Applier {
    let Opened { storage, head: Head { progress, timeline }, .. } = opened;
    let ready = Readiness::new().register("test");
    let status = Arc::new(Status::new(progress.next, progress.last, progress.time, ready));
    Applier {
        storage: Arc::new(storage),
        persistence: Persistence::new(Arc::clone(&status), Shutdown::new()),
        status,
        demand: Arc::new(Demand::new(1 << 20)),
        log: Arc::new(log.clone()),
        partitions: slices().all().map(|slice| TopicPartition::new("c.rounds", slice.0)).collect(),
        retention,
        assembler: Assembler::new(log, progress.next, &progress.slices),
        progress,
        timeline,
        recent: RecentStates::default(),
        held: Held::default(),
        wishes: Arc::new(Wishes::new(0)),
        expires_at_most: EXPIRES_AT_MOST,
        expires_at_once: 2,
        indexed_at_once: 2,
    }
}

/// Messages with everything that a log has from some positions on, in pieces.
pub(super) fn inputs(log: &TestLog, progress: &Progress, piece: usize) -> Vec<Input> {
    let mut all = Vec::new();
    for (slice, parts) in &log.parts {
        let from = progress.slices[usize::from(slice.0)].position();
        let left: Vec<usize> = (0..parts.len()).filter(|index| parts[*index].0 >= from).collect();
        for indexes in left.chunks(piece) {
            let parts = indexes.iter().map(|index| log.part(*slice, *index)).collect();
            all.push(Input::Parts(parts, vec![]));
        }
    }
    let left: Vec<usize> =
        (0..log.commits.len()).filter(|index| log.commits[*index].0 >= progress.next).collect();
    for (number, indexes) in left.chunks(piece).enumerate() {
        let commits: Vec<_> = indexes.iter().map(|index| log.committed(*index)).collect();
        let position = commits.last().map_or(TxnId(0), |last| last.txn.next());
        // In between the parts.
        all.insert((number * 2).min(all.len()), Input::Commits(commits, position));
    }
    all
}

pub(super) fn feed(inputs: Vec<Input>) -> Receiver<Input> {
    let (sender, receiver) = sync_channel(inputs.len().max(1));
    inputs.into_iter().for_each(|input| sender.send(input).unwrap());
    receiver
}

/// Applies all of a log to the store in a directory, from where it is.
pub(super) fn catch_up(path: &Path, log: &TestLog, piece: usize) -> Opened {
    let opened = open(path);
    let inputs = inputs(log, &opened.head.progress, piece);
    applier(opened, LONG).run(&feed(inputs)).unwrap();
    open(path)
}

pub(super) fn build(rounds: &[TestRound]) -> (TestLog, Model) {
    let (mut log, mut model) = (TestLog::default(), Model::default());
    for round in rounds {
        let txn = log.append(round);
        let hlc = log.commits.last().unwrap().1.hlc;
        model.apply(txn, round, hlc);
    }
    (log, model)
}

/// What a reader sees at a snapshot.
pub(super) fn seen(storage: &Storage, at: TxnId) -> BTreeMap<i64, Value> {
    let prefix = DocumentId::collection_prefix(APP, &id(0).collection);
    let mut seen = BTreeMap::new();
    storage
        .documents(&prefix, None, at, |bytes, _, stored| {
            let Value::Int(number) = DocumentId::from_bytes(bytes).unwrap().key.to_value() else {
                panic!("tests use integers as ids");
            };
            if let Some(value) = state::decode(stored).unwrap().value() {
                assert!(seen.insert(number, value).is_none(), "a document came twice");
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    for number in 0..6 {
        let one = storage.document(&id(number).to_bytes(), at, |_, stored| {
            Ok(state::decode(stored).unwrap().value())
        });
        assert_eq!(one.unwrap().flatten().as_ref(), seen.get(&number), "get and scan agree");
    }
    seen
}

pub(super) type Changes = Vec<(TxnId, Vec<Slice>, BTreeMap<i64, Change>)>;

pub(super) fn changes(storage: &Storage, from: TxnId, until: TxnId) -> Result<Changes, Error> {
    let mut all: Changes = Vec::new();
    storage.changes(FeedPosition { txn: from, chunk: 0 }, until, |at, slices, changes| {
        if at.chunk == 0 {
            all.push((at.txn, slices, BTreeMap::new()));
        }
        // What is lost is nothing that the model could know.
        for change in changes.into_iter().filter(|change| !change.id.is_empty()) {
            let event: Change = decode(&change.event).unwrap();
            assert_eq!((event.id().to_bytes(), event.txn), (change.id.to_vec(), at.txn));
            assert_eq!(slices_of(&event), change.slice);
            let Value::Int(number) = event.key.to_value() else { panic!("an integer") };
            let known = &mut all.last_mut().expect("the first chunk comes first").2;
            assert!(known.insert(number, event).is_none(), "a change came twice");
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

fn slices_of(event: &Change) -> Slice {
    slices().slice_of(event.id().position())
}

/// Everything that a store says against what the model says of the transactions that it has.
pub(super) fn check(opened: &Opened, log: &TestLog, model: &Model) {
    let Opened { storage, head: Head { progress, .. }, .. } = opened;
    let applied: Vec<_> = log.commits.iter().filter(|(txn, _, _)| *txn < progress.next).collect();
    assert_eq!(progress.last, applied.last().map(|(txn, _, _)| *txn));
    let mut observed = IntervalMap::default();
    observed.splice_all(TxnId(0)..progress.next);
    assert_eq!(progress.observed, observed);
    let feed = changes(storage, TxnId(0), progress.next).unwrap();
    assert_eq!(feed.len(), applied.len(), "every transaction appears, once");
    for ((txn, commit, _), (in_feed, named, events)) in applied.iter().zip(&feed) {
        assert_eq!(seen(storage, *txn), model.at(*txn), "at {txn}");
        assert_eq!(seen(storage, txn.next()), model.at(*txn), "in the hole after {txn}");
        assert_eq!(txn, in_feed);
        let mut parts: Vec<_> = commit.parts.iter().map(|part| part.slice).collect();
        parts.sort();
        assert_eq!(*named, parts);
        let expected = &model.changed[txn];
        let numbers: Vec<_> = events.keys().collect();
        assert_eq!(numbers, expected.keys().collect::<Vec<_>>(), "changed by {txn}");
        for (number, event) in events {
            let after = model.at(*txn).get(number).cloned();
            assert_eq!(event.before_image(after.as_ref()), expected[number], "{number} in {txn}");
        }
        if log.expiries.contains_key(txn) {
            continue;
        }
        let first = storage.outcome(commit.round, commit.hlc).unwrap().expect("remembered");
        assert!(first.txn <= *txn);
        if first.txn == *txn {
            let found =
                first.conflicts.iter().map(|conflict| (conflict.id.to_vec(), conflict.winner));
            let mut found: Vec<_> = found.collect();
            let expected = model.conflicts[txn].iter();
            let expected = expected.map(|(number, winner)| (id(*number).to_bytes(), *winner));
            let mut expected: Vec<_> = expected.collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "conflicts of {txn}");
        }
    }
}

/// The files of a store as a crash would leave them. RocksDB makes and removes some in the
/// background: a copy during which that happened is no state that ever was, and is made anew.
pub(super) fn crash_image(path: &Path) -> tempfile::TempDir {
    loop {
        let before = files(path);
        let image = tempfile::tempdir().unwrap();
        let copied = before.keys().try_for_each(|name| {
            std::fs::copy(path.join(name), image.path().join(name)).map(|_| ())
        });
        if copied.is_ok() && files(path) == before {
            return image;
        }
    }
}

/// Names and lengths, but for the lock and the log of messages.
fn files(path: &Path) -> BTreeMap<std::ffi::OsString, u64> {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let entries = entries.filter(|entry| entry.file_name() != "LOCK" && entry.file_name() != "LOG");
    entries.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.len()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_is_what_the_model_says(
        rounds in arbitrary_rounds(25),
        piece in 1_usize..8,
    ) {
        let (log, model) = build(&rounds);
        let dir = tempfile::tempdir().unwrap();
        let opened = catch_up(dir.path(), &log, piece);
        prop_assert_eq!(opened.head.progress.next, log.commits.last().unwrap().0.next());
        check(&opened, &log, &model);
    }

    /// Crashes after some batches, before or after a flush: what is found agrees with the model
    /// up to some transaction, and reading on gives the rest.
    #[test]
    fn a_crash_leaves_data_and_position_that_agree(
        rounds in arbitrary_rounds(25),
        piece in 1_usize..4,
        flushes in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let (log, model) = build(&rounds);
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path());
        let inputs = inputs(&log, &opened.head.progress, piece);
        let per_crash = inputs.len().div_ceil(flushes.len());
        let mut running = applier(opened, LONG);
        let mut durable = TxnId(0);
        let mut inputs = inputs.into_iter().peekable();
        for flush in flushes {
            let some: Vec<_> = inputs.by_ref().take(per_crash).collect();
            let received = feed(some);
            while running.apply_inputs(&received).unwrap() {}
            if flush {
                running.storage.flush().unwrap();
                durable = running.progress.next;
                prop_assert_eq!(running.storage.durable().next, durable);
            }
            let image = crash_image(dir.path());
            let found = open(image.path());
            prop_assert_eq!(found.head.progress.next, durable);
            check(&found, &log, &model);
            drop(found);
            let complete = catch_up(image.path(), &log, piece);
            prop_assert_eq!(complete.head.progress.next, log.commits.last().unwrap().0.next());
            check(&complete, &log, &model);
        }
    }
}

pub(super) fn put(number: i64, value: i64) -> (i64, Mutation) {
    let fields = json(&format!("{{\"n\":{value}}}"));
    (number, Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate })
}

#[test]
fn a_round_is_applied_once_within_the_retention_window() {
    let increment = |id| {
        TestRound::new(
            id,
            vec![(
                1,
                Mutation::Update {
                    set: vec![],
                    unset: vec![],
                    increment: vec![(super::support::path("n"), 1)],
                },
            )],
        )
    };
    let mut log = TestLog::default();
    log.append(&TestRound::new(1, vec![put(1, 0)]));
    for round in [2, 2, 3, 2, 3] {
        log.append(&increment(round));
    }
    // Each is 200 ms of the log's time after the one before.
    for (remembered_ms, expected) in [(10_000, 2), (300, 4), (100, 5)] {
        for piece in [1, 100] {
            let dir = tempfile::tempdir().unwrap();
            let options = StoreOptions { round_retention_ms: remembered_ms, ..options(dir.path()) };
            let opened = Storage::open(&options, &everything()).unwrap();
            let inputs = inputs(&log, &opened.head.progress, piece);
            let applier = applier(opened, LONG);
            let storage = Arc::clone(&applier.storage);
            applier.run(&feed(inputs)).unwrap();
            let counted = seen(&storage, TxnId(100))[&1].clone();
            // Nothing was compacted: the first round is forgotten all the same.
            let (first, now) = (RoundId(uuid::Uuid::from_u128(1)), Hlc::from_millis(1_001_000));
            let found = storage.outcome(first, now).unwrap();
            assert_eq!(found.is_some(), remembered_ms >= 1_000);
            assert_eq!(counted, json(&format!("{{\"n\":{expected}}}")), "{remembered_ms} {piece}");
        }
    }
}

#[test]
fn retention_drops_changes_and_old_versions_by_the_logs_time() {
    let mut log = TestLog::default();
    // 200 ms apart: 80 s in all.
    for (id, number) in (0..400).zip(0..) {
        log.append(&TestRound::new(id, vec![put(1, number), put(2, 1)]));
    }
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let all = inputs(&log, &opened.head.progress, 3);
    let retention = Retention { history_ms: 20_000, feed_ms: 40_000 };
    applier(opened, retention).run(&feed(all)).unwrap();
    let Opened { storage, head: Head { progress, timeline }, .. } = open(dir.path());
    let end = log.commits.last().unwrap().0;
    // 100 ms of the log's time per id; samples are ten seconds apart.
    let age = |txn: TxnId| (end.0 - txn.0) * 100;
    assert!((20_000..32_000).contains(&age(progress.oldest_readable)));
    assert!((40_000..52_000).contains(&age(progress.feed_start)));
    assert!(timeline.before(progress.time, 55_000).is_none(), "samples go too");
    assert!(matches!(
        changes(&storage, TxnId(0), progress.next),
        Err(Error::FeedTrimmed { start, .. }) if start == progress.feed_start
    ));
    let kept = changes(&storage, progress.feed_start, progress.next).unwrap();
    assert_eq!(kept.first().unwrap().0, progress.feed_start);
    assert_eq!(kept.last().unwrap().0, end);
    storage.flush().unwrap();
    storage.compact();
    let versions = storage.versions_for_test(&id(1).to_bytes());
    assert!(*versions.last().unwrap() <= progress.oldest_readable, "the oldest snapshot has one");
    assert!(versions[versions.len() - 2] > progress.oldest_readable, "and no more than one");
    assert_eq!(storage.versions_for_test(&id(2).to_bytes()), [TxnId(0)]);
    for at in [progress.oldest_readable, end] {
        assert_eq!(seen(&storage, at)[&1], json(&format!("{{\"n\":{}}}", at.0 / 2)));
    }
}

#[test]
fn a_lost_part_is_declared_and_the_node_goes_on() {
    let (mut log, mut model) = (TestLog::default(), Model::default());
    let everywhere = TestRound::new(1, (0..6).map(|n| put(n, 1)).collect());
    log.append(&everywhere);
    let lost = log.commits[0].1.parts[0];
    log.parts.get_mut(&lost.slice).unwrap().clear();
    let kept = TestRound {
        mutations: everywhere
            .mutations
            .into_iter()
            .filter(|(number, _)| slices().slice_of(id(*number).position()) != lost.slice)
            .collect(),
        ..everywhere
    };
    model.apply(TxnId(0), &kept, log.commits[0].1.hlc);
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let mut all = inputs(&log, &opened.head.progress, 10);
    all.push(Input::Parts(vec![], vec![(lost.slice, Offset(lost.offset + 1))]));
    let applier = applier(opened, LONG);
    let status = Arc::clone(&applier.status);
    applier.run(&feed(all)).unwrap();
    assert_eq!(status.lost_parts(), 1);
    let opened = open(dir.path());
    check(&opened, &log, &model);
    assert_eq!(opened.storage.lost_parts_for_test(), 1);
    let mut told = Vec::new();
    let next = opened.head.progress.next;
    let read =
        opened.storage.changes(FeedPosition { txn: TxnId(0), chunk: 0 }, next, |_, _, all| {
            told.extend(all.into_iter().filter(|change| change.id.is_empty()));
            Ok(ControlFlow::Continue(()))
        });
    read.unwrap();
    let [change] = &told[..] else { panic!("it is told once: {told:?}") };
    let expected = Lost { slice: lost.slice, from: TxnId(0), to: TxnId(0) };
    assert_eq!(decode::<Lost>(&change.event).unwrap(), expected);
}

#[test]
fn a_record_that_does_not_decode_halts_the_node_after_what_came_before_it() {
    let (mut log, model) = build(&[TestRound::new(1, vec![put(1, 1)])]);
    log.append(&TestRound::new(2, vec![put(1, 2)]));
    let (_, commit, _) = log.commits.last_mut().unwrap();
    let location = &mut commit.parts[0];
    let garbage = bytes::Bytes::from_static(b"garbage");
    location.checksum = anabranch_schemas::records::part_checksum(&garbage);
    log.parts.get_mut(&location.slice).unwrap().last_mut().unwrap().1 = garbage;
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let opened = open(dir.path());
        let all = inputs(&log, &opened.head.progress, 10);
        let applier = applier(opened, LONG);
        let status = Arc::clone(&applier.status);
        applier.run(&feed(all)).unwrap();
        let halted = status.applied().halted.expect("it has stopped");
        assert!(halted.contains("c.rounds/") && halted.contains("cannot be applied"), "{halted}");
        let opened = open(dir.path());
        assert_eq!(opened.head.progress.next, TxnId(2));
        check(&opened, &log, &model);
    }
}
