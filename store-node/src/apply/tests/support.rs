//! A log in memory: rounds become records the way the round writer makes them.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Effect, Mutation, Stamp, VersionVector};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::{Intervals, Slice, SliceCount};
use anabranch_core::query::{FieldPath, OnConflict, parse_filter};
use anabranch_journal::Offset;
use anabranch_schemas::records::{
    Commit, DocumentMutation, Expiry, PartLocation, Restriction, RoundPart, TxnsRecord,
    part_checksum,
};
use anabranch_schemas::{decode, encode};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use crate::apply::assembler::{Committed, Part};
use crate::log::Log;

pub(super) const APP: AppId = AppId(Uuid::from_u128(7));
pub(super) const ACTOR: ActorId = ActorId(Uuid::from_u128(1));
pub(super) const REMOTE: ActorId = ActorId(Uuid::from_u128(2));

pub(super) fn slices() -> SliceCount {
    SliceCount::try_from(4).unwrap()
}

/// All of it.
pub(super) fn everything() -> Log {
    Log::new(ACTOR, slices(), Intervals::all())
}

pub(super) fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

pub(super) fn id(number: i64) -> DocumentId {
    let key = DocumentKey::from_value(&Value::Int(number)).unwrap();
    DocumentId { app: APP, collection: "things".parse().unwrap(), key }
}

pub(super) fn path(name: &str) -> FieldPath {
    FieldPath::new(vec![name.to_owned()]).unwrap()
}

/// A round as a test wants it, or an expiry.
#[derive(Clone, Debug)]
pub(super) struct TestRound {
    /// From [`EXPIRY`] on it is one, with the time to live added to it.
    pub(super) id: u128,
    pub(super) mutations: Vec<(i64, Mutation)>,
    /// The condition of all of them.
    pub(super) unchanged_since: Option<TxnId>,
    pub(super) atomic: bool,
    /// What it may read and write of all of them, if that is not everything.
    pub(super) restriction: Option<[&'static str; 2]>,
}

const EXPIRY: u128 = 1 << 64;
/// How many documents one of them drops here.
pub(super) const EXPIRES_AT_MOST: usize = 4;

impl TestRound {
    /// One without a condition.
    pub(super) fn new(id: u128, mutations: Vec<(i64, Mutation)>) -> Self {
        TestRound { id, mutations, unchanged_since: None, atomic: false, restriction: None }
    }

    /// What was deleted longer ago expires.
    pub(super) fn expiry(time_to_live_ms: u64) -> Self {
        TestRound::new(EXPIRY + u128::from(time_to_live_ms), Vec::new())
    }

    /// If it is one.
    pub(super) fn time_to_live_ms(&self) -> Option<u64> {
        self.id.checked_sub(EXPIRY).map(|ms| u64::try_from(ms).unwrap())
    }
}

fn restriction([readable, writable]: [&'static str; 2]) -> Restriction {
    Restriction {
        collection: id(0).collection,
        readable: parse_filter(readable).unwrap(),
        writable: parse_filter(writable).unwrap(),
    }
}

/// The records of rounds, as they would be read.
#[derive(Debug, Default)]
pub(super) struct TestLog {
    pub(super) commits: Vec<(TxnId, Commit, Bytes)>,
    /// What stands in place of some of those.
    pub(super) expiries: BTreeMap<TxnId, Expiry>,
    /// By slice: offset and value.
    pub(super) parts: BTreeMap<Slice, Vec<(Offset, Bytes)>>,
}

impl TestLog {
    /// Appends a round; every transaction leaves a hole behind it, as markers do.
    pub(super) fn append(&mut self, round: &TestRound) -> TxnId {
        let mut by_slice: BTreeMap<Slice, Vec<DocumentMutation>> = BTreeMap::new();
        for (number, mutation) in &round.mutations {
            let DocumentId { collection, key, .. } = id(*number);
            let mutation = mutation.clone();
            let unchanged_since = round.unchanged_since;
            let mutation = DocumentMutation { collection, key, unchanged_since, mutation };
            let slice = slices().slice_of(id(*number).position());
            by_slice.entry(slice).or_default().push(mutation);
        }
        let round_id = RoundId(Uuid::from_u128(round.id));
        let count = i32::try_from(by_slice.len()).unwrap();
        let mut locations = Vec::new();
        for (index, (slice, mutations)) in (0..).zip(by_slice) {
            let restrictions = round.restriction.map(restriction).into_iter().collect();
            let part =
                RoundPart { round: round_id, app: APP, index, count, mutations, restrictions };
            locations.push(self.append_part(slice, &encode(&part)));
        }
        let txn = TxnId(self.commits.last().map_or(0, |(txn, _, _)| txn.0 + 2));
        let commit = Commit {
            round: round_id,
            app: APP,
            origin: ACTOR,
            origin_txn: None,
            hlc: Hlc::from_millis(1_000_000 + txn.0 * 100),
            digest: Vec::new(),
            atomic: round.atomic,
            mutations: i32::try_from(round.mutations.len()).unwrap(),
            parts: locations,
        };
        if let Some(time_to_live_ms) = round.time_to_live_ms() {
            self.expiries.insert(txn, Expiry { hlc: commit.hlc, time_to_live_ms });
        }
        self.commits.push((txn, commit.clone(), encode(&commit)));
        txn
    }

    pub(super) fn append_part(&mut self, slice: Slice, value: &Bytes) -> PartLocation {
        let parts = self.parts.entry(slice).or_default();
        let offset = Offset(parts.last().map_or(0, |(offset, _)| offset.0 + 2));
        parts.push((offset, value.clone()));
        PartLocation { slice, offset: offset.0, checksum: part_checksum(value) }
    }

    pub(super) fn committed(&self, index: usize) -> Committed {
        let (txn, commit, _) = &self.commits[index];
        let record = match self.expiries.get(txn) {
            Some(expiry) => TxnsRecord::Expiry(*expiry),
            None => TxnsRecord::Commit(commit.clone()),
        };
        Committed { txn: *txn, timestamp_ms: commit.hlc.millis(), record }
    }

    pub(super) fn part(&self, slice: Slice, index: usize) -> Part {
        let (offset, value) = &self.parts[&slice][index];
        Part {
            slice,
            offset: *offset,
            timestamp_ms: 1_000_000,
            bytes: value.len(),
            checksum: part_checksum(value),
            content: decode(value),
        }
    }
}

/// The commit record that is one.
pub(super) fn commit_of(committed: &mut Committed) -> &mut Commit {
    match &mut committed.record {
        TxnsRecord::Commit(commit) => commit,
        TxnsRecord::Expiry(expiry) => panic!("{expiry:?} is no commit record"),
    }
}

/// What a store must hold after each transaction, computed in the plainest way.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    documents: BTreeMap<i64, Document>,
    seen: BTreeSet<u128>,
    /// What a reader sees after each transaction.
    pub(super) snapshots: BTreeMap<TxnId, BTreeMap<i64, Value>>,
    /// What each transaction changed: the image before, and whether the state changed.
    pub(super) changed: BTreeMap<TxnId, BTreeMap<i64, Option<Value>>>,
    /// Of which documents a condition did not hold, and who had changed them last.
    pub(super) conflicts: BTreeMap<TxnId, BTreeMap<i64, Option<TxnId>>>,
    /// Who changed each document last.
    versions: BTreeMap<i64, TxnId>,
}

impl Model {
    pub(super) fn apply(&mut self, txn: TxnId, round: &TestRound, hlc: Hlc) {
        let before = self.documents.clone();
        let mut touched = BTreeSet::new();
        let (mut conflicts, mut deleted) = (BTreeMap::new(), BTreeSet::new());
        if let Some(time_to_live_ms) = round.time_to_live_ms() {
            let before = Hlc::from_millis(hlc.millis() - time_to_live_ms);
            let due = self.documents.iter_mut().filter_map(|(number, document)| {
                let deleted = document.tombstone().filter(|deleted| *deleted < before)?;
                Some((deleted, id(*number).to_bytes(), document))
            });
            let mut due: Vec<_> = due.collect();
            due.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
            let mut expired = Vec::new();
            due.into_iter().take(EXPIRES_AT_MOST).for_each(|(_, id, document)| {
                if document.expire(before) {
                    expired.push(id);
                }
            });
            let numbers = self.documents.keys().filter(|n| expired.contains(&id(**n).to_bytes()));
            self.versions.extend(numbers.map(|number| (*number, txn)));
        } else if self.seen.insert(round.id) {
            let at = At { hlc, actor: ACTOR, sequence: txn.0 };
            // In the order of slices, as they stand in the log; within one as they were asked.
            let mut mutations = round.mutations.clone();
            mutations.sort_by_key(|(number, _)| slices().slice_of(id(*number).position()));
            for (number, mutation) in &mutations {
                let version = self.versions.get(number).copied();
                let is_there = before.get(number).is_some_and(Document::is_visible);
                let is_old = |since| version.is_some_and(|version| version <= since);
                let holds = |since| is_there && is_old(since) && since < txn;
                let document = self.documents.entry(*number).or_default();
                let effect = match round.unchanged_since {
                    _ if conflicts.contains_key(number) => continue,
                    Some(since) if !holds(since) => None,
                    // What the round has deleted it does not bring back.
                    _ if deleted.contains(number)
                        && matches!(mutation, Mutation::Update { .. }) =>
                    {
                        Some(Effect::Unchanged)
                    }
                    _ => Some(document.apply(mutation, at).0),
                };
                match mutation {
                    Mutation::Delete | Mutation::Forget => drop(deleted.insert(*number)),
                    Mutation::Insert { .. } => drop(deleted.remove(number)),
                    _ => {}
                }
                let fails = mutation.fails_on_conflict();
                match effect {
                    Some(Effect::Changed) => {
                        touched.insert(*number);
                    }
                    Some(Effect::Evicted) => {
                        self.documents.remove(number);
                        touched.insert(*number);
                    }
                    Some(Effect::Unchanged) => {}
                    Some(Effect::Conflict) if !fails => {}
                    Some(Effect::Conflict) | None => {
                        conflicts.insert(*number, version);
                    }
                }
            }
            let is_refused = round.atomic && !conflicts.is_empty();
            let numbers: BTreeSet<_> = mutations.iter().map(|(number, _)| *number).collect();
            for number in numbers.iter().filter(|n| is_refused || conflicts.contains_key(n)) {
                touched.remove(number);
                self.documents.remove(number);
                let document = before.get(number).map(|document| (*number, document.clone()));
                self.documents.extend(document);
            }
        }
        self.documents.retain(|_, document| *document != Document::default());
        let visible = |documents: &BTreeMap<i64, Document>, number: &i64| {
            documents.get(number).and_then(Document::value)
        };
        touched.retain(|number| before.contains_key(number) || self.documents.contains_key(number));
        self.versions.extend(touched.iter().map(|number| (*number, txn)));
        let images = touched.iter().map(|number| (*number, visible(&before, number)));
        self.changed.insert(txn, images.collect());
        self.conflicts.insert(txn, conflicts);
        let seen = self
            .documents
            .keys()
            .filter_map(|number| visible(&self.documents, number).map(|value| (*number, value)));
        self.snapshots.insert(txn, seen.collect());
    }

    /// What a reader sees at `at`.
    pub(super) fn at(&self, at: TxnId) -> BTreeMap<i64, Value> {
        self.snapshots.range(..=at).next_back().map(|(_, seen)| seen.clone()).unwrap_or_default()
    }
}

/// A state of another cluster that sets `name` to `value`.
pub(super) fn remote_state(name: &str, value: i64, sequence: u64) -> Document {
    let mut document = Document::default();
    let fields = json(&format!("{{\"{name}\":{value}}}"));
    let insert = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
    let hlc = Hlc::from_millis(1_000_000 + sequence * 150);
    document.apply(&insert, At { hlc, actor: REMOTE, sequence });
    document
}

fn arbitrary_mutation() -> impl Strategy<Value = Mutation> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let fields = prop::collection::btree_map(name.clone().prop_map(str::to_owned), 0_i64..3, 0..3)
        .prop_map(|fields| fields.into_iter().map(|(name, n)| (name, Value::Int(n))).collect());
    let policy = prop::sample::select(vec![
        OnConflict::Fail,
        OnConflict::DoNothing,
        OnConflict::DoUpdate,
        OnConflict::DoUpdateLocalDiff,
    ]);
    let insert =
        (fields, policy).prop_map(|(fields, on_conflict)| Mutation::Insert { fields, on_conflict });
    let set = (name.clone(), 0_i64..3).prop_map(|(name, value)| Mutation::Update {
        set: vec![(path(name), Value::Int(value))],
        unset: vec![],
        increment: vec![],
    });
    let unset = name.clone().prop_map(|name| Mutation::Update {
        set: vec![],
        unset: vec![path(name)],
        increment: vec![],
    });
    let increment = (name.clone(), -2_i64..3).prop_map(|(name, by)| Mutation::Update {
        set: vec![],
        unset: vec![],
        increment: vec![(path(name), by)],
    });
    let state = (name, 0_i64..3, 1_u64..40)
        .prop_map(|(name, value, sequence)| remote_state(name, value, sequence));
    let merge = state.clone().prop_map(Mutation::Merge);
    let evict = state.prop_map(|state| {
        // Covers what any test writes here, and nothing of elsewhere that it has not seen.
        let ours = [(ACTOR, 1_000)].into_iter().collect::<VersionVector>();
        let mut state = state;
        state.versions.merge(&ours);
        let stamp = Stamp { hlc: Hlc(1), actor: REMOTE, sequence: 1 };
        state.updated = state.updated.max(Some(stamp));
        Mutation::Evict(state)
    });
    prop_oneof![
        4 => insert,
        3 => set,
        1 => unset,
        2 => increment,
        2 => Just(Mutation::Delete),
        1 => Just(Mutation::Forget),
        1 => merge,
        1 => evict,
    ]
}

/// Rounds over a few documents, some of them repeated.
pub(super) fn arbitrary_rounds(most: usize) -> impl Strategy<Value = Vec<TestRound>> {
    let mutations = prop::collection::vec((0_i64..6, arbitrary_mutation()), 0..6);
    // Every transaction takes two offsets: some are between, and some are to come.
    let since = prop::option::weighted(0.2, (0..most as u64 * 2).prop_map(TxnId));
    let round = (mutations, 0_u128..100, since, any::<bool>());
    let round = round.prop_map(|(mut mutations, round_id, unchanged_since, atomic)| {
        let slice = |number: i64| slices().slice_of(id(number).position());
        if let Some(first) = mutations.first().map(|(number, _)| slice(*number)).filter(|_| atomic)
        {
            mutations.retain(|(number, _)| slice(*number) == first);
        }
        TestRound { id: round_id, mutations, unchanged_since, atomic, restriction: None }
    });
    let expiry = prop::sample::select(vec![0, 500, 1_500]).prop_map(TestRound::expiry);
    prop::collection::vec(prop_oneof![8 => round, 1 => expiry], 1..most)
}
