//! What rounds do to documents, and the change events they give.

use std::collections::HashMap;

use anabranch_core::Value;
use anabranch_core::document::{Document, Mutation};
use anabranch_core::ids::TxnId;
use anabranch_core::query::OnConflict;
use anabranch_schemas::limits::{MAX_CHANGE_BYTES, MAX_STATE_BYTES};
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::{decode, state};

use super::support::{
    ACTOR, REMOTE, TestLog, TestRound, commit_of, everything, id, json, path, remote_state, slices,
};
use crate::apply::assembler::{Assembler, Round};
use crate::apply::round::{self, Documents, Effects, NewVersion, Newest};
use crate::error::Error;
use crate::storage::{Catalog, Conflict, Reason, STATE_PREFIX, SliceRead};

/// Documents by id, as the store would have them, and the changes of the last round.
#[derive(Default)]
struct Stored {
    documents: HashMap<Vec<u8>, Document>,
    /// Who wrote each last.
    versions: HashMap<Vec<u8>, TxnId>,
    changes: Vec<Change>,
    /// How often each step of a round was taken: the reads so far at each write.
    reads: usize,
    reads_at_writes: Vec<usize>,
}

impl Documents for Stored {
    fn newest(&mut self, id: &[u8]) -> Result<Newest, Error> {
        self.reads += 1;
        let version = self.versions.get(id).copied();
        Ok(Newest { version, document: self.documents.get(id).cloned() })
    }

    fn put(&mut self, new: NewVersion<'_>) {
        self.reads_at_writes.push(self.reads);
        let event = new.event.encode();
        assert!(event.len() <= MAX_CHANGE_BYTES);
        let change: Change = decode(&event).unwrap();
        self.versions.insert(new.id.to_vec(), change.txn);
        self.changes.push(change);
        match new.stored {
            Some(stored) => {
                let state = stored.strip_prefix(STATE_PREFIX).unwrap();
                self.documents.insert(new.id.to_vec(), state::decode(state).unwrap());
            }
            None => {
                self.documents.remove(&new.id[..]);
            }
        }
    }
}

/// Applies rounds one after the other to a store that starts empty.
#[derive(Default)]
pub(super) struct World {
    log: TestLog,
    stored: Stored,
}

impl World {
    pub(super) fn apply(&mut self, mutations: Vec<(i64, Mutation)>) -> Effects {
        self.apply_round(&TestRound::new(self.next_id(), mutations))
    }

    pub(super) fn next_id(&self) -> u128 {
        self.log.commits.len() as u128
    }

    pub(super) fn apply_round(&mut self, round: &TestRound) -> Effects {
        let before = self.log.parts.clone();
        self.log.append(round);
        let mut assembler = assembler();
        for (slice, parts) in &self.log.parts {
            let old = before.get(slice).map_or(0, Vec::len);
            (old..parts.len()).for_each(|index| assembler.add_part(self.log.part(*slice, index)));
        }
        assembler.add_commit(self.log.committed(self.log.commits.len() - 1));
        let round = assembler.release().unwrap().expect("all of it is there");
        self.stored.apply(round)
    }

    /// A document as a reader sees it, without its id.
    pub(super) fn value(&self, number: i64) -> Option<Value> {
        self.stored.documents.get(&id(number).to_bytes())?.value()
    }

    fn change(&mut self, mutation: Mutation) -> Option<Change> {
        self.apply(vec![(1, mutation)]);
        assert!(self.stored.changes.len() <= 1);
        self.stored.changes.first().cloned()
    }
}

impl Stored {
    fn apply(&mut self, round: Round) -> Effects {
        self.changes.clear();
        let effects = round::apply(round, &everything(), &Catalog::default(), self).unwrap();
        assert_eq!(effects.documents, self.changes.len() as u64);
        effects
    }
}

fn assembler() -> Assembler {
    Assembler::new(&everything(), TxnId(0), &vec![SliceRead::default(); 4])
}

pub(super) fn insert(fields: &str, on_conflict: OnConflict) -> Mutation {
    Mutation::Insert { fields: json(fields), on_conflict }
}

pub(super) fn set(name: &str, value: i64) -> Mutation {
    Mutation::Update {
        set: vec![(path(name), Value::Int(value))],
        unset: vec![],
        increment: vec![],
    }
}

fn after(change: &Change) -> Option<Value> {
    state::decode(&change.state).unwrap().value()
}

#[test]
fn events_tell_what_happened_with_the_images_before_and_after() {
    let mut world = World::default();
    let first = world.change(insert(r#"{"a":1,"b":{"c":2}}"#, OnConflict::Fail)).unwrap();
    assert_eq!((first.operation, first.existed), (Operation::Insert, false));
    assert_eq!(first.added, ["a", "b"]);
    assert_eq!(first.before_image(after(&first).as_ref()), None);
    assert_eq!((first.origin, first.origin_txn, first.txn), (ACTOR, TxnId(0), TxnId(0)));

    let second = world.change(set("a", 5)).unwrap();
    assert_eq!((second.operation, second.existed), (Operation::Update, true));
    assert_eq!(second.before, json(r#"{"a":1}"#));
    assert_eq!(second.before_image(after(&second).as_ref()), Some(json(r#"{"a":1,"b":{"c":2}}"#)));
    assert_eq!(after(&second), Some(json(r#"{"a":5,"b":{"c":2}}"#)));

    let third = world.change(set("z", 1)).unwrap();
    assert_eq!((third.before, third.added), (json("{}"), vec!["z".to_owned()]));

    let fourth = world.change(Mutation::Delete).unwrap();
    assert_eq!((fourth.operation, fourth.existed), (Operation::Delete, true));
    assert_eq!(fourth.before_image(None), Some(json(r#"{"a":5,"b":{"c":2},"z":1}"#)));
    assert_eq!(after(&fourth), None);

    let fifth = world.change(insert(r#"{"n":1}"#, OnConflict::Fail)).unwrap();
    assert_eq!((fifth.operation, fifth.existed), (Operation::Insert, false));
    assert_eq!(after(&fifth), Some(json(r#"{"n":1}"#)));
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let mut world = World::default();
    assert_eq!(world.change(set("a", 1)), None, "an update of what was never there");
    assert_eq!(world.change(Mutation::Delete), None);
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    assert_eq!(world.change(set("a", 1)), None);
    assert_eq!(world.change(insert(r#"{"a":1}"#, OnConflict::DoUpdate)), None);
    assert_eq!(world.change(insert(r#"{"a":2}"#, OnConflict::DoNothing)), None);
}

#[test]
fn a_conflict_is_reported_and_the_rest_of_the_round_applied() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let effects = world.apply(vec![
        (1, insert(r#"{"a":2}"#, OnConflict::Fail)),
        (2, insert(r#"{"a":2}"#, OnConflict::Fail)),
    ]);
    assert_eq!(effects.conflicts, [conflict(1, Some(0), Reason::Exists)]);
    assert_eq!(effects.documents, 1);
    assert_eq!(world.stored.changes[0].id(), id(2));
}

fn conflict(number: i64, winner: Option<u64>, reason: Reason) -> Conflict {
    Conflict { id: id(number).to_bytes().into(), winner: winner.map(TxnId), reason }
}

#[test]
fn a_document_of_which_a_condition_does_not_hold_stays_as_it_is() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let mut conditional = |since: u64, mutations| {
        let unchanged_since = Some(TxnId(since));
        let round = TestRound { unchanged_since, ..TestRound::new(world.next_id(), mutations) };
        let effects = world.apply_round(&round);
        (effects.conflicts, effects.documents)
    };
    let changed = |number, winner| conflict(number, Some(winner), Reason::Changed);
    let missing = |number, winner| conflict(number, winner, Reason::Missing);
    // It is of transaction 0, and each takes two offsets. Within the round it may change again.
    assert_eq!(conditional(0, vec![(1, set("a", 2)), (1, set("b", 2))]), (vec![], 1));
    assert_eq!(conditional(0, vec![(1, set("a", 3))]), (vec![changed(1, 2)], 0));
    assert_eq!(conditional(1, vec![(1, Mutation::Delete)]), (vec![changed(1, 2)], 0));
    // As of the last transaction nobody has changed it since; of one to come that is not known.
    let not_yet = conflict(1, Some(2), Reason::NotYet);
    assert_eq!(conditional(8, vec![(1, set("a", 4))]), (vec![not_yet], 0));
    assert_eq!(conditional(9, vec![(1, set("a", 4))]), (vec![], 1));
    // One that is not there has not stayed the same, whoever deleted it.
    assert_eq!(conditional(10, vec![(1, Mutation::Delete)]), (vec![], 1));
    assert_eq!(conditional(13, vec![(1, set("a", 5))]), (vec![missing(1, Some(12))], 0));
    assert_eq!(conditional(15, vec![(2, set("a", 5))]), (vec![missing(2, None)], 0));
}

#[test]
fn what_is_asked_of_a_document_beside_a_condition_that_does_not_hold_is_not_done() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let again = insert(r#"{"a":2}"#, OnConflict::Fail);
    let effects = world.apply(vec![(1, set("b", 1)), (1, again), (1, Mutation::Delete)]);
    assert_eq!(
        (effects.conflicts, effects.documents),
        (vec![conflict(1, Some(0), Reason::Exists)], 0)
    );
}

#[test]
fn an_insert_that_is_to_do_nothing_is_no_conflict() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let effects = world.apply(vec![(1, insert(r#"{"a":2}"#, OnConflict::DoNothing))]);
    assert_eq!(effects.kept, [id(1).to_bytes()]);
    assert_eq!((effects.conflicts, effects.documents), (vec![], 0));
    // What has changed after all was not left alone.
    let nothing = |fields| insert(fields, OnConflict::DoNothing);
    let effects = world.apply(vec![(1, nothing("{}")), (1, set("a", 3))]);
    assert_eq!((effects.kept, effects.documents), (vec![], 1));
    let effects = world.apply(vec![(2, nothing("{}")), (2, nothing("{}"))]);
    assert_eq!((effects.kept, effects.documents), (vec![], 1));
}

#[test]
fn what_a_round_deletes_its_updates_do_not_bring_back() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let effects = world.apply(vec![(1, set("b", 1)), (1, Mutation::Delete), (1, set("a", 2))]);
    assert_eq!((effects.documents, world.stored.changes[0].operation), (1, Operation::Delete));
    let again = insert(r#"{"z":1}"#, OnConflict::Fail);
    let effects = world.apply(vec![(1, Mutation::Delete), (1, again), (1, set("y", 2))]);
    assert_eq!(effects.documents, 1);
    assert_eq!(after(&world.stored.changes[0]), Some(json(r#"{"y":2,"z":1}"#)));
}

#[test]
fn an_atomic_round_applies_as_a_whole_or_not_at_all() {
    let slice = |number: &i64| slices().slice_of(id(*number).position());
    let (one, other) = (1, (2..).find(|number| slice(number) == slice(&1)).unwrap());
    let mut world = World::default();
    let mut atomic = |mutations| {
        let round = TestRound { atomic: true, ..TestRound::new(world.next_id(), mutations) };
        let Effects { documents, conflicts, too_large, .. } = world.apply_round(&round);
        (documents, conflicts, too_large)
    };
    let fresh = |number| (number, insert(r#"{"a":1}"#, OnConflict::Fail));
    assert_eq!(atomic(vec![fresh(one)]), (1, vec![], vec![]));
    let refused = (0, vec![conflict(one, Some(0), Reason::Exists)], vec![]);
    assert_eq!(atomic(vec![fresh(other), fresh(one)]), refused);
    assert_eq!(atomic(vec![fresh(one), fresh(other)]), refused);
    let large = "x".repeat(MAX_STATE_BYTES);
    let large = (one, insert(&format!(r#"{{"a":"{large}"}}"#), OnConflict::DoUpdate));
    let refused = (0, vec![], vec![id(one).to_bytes().into()]);
    assert_eq!(atomic(vec![fresh(other), large]), refused);
    assert_eq!(atomic(vec![fresh(other), (one, Mutation::Delete)]), (2, vec![], vec![]));
}

#[test]
fn an_atomic_round_of_several_slices_makes_no_sense_and_does_nothing() {
    let slice = |number: &i64| slices().slice_of(id(*number).position());
    let elsewhere = (2..).find(|number| slice(number) != slice(&1)).unwrap();
    let mutations = vec![(1, insert("{}", OnConflict::Fail)), (elsewhere, set("a", 1))];
    let mut world = World::default();
    let effects = world.apply_round(&TestRound { atomic: true, ..TestRound::new(0, mutations) });
    assert_eq!((effects.documents, effects.misplaced), (0, 2));
}

#[test]
fn mutations_of_one_document_in_one_round_are_one_event() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let effects = world.apply(vec![(1, set("a", 2)), (1, set("b", 1)), (1, set("a", 3))]);
    assert_eq!(effects.documents, 1);
    let change = &world.stored.changes[0];
    assert_eq!(change.before, json(r#"{"a":1}"#));
    assert_eq!(change.added, ["b"]);
    assert_eq!(after(change), Some(json(r#"{"a":3,"b":1}"#)));
    world.apply(vec![(2, insert("{}", OnConflict::Fail)), (2, Mutation::Delete)]);
    let change = &world.stored.changes[0];
    assert_eq!((change.operation, change.existed), (Operation::Update, false));
}

#[test]
fn an_evicted_document_is_gone_without_a_tombstone() {
    let mut world = World::default();
    let remote = remote_state("a", 1, 3);
    let merged = world.change(Mutation::Merge(remote.clone())).unwrap();
    assert_eq!(merged.operation, Operation::Insert);
    let evicted = world.change(Mutation::Evict(remote.clone())).unwrap();
    assert_eq!((evicted.operation, evicted.existed), (Operation::Evict, true));
    assert_eq!(evicted.before_image(None), Some(json(r#"{"a":1}"#)));
    assert_eq!(state::decode(&evicted.state).unwrap(), remote, "the last state");
    assert!(world.stored.documents.is_empty());
    assert_eq!(world.change(Mutation::Evict(remote.clone())), None);
    // Written here since, so the sender's state does not cover it: it stays.
    world.change(Mutation::Merge(remote.clone())).unwrap();
    world.change(set("b", 1)).unwrap();
    assert_eq!(world.change(Mutation::Evict(remote)), None);
    assert_eq!(world.stored.documents.len(), 1);
}

#[test]
fn what_came_from_elsewhere_keeps_its_origin() {
    let mut world = World::default();
    world.log.append(&TestRound::new(9, vec![(1, Mutation::Merge(remote_state("a", 1, 3)))]));
    let mut assembler = assembler();
    let slice = *world.log.parts.keys().next().unwrap();
    assembler.add_part(world.log.part(slice, 0));
    let mut committed = world.log.committed(0);
    commit_of(&mut committed).origin = REMOTE;
    commit_of(&mut committed).origin_txn = Some(TxnId(77));
    assembler.add_commit(committed);
    let round = assembler.release().unwrap().unwrap();
    world.stored.apply(round);
    let change = &world.stored.changes[0];
    assert_eq!((change.origin, change.origin_txn, change.txn), (REMOTE, TxnId(77), TxnId(0)));
}

#[test]
fn a_mutation_in_a_slice_that_is_not_its_documents_does_nothing() {
    let mut world = World::default();
    world.log.append(&TestRound::new(1, vec![(1, insert("{}", OnConflict::Fail))]));
    let mut assembler = assembler();
    let slice = *world.log.parts.keys().next().unwrap();
    let mut part = world.log.part(slice, 0);
    let mut committed = world.log.committed(0);
    part.slice.0 = (slice.0 + 1) % 4;
    commit_of(&mut committed).parts[0].slice = part.slice;
    assembler.add_part(part);
    assembler.add_commit(committed);
    let round = assembler.release().unwrap().unwrap();
    let effects = world.stored.apply(round);
    assert_eq!(effects, Effects { misplaced: 1, ..Effects::default() });
}

#[test]
fn a_document_is_handed_over_with_its_last_mutation() {
    let mut world = World::default();
    let numbers = (0..100).chain([0]);
    world.apply(numbers.map(|number| (number, set("a", 1))).collect());
    assert!(world.stored.changes.is_empty());
    world.stored.reads = 0;
    let insert = || insert(r#"{"a":1}"#, OnConflict::DoUpdate);
    // The first document's second mutation is the last of its slice.
    let effects = world.apply((0..100).chain([0]).map(|number| (number, insert())).collect());
    assert_eq!(effects.documents, 100);
    let held = world.stored.reads_at_writes.iter().zip(1..).map(|(reads, writes)| reads - writes);
    assert!(held.max().unwrap() <= 1, "documents wait for the end of the round");
}

/// A field of so many mebibytes, almost.
fn large(name: &str, letter: &str) -> String {
    format!("{{\"{name}\":\"{}\"}}", letter.repeat(4_900_000))
}

#[test]
fn a_document_that_grows_by_updates_stays_as_it_is_once_it_would_be_too_large() {
    let mut world = World::default();
    world.change(insert(&large("a", "x"), OnConflict::DoUpdate)).unwrap();
    let before = world.stored.documents.clone();
    for name in ["b", "c", "d"] {
        let grow = insert(&large(name, "x"), OnConflict::DoUpdate);
        let effects = world.apply(vec![(1, grow), (2, set("n", 1))]);
        assert_eq!(
            effects,
            Effects { too_large: vec![id(1).to_bytes().into()], ..Effects::default() }
        );
        assert_eq!((world.stored.changes.len(), &world.stored.documents), (0, &before));
    }
    // What keeps its size, or cuts it down, is as welcome as ever.
    assert!(world.change(insert(&large("a", "y"), OnConflict::DoUpdate)).is_some());
    let unset = Mutation::Update { set: vec![], unset: vec![path("a")], increment: vec![] };
    assert_eq!(after(&world.change(unset).unwrap()), Some(json("{}")));
    assert!(world.change(insert(&large("b", "x"), OnConflict::DoUpdate)).is_some());
    assert_eq!(world.change(Mutation::Delete).unwrap().operation, Operation::Delete);
}

#[test]
fn what_was_removed_is_bounded_as_well() {
    let mut world = World::default();
    let name = |number: u32| format!("{}{number:02}", "n".repeat(1_000_000));
    let mut refused = None;
    for number in 0..40 {
        let fields = [(name(number), Value::Null)].into_iter().collect();
        let put = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
        let unset = vec![path(&name(number))];
        let unset = Mutation::Update { set: vec![], unset, increment: vec![] };
        let effects = world.apply(vec![(1, put), (1, unset)]);
        if !effects.too_large.is_empty() {
            refused = Some(number);
            break;
        }
    }
    assert!(refused.is_some(), "nothing bounds what is hidden");
    let state = state::encode(&world.stored.documents[&id(1).to_bytes()]);
    assert!(state.len() <= MAX_STATE_BYTES);
    assert!(world.change(Mutation::Delete).is_some());
}

#[test]
fn a_merge_is_bounded_by_what_the_log_takes() {
    let mut world = World::default();
    let state = |name: &str, sequence| {
        let mut document = Document::default();
        let fields = json(&large(name, "x"));
        let insert = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
        let hlc = anabranch_core::hlc::Hlc::from_millis(1_000_000);
        let at = anabranch_core::document::Commit { hlc, actor: REMOTE, sequence };
        document.apply(&insert, at);
        document
    };
    let mut merge = |n| {
        let effects = world.apply(vec![(1, Mutation::Merge(state(&format!("f{n}"), n)))]);
        (world.stored.changes.len(), effects.too_large.len())
    };
    assert_eq!([1, 2, 3, 4, 5].map(&mut merge), [(1, 0), (1, 0), (1, 0), (0, 1), (0, 1)]);
    let grow = world.apply(vec![(1, set("n", 1))]);
    assert_eq!(grow.too_large.len(), 1, "a write of our own cannot make it larger");
    let unset = vec![path("f1")];
    let cut = Mutation::Update { set: vec![], unset, increment: vec![] };
    assert!(world.change(cut).is_some(), "but smaller");
    world.change(Mutation::Merge(state("f6", 6))).unwrap();
    assert!(world.change(Mutation::Delete).is_some(), "the largest can be deleted");
}
