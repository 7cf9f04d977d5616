//! Rounds that are repeated when they are forgotten, and nodes that copy as of before that: replicas
//! stay equal (ST-2).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::document::Mutation;
use anabranch_core::ids::TxnId;
use anabranch_runtime::tasks::Shutdown;
use parking_lot::Mutex;

use super::backfilled::{Event, Others, backfill, check, nobody, status_of, trimmed};
use super::support::{TestLog, TestRound, everything, path};
use super::whole::{LONG, applier, build, feed, inputs, options, put};
use crate::backfill::Reason;
use crate::storage::{Opened, Storage, StoreOptions, Table, Unfinished};

/// A store that remembers rounds for a second of the log's time, in which there are five.
fn forgetful(directory: &Path) -> Opened {
    let options = StoreOptions { round_retention_ms: 1_000, ..options(directory) };
    Storage::open(&options, &everything()).unwrap()
}

fn applied(directory: &Path, log: &TestLog, piece: usize) -> Opened {
    let opened = forgetful(directory);
    let all = inputs(log, &opened.head.progress, piece);
    applier(opened, LONG).run(&feed(all)).unwrap();
    forgetful(directory)
}

/// Round 7 is repeated when it is remembered and once more when it is forgotten.
fn with_repeats() -> Vec<TestRound> {
    let visit = || {
        let increment = vec![(path("n"), 1)];
        (1, Mutation::Update { set: vec![], unset: vec![], increment })
    };
    let other = |id: u128| TestRound::new(id, vec![put(2, i64::try_from(id).unwrap())]);
    let seven = || TestRound::new(7, vec![visit()]);
    vec![seven(), other(1), other(2), other(3), seven(), other(5), other(6), seven(), other(8)]
}

/// Whoever copies as of a time at which a round was remembered has it, also from a replica
/// that has forgotten it since and applied it once more.
#[test]
fn a_round_that_was_applied_once_more_since_is_known_as_it_was() {
    for (until, piece) in [(1, 1), (3, 1), (3, 100), (5, 100), (8, 1)] {
        let rounds = with_repeats();
        let (log, _) = build(&rounds);
        let whole_dir = tempfile::tempdir().unwrap();
        let Opened { storage, head: whole_head, .. } = applied(whole_dir.path(), &log, piece);
        let whole_storage = Arc::new(storage);
        let then_dir = tempfile::tempdir().unwrap();
        let then = applied(then_dir.path(), &build(&rounds[..until]).0, 1);
        let dir = tempfile::tempdir().unwrap();
        let Opened { storage, head, .. } = forgetful(dir.path());
        let (target, status) = (Arc::new(storage), status_of(&head));
        let others = Others {
            stores: vec![Arc::clone(&whole_storage)],
            target: Arc::clone(&target),
            events: Arc::default(),
            page_entries: 1,
            shutdown: Shutdown::new(),
        };
        let unfinished = Unfinished::new(TxnId(0), then.head.progress);
        let copying = backfill(&target, &status, others);
        copying.run(head, Reason::Interrupted(unfinished)).unwrap();
        drop((copying, target));
        let opened = applied(dir.path(), &log, 1);
        let storage = Arc::into_inner(whole_storage).unwrap();
        let whole = Opened { storage, head: whole_head, unfinished: None, lost_ranges: 0 };
        check(&opened, &whole, &log);
    }
}

/// The same of a node that took it from another one and gave that up again.
#[test]
fn a_round_that_a_backfill_brought_and_took_back_is_known_as_it_was() {
    let rounds = with_repeats();
    let (log, _) = build(&rounds);
    let whole_dir = tempfile::tempdir().unwrap();
    let whole = applied(whole_dir.path(), &log, 1);
    let source_dir = tempfile::tempdir().unwrap();
    let source = applied(source_dir.path(), &log, 1);
    let dir = tempfile::tempdir().unwrap();
    let Opened { storage, head, .. } = applied(dir.path(), &build(&rounds[..2]).0, 1);
    let (target, status) = (Arc::new(storage), status_of(&head));
    let pages = [vec![Event::Page; 7], vec![Event::PageAndFlush, Event::Dies]].concat();
    let others = Others {
        stores: vec![Arc::new(source.storage)],
        target: Arc::clone(&target),
        events: Arc::new(Mutex::new(VecDeque::from(pages))),
        page_entries: 1,
        shutdown: Shutdown::new(),
    };
    let copying = backfill(&target, &status, others);
    assert!(copying.run(head, Reason::Trimmed(trimmed())).is_err());
    drop((copying, target));
    let Opened { storage, head, unfinished, .. } = forgetful(dir.path());
    let (target, status) = (Arc::new(storage), status_of(&head));
    let unfinished = unfinished.unwrap();
    assert_eq!(unfinished.table, Table::Versions, "all rounds are here");
    let left = backfill(&target, &status, nobody(&target));
    left.run(head, Reason::Interrupted(unfinished)).unwrap();
    drop((left, target));
    let opened = applied(dir.path(), &log, 1);
    check(&opened, &whole, &log);
}
