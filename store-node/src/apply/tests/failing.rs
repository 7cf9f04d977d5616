//! The applying thread when something fails: the disk, what is stored, what the log has, a clock.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{RoundId, TxnId};
use anabranch_journal::Offset;
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::tasks::Shutdown;
use uuid::Uuid;

use super::support::{Model, TestLog, TestRound, commit_of, id, json, slices};
use super::whole::{LONG, applier, build, catch_up, check, feed, inputs, open, put, seen};
use crate::apply::applier::Retention;
use crate::apply::sources::Input;
use crate::persistence::Persistence;
use crate::status::Status;

/// How long something that has to happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: too late");
        std::thread::yield_now();
    }
}

/// Puts the files of tables that are yet to be made onto a full disk; returns what frees it.
fn fill(store: &Path) -> Vec<PathBuf> {
    let number = |name: &str| -> Option<u64> {
        name.split_once('.').map_or(name, |(number, _)| number).rsplit('-').next()?.parse().ok()
    };
    let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().file_name());
    let last = names.filter_map(|name| number(name.to_str()?)).max().unwrap();
    let links: Vec<_> =
        (last + 1..last + 200).map(|number| store.join(format!("{number:06}.sst"))).collect();
    links.iter().for_each(|link| symlink("/dev/full", link).unwrap());
    links
}

#[test]
fn a_full_disk_loses_nothing_and_ends_when_space_is_freed() {
    let rounds: Vec<_> = (0..20)
        .map(|id| TestRound::new(id, vec![put(i64::try_from(id % 6).unwrap(), 1)]))
        .collect();
    let (log, model) = build(&rounds);
    let dir = tempfile::tempdir().unwrap();
    let mut all = inputs(&log, &open(dir.path()).head.progress, 1);
    // Parts first, then what makes rounds of them.
    all.sort_by_key(|input| matches!(input, Input::Commits(..)));
    let second_half = all.split_off(all.len() - 10);
    let mut running = applier(open(dir.path()), LONG);
    let readiness = Readiness::new();
    let status = Arc::new(Status::new(TxnId(0), None, Hlc(0), readiness.register("test")));
    running.status = Arc::clone(&status);
    running.persistence = Persistence::new(Arc::clone(&status), Shutdown::new());
    let storage = Arc::clone(&running.storage);
    let (sender, receiver) = sync_channel(100);
    let thread = std::thread::spawn(move || running.run(&receiver));
    all.into_iter().for_each(|input| sender.send(input).unwrap());
    let half = log.commits[9].0;
    until("the first half is applied", || status.applied().next > half);

    let links = fill(dir.path());
    let error = storage.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    second_half.into_iter().for_each(|input| sender.send(input).unwrap());
    let trouble = || readiness.not_ready().first().map(|(_, why)| why.clone()).unwrap_or_default();
    until("it is said", || trouble().contains("failed to write"));
    assert!(trouble().contains(dir.path().to_str().unwrap()), "{}", trouble());
    assert_eq!(seen(&storage, half), model.at(half), "reads go on");

    for link in links {
        // Some were never opened; RocksDB removed others.
        let _ = fs::remove_file(link);
    }
    let end = log.commits.last().unwrap().0;
    until("the rest is applied", || status.applied().next > end);
    assert!(!trouble().contains("failed to write"), "{}", trouble());
    drop(sender);
    thread.join().unwrap().unwrap();
    drop(storage);
    check(&open(dir.path()), &log, &model);
}

#[test]
fn what_came_before_a_version_that_does_not_decode_is_kept_and_the_rest_is_read_again() {
    let rounds: Vec<_> = [1, 2, 3, 1, 4]
        .into_iter()
        .zip(0..)
        .map(|(number, id)| TestRound::new(id, vec![put(number, i64::from(number == 3))]))
        .collect();
    let (log, model) = build(&rounds);
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    opened.storage.spoil_for_test(&id(3).to_bytes(), true);
    let all = inputs(&log, &opened.head.progress, 100);
    let running = applier(opened, LONG);
    let status = Arc::clone(&running.status);
    running.run(&feed(all)).unwrap();
    assert!(status.applied().halted.is_some());
    let opened = open(dir.path());
    let spoilt = log.commits[2].0;
    assert_eq!(opened.head.progress.next, spoilt);
    let before = log.commits[1].0;
    assert_eq!(seen(&opened.storage, before).len(), 2);
    opened.storage.spoil_for_test(&id(3).to_bytes(), false);
    opened.storage.flush().unwrap();
    drop(opened);
    check(&catch_up(dir.path(), &log, 100), &log, &model);
}

#[test]
fn the_repeat_of_a_round_that_was_lost_as_a_whole_is_applied() {
    let (mut log, mut model) = (TestLog::default(), Model::default());
    let round = TestRound::new(1, vec![put(1, 1)]);
    log.append(&round);
    let lost = log.commits[0].1.parts[0];
    let txn = log.append(&round);
    log.parts.get_mut(&lost.slice).unwrap().remove(0);
    let nothing = TestRound::new(99, vec![]);
    model.apply(TxnId(0), &nothing, log.commits[0].1.hlc);
    model.apply(txn, &round, log.commits[1].1.hlc);
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let mut all = inputs(&log, &opened.head.progress, 10);
    all.push(Input::Parts(vec![], vec![(lost.slice, Offset(lost.offset + 1))]));
    applier(opened, LONG).run(&feed(all)).unwrap();
    let opened = open(dir.path());
    assert_eq!(seen(&opened.storage, txn), model.at(txn));
    let outcome = opened.storage.outcome(RoundId(Uuid::from_u128(1)), opened.head.progress.time);
    assert_eq!(outcome.unwrap().unwrap().txn, txn);
}

#[test]
fn one_clock_that_is_a_day_ahead_makes_nothing_a_day_older() {
    let rounds: Vec<_> =
        (0..200).zip(0..).map(|(id, n)| TestRound::new(id, vec![put(1, n)])).collect();
    let (log, _) = build(&rounds);
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let mut all = inputs(&log, &opened.head.progress, 1_000);
    for input in &mut all {
        if let Input::Commits(commits, _) = input {
            let commit = commit_of(&mut commits[50]);
            let hlc = commit.hlc.millis() + 25 * 60 * 60 * 1000;
            commit.hlc = Hlc::from_millis(hlc);
        }
    }
    let retention = Retention { history_ms: 120_000, feed_ms: 120_000 };
    applier(opened, retention).run(&feed(all)).unwrap();
    let opened = open(dir.path());
    assert_eq!(
        (opened.head.progress.feed_start, opened.head.progress.oldest_readable),
        (TxnId(0), TxnId(0))
    );
    let appended = log.commits[50].1.hlc.millis();
    assert_eq!(opened.head.progress.time.millis(), appended + 60_000, "as far ahead as may be");
    let last = log.commits.last().unwrap().0;
    assert_eq!(seen(&opened.storage, last)[&1], json(r#"{"n":199}"#));
    assert_eq!(slices().get(), 4);
}
