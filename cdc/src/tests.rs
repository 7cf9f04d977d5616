//! Whatever becomes of a commit, each change is written once, in order, and no mark is early.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Error as JournalError, Journal, ReadFrom, TopicPartition, cluster_topics};
use anabranch_schemas::records::{Lost, Resolved};
use anabranch_schemas::store::{FeedChange, FeedReply, FeedTransaction};
use anabranch_schemas::{decode, encode};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use crate::batch::{Batch, Position};
use crate::writer::ChangesWriter;

const SLICES: u16 = 4;

/// A log whose commits meet these fates, one after the other.
fn fateful(log: &Arc<dyn Journal>, fates: Vec<Fate>) -> Arc<dyn Journal> {
    let fates = Mutex::new(fates.into_iter());
    Arc::new(FaultyJournal::new(Arc::clone(log), move |step| match step {
        Step::Commit(_) => fates.lock().unwrap().next().unwrap_or(Fate::Done),
        _ => Fate::Done,
    }))
}

/// What may become of a commit. What is not done stays open until the next writer of its id.
fn fates() -> impl Strategy<Value = Fate> {
    let unknown = || JournalError::Unknown("the answer was lost".to_owned());
    prop_oneof![
        2 => Just(Fate::Done),
        1 => Just(Fate::DoneBut(unknown())),
        1 => Just(Fate::Fails(unknown())),
        1 => Just(Fate::Fails(JournalError::Aborted("on purpose".to_owned()))),
    ]
}

/// A transaction of the feed: the slices its commit record names, each with a number of changes.
type History = Vec<(u64, BTreeMap<u16, usize>)>;

/// Transactions with holes between them.
fn histories() -> impl Strategy<Value = History> {
    let slices = prop::collection::btree_map(0..SLICES, 0_usize..3, 1..4);
    let steps = prop::collection::vec((1_u64..3, slices), 1..25);
    steps.prop_map(|steps| {
        let mut txn = 0;
        let mut history = Vec::new();
        for (step, slices) in steps {
            history.push((txn, slices));
            txn += step;
        }
        history
    })
}

fn change(slice: u16, txn: u64, number: usize) -> FeedChange {
    FeedChange {
        slice: u32::from(slice),
        document_id: Bytes::from(format!("document {slice}")),
        event: Bytes::from(format!("{txn}/{slice}/{number}")),
    }
}

fn changes(txn: u64, slices: &BTreeMap<u16, usize>) -> Vec<FeedChange> {
    let counts = slices.iter();
    counts.flat_map(|(slice, count)| (0..*count).map(|n| change(*slice, txn, n))).collect()
}

/// The feed from `from` on, as a store node might send it: every third transaction is cut.
fn feed(history: &History, from: TxnId) -> Vec<FeedReply> {
    let mut replies = Vec::new();
    for (txn, slices) in history.iter().filter(|(txn, _)| *txn >= from.0) {
        let numbers = || slices.keys().map(|slice| u32::from(*slice)).collect::<Vec<_>>();
        let part = |changes| FeedTransaction { txn: *txn, slices: numbers(), changes };
        let mut all = changes(*txn, slices);
        while txn % 3 == 0 && all.len() > 1 {
            let rest = all.split_off(1);
            replies.push(FeedReply { transactions: vec![part(all)], next: *txn });
            all = rest;
        }
        replies.push(FeedReply { transactions: vec![part(all)], next: txn + 1 });
    }
    replies
}

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "east".parse().unwrap(),
        actor: ActorId(Uuid::from_u128(1)),
        slices: SliceCount::try_from(SLICES).unwrap(),
        created_ms: 0,
    }
}

/// Captures the whole history: begins anew after each failure, as the runner does.
fn capture(journal: &Arc<dyn Journal>, history: &History, sizes: &[usize]) {
    let mut sizes = sizes.iter().cycle();
    'anew: loop {
        let Ok((mut writer, start)) = ChangesWriter::open(journal, identity()) else { continue };
        let mut batch = Batch::new(identity().slices, start);
        let replies = feed(history, start.next);
        let mut replies = replies.into_iter().peekable();
        while replies.peek().is_some() {
            for reply in replies.by_ref().take(*sizes.next().unwrap()) {
                batch.add(reply).unwrap();
            }
            let all = sizes.next().unwrap().is_multiple_of(2);
            if writer.write(&batch.take(), all).is_err() {
                continue 'anew;
            }
        }
        return;
    }
}

/// Reads a partition to its end; checks that no mark is early (CDC-2), and that there is one of
/// the last transaction that names the slice. Returns the changes.
fn read_back(log: &Arc<dyn Journal>, slice: Slice, history: &History) -> Vec<String> {
    let at = TopicPartition::new(identity().name.changes(), slice.0);
    let end = log.bounds(&at).unwrap().end;
    let mut reader = log.reader(&[(at.clone(), ReadFrom::Start)]).unwrap();
    let (mut seen, mut marked) = (Vec::new(), None);
    while reader.position(&at).unwrap() < end {
        for record in reader.poll(Duration::from_millis(10)).unwrap() {
            let value = record.value.unwrap();
            if !record.key.is_empty() {
                seen.push(String::from_utf8(value.to_vec()).unwrap());
                continue;
            }
            let mark: Resolved = decode(&value).unwrap();
            assert_eq!(mark.slice, slice);
            marked = marked.max(Some(mark.txn.0));
            let below = history.iter().filter(|(txn, _)| *txn <= mark.txn.0);
            let due: usize = below.map(|(_, slices)| slices.get(&slice.0).unwrap_or(&0)).sum();
            assert!(seen.len() >= due, "CDC-2: a mark at {} is early", mark.txn);
        }
    }
    let last = history.iter().rfind(|(_, slices)| slices.contains_key(&slice.0));
    assert!(marked >= last.map(|(txn, _)| *txn), "readers wait for a mark for ever");
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_change_is_written_once_whatever_becomes_of_commits(
        history in histories(),
        fates in prop::collection::vec(fates(), 0..20),
        sizes in prop::collection::vec(1_usize..6, 1..6),
    ) {
        let log: Arc<dyn Journal> = Arc::new(MemoryJournal::new());
        let identity = identity();
        log.ensure_topics(&cluster_topics(&identity.name, identity.slices, None)).unwrap();
        capture(&fateful(&log, fates), &history, &sizes);
        for slice in identity.slices.all() {
            let expected: Vec<_> = history
                .iter()
                .flat_map(|(txn, slices)| {
                    let count = *slices.get(&slice.0).unwrap_or(&0);
                    (0..count).map(move |number| format!("{txn}/{}/{number}", slice.0))
                })
                .collect();
            prop_assert_eq!(read_back(&log, slice, &history), expected, "CDC-1");
        }
    }
}

#[test]
fn a_feed_that_makes_no_sense_is_refused() {
    let slices = identity().slices;
    let reply = |txn, slice, next| FeedReply {
        transactions: vec![FeedTransaction { txn, slices: vec![slice], changes: vec![] }],
        next,
    };
    let start = Position { next: TxnId(5), written: 0 };
    let add = |reply| Batch::new(slices, start).add(reply);
    assert!(add(reply(5, 0, 6)).is_ok());
    assert!(add(reply(4, 0, 6)).is_err(), "a transaction that was written");
    assert!(add(reply(5, 4, 6)).is_err(), "a slice that is not there");
    assert!(add(reply(7, 0, 6)).is_err(), "a position before its transaction");
    assert!(add(FeedReply { transactions: vec![], next: 4 }).is_err(), "a position that goes back");
}

#[test]
fn what_was_written_of_a_transaction_is_passed_over_and_its_slices_are_marked_when_it_is_whole() {
    let slices = BTreeMap::from([(0, 3), (2, 2)]);
    let history = vec![(4, BTreeMap::from([(0, 1)])), (6, slices)];
    let replies = feed(&history, TxnId(0));
    assert_eq!(replies.len(), 6, "the second one comes in five parts");
    let mut batch = Batch::new(identity().slices, Position { next: TxnId(0), written: 0 });
    let mut written = Vec::new();
    for reply in &replies[..3] {
        batch.add(reply.clone()).unwrap();
    }
    let first = batch.take();
    let partial = first.partial().unwrap();
    assert_eq!((first.next(), partial.txn, partial.written), (TxnId(6), TxnId(6), 2));
    assert_eq!(first.marks(false), [Resolved { slice: Slice(0), txn: TxnId(4) }]);
    assert!(first.marks(true).iter().all(|mark| mark.txn == TxnId(5)));
    assert!(!batch.has_news());
    written.extend_from_slice(first.changes());

    // After a crash.
    let start = Position { next: TxnId(6), written: partial.written };
    let mut batch = Batch::new(identity().slices, start);
    for reply in feed(&history, TxnId(6)) {
        batch.add(reply).unwrap();
        let second = batch.take();
        assert!(second.partial().is_none_or(|partial| partial.written >= 2));
        assert_eq!(second.partial().is_none(), second.next() == TxnId(7));
        assert_eq!(second.marks(false).len(), if second.next() == TxnId(7) { 2 } else { 0 });
        written.extend_from_slice(second.changes());
    }
    let expected: Vec<_> = history.iter().flat_map(|(txn, slices)| changes(*txn, slices)).collect();
    let events = written.iter().map(|event| &event.value);
    assert!(events.eq(expected.iter().map(|change| &change.event)));
}

/// Whoever reads a slice on from within what is lost there must not start behind where that stands.
#[test]
fn a_slice_gets_no_mark_until_what_is_lost_there_is_passed() {
    let (lost, kept) = (Slice(1), Slice(0));
    let event = encode(&Lost { slice: lost, from: TxnId(4), to: TxnId(9) });
    let told = FeedChange { slice: 1, document_id: Bytes::new(), event };
    let transaction = |txn, slices: &[u32], changes| FeedReply {
        transactions: vec![FeedTransaction { txn, slices: slices.to_vec(), changes }],
        next: txn + 1,
    };
    let mut batch = Batch::new(identity().slices, Position { next: TxnId(4), written: 0 });
    batch.add(transaction(4, &[0, 1], vec![change(0, 4, 0), told])).unwrap();
    assert_eq!(batch.marks(false), [Resolved { slice: kept, txn: TxnId(4) }]);
    let first = batch.take();
    assert_eq!((first.changes().len(), first.marks(true).len()), (2, usize::from(SLICES) - 1));
    batch.add(transaction(6, &[0, 1], vec![change(0, 6, 0)])).unwrap();
    assert_eq!(batch.take().marks(false), [Resolved { slice: kept, txn: TxnId(6) }]);
    batch.add(transaction(9, &[1], vec![])).unwrap();
    assert_eq!(batch.marks(false), [Resolved { slice: lost, txn: TxnId(9) }]);
    assert_eq!(batch.marks(true).len(), usize::from(SLICES));
}

#[test]
fn what_no_store_node_has_any_more_is_told_in_every_slice_and_what_follows_is_captured() {
    let log: Arc<dyn Journal> = Arc::new(MemoryJournal::new());
    let identity = identity();
    log.ensure_topics(&cluster_topics(&identity.name, identity.slices, None)).unwrap();
    let (mut writer, start) = ChangesWriter::open(&log, identity.clone()).unwrap();
    assert_eq!(start.next, TxnId(0));
    writer.write_lost(TxnId(0), TxnId(9)).unwrap();
    let (_, start) = ChangesWriter::open(&log, identity.clone()).unwrap();
    assert_eq!(start, Position { next: TxnId(9), written: 0 });
    capture(&log, &vec![(9, BTreeMap::from([(0, 1)]))], &[1]);
    for slice in identity.slices.all() {
        let at = TopicPartition::new(identity.name.changes(), slice.0);
        let end = log.bounds(&at).unwrap().end;
        let mut reader = log.reader(&[(at.clone(), ReadFrom::Start)]).unwrap();
        let mut values = Vec::new();
        while reader.position(&at).unwrap() < end {
            let records = reader.poll(Duration::from_millis(10)).unwrap();
            values.extend(records.into_iter().map(|record| record.value.unwrap()));
        }
        let last = TxnId(8);
        assert_eq!(decode::<Lost>(&values[0]).unwrap(), Lost { slice, from: TxnId(0), to: last });
        assert_eq!(decode::<Resolved>(&values[1]).unwrap(), Resolved { slice, txn: last });
        assert_eq!(values.get(2).is_some_and(|value| value == "9/0/0"), slice == Slice(0));
    }
}
