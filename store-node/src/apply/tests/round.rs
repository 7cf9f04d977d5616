//! What rounds do to documents, and the change events they give.

use std::collections::HashMap;

use anabranch_core::Value;
use anabranch_core::document::{Document, Mutation};
use anabranch_core::ids::TxnId;
use anabranch_core::query::OnConflict;
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::{decode, state};

use super::support::{ACTOR, REMOTE, TestLog, TestRound, id, json, path, remote_state, slices};
use crate::apply::assembler::Assembler;
use crate::apply::round::{Documents, Effects, apply};
use crate::error::Error;

/// Documents by id, as the store would have them.
#[derive(Default)]
struct Stored(HashMap<Vec<u8>, Document>);

impl Documents for Stored {
    fn newest(&mut self, id: &[u8]) -> Result<Option<Document>, Error> {
        Ok(self.0.get(id).cloned())
    }
}

/// Applies rounds one after the other to a store that starts empty.
#[derive(Default)]
struct World {
    log: TestLog,
    stored: Stored,
}

impl World {
    fn apply(&mut self, mutations: Vec<(i64, Mutation)>) -> Effects {
        let round_id = self.log.commits.len() as u128;
        let before = self.log.parts.clone();
        self.log.append(&TestRound { id: round_id, mutations });
        let mut assembler = Assembler::new(TxnId(0), &[Default::default(); 4]);
        for (slice, parts) in &self.log.parts {
            let old = before.get(slice).map_or(0, Vec::len);
            (old..parts.len()).for_each(|index| assembler.add_part(self.log.part(*slice, index)));
        }
        assembler.add_commit(self.log.committed(self.log.commits.len() - 1));
        let round = assembler.release().unwrap().expect("all of it is there");
        let effects = apply(round, ACTOR, slices(), &mut self.stored).unwrap();
        for version in &effects.versions {
            match &version.state {
                Some(bytes) => {
                    self.stored.0.insert(version.id.to_vec(), state::decode(bytes).unwrap());
                }
                None => {
                    self.stored.0.remove(&version.id[..]);
                }
            }
        }
        effects
    }

    fn change(&mut self, mutation: Mutation) -> Option<Change> {
        let effects = self.apply(vec![(1, mutation)]);
        assert!(effects.changes.len() <= 1);
        assert_eq!(effects.changes.len(), effects.versions.len());
        effects.changes.first().map(|change| decode(&change.event).unwrap())
    }
}

fn insert(fields: &str, on_conflict: OnConflict) -> Mutation {
    Mutation::Insert { fields: json(fields), on_conflict }
}

fn set(name: &str, value: i64) -> Mutation {
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
    assert_eq!(effects.conflicts, [id(1).to_bytes()]);
    assert_eq!(effects.versions.len(), 1);
    assert_eq!(effects.versions[0].id, id(2).to_bytes());
}

#[test]
fn mutations_of_one_document_in_one_round_are_one_event() {
    let mut world = World::default();
    world.change(insert(r#"{"a":1}"#, OnConflict::Fail)).unwrap();
    let effects = world.apply(vec![(1, set("a", 2)), (1, set("b", 1)), (1, set("a", 3))]);
    assert_eq!((effects.changes.len(), effects.versions.len()), (1, 1));
    let change: Change = decode(&effects.changes[0].event).unwrap();
    assert_eq!(change.before, json(r#"{"a":1}"#));
    assert_eq!(change.added, ["b"]);
    assert_eq!(after(&change), Some(json(r#"{"a":3,"b":1}"#)));
    let gone = world.apply(vec![(2, insert("{}", OnConflict::Fail)), (2, Mutation::Delete)]);
    let change: Change = decode(&gone.changes[0].event).unwrap();
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
    assert!(world.stored.0.is_empty());
    assert_eq!(world.change(Mutation::Evict(remote.clone())), None);
    // Written here since, so the sender's state does not cover it: it stays.
    world.change(Mutation::Merge(remote.clone())).unwrap();
    world.change(set("b", 1)).unwrap();
    assert_eq!(world.change(Mutation::Evict(remote)), None);
    assert_eq!(world.stored.0.len(), 1);
}

#[test]
fn what_came_from_elsewhere_keeps_its_origin() {
    let mut world = World::default();
    world.log.append(&TestRound {
        id: 9,
        mutations: vec![(1, Mutation::Merge(remote_state("a", 1, 3)))],
    });
    let mut assembler = Assembler::new(TxnId(0), &[Default::default(); 4]);
    let slice = *world.log.parts.keys().next().unwrap();
    assembler.add_part(world.log.part(slice, 0));
    let mut committed = world.log.committed(0);
    committed.commit.origin = REMOTE;
    committed.commit.origin_txn = Some(TxnId(77));
    assembler.add_commit(committed);
    let round = assembler.release().unwrap().unwrap();
    let effects = apply(round, ACTOR, slices(), &mut world.stored).unwrap();
    let change: Change = decode(&effects.changes[0].event).unwrap();
    assert_eq!((change.origin, change.origin_txn, change.txn), (REMOTE, TxnId(77), TxnId(0)));
}

#[test]
fn a_mutation_in_a_slice_that_is_not_its_documents_does_nothing() {
    let mut world = World::default();
    world.log.append(&TestRound { id: 1, mutations: vec![(1, insert("{}", OnConflict::Fail))] });
    let mut assembler = Assembler::new(TxnId(0), &[Default::default(); 4]);
    let slice = *world.log.parts.keys().next().unwrap();
    let mut part = world.log.part(slice, 0);
    let mut committed = world.log.committed(0);
    part.slice.0 = (slice.0 + 1) % 4;
    committed.commit.parts[0].slice = part.slice;
    assembler.add_part(part);
    assembler.add_commit(committed);
    let round = assembler.release().unwrap().unwrap();
    let effects = apply(round, ACTOR, slices(), &mut world.stored).unwrap();
    assert_eq!(effects, Effects { misplaced: 1, ..Effects::default() });
}
