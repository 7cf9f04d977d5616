//! Nodes that own parts of the keyspace: together they hold exactly what one that owns everything
//! holds, each from the slices of the log that it reads and no others.

use std::path::Path;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, PartitionSpec};
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::Position;
use proptest::prelude::*;

use super::support::{ACTOR, Model, TestLog, TestRound, arbitrary_rounds, everything, id, slices};
use super::whole::{LONG, applier_of, build, feed, inputs, options, put, seen};
use crate::apply::sources::Input;
use crate::error::Error;
use crate::log::Log;
use crate::storage::{Batch, Head, Opened, Storage, Unfinished};

/// What each node of a cluster keeps whose partitions have these weights; `None` if one of them would
/// get no slice.
fn nodes(weights: &[u32]) -> Option<Vec<Log>> {
    let partition = |(number, weight): (usize, &u32)| PartitionSpec {
        weight: *weight,
        nodes: [(format!("n{number}").parse().unwrap(), format!("n{number}:7070"))].into(),
    };
    let partitions = weights.iter().enumerate().map(partition).collect();
    let configuration =
        Configuration::new(Epoch(1), slices(), ClusterSpec { partitions, quorum: None }).ok()?;
    let owned = configuration.members().keys().map(|node| configuration.owned_by(node).unwrap());
    Some(owned.map(|owned| Log::new(ACTOR, slices(), owned)).collect())
}

/// What a node is given of a log: the parts in the slices that it reads.
fn given(log: &TestLog, kept: &Log, opened: &Opened, piece: usize) -> Vec<Input> {
    let all = inputs(log, &opened.head.progress, piece);
    let is_given = |input: &Input| match input {
        Input::Parts(parts, _) => parts.iter().all(|part| kept.reads(part.slice)),
        Input::Commits(..) | Input::Failed(_) => true,
    };
    all.into_iter().filter(is_given).collect()
}

fn catch_up(path: &Path, log: &TestLog, kept: &Log, piece: usize) -> Opened {
    let opened = Storage::open(&options(path), kept).unwrap();
    let inputs = given(log, kept, &opened, piece);
    applier_of(opened, kept, LONG).run(&feed(inputs)).unwrap();
    Storage::open(&options(path), kept).unwrap()
}

fn check(opened: &Opened, kept: &Log, log: &TestLog, model: &Model) {
    let Opened { storage, head: Head { progress, .. }, .. } = opened;
    let end = log.commits.last().unwrap().0.next();
    assert_eq!(progress.next, end, "nothing was waited for that is not read");
    let mut observed = IntervalMap::default();
    for interval in kept.owned().iter() {
        observed.splice(interval.first(), interval.last(), TxnId(0)..end);
    }
    assert_eq!(progress.observed, observed);
    for (txn, commit, _) in &log.commits {
        let mut expected = model.at(*txn);
        expected.retain(|number, _| kept.owned().contains(id(*number).position()));
        assert_eq!(seen(storage, *txn), expected, "at {txn}");
        let outcome = storage.outcome(commit.round, commit.hlc).unwrap();
        assert!(outcome.is_some(), "whatever a round touches, every node knows that it was");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn each_node_holds_its_part_of_what_the_model_says(
        mut rounds in arbitrary_rounds(20),
        nodes in prop::collection::vec(1_u32..5, 1..5).prop_filter_map("a slice each", |w| nodes(&w)),
        piece in 1_usize..8,
    ) {
        // Each partition drops so many, and the model is of all of them.
        rounds.retain(|round| round.time_to_live_ms().is_none());
        rounds.push(TestRound::new(1_000, vec![]));
        let (log, model) = build(&rounds);
        for number in 0..6 {
            let position = id(number).position();
            let owners = nodes.iter().filter(|kept| kept.owned().contains(position)).count();
            prop_assert_eq!(owners, 1);
        }
        for kept in &nodes {
            let dir = tempfile::tempdir().unwrap();
            let opened = catch_up(dir.path(), &log, kept, piece);
            check(&opened, kept, &log, &model);
        }
    }
}

#[test]
fn a_node_reads_only_the_slices_that_it_owns() {
    let [left, right] = nodes(&[1, 1]).unwrap().try_into().unwrap();
    assert_eq!([left.read().len(), right.read().len()], [2, 2]);
    let uneven = nodes(&[3, 5]).unwrap();
    assert_eq!([uneven[0].read().len(), uneven[1].read().len()], [1, 3], "none is of both");
    let at = Position(u64::MAX);
    assert!(!left.reads(slices().slice_of(at)) && right.reads(slices().slice_of(at)));
}

#[test]
fn a_store_is_not_opened_for_another_part_of_the_keyspace() {
    let (log, _) = build(&[TestRound::new(1, vec![put(1, 1)])]);
    let dir = tempfile::tempdir().unwrap();
    let [left, right] = nodes(&[1, 1]).unwrap().try_into().unwrap();
    drop(Storage::open(&options(dir.path()), &left).unwrap());
    drop(catch_up(dir.path(), &log, &right, 1));
    for other in [&left, &everything()] {
        let refused = Storage::open(&options(dir.path()), other).map(|_| ());
        assert!(
            matches!(&refused, Err(Error::DataDir(why)) if why.contains("another part")),
            "{refused:?}"
        );
    }
    assert!(Storage::open(&options(dir.path()), &right).is_ok());
}

/// Also if it was still empty, and what it copies is of another part.
#[test]
fn a_copy_of_one_part_is_not_gone_on_with_as_one_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let [left, right] = nodes(&[1, 1]).unwrap().try_into().unwrap();
    let Opened { storage, head, .. } = Storage::open(&options(dir.path()), &left).unwrap();
    let mut to = head.progress.clone();
    to.observe(left.owned(), TxnId(5));
    let mut batch = Batch::new(&storage, 16);
    batch.put_unfinished(&Unfinished::new(TxnId(0), to));
    batch.write(&head.progress, Err).unwrap();
    storage.flush().unwrap();
    drop(storage);
    let refused = Storage::open(&options(dir.path()), &right).map(|_| ());
    assert!(matches!(&refused, Err(Error::DataDir(why)) if why.contains("another part")));
    assert!(Storage::open(&options(dir.path()), &left).unwrap().unfinished.is_some());
}
