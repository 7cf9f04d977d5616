use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use anabranch_core::document::{Commit as At, Document, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::OnConflict;
use anabranch_core::{ErrorKind, Value};
use anabranch_schemas::resources::OnLeave;
use anabranch_schemas::store::ScanItem;
use anabranch_schemas::{link, state};

use super::listing::{Listing, ListingLimits, Told};
use super::prepare::{Held, Other, Prepared, Preparer};
use crate::error::Error;
use crate::queries::Queries;
use crate::send::Listed;

const APP: AppId = AppId(Uuid::from_u128(1));
const HERE: ActorId = ActorId(Uuid::from_u128(10));
const REMOTE: ActorId = ActorId(Uuid::from_u128(20));
const THIRD: ActorId = ActorId(Uuid::from_u128(30));
const NOW_MS: u64 = 1_000_000;
const DRIFT_MS: u64 = 60_000;
/// This cluster's log ends here.
const END: TxnId = TxnId(100);

fn queries(condition: &str) -> Arc<Queries> {
    let texts = BTreeMap::from([("c".parse().unwrap(), vec![condition.to_owned()])]);
    Arc::new(Queries::parse(&texts).unwrap())
}

fn preparer(on_leave: OnLeave) -> Preparer {
    Preparer {
        actor: HERE,
        app: APP,
        replication: "r".parse().unwrap(),
        remote: REMOTE,
        queries: queries("w = 1"),
        on_leave,
        max_clock_drift_ms: DRIFT_MS,
        others: Arc::new(|_| Vec::new()),
        held: Arc::new(|_| panic!("nobody else wants anything")),
        was_written: Arc::new(|txn| Ok(txn < END)),
    }
}

fn id(app: AppId, collection: &str, key: &str) -> Bytes {
    let key = DocumentKey::from_canonical(key).unwrap();
    DocumentId { app, collection: collection.parse().unwrap(), key }.to_bytes().into()
}

fn document(fields: &str, actor: ActorId, sequence: u64, at_ms: u64) -> Document {
    let mut document = Document::default();
    let insert = Mutation::Insert {
        fields: Value::from_json(fields.as_bytes()).unwrap(),
        on_conflict: OnConflict::DoUpdate,
    };
    document.apply(&insert, At { hlc: Hlc::from_millis(at_ms), actor, sequence });
    document
}

fn change(document_id: Bytes, document: &Document, left: bool) -> link::Change {
    link::Change { document_id, state: state::encode(document), left }
}

fn batch(changes: Vec<link::Change>) -> link::Batch {
    let round = link::Round {
        origin: Bytes::copy_from_slice(REMOTE.0.as_bytes()),
        origin_txn: 7,
        hlc: 3,
        changes,
    };
    link::Batch {
        rounds: vec![round],
        position: Some(link::Position { next: 8, snapshot: None, queries: 0 }),
        sent_ms: 0,
        number: 4,
    }
}

fn prepare(on_leave: OnLeave, changes: Vec<link::Change>) -> Prepared {
    preparer(on_leave).prepare(batch(changes), NOW_MS).unwrap()
}

#[test]
fn a_batch_becomes_rounds_and_the_cursor_after_them() {
    let plain = document(r#"{"w":1}"#, REMOTE, 7, 10);
    let changes =
        vec![change(id(APP, "c", "1"), &plain, false), change(id(APP, "c", "2"), &plain, false)];
    let prepared = prepare(OnLeave::Purge, changes);
    assert_eq!((prepared.number, prepared.documents), (4, 2));
    assert!(prepared.dead_letters.is_empty());
    let [round] = &prepared.rounds[..] else { panic!("one round was sent") };
    assert_eq!((round.origin, round.origin_txn), (REMOTE, TxnId(7)));
    assert!(round.mutations.iter().all(|m| m.mutation == Mutation::Merge(plain.clone())));
    let cursor = prepared.cursor;
    assert_eq!((cursor.remote, cursor.next, cursor.hlc), (REMOTE, TxnId(8), Hlc(3)));
    assert_eq!(cursor.queries, preparer(OnLeave::Purge).queries.digest(), "its own, always");
}

/// What becomes of a document that left, and of which these states came before in the batch.
fn left(preparer: &Preparer, before: &[&Document], document: &Document) -> Option<Mutation> {
    left_of(preparer.remote, preparer, before, document)
}

/// The same of a round of `origin`.
fn left_of(
    origin: ActorId,
    preparer: &Preparer,
    before: &[&Document],
    document: &Document,
) -> Option<Mutation> {
    let id = id(APP, "c", "1");
    let mut changes: Vec<_> = before.iter().map(|state| change(id.clone(), state, false)).collect();
    changes.push(change(id, document, true));
    let mut batch = batch(changes);
    batch.rounds[0].origin = Bytes::copy_from_slice(origin.0.as_bytes());
    let prepared = preparer.prepare(batch, NOW_MS).unwrap();
    assert!(prepared.dead_letters.is_empty(), "{:?}", prepared.dead_letters);
    let mut mutations = prepared.rounds.into_iter().flat_map(|round| round.mutations);
    mutations.nth(before.len()).map(|mutation| mutation.mutation)
}

#[test]
fn of_what_left_only_the_versions_count_and_they_are_never_merged() {
    let document = document(r#"{"w":2,"secret":1}"#, REMOTE, 7, 10);
    let known = Document { versions: document.versions.clone(), ..Document::default() };
    let purged = left(&preparer(OnLeave::Purge), &[], &document);
    assert_eq!(purged, Some(Mutation::Evict(known)));
    assert_eq!(left(&preparer(OnLeave::Keep), &[], &document), None);
}

#[test]
fn what_left_stays_if_another_replication_brought_it_and_wants_it() {
    let ours = document(r#"{"w":2}"#, REMOTE, 7, 10);
    let theirs = |fields| document(fields, THIRD, 3, 11);
    let merged = |fields| {
        let mut merged = ours.clone();
        merged.merge(&theirs(fields));
        merged
    };
    let (wanted, unwanted) = (r#"{"shared":true}"#, r#"{"shared":false}"#);
    let stays = |remote, held: Option<Document>, before: &[&Document], known: &Document| {
        let preparer = Preparer {
            others: Arc::new(move |_| vec![Other { queries: queries("shared = true"), remote }]),
            held: Arc::new(move |_| Ok(held.clone())),
            ..preparer(OnLeave::Purge)
        };
        left(&preparer, before, known).is_none()
    };
    let known = merged(wanted);
    assert!(stays(Some(THIRD), Some(merged(wanted)), &[], &known));
    assert!(stays(None, Some(merged(wanted)), &[], &known), "it may have");
    assert!(stays(Some(THIRD), None, &[&merged(wanted)], &known), "it is about to be written");
    assert!(!stays(Some(THIRD), Some(merged(unwanted)), &[], &known), "it does not want it");
    assert!(!stays(Some(THIRD), Some(ours.clone()), &[], &known), "it did not bring it");
    assert!(!stays(Some(THIRD), None, &[], &known), "nothing is held");
    let elsewhere = ActorId(Uuid::from_u128(40));
    assert!(!stays(Some(elsewhere), Some(merged(wanted)), &[], &known), "its remote has it not");
}

#[test]
fn of_two_that_tell_each_other_the_same_one_keeps_the_document() {
    let mut both = document(r#"{"w":2}"#, REMOTE, 7, 10);
    both.merge(&document(r#"{"v":2}"#, HERE, 3, 11));
    let mut newer = both.clone();
    newer.merge(&document(r#"{"u":2}"#, REMOTE, 9, 12));
    let stays = |actor, remote, origin, known: &Document| {
        let held = both.clone();
        let held: Held = Arc::new(move |_| Ok(Some(held.clone())));
        let preparer = Preparer { actor, remote, held, ..preparer(OnLeave::Purge) };
        left_of(origin, &preparer, &[], known).is_none()
    };
    assert!(stays(HERE, REMOTE, REMOTE, &both), "the smaller actor keeps it");
    assert!(!stays(HERE, REMOTE, REMOTE, &newer), "the remote knows more: it has it");
    assert!(!stays(REMOTE, HERE, HERE, &both), "the larger does not");
    assert!(!stays(HERE, REMOTE, THIRD, &both), "it left at a third one");
}

#[test]
fn what_was_listed_and_left_goes_although_the_remote_says_no_more_than_it_was_told() {
    let mut listed = document(r#"{"w":1}"#, REMOTE, 7, 10);
    listed.merge(&document(r#"{"v":2}"#, HERE, 3, 11));
    let held = listed.clone();
    let preparer =
        Preparer { held: Arc::new(move |_| Ok(Some(held.clone()))), ..preparer(OnLeave::Purge) };
    let id = DocumentId::from_bytes(&id(APP, "c", "1")).unwrap();
    assert!(preparer.lists(&id, &listed) && HERE < REMOTE);
    let told = Document { versions: listed.versions.clone(), ..Document::default() };
    assert_eq!(left(&preparer, &[], &told), Some(Mutation::Evict(told.clone())));
}

#[test]
fn a_clock_that_is_wrong_ends_the_link_and_buries_nothing() {
    let late = NOW_MS + DRIFT_MS + 1;
    let with = |actor| {
        let document = document(r#"{"w":1}"#, actor, 7, late);
        batch(vec![change(id(APP, "c", "1"), &document, false)])
    };
    let ahead = link::Batch { sent_ms: late, ..batch(vec![]) };
    for (batch, is_drift) in [(with(REMOTE), true), (ahead, true), (with(THIRD), false)] {
        match preparer(OnLeave::Purge).prepare(batch, NOW_MS) {
            Err(error) => {
                assert!(is_drift && error.kind() == ErrorKind::Retry, "{error}");
                assert!(error.to_string().contains("clock_drift"), "{error}");
            }
            Ok(prepared) => assert!(!is_drift && prepared.dead_letters.len() == 1),
        }
    }
}

#[test]
fn what_cannot_be_applied_is_a_dead_letter_and_blocks_nothing() {
    let plain = document(r#"{"w":1}"#, REMOTE, 7, NOW_MS);
    let good = change(id(APP, "c", "1"), &plain, false);
    let with_id = |document_id| link::Change { document_id, ..good.clone() };
    let with = |document: &Document| change(id(APP, "c", "1"), document, false);
    let late = NOW_MS + DRIFT_MS;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(5 << 20));
    let broken = link::Change { state: Bytes::from_static(b"\x09"), ..good.clone() };
    let mut text = id(APP, "c", "1").to_vec();
    text.extend_from_slice(b".0");
    let bad = [
        ("document_id", with_id(Bytes::from_static(b"short"))),
        ("document_id", with_id(text.into())),
        ("app", with_id(id(AppId(Uuid::nil()), "c", "1"))),
        ("not_wanted", with_id(id(APP, "other", "1"))),
        ("state", broken),
        ("clock_drift", with(&document(r#"{"w":1}"#, THIRD, 7, late + 1))),
        ("too_deep", with(&document(&deep, REMOTE, 7, 1))),
        ("too_large", with(&document(&large, REMOTE, 7, 1))),
        ("unknown_write", with(&document(r#"{"w":1}"#, HERE, END.0, 1))),
    ];
    let on_the_edge = [
        with(&document(r#"{"w":1}"#, REMOTE, 7, late)),
        with(&document(r#"{"w":1}"#, HERE, END.0 - 1, 1)),
    ];
    let mut changes = vec![good];
    changes.extend(bad.iter().map(|(_, change)| change.clone()));
    changes.extend(on_the_edge);
    let prepared = prepare(OnLeave::Purge, changes);
    assert_eq!(prepared.rounds[0].mutations.len(), 3);
    assert_eq!(prepared.dead_letters.len(), bad.len());
    for (letter, (code, change)) in prepared.dead_letters.iter().zip(&bad) {
        assert_eq!(letter.code, *code, "{}", letter.reason);
        assert_eq!(letter.document_id, change.document_id.to_vec());
        assert_eq!(letter.state, change.state.to_vec());
        assert_eq!((letter.remote, letter.origin_txn), (REMOTE, TxnId(7)));
        assert!(!letter.reason.is_empty());
    }
    assert_eq!(prepared.cursor.next, TxnId(8), "the position moves past them");
}

#[test]
fn a_round_of_nothing_but_dead_letters_is_no_round() {
    let broken = link::Change { document_id: Bytes::new(), state: Bytes::new(), left: false };
    let prepared = prepare(OnLeave::Purge, vec![broken]);
    assert!(prepared.rounds.is_empty());
    assert_eq!(prepared.dead_letters.len(), 1);
}

#[test]
fn a_batch_that_makes_no_sense_breaks_the_protocol() {
    let mut nowhere = batch(vec![]);
    nowhere.position = None;
    let mut nobody = batch(vec![]);
    nobody.rounds[0].origin = Bytes::from_static(b"x");
    for batch in [nowhere, nobody] {
        let error = preparer(OnLeave::Purge).prepare(batch, NOW_MS).unwrap_err();
        assert!(matches!(error, Error::Refusing { .. }), "{error}");
    }
}

/// What is told of these documents, with ids from 0 on.
fn listed(preparer: &Preparer, limits: ListingLimits, documents: &[&Document]) -> link::Holdings {
    let mut listing = Listing::new(preparer, Bytes::new(), limits);
    for (key, document) in documents.iter().enumerate() {
        if listing.is_full() {
            return listing.finish(true);
        }
        let document_id = id(APP, "c", &key.to_string());
        listing.add(ScanItem { document_id, state: state::encode(document) }).unwrap();
    }
    listing.finish(false)
}

#[test]
fn a_remote_is_told_what_is_held_only_if_something_can_come_of_it() {
    let theirs = document(r#"{"w":1,"secret":1}"#, REMOTE, 7, 10);
    let ours = document(r#"{"w":1}"#, HERE, 7, 10);
    let unwanted = document(r#"{"w":2}"#, REMOTE, 7, 10);
    let third = document(r#"{"w":1}"#, THIRD, 7, 10);
    let mut deleted = theirs.clone();
    deleted.apply(&Mutation::Delete, At { hlc: Hlc::from_millis(11), actor: REMOTE, sequence: 8 });
    let mut both = theirs.clone();
    both.merge(&ours);
    let documents = [&theirs, &ours, &unwanted, &third, &deleted, &both];
    let told = |preparer: &Preparer| {
        let holdings = listed(preparer, ListingLimits::default(), &documents);
        assert_eq!((holdings.after, holdings.through), (Bytes::new(), None));
        let holding = |holding: link::Holding| {
            let known = DocumentId::from_bytes(&holding.document_id).unwrap();
            let number: usize = known.key.as_str().parse().unwrap();
            let versions = documents[number].versions.clone();
            let told = state::decode(&holding.versions).unwrap();
            assert_eq!(told, Document { versions, ..Document::default() }, "BR-3");
            number
        };
        holdings.documents.into_iter().map(holding).collect::<Vec<_>>()
    };
    let alone = preparer(OnLeave::Purge);
    assert_eq!(told(&alone), [0, 3, 4, 5]);
    // Another replication keeps what it brought, whatever this remote says.
    let others = |remote, condition: &'static str| Preparer {
        others: Arc::new(move |_| vec![Other { queries: queries(condition), remote }]),
        ..preparer(OnLeave::Purge)
    };
    assert_eq!(told(&others(Some(THIRD), "w = 1")), [0, 4, 5], "BR-3");
    assert_eq!(told(&others(None, "w = 1")), [0, 4, 5], "it may have");
    assert_eq!(told(&others(Some(THIRD), "w = 2")), [0, 3, 4, 5]);
}

#[test]
fn what_is_held_is_told_in_ranges() {
    let theirs = document(r#"{"w":1}"#, REMOTE, 7, 10);
    let ours = document(r#"{"w":1}"#, HERE, 7, 10);
    let preparer = preparer(OnLeave::Purge);
    let all = ListingLimits::default();
    let ranges = [
        (ListingLimits { max_documents: 2, ..all }, 2, Some("3")),
        (ListingLimits { max_bytes: 1, ..all }, 1, Some("1")),
        (ListingLimits { max_scanned: 3, ..all }, 1, Some("2")),
        (ListingLimits { max_scanned_bytes: 1, ..all }, 0, Some("0")),
        (all, 2, None),
    ];
    for (limits, count, through) in ranges {
        let holdings = listed(&preparer, limits, &[&ours, &theirs, &ours, &theirs, &ours]);
        assert_eq!(holdings.documents.len(), count, "{limits:?}");
        assert_eq!(holdings.through, through.map(|key| id(APP, "c", key)), "{limits:?}");
    }
}

#[test]
fn what_the_remote_would_refuse_is_not_told() {
    let theirs = document(r#"{"w":1}"#, REMOTE, 7, 10);
    let mut of_many = theirs.clone();
    for actor in 0..1_000 {
        of_many.merge(&document(r#"{"w":1}"#, ActorId(Uuid::from_u128(100 + actor)), 7, 10));
    }
    let preparer = preparer(OnLeave::Purge);
    let holdings = listed(&preparer, ListingLimits::default(), &[&of_many, &theirs]);
    let told: Vec<_> = holdings.documents.iter().map(|held| held.document_id.clone()).collect();
    assert_eq!((told, holdings.through.clone()), (vec![id(APP, "c", "1")], None));
    assert!(Listed::from_wire(holdings).is_ok());
}

#[test]
fn what_is_held_is_told_when_the_remote_waits_for_it() {
    let after = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
    let range = |through| link::Holdings { through, ..link::Holdings::default() };
    // In the tail, until a snapshot begins.
    let mut told = Told::new(None);
    assert_eq!((told.due(None), told.due(Some(b""))), (None, after(b"")));
    told.tell(&range(after(b"d")));
    let positions: [&[u8]; 3] = [b"b", b"d", b"e"];
    assert_eq!(positions.map(|at| told.due(Some(at)).is_some()), [false, true, false]);
    told.tell(&range(None));
    assert_eq!((told.due(Some(b"d")), told.due(None)), (None, None));
    assert_eq!(told.due(Some(b"")), after(b""), "another snapshot begins");
    // On a new link, from wherever the position is.
    assert_eq!(Told::new(Some(b"c")).due(Some(b"c")), after(b"c"));
}
