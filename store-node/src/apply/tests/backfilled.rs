//! A node that takes from other replicas what the log no longer has, and then applies the log: it
//! holds what one holds that applied everything, to the byte (ST-2), whatever happens on the way:
//! replicas that fail, snapshots that are gone, crashes at any page.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::Epoch;
use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_journal::metadata::{Agreed, LostRange};
use anabranch_journal::{Error as JournalError, Offset, TopicPartition};
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::decode;
use anabranch_schemas::records::Lost;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::support::{TestLog, TestRound, arbitrary_rounds, everything, slices};
use super::whole::{
    LONG, applier, build, catch_up, changes, crash_image, feed, inputs, open, put, seen,
};
use crate::backfill::{
    Agreement, Backfill, Cursor, Fetched, Fill, Heard, Position, Reason, Replicas, Wanted,
    read_entries,
};
use crate::error::Error;
use crate::persistence::Persistence;
use crate::status::Status;
use crate::storage::{FeedPosition, Head, Opened, Storage, Table};

/// What happens instead of a page, or with it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The page comes.
    Page,
    /// The page comes, and what is here is made durable.
    PageAndFlush,
    /// The replica fails.
    Fails,
    /// The replica has come past it and no longer has the snapshot; another one does not answer.
    Passed,
    /// Nobody has the snapshot any more.
    Gone,
    /// The node dies.
    Dies,
}

/// Replicas that are stores of the test.
pub(super) struct Others {
    pub(super) stores: Vec<Arc<Storage>>,
    pub(super) target: Arc<Storage>,
    pub(super) events: Arc<Mutex<VecDeque<Event>>>,
    pub(super) page_entries: usize,
    /// Of the node that asks.
    pub(super) shutdown: Shutdown,
}

impl Replicas for Others {
    fn epoch(&self) -> Epoch {
        Epoch::default()
    }

    fn positions(&self) -> Vec<Heard> {
        let named = self.stores.iter().enumerate();
        named
            .map(|(number, store)| {
                (format!("n{number}").parse().unwrap(), {
                    let progress = store.progress().unwrap();
                    Ok(Position { progress, lacks_next: true })
                })
            })
            .collect()
    }

    fn fetch(&self, wanted: Wanted) -> Box<dyn Iterator<Item = Fetched> + '_> {
        let can_give = |store: &&Arc<Storage>| store.progress().unwrap().next >= wanted.until;
        let Some(store) = self.stores.iter().find(can_give) else {
            let fails = matches!(self.events.lock().pop_front(), Some(Event::Fails));
            return Box::new(std::iter::once(if fails { Fetched::Failed } else { Fetched::Gone }));
        };
        let mut cursor = Some(Cursor {
            part: None,
            table: wanted.table,
            txns: wanted.since..wanted.until,
            after: Bytes::from(wanted.after.clone()),
            page_entries: self.page_entries,
            page_looked: 2 * self.page_entries,
        });
        let mut is_over = false;
        Box::new(std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let Some(mut reading) = cursor.take() else {
                is_over = true;
                return Some(Fetched::All);
            };
            match self.events.lock().pop_front().unwrap_or(Event::Page) {
                Event::Page => {}
                Event::PageAndFlush => self.target.flush().unwrap(),
                Event::Fails => return Some(Fetched::Failed),
                Event::Passed => return Some(Fetched::Passed),
                Event::Gone => return Some(Fetched::Gone),
                Event::Dies => {
                    self.shutdown.begin();
                    return None;
                }
            }
            let page = reading.next(store).unwrap();
            cursor = (!page.is_last).then_some(reading);
            let reply = page.items.into_iter().next().unwrap();
            let entries = read_entries(reply.entries, &wanted).unwrap();
            let (after, is_last) = (reply.after.to_vec(), reply.is_last);
            Some(Fetched::Entries(Fill { entries, after, is_last }))
        }))
    }
}

/// Of which nothing is ever lost.
struct Nothing;

impl Agreement for Nothing {
    fn lost_from(&self, next: TxnId, _: Option<u32>, _: Epoch) -> Result<Option<Agreed>, Error> {
        panic!("{next} is lost, and somebody had it")
    }
}

pub(super) fn trimmed() -> JournalError {
    let at = TopicPartition::new("c.txns", 0);
    JournalError::Trimmed { at, wanted: Offset(0), start: Offset(1) }
}

pub(super) fn backfill(target: &Arc<Storage>, status: &Arc<Status>, others: Others) -> Backfill {
    Backfill {
        log: Arc::new(everything()),
        storage: Arc::clone(target),
        status: Arc::clone(status),
        persistence: Persistence::new(Arc::clone(status), others.shutdown.clone()),
        replicas: Box::new(others),
        agreement: Box::new(Nothing),
        log_has: Box::new(|_| true),
        ask_again: Duration::ZERO,
        lost_after: Duration::MAX,
        removed_at_once: 2,
    }
}

/// Backfills a store in a directory until it is done, through crashes.
fn backfilled(
    dir: TempDir,
    stores: &[Arc<Storage>],
    events: &[Event],
    page_entries: usize,
) -> (TempDir, Opened) {
    let events = Arc::new(Mutex::new(VecDeque::from(events.to_vec())));
    let mut dir = dir;
    loop {
        let Opened { storage, head, unfinished, .. } = open(dir.path());
        let (target, status) = (Arc::new(storage), status_of(&head));
        let others = Others {
            stores: stores.to_vec(),
            target: Arc::clone(&target),
            events: Arc::clone(&events),
            page_entries,
            shutdown: Shutdown::new(),
        };
        let reason = unfinished.map_or_else(|| Reason::Trimmed(trimmed()), Reason::Interrupted);
        let done = backfill(&target, &status, others).run(head, reason);
        let image = crash_image(dir.path());
        drop((target, status));
        dir = image;
        match done {
            Ok(_) => {
                let opened = open(dir.path());
                assert!(opened.unfinished.is_none());
                return (dir, opened);
            }
            Err(Error::Shutdown) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) fn status_of(head: &Head) -> Arc<Status> {
    let Head { progress, .. } = head;
    let ready = anabranch_runtime::admin::Readiness::new().register("test");
    Arc::new(Status::new(progress.next, progress.last, progress.time, ready))
}

/// A store that has applied the first rounds.
fn applied(rounds: &[TestRound]) -> (TempDir, Opened) {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = build(rounds);
    let opened = catch_up(dir.path(), &log, 5);
    (dir, opened)
}

/// Every document at a timestamp with its writer and its stored bytes.
fn stored(storage: &Storage, at: TxnId) -> Vec<(Vec<u8>, TxnId, Vec<u8>)> {
    let mut all = Vec::new();
    storage
        .documents(&[], None, at, |id, txn, state| {
            all.push((id.to_vec(), txn, state.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    all
}

/// A store against one that has applied everything, from where its history begins.
pub(super) fn check(opened: &Opened, whole: &Opened, log: &TestLog) {
    let (progress, expected) = (&opened.head.progress, &whole.head.progress);
    assert_eq!((progress.next, progress.last), (expected.next, expected.last));
    assert_eq!((progress.time, &progress.slices), (expected.time, &expected.slices));
    assert_eq!(progress.observed, expected.observed);
    for (txn, commit, _) in &log.commits {
        if *txn >= progress.oldest_readable {
            assert_eq!(stored(&opened.storage, *txn), stored(&whole.storage, *txn), "at {txn}");
            let outcome = |opened: &Opened| opened.storage.outcome(commit.round, commit.hlc);
            assert_eq!(outcome(opened).unwrap(), outcome(whole).unwrap(), "of {txn}");
        }
    }
    let fed = |opened: &Opened| changes(&opened.storage, progress.feed_start, progress.next);
    assert_eq!(fed(opened).unwrap(), fed(whole).unwrap());
}

fn go_on(path: &Path, log: &TestLog) -> Opened {
    let opened = open(path);
    let all = inputs(log, &opened.head.progress, 3);
    applier(opened, LONG).run(&feed(all)).unwrap();
    open(path)
}

fn arbitrary_events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Page),
        2 => Just(Event::PageAndFlush),
        2 => Just(Event::Fails),
        1 => Just(Event::Gone),
        2 => Just(Event::Dies),
    ];
    prop::collection::vec(event, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_what_one_holds_that_applied_everything(
        rounds in arbitrary_rounds(25),
        (behind, ahead) in (0_usize..25, 1_usize..25),
        events in arbitrary_events(),
        page_entries in 1_usize..4,
    ) {
        let ahead = ahead.min(rounds.len());
        let behind = behind.min(ahead - 1);
        let (log, model) = build(&rounds);
        let (_whole_dir, whole) = applied(&rounds);
        let (_source_dir, source) = applied(&rounds[..ahead]);
        let (dir, old) = applied(&rounds[..behind]);
        drop(old);
        let stores = [Arc::new(source.storage)];
        let (dir, opened) = backfilled(dir, &stores, &events, page_entries);
        prop_assert_eq!(opened.head.progress.next, log.commits[ahead - 1].0.next());
        drop(opened);
        let opened = go_on(dir.path(), &log);
        check(&opened, &whole, &log);
        let last = log.commits.last().unwrap().0;
        prop_assert_eq!(seen(&opened.storage, last), model.at(last));
    }
}

fn many(count: u128) -> Vec<TestRound> {
    (0..count).map(|id| TestRound::new(id, vec![put(i64::try_from(id % 6).unwrap(), 1)])).collect()
}

#[test]
fn what_was_fetched_and_is_durable_is_not_fetched_again() {
    let (_source_dir, source) = applied(&many(30));
    let stores = [Arc::new(source.storage)];
    let (dir, empty) = applied(&[]);
    drop(empty);
    let Opened { storage, head, .. } = open(dir.path());
    let (target, status) = (Arc::new(storage), status_of(&head));
    let pages = [vec![Event::Page; 20], vec![Event::PageAndFlush, Event::Dies]].concat();
    let others = Others {
        stores: stores.to_vec(),
        target: Arc::clone(&target),
        events: Arc::new(Mutex::new(VecDeque::from(pages))),
        page_entries: 1,
        shutdown: Shutdown::new(),
    };
    let died = backfill(&target, &status, others).run(head, Reason::Trimmed(trimmed()));
    assert!(matches!(died, Err(Error::Shutdown)));
    let image = crash_image(dir.path());
    let unfinished = open(image.path()).unfinished.unwrap();
    assert_eq!((unfinished.entries, unfinished.after.is_empty()), (20, false));
    // Thirty rounds and six documents in all.
    let (_dir, opened) = backfilled(image, &stores, &[], 1);
    assert_eq!(seen(&opened.storage, opened.head.progress.last.unwrap()).len(), 6);
}

#[test]
fn until_it_is_whole_it_serves_no_reads_and_says_what_it_does() {
    let (_source_dir, source) = applied(&many(30));
    let (dir, empty) = applied(&[]);
    drop(empty);
    let Opened { storage, head, .. } = open(dir.path());
    let (target, status) = (Arc::new(storage), status_of(&head));
    status.set_applied(TxnId(0), None, head.progress.time);
    let others = Others {
        stores: vec![Arc::new(source.storage)],
        target: Arc::clone(&target),
        events: Arc::new(Mutex::new(VecDeque::from([Event::Page, Event::Dies]))),
        page_entries: 10,
        shutdown: Shutdown::new(),
    };
    let died = backfill(&target, &status, others).run(head, Reason::Trimmed(trimmed()));
    assert!(died.is_err());
    let backfilling = status.backfilling().unwrap();
    assert_eq!(backfilling.entries, 10);
    assert!(backfilling.text.contains("10 rounds and documents"), "{}", backfilling.text);
    status.set_log_bounds(anabranch_journal::Bounds { start: Offset(0), end: Offset(0) });
    assert!(!status.applied().caught_up, "also at the end of the log");
}

/// Whoever waits is to hear from the node, also if all that is there was written later.
#[test]
fn what_is_newer_than_the_snapshot_is_looked_at_too() {
    let rounds = [0, 3].into_iter().chain(4..30).chain([1]).zip(0..);
    let rounds: Vec<_> =
        rounds.map(|(number, id)| TestRound::new(id, vec![put(number, 1)])).collect();
    let (_dir, opened) = applied(&rounds);
    for (table, there) in [(Table::Versions, 2), (Table::Rounds, 2)] {
        let txns = TxnId(0)..TxnId(3);
        let (part, after, page_entries, page_looked) = (None, Bytes::new(), 100, 4);
        let mut cursor = Cursor { part, table, txns, after, page_entries, page_looked };
        let (mut pages, mut entries) = (0, 0);
        loop {
            let page = cursor.next(&opened.storage).unwrap();
            entries += page.items[0].entries.len();
            pages += 1;
            if page.is_last {
                break;
            }
        }
        assert_eq!((pages, entries), (rounds.len() / 4 + 1, there), "{table:?}");
    }
}

#[test]
fn an_empty_node_reads_the_log_if_the_others_have_little() {
    let (_source_dir, source) = applied(&many(30));
    let (dir, empty) = applied(&[]);
    drop(empty);
    let Opened { storage, head, .. } = open(dir.path());
    let (target, status) = (Arc::new(storage), status_of(&head));
    let others = Others {
        stores: vec![Arc::new(source.storage)],
        target: Arc::clone(&target),
        events: Arc::default(),
        page_entries: 10,
        shutdown: Shutdown::new(),
    };
    let head = backfill(&target, &status, others).run(head, Reason::Empty).unwrap();
    assert_eq!(head.progress.next, TxnId(0));
    assert_eq!(status.backfilling(), None);
}

/// Replicas that agree on this.
#[derive(Clone)]
struct This(Agreed);

impl Agreement for This {
    fn lost_from(&self, next: TxnId, _: Option<u32>, _: Epoch) -> Result<Option<Agreed>, Error> {
        assert_eq!(self.0.range.from, next);
        Ok(Some(self.0.clone()))
    }
}

/// A store with some pages of a backfill, which another one with more could finish; `None` if these
/// pages are all of it.
fn interrupted(own: &[TestRound], others: &[TestRound], pages: usize) -> Option<TempDir> {
    let (_source_dir, source) = applied(others);
    let (dir, Opened { storage, head, .. }) = applied(own);
    let (target, status) = (Arc::new(storage), status_of(&head));
    let events = [vec![Event::Page; pages], vec![Event::PageAndFlush, Event::Dies]].concat();
    let others = Others {
        stores: vec![Arc::new(source.storage)],
        target: Arc::clone(&target),
        events: Arc::new(Mutex::new(VecDeque::from(events))),
        page_entries: 1,
        shutdown: Shutdown::new(),
    };
    let died = backfill(&target, &status, others).run(head, Reason::Trimmed(trimmed()));
    let image = crash_image(dir.path());
    died.is_err().then_some(image)
}

/// What is removed of a backfill that nobody can finish is written in several batches: a crash
/// between any two of them, and what is there is removed after it.
#[test]
fn a_crash_while_a_backfill_is_abandoned_leaves_nothing_behind() {
    let rounds = many(14);
    let (log, _) = build(&rounds);
    let (_whole_dir, whole) = applied(&rounds);
    for writes in 0.. {
        // All of its rounds and some of its documents are here.
        let image = interrupted(&rounds[..3], &rounds, 14).unwrap();
        let (mut dies, mut has_died) = (Some(writes), false);
        while let Opened { storage, head, unfinished: Some(unfinished), .. } = open(image.path()) {
            let (target, status) = (Arc::new(storage), status_of(&head));
            let mut left = backfill(&target, &status, nobody(&target));
            if let Some(writes) = dies.take() {
                left.persistence = left.persistence.dying_after(writes);
            }
            let ended = left.run(head, Reason::Interrupted(unfinished));
            has_died |= ended.is_err();
            target.flush().unwrap();
        }
        check(&go_on(image.path(), &log), &whole, &log);
        let Opened { storage, .. } = open(image.path());
        assert_eq!(
            storage.deleted_versions(),
            0,
            "a compaction could take one for a newer version"
        );
        assert!(!storage.has_taken_back().unwrap());
        if !has_died {
            // What was removed took several.
            assert!(writes > 5, "{writes}");
            return;
        }
    }
}

/// Nobody but the node itself.
pub(super) fn nobody(target: &Arc<Storage>) -> Others {
    let (events, page_entries, shutdown) = (Arc::default(), 1, Shutdown::new());
    Others { stores: vec![], target: Arc::clone(target), events, page_entries, shutdown }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    /// The replicas that have it are gone for good, and the log has it: what was fetched of a later
    /// snapshot must not be under what is applied then.
    #[test]
    fn a_backfill_that_nobody_can_finish_leaves_nothing_behind(
        rounds in arbitrary_rounds(25),
        (behind, ahead) in (0_usize..25, 1_usize..25),
        pages in 1_usize..20,
    ) {
        let ahead = ahead.min(rounds.len());
        let behind = behind.min(ahead - 1);
        let (log, _) = build(&rounds);
        let (_whole_dir, whole) = applied(&rounds);
        let Some(image) = interrupted(&rounds[..behind], &rounds[..ahead], pages) else {
            return Ok(());
        };
        let Opened { storage, head, unfinished, .. } = open(image.path());
        let (target, status) = (Arc::new(storage), status_of(&head));
        let left = backfill(&target, &status, nobody(&target));
        let before = head.progress.clone();
        let head = left.run(head, Reason::Interrupted(unfinished.unwrap())).unwrap();
        prop_assert_eq!(&head.progress, &before);
        target.flush().unwrap();
        drop((target, left));
        prop_assert!(open(image.path()).unfinished.is_none());
        let opened = go_on(image.path(), &log);
        check(&opened, &whole, &log);
    }

    /// ST-2, ST-5: replicas that have come equally far pass over the same, and are equal after it.
    #[test]
    fn what_is_lost_is_lost_to_all_replicas_alike(
        rounds in arbitrary_rounds(25),
        (behind, ahead) in (0_usize..25, 0_usize..25),
    ) {
        let ahead = ahead.min(rounds.len() - 1);
        let behind = behind.min(ahead);
        let (log, _) = build(&rounds);
        let to = log.commits[ahead].0;
        // The parts of transactions before that are gone, too.
        let (trimmed_log, _) = build(&rounds[..ahead]);
        let starts = trimmed_log.parts.iter().map(|(slice, parts)| {
            (*slice, Offset(parts.last().map_or(0, |(offset, _)| offset.0 + 1)))
        });
        let from = if behind == 0 { TxnId(0) } else { log.commits[behind - 1].0.next() };
        let range = LostRange::new(PartitionId(0), from, to, starts);
        let agreed = This(Agreed { number: 0, range });
        let replicas: Vec<_> = (0..2).map(|_| {
            let (dir, Opened { storage, head, .. }) = applied(&rounds[..behind]);
            let (target, status) = (Arc::new(storage), status_of(&head));
            let mut passing = backfill(&target, &status, nobody(&target));
            passing.agreement = Box::new(agreed.clone());
            passing.lost_after = Duration::ZERO;
            let head = passing.run(head, Reason::Trimmed(trimmed())).unwrap();
            assert_eq!((head.progress.next, status.applied().next), (from.max(to), from.max(to)));
            // Of parts alone it is told when a commit record names them.
            assert_eq!(status.lost_ranges(), u64::from(from < to));
            drop((target, passing));
            let opened = go_on(dir.path(), &log);
            (dir, opened)
        }).collect();
        let [(_, one), (_, other)] = &replicas[..] else { panic!("there are two") };
        prop_assert_eq!(&one.head.progress, &other.head.progress);
        prop_assert_eq!(one.lost_ranges, u64::from(from < to));
        let last = log.commits.last().unwrap().0;
        for txn in log.commits.iter().map(|(txn, _, _)| *txn).filter(|txn| *txn >= to) {
            prop_assert_eq!(stored(&one.storage, txn), stored(&other.storage, txn));
        }
        let fed = |opened: &Opened| events(&opened.storage, last.next());
        prop_assert_eq!(fed(one), fed(other));
        let lost: Vec<_> = fed(one).into_iter().filter_map(|(txn, id, event)| {
            id.is_empty().then(|| (txn, decode::<Lost>(&event).unwrap()))
        }).collect();
        let expected: Vec<_> = (from < to).then(|| slices().all()).into_iter().flatten()
            .map(|slice| (TxnId(to.0 - 1), Lost { slice, from, to: TxnId(to.0 - 1) })).collect();
        prop_assert_eq!(lost, expected);
    }
}

/// Everything in the feed: transaction, id and event.
fn events(storage: &Storage, until: TxnId) -> Vec<(TxnId, Bytes, Bytes)> {
    let mut all = Vec::new();
    storage
        .changes(FeedPosition { txn: storage.feed_start(), chunk: 0 }, until, |at, _, changes| {
            all.extend(changes.into_iter().map(|change| (at.txn, change.id, change.event)));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    all
}

fn several() -> Vec<TestRound> {
    let round = |id| TestRound::new(id, vec![put(i64::try_from(id % 6).unwrap(), 1)]);
    (0..12).map(round).collect()
}

/// The only replica that has it is away for longer than anybody would wait who has a choice: what
/// was copied is kept, unless the log has it, or another replica has what came after it.
#[test]
fn what_was_copied_is_kept_for_as_long_as_its_replica_is_away() {
    for (away, log_has, is_kept) in
        [(Event::Fails, false, true), (Event::Fails, true, false), (Event::Passed, false, false)]
    {
        let events = [vec![Event::Page; 14], vec![away; 500], vec![Event::Dies]].concat();
        let dir = tempfile::tempdir().unwrap();
        let (_source_dir, source) = applied(&several());
        let Opened { storage, head, .. } = open(dir.path());
        let (target, status) = (Arc::new(storage), status_of(&head));
        let others = Others {
            stores: vec![Arc::new(source.storage)],
            target: Arc::clone(&target),
            events: Arc::new(Mutex::new(VecDeque::from(events.clone()))),
            page_entries: 1,
            shutdown: Shutdown::new(),
        };
        let copying =
            Backfill { log_has: Box::new(move |_| log_has), ..backfill(&target, &status, others) };
        assert!(copying.run(head, Reason::Trimmed(trimmed())).is_err(), "the node has died");
        let kept = target.unfinished().unwrap().map_or(0, |unfinished| unfinished.entries);
        assert_eq!(kept > 0, is_kept, "{kept} entries");
    }
}

/// Two replicas copied from a third one, which is gone for good. Neither has what the other one is
/// to come to: what nobody has is lost, and they go on.
#[test]
fn two_that_copy_do_not_wait_for_each_other() {
    let rounds = many(14);
    let (log, _) = build(&rounds);
    let image = interrupted(&rounds[..3], &rounds, 14).unwrap();
    let (_other_dir, other) = applied(&rounds[..2]);
    let Opened { storage, head, unfinished, .. } = open(image.path());
    let (target, status) = (Arc::new(storage), status_of(&head));
    let others = Others {
        stores: vec![Arc::new(other.storage)],
        events: Arc::new(Mutex::new(VecDeque::from(vec![Event::Fails; 500]))),
        ..nobody(&target)
    };
    let (from, to) = (log.commits[2].0.next(), log.commits[13].0);
    let mut copying = backfill(&target, &status, others);
    copying.log_has = Box::new(|_| false);
    copying.lost_after = Duration::ZERO;
    let range = LostRange::new(PartitionId(0), from, to, []);
    copying.agreement = Box::new(This(Agreed { number: 0, range }));
    let head = copying.run(head, Reason::Interrupted(unfinished.unwrap())).unwrap();
    assert_eq!(head.progress.next, from, "the log is asked first");
    let head = copying.run(head, Reason::Trimmed(trimmed())).unwrap();
    assert_eq!(head.progress.next, to);
}

/// The replica dies for good right after it has given the last entry: that it was the last is known.
#[test]
fn who_has_the_last_entry_needs_nobody_any_more() {
    let (log, _) = build(&several());
    let (_whole_dir, whole) = applied(&several());
    let mut finished = 0;
    for writes in 0..60 {
        let (_source_dir, source) = applied(&several());
        let dir = tempfile::tempdir().unwrap();
        let Opened { storage, head, .. } = open(dir.path());
        let (target, status) = (Arc::new(storage), status_of(&head));
        let others = Others { stores: vec![Arc::new(source.storage)], ..nobody(&target) };
        let mut copying = backfill(&target, &status, others);
        copying.persistence = copying.persistence.clone().dying_after(writes);
        if copying.run(head, Reason::Trimmed(trimmed())).is_ok() {
            break;
        }
        target.flush().unwrap();
        drop((copying, target));
        let Opened { storage, head, unfinished, .. } = open(dir.path());
        let Some(unfinished) = unfinished.filter(|unfinished| unfinished.is_complete) else {
            continue;
        };
        let (target, status) = (Arc::new(storage), status_of(&head));
        let alone = backfill(&target, &status, nobody(&target));
        alone.run(head, Reason::Interrupted(unfinished)).unwrap();
        drop((alone, target));
        check(&go_on(dir.path(), &log), &whole, &log);
        finished += 1;
    }
    assert!(finished > 0, "none died between the last entry and the end");
}
