//! Which changes are sent, case by case.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::OnConflict;
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::store::ScanItem;
use anabranch_schemas::{link, state};

use crate::link::versions_bytes;
use crate::queries::Queries;
use crate::send::select::{Selector, Share};
use crate::send::{BatchLimits, Chunks, Listed};

const APP: AppId = AppId(Uuid::from_u128(1));
const HERE: u128 = 10;
const HERE_ACTOR: ActorId = ActorId(Uuid::from_u128(HERE));
const RECEIVER: u128 = 20;
const THIRD: u128 = 30;

const WANTED: Option<&str> = Some(r#"{"w":1}"#);
const UNWANTED: Option<&str> = Some(r#"{"w":2}"#);

fn selector() -> Selector {
    let texts = BTreeMap::from([("c".parse().unwrap(), vec!["w = 1".to_owned()])]);
    let queries = Queries::parse(&texts).unwrap();
    Selector::new(APP, queries, ActorId(Uuid::from_u128(RECEIVER)))
}

fn key() -> DocumentKey {
    DocumentKey::from_canonical("7").unwrap()
}

/// A document that these actors wrote, with these fields, hidden if it was deleted last.
fn document(fields: &str, deleted: bool, actors: &[u128]) -> Document {
    let mut document = Document::default();
    let fields = Value::from_json(fields.as_bytes()).unwrap();
    for actor in actors {
        let at = At { hlc: Hlc(1), actor: ActorId(Uuid::from_u128(*actor)), sequence: 3 };
        let mut fields = fields.as_object().unwrap().clone();
        fields.insert(format!("by{actor}"), Value::Int(1));
        let insert =
            Mutation::Insert { fields: Value::Object(fields), on_conflict: OnConflict::DoUpdate };
        document.apply(&insert, at);
        if deleted && Some(actor) == actors.last() {
            document.apply(&Mutation::Delete, At { sequence: 4, ..at });
        }
    }
    document
}

/// A change of `origin` that made this document of one that had these fields, if it was there.
fn change(document: &Document, before: Option<&str>, origin: u128, operation: Operation) -> Change {
    let fields = before.map(|fields| Value::from_json(fields.as_bytes()).unwrap());
    Change {
        txn: TxnId(5),
        app: APP,
        collection: "c".parse().unwrap(),
        key: key(),
        origin: ActorId(Uuid::from_u128(origin)),
        origin_txn: TxnId(5),
        hlc: Hlc(1),
        operation,
        existed: before.is_some(),
        before: fields.unwrap_or_else(|| Value::from_iter([])),
        added: Vec::new(),
        state: state::encode(document).to_vec(),
    }
}

/// What becomes of a change of `origin` to a document that `actors` wrote: not sent, or sent with
/// this mark of having left.
fn sent(
    before: Option<&str>,
    after: Option<&str>,
    hidden: &str,
    origin: u128,
    actors: &[u128],
) -> Option<bool> {
    let document = document(after.unwrap_or(hidden), after.is_none(), actors);
    let change = change(&document, before, origin, Operation::Update);
    let selected =
        selector().select(HERE_ACTOR, Bytes::from_static(b"id"), change, false).unwrap()?;
    let link::Change { state, left, .. } = selected.change;
    let state = state::decode(&state).unwrap();
    // BR-3: of what is not wanted nothing is told but which versions there are.
    let expected = Document { versions: document.versions.clone(), ..Document::default() };
    assert_eq!(state, if left { expected } else { document });
    Some(left)
}

#[test]
fn a_change_is_judged_by_both_images() {
    let ours = |before, after, hidden| sent(before, after, hidden, HERE, &[HERE]);
    let (stays, leaves) = (Some(false), Some(true));
    assert_eq!(ours(None, WANTED, ""), stays, "it appears");
    assert_eq!(ours(WANTED, WANTED, ""), stays);
    assert_eq!(ours(UNWANTED, WANTED, ""), stays, "it enters");
    assert_eq!(ours(WANTED, UNWANTED, ""), leaves);
    assert_eq!(ours(UNWANTED, UNWANTED, ""), None);
    assert_eq!(ours(None, UNWANTED, ""), None);
    assert_eq!(ours(WANTED, None, r#"{"w":1}"#), stays, "a delete is a delete");
    assert_eq!(ours(UNWANTED, None, r#"{"w":2}"#), None);
    assert_eq!(ours(WANTED, None, r#"{"w":2}"#), leaves, "it was changed and deleted at once");
    assert_eq!(ours(None, None, r#"{"w":1}"#), stays, "a tombstone of what would be wanted");
}

#[test]
fn a_receiver_is_not_sent_its_own_writes() {
    let theirs = |before, after, actors: &[u128]| sent(before, after, "", RECEIVER, actors);
    assert_eq!(theirs(None, WANTED, &[RECEIVER]), None);
    assert_eq!(theirs(WANTED, WANTED, &[HERE, RECEIVER]), None);
    assert_eq!(theirs(WANTED, UNWANTED, &[HERE, RECEIVER]), None);
    assert_eq!(theirs(UNWANTED, UNWANTED, &[RECEIVER]), None);
    // It wrote without knowing what was here, and must not get to know it either (BR-3).
    assert_eq!(theirs(UNWANTED, WANTED, &[HERE, RECEIVER]), Some(false));
    assert_eq!(theirs(UNWANTED, UNWANTED, &[HERE, RECEIVER]), Some(true));
    // A third cluster's writes are for everyone.
    assert_eq!(sent(None, WANTED, "", THIRD, &[THIRD]), Some(false));
}

#[test]
fn a_receiver_is_sent_its_own_writes_when_older_states_follow_newer_ones() {
    let replayed = |before, after: Option<&str>, actors: &[u128]| {
        let document = document(after.unwrap(), false, actors);
        let change = change(&document, before, RECEIVER, Operation::Update);
        let selected = selector().select(HERE_ACTOR, Bytes::new(), change, true).unwrap()?;
        Some(selected.change.left)
    };
    assert_eq!(replayed(WANTED, UNWANTED, &[HERE, RECEIVER]), Some(true));
    assert_eq!(replayed(WANTED, WANTED, &[HERE, RECEIVER]), Some(false));
    assert_eq!(replayed(UNWANTED, UNWANTED, &[HERE, RECEIVER]), Some(true));
    assert_eq!(replayed(WANTED, UNWANTED, &[RECEIVER]), None, "it was never told to forget that");
}

#[test]
fn a_receiver_is_sent_what_its_write_made_this_cluster_write() {
    let mut document = document(WANTED.unwrap(), false, &[HERE, RECEIVER]);
    let change_of = |document: &Document| {
        let change = change(document, WANTED, RECEIVER, Operation::Update);
        selector().select(HERE_ACTOR, Bytes::new(), change, false).unwrap()
    };
    assert_eq!(change_of(&document), None);
    // As of the transaction of the change.
    document.versions.include(HERE_ACTOR, 5);
    assert!(!change_of(&document).unwrap().change.left);
}

#[test]
fn who_writes_what_has_expired_is_told_of_the_delete() {
    let mut expired = document("{}", true, &[HERE, RECEIVER]);
    assert!(expired.expire(Hlc(u64::MAX)));
    let change = change(&expired, None, RECEIVER, Operation::Update);
    let selected = selector().select(HERE_ACTOR, Bytes::new(), change, false).unwrap().unwrap();
    assert!(!selected.change.left);
    assert_eq!(state::decode(&selected.change.state).unwrap(), expired);
}

#[test]
fn an_eviction_is_passed_on_only_if_a_bridge_brought_it() {
    let evicted = |fields: &str, origin: u128, actors: &[u128]| {
        let document = document(fields, false, actors);
        let change = change(&document, Some(fields), origin, Operation::Evict);
        let selected = selector().select(HERE_ACTOR, Bytes::new(), change, false).unwrap()?;
        let state = state::decode(&selected.change.state).unwrap();
        assert_eq!((state.versions, state.fields.len()), (document.versions, 0));
        Some(selected.change.left)
    };
    let (wanted, unwanted) = (WANTED.unwrap(), UNWANTED.unwrap());
    assert_eq!(evicted(wanted, THIRD, &[THIRD]), Some(true));
    assert_eq!(evicted(wanted, HERE, &[THIRD]), None, "a client's stays here");
    assert_eq!(evicted(unwanted, THIRD, &[THIRD]), None);
    assert_eq!(evicted(wanted, RECEIVER, &[THIRD]), None, "it knows");
    assert_eq!(evicted(wanted, THIRD, &[RECEIVER]), None, "it is the receiver's own");
}

#[test]
fn other_collections_stay_here() {
    let id = |app, collection: &str| {
        DocumentId { app, collection: collection.parse().unwrap(), key: key() }.to_bytes()
    };
    assert!(selector().may_want(&id(APP, "c")));
    assert!(!selector().may_want(&id(APP, "cc")));
    assert!(!selector().may_want(&id(AppId(Uuid::nil()), "c")));
}

#[test]
fn a_snapshot_has_what_is_wanted_and_tells_what_left() {
    let id = DocumentId { app: APP, collection: "c".parse().unwrap(), key: key() };
    let (wanted, unwanted) = (WANTED.unwrap(), UNWANTED.unwrap());
    let is = |fields, deleted, actors: &[u128], expected: fn(&Document) -> Share<'_>| {
        let document = document(fields, deleted, actors);
        assert_eq!(selector().share(&id, &document, None), expected(&document));
    };
    is(wanted, false, &[HERE], |_| Share::State);
    is(wanted, true, &[HERE], |_| Share::State);
    is(wanted, false, &[RECEIVER], |_| Share::State);
    is(unwanted, false, &[HERE], |_| Share::Nothing);
    is(unwanted, true, &[HERE], |_| Share::Nothing);
    // It is its own.
    is(unwanted, false, &[RECEIVER], |_| Share::Nothing);
    is(unwanted, false, &[RECEIVER, HERE], |document| Share::Left(&document.versions));
}

/// What was deleted long ago has no field by which to tell whether it was wanted.
#[test]
fn an_expired_delete_is_sent_to_who_has_what_was_deleted() {
    let id = DocumentId { app: APP, collection: "c".parse().unwrap(), key: key() };
    let held = document(WANTED.unwrap(), false, &[HERE]);
    let mut deleted = held.clone();
    let at = At { hlc: Hlc(u64::MAX >> 1), actor: HERE_ACTOR, sequence: 1_000 };
    deleted.apply(&Mutation::Delete, at);
    assert!(deleted.expire(Hlc(u64::MAX)));
    let unknown = document(WANTED.unwrap(), false, &[HERE, 99]);
    let selector = selector();
    let share = |held| selector.share(&id, &deleted, held);
    assert_eq!(share(Some(&held.versions)), Share::State);
    assert_eq!(share(Some(&deleted.versions)), Share::Nothing);
    assert_eq!([share(None), share(Some(&unknown.versions))], [Share::Nothing, Share::Nothing]);
    let mut there = held;
    there.apply(&Mutation::Merge(deleted), At { sequence: 1, actor: ActorId(Uuid::nil()), ..at });
    assert!(!there.is_visible());
}

/// What a snapshot sends of a document, to a receiver that holds versions of `held`.
fn answer(fields: &str, actors: &[u128], held: Option<&Document>) -> Option<link::Change> {
    let document_id: Bytes =
        DocumentId { app: APP, collection: "c".parse().unwrap(), key: key() }.to_bytes().into();
    let holding = |held: &Document| link::Holding {
        document_id: document_id.clone(),
        versions: versions_bytes(&held.versions),
    };
    let documents = held.map(holding).into_iter().collect();
    let holdings = link::Holdings { documents, ..link::Holdings::default() };
    let listed = Arc::new(Listed::from_wire(holdings).unwrap());
    let limits = BatchLimits::default();
    let mut chunks = Chunks::new(HERE_ACTOR, TxnId(9), Hlc(1), Bytes::new(), listed, limits);
    let state = state::encode(&document(fields, false, actors));
    chunks.add(&selector(), ScanItem { document_id, state }).unwrap();
    let (rounds, _) = chunks.take();
    rounds.into_iter().flat_map(|round| round.changes).next()
}

#[test]
fn a_receiver_that_says_what_it_holds_is_sent_what_it_lacks_and_told_what_left() {
    let (wanted, unwanted) = (WANTED.unwrap(), UNWANTED.unwrap());
    let ours = document(wanted, false, &[HERE]);
    let older = Document { versions: [(HERE_ACTOR, 1)].into_iter().collect(), ..ours.clone() };
    let theirs = document(wanted, false, &[RECEIVER]);
    let both = document(wanted, false, &[HERE, RECEIVER]);
    let state = |fields, actors: &[u128], held| {
        answer(fields, actors, held).filter(|change| !change.left).map(|change| change.state)
    };
    let here = |actors| Some(state::encode(&document(wanted, false, actors)));
    assert_eq!(state(wanted, &[HERE], None), here(&[HERE]));
    assert_eq!(state(wanted, &[HERE], Some(&older)), here(&[HERE]));
    assert_eq!(state(wanted, &[HERE], Some(&theirs)), here(&[HERE]), "it wrote another");
    assert_eq!(answer(wanted, &[HERE], Some(&ours)), None, "it has all");
    assert_eq!(answer(wanted, &[HERE], Some(&both)), None, "it has more");

    // BR-3: of what is not wanted only those hear that have it, and nothing that they did not say.
    let left = answer(unwanted, &[HERE, THIRD], Some(&older)).unwrap();
    assert!(left.left);
    assert_eq!(left.state, versions_bytes(&older.versions));
    assert_eq!(answer(unwanted, &[HERE, THIRD], None), None, "it never heard of it");
    assert_eq!(answer(unwanted, &[RECEIVER], Some(&older)), None, "it is its own");
    assert_eq!(answer(unwanted, &[HERE], Some(&both)), None, "it knows better");
}

#[test]
fn a_receiver_that_lists_what_it_never_had_learns_nothing() {
    let actor = |actor| ActorId(Uuid::from_u128(actor));
    let lists = |versions: &[(ActorId, u64)]| Document {
        versions: versions.iter().copied().collect(),
        ..Document::default()
    };
    let invented = [
        lists(&[]),
        lists(&[(HERE_ACTOR, u64::MAX)]),
        lists(&[(HERE_ACTOR, 4)]),
        lists(&[(HERE_ACTOR, 0), (actor(99), 0)]),
        lists(&[(actor(RECEIVER), 1)]),
    ];
    let (wanted, unwanted) = (WANTED.unwrap(), UNWANTED.unwrap());
    for held in &invented {
        let versions = &held.versions;
        assert_eq!(answer(unwanted, &[HERE, THIRD], Some(held)), None, "BR-3: {versions:?}");
        let sent = answer(wanted, &[HERE, THIRD], Some(held)).unwrap();
        assert!(!sent.left, "it may have it");
    }
    // Whoever had a part in it hears as much as if it had listed nothing.
    let nothing = answer(unwanted, &[HERE, RECEIVER], None);
    assert!(nothing.as_ref().is_some_and(|change| change.left));
    assert_eq!(answer(unwanted, &[HERE, RECEIVER], Some(&lists(&[]))), nothing);
    // What cannot be kept from whoever guesses: that this id is here, and not wanted.
    let guess = lists(&[(HERE_ACTOR, 1)]);
    let left = answer(unwanted, &[HERE, THIRD], Some(&guess)).unwrap();
    assert_eq!((left.left, left.state), (true, versions_bytes(&guess.versions)));
}
