//! Golden files: bytes of every version of every record, with the value they must give.
//!
//! A frozen pair in `golden/` never changes. A new record or version gets its pair from a run with
//! `ANABRANCH_TEST_NEW_GOLDEN=1`, which writes missing files only. The text of a pair is what the
//! value looked like when it was frozen: of an older version the value itself is checked.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Mutation, Share, ShareId};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_core::query::{FieldPath, OnConflict, parse_filter};

use crate::records::{
    Change, ChangeRef, ChangesCursor, ChangesRecord, Commit, DeadLetter, DocumentMutation, Expiry,
    Lost, Metadata, Operation, PartLocation, PartialChanges, RemoteCursor, Resolved, Restriction,
    RoundPart, TxnsRecord,
};
use crate::{Record, decode, encode, state};

fn folder(name: &str) -> PathBuf {
    // Tests run in the directory of their package.
    PathBuf::from("golden").join(name)
}

/// Checks the pair of the version that is written: the bytes give the value, and the value gives
/// the bytes.
fn check_bytes<T: Debug>(
    name: &str,
    version: u8,
    sample: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> T,
) {
    let folder = folder(name);
    let file = |extension| folder.join(format!("v{version}.{extension}"));
    let (bytes_file, value_file) = (file("hex"), file("txt"));
    if !bytes_file.exists() && std::env::var_os("ANABRANCH_TEST_NEW_GOLDEN").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&bytes_file, to_hex(&encode(sample))).unwrap();
        fs::write(&value_file, format!("{sample:#?}\n")).unwrap();
    }
    let hex = fs::read_to_string(&bytes_file).unwrap();
    let expected = fs::read_to_string(&value_file).unwrap();
    let value = decode(&from_hex(&hex));
    assert_eq!(format!("{value:#?}\n"), expected, "{name}: the bytes give another value");
    assert_eq!(to_hex(&encode(&value)), hex, "{name}: the value gives other bytes");
}

fn check<R: Record + Debug>(name: &str, sample: &R) {
    check_version(name, 1, sample);
}

fn check_version<R: Record + Debug>(name: &str, version: u8, sample: &R) {
    let encoded = |record: &R| encode(record).to_vec();
    check_bytes(name, version, sample, encoded, |bytes| decode(bytes).unwrap());
    let bytes = encode(sample);
    assert_eq!(R::codec().rewritten(&bytes), bytes, "{name}: the library writes it otherwise");
}

/// The bytes of version 1 of something that is written otherwise by now.
fn old_bytes(name: &str) -> Vec<u8> {
    from_hex(&fs::read_to_string(folder(name).join("v1.hex")).unwrap())
}

fn to_hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        line.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect::<String>()
    });
    lines.collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

fn path(dotted: &str) -> FieldPath {
    FieldPath::new(dotted.split('.').map(str::to_owned).collect()).unwrap()
}

fn at(actor: u128, sequence: u64) -> At {
    let hlc = Hlc::from_millis(1_700_000_000_000 + sequence);
    At { hlc, actor: ActorId(uuid(actor)), sequence }
}

fn document() -> Document {
    let mut document = Document::default();
    let fields = json(
        r#"{"name":"é","n":-5,"x":0.25,"ok":true,"none":null,"list":[1,{"a":[]}],"m":{"k":{}}}"#,
    );
    let on_conflict = OnConflict::Fail;
    document.apply(&Mutation::Insert { fields, on_conflict }, at(1, 10));
    let update = Mutation::Update {
        set: vec![(path("m.deep.er"), json("9223372036854775807"))],
        unset: vec![path("none")],
        increment: vec![(path("n"), 7), (path("fresh"), -3)],
    };
    document.apply(&update, at(2, 4));
    document.apply(&Mutation::Delete, at(1, 11));
    document.apply(&update, at(2, 5));
    document
}

/// The same as version 1 of the state gives it: it did not tell where a share began.
fn document_of_version_1() -> Document {
    let mut document = document();
    for counter in document.fields.values_mut().filter_map(|field| field.counter.as_mut()) {
        let shares = std::mem::take(&mut counter.shares).into_iter();
        counter.shares = shares.map(|(id, share)| (ShareId { begun: 0, ..id }, share)).collect();
    }
    document
}

fn mutation(key: &str, mutation: Mutation) -> DocumentMutation {
    let key = DocumentKey::from_canonical(key).unwrap();
    DocumentMutation::new("cars".parse().unwrap(), key, mutation)
}

#[test]
fn state_of_a_document() {
    let decode = |bytes: &[u8]| state::decode(bytes).unwrap();
    let mut sample = document();
    let counter = sample.fields.get_mut("fresh").and_then(|field| field.counter.as_mut()).unwrap();
    let share = Share { closed: true, added: 1 << 40, subtracted: 2 };
    counter.shares.insert(ShareId { actor: ActorId(uuid(2)), begun: 3 }, share);
    check_bytes("state", 2, &sample, |document| state::encode(document).to_vec(), decode);
    check_bytes("state-empty", 2, &Document::default(), |d| state::encode(d).to_vec(), decode);
    sample.apply(&Mutation::Delete, at(1, 12));
    let tombstone = |document: &Document| state::tombstone(&state::encode(document)).unwrap();
    assert_eq!((tombstone(&sample), tombstone(&document())), (sample.tombstone(), None));
    assert!(sample.tombstone().is_some() && sample.expire(Hlc(u64::MAX)));
    check_bytes("state-expired", 2, &sample, |d| state::encode(d).to_vec(), decode);
    assert_eq!(tombstone(&sample), None);
    assert_eq!(decode(&old_bytes("state")), document_of_version_1());
    assert_eq!(decode(&old_bytes("state-empty")), Document::default());
}

#[test]
fn round_part() {
    let update = Mutation::Update {
        set: vec![(path("a.b"), json("[1]")), (path("c"), Value::Null)],
        unset: vec![path("d")],
        increment: vec![(path("n"), i64::MIN)],
    };
    let insert = |on_conflict| Mutation::Insert { fields: json(r#"{"a":1}"#), on_conflict };
    let mutations = |document: Document| {
        vec![
            mutation("\"one\"", insert(OnConflict::Fail)),
            mutation("2", insert(OnConflict::DoNothing)),
            mutation("3", insert(OnConflict::DoUpdate)),
            mutation("4", insert(OnConflict::DoUpdateLocalDiff)),
            mutation(r#"{"n":5}"#, update.clone()),
            mutation("-6", Mutation::Delete),
            mutation("7", Mutation::Merge(document.clone())),
            mutation("8", Mutation::Evict(document)),
        ]
    };
    let part = |document| RoundPart {
        round: RoundId(uuid(7)),
        app: AppId(uuid(8)),
        index: 1,
        count: 3,
        mutations: mutations(document),
        restrictions: Vec::new(),
    };
    let mut newest = part(document());
    for name in ["round_part", "round_part-state_v2"] {
        let old: RoundPart = decode(&old_bytes(name)).unwrap();
        let document = if name == "round_part" { document_of_version_1() } else { document() };
        assert_eq!(old, part(document));
    }
    for (number, mutation) in (0..).zip(&mut newest.mutations[4..6]) {
        mutation.unchanged_since = Some(TxnId(number << 40));
    }
    newest.mutations.push(mutation("9", Mutation::Forget));
    let version_2 = from_hex(&fs::read_to_string(folder("round_part").join("v2.hex")).unwrap());
    assert_eq!(decode::<RoundPart>(&version_2).unwrap(), newest);
    newest.restrictions = vec![Restriction {
        collection: "cars".parse().unwrap(),
        readable: parse_filter("store = 17 OR owner IN ('ann', 'b''b')").unwrap(),
        writable: parse_filter("FALSE").unwrap(),
    }];
    check_version("round_part", 3, &newest);
}

#[test]
fn what_stands_in_txns() {
    let part = |slice, offset| PartLocation { slice: Slice(slice), offset, checksum: u32::MAX };
    let commit = Commit {
        round: RoundId(uuid(7)),
        app: AppId(uuid(8)),
        origin: ActorId(uuid(u128::MAX)),
        origin_txn: Some(TxnId(1 << 40)),
        hlc: Hlc::from_millis(1_700_000_000_000),
        digest: vec![1, 2, 3],
        atomic: false,
        mutations: 8,
        parts: vec![part(0, 0), part(15, 1 << 50)],
    };
    assert_eq!(decode::<Commit>(&old_bytes("commit")).unwrap(), commit);
    assert_eq!(
        TxnsRecord::decode(&old_bytes("commit")).unwrap(),
        TxnsRecord::Commit(commit.clone())
    );
    let commit = Commit { atomic: true, ..commit };
    check_version("commit", 2, &commit);
    let expiry = Expiry { hlc: commit.hlc, time_to_live_ms: 1 << 40 };
    check("expiry", &expiry);
    let either = |bytes: &[u8]| TxnsRecord::decode(bytes).unwrap();
    assert_eq!(either(&encode(&expiry)), TxnsRecord::Expiry(expiry));
    assert_eq!(either(&encode(&commit)), TxnsRecord::Commit(commit.clone()));
    let local = Commit { atomic: false, origin_txn: None, digest: vec![], parts: vec![], ..commit };
    assert_eq!(decode::<Commit>(&old_bytes("commit-local")).unwrap(), local);
    check_version("commit-local", 2, &local);
}

#[test]
fn what_stands_in_changes() {
    let change = Change {
        txn: TxnId(12),
        app: AppId(uuid(8)),
        collection: "cars".parse().unwrap(),
        key: DocumentKey::from_canonical("\"one\"").unwrap(),
        origin: ActorId(uuid(1)),
        origin_txn: TxnId(11),
        hlc: Hlc::from_millis(1_700_000_000_000),
        operation: Operation::Update,
        existed: true,
        before: json(r#"{"name":"x"}"#),
        added: vec!["fresh".to_owned()],
        state: state::encode(&document()).to_vec(),
    };
    check("change", &change);
    let added: Vec<_> = change.added.iter().map(String::as_str).collect();
    let borrowed = ChangeRef {
        txn: change.txn,
        app: change.app,
        collection: change.collection.as_str(),
        key: change.key.as_str(),
        origin: change.origin,
        origin_txn: change.origin_txn,
        hlc: change.hlc,
        operation: change.operation,
        existed: change.existed,
        before: &change.before.to_json(),
        added: &added,
        state: &change.state,
    };
    assert_eq!(borrowed.encode(), encode(&change));
    let mut appended = b"before".to_vec();
    borrowed.encode_into(&mut appended);
    assert_eq!(appended, [b"before", &encode(&change)[..]].concat());
    let resolved = Resolved { slice: Slice(3), txn: TxnId(12) };
    check("resolved", &resolved);
    let either = |bytes: &[u8]| ChangesRecord::decode(bytes).unwrap();
    assert_eq!(either(&encode(&change)), ChangesRecord::Change(change));
    assert_eq!(either(&encode(&resolved)), ChangesRecord::Resolved(resolved));
    let lost = Lost { slice: Slice(3), from: TxnId(12), to: TxnId(40) };
    check("lost", &lost);
    assert_eq!(either(&encode(&lost)), ChangesRecord::Lost(lost));
}

#[test]
fn cursors_and_metadata() {
    check("changes_cursor", &ChangesCursor { next: TxnId(7) });
    check("partial_changes", &PartialChanges { txn: TxnId(7), written: 1 << 33 });
    let cursor = RemoteCursor {
        remote: ActorId(uuid(1)),
        next: TxnId(7),
        snapshot_after: Some(vec![0, 255]),
        queries: u64::MAX,
        hlc: Hlc(9),
    };
    check("remote_cursor", &cursor);
    check("remote_cursor-tail", &RemoteCursor { snapshot_after: None, ..cursor });
    check("metadata", &Metadata { version: 3, value: Some("{}".to_owned()) });
    check("metadata-removed", &Metadata { version: 4, value: None });
}

#[test]
fn dead_letter() {
    let letter = DeadLetter {
        app: AppId(uuid(8)),
        replication: "japanese-cars".to_owned(),
        remote: ActorId(uuid(1)),
        origin: ActorId(uuid(2)),
        origin_txn: TxnId(3),
        document_id: vec![0, 255],
        state: vec![9],
        left: true,
        code: "state".to_owned(),
        reason: "unknown version 9".to_owned(),
        received_ms: 1_700_000_000_000,
    };
    check("dead_letter", &letter);
}

proptest! {
    /// What is written by hand is what the library writes.
    #[test]
    fn changes_are_written_as_the_library_does(
        numbers in prop::array::uniform3(prop::num::u64::ANY.prop_flat_map(|most| 0..=most)),
        operation in prop::sample::select(&[
            Operation::Insert, Operation::Update, Operation::Delete, Operation::Evict,
        ]),
        existed: bool,
        added in prop::collection::vec(".{0,90}", 0..80),
        state in prop::collection::vec(any::<u8>(), 0..9_000),
    ) {
        let [txn, origin_txn, hlc] = numbers;
        let change = Change {
            txn: TxnId(txn),
            app: AppId(uuid(8)),
            collection: "c".repeat(1 + state.len() % 60).parse().unwrap(),
            key: DocumentKey::from_canonical(&txn.min(1 << 62).to_string()).unwrap(),
            origin: ActorId(uuid(hlc.into())),
            origin_txn: TxnId(origin_txn),
            hlc: Hlc(hlc),
            operation,
            existed,
            before: json("{}"),
            added,
            state,
        };
        let bytes = encode(&change);
        prop_assert_eq!(Change::codec().rewritten(&bytes), &bytes[..]);
        prop_assert_eq!(decode::<Change>(&bytes).unwrap(), change);
    }
}

#[test]
fn a_change_gives_the_image_before_it() {
    let change = |existed, before: &str, added: &[&str]| Change {
        txn: TxnId(0),
        app: AppId(uuid(8)),
        collection: "cars".parse().unwrap(),
        key: DocumentKey::from_canonical("1").unwrap(),
        origin: ActorId(uuid(1)),
        origin_txn: TxnId(0),
        hlc: Hlc(0),
        operation: Operation::Update,
        existed,
        before: json(before),
        added: added.iter().map(|name| (*name).to_owned()).collect(),
        state: vec![],
    };
    let after = json(r#"{"a":1,"b":2}"#);
    let image = |change: Change, after| change.before_image(after).map(|value| value.to_json());
    assert_eq!(image(change(false, "{}", &["a", "b"]), Some(&after)), None);
    let changed = change(true, r#"{"a":0,"c":3}"#, &["b"]);
    assert_eq!(image(changed, Some(&after)).as_deref(), Some(r#"{"a":0,"c":3}"#));
    let deleted = change(true, r#"{"a":0}"#, &[]);
    assert_eq!(image(deleted, None).as_deref(), Some(r#"{"a":0}"#));
}

#[test]
fn bytes_of_something_else_are_refused() {
    let resolved = encode(&Resolved { slice: Slice(3), txn: TxnId(12) });
    for bytes in [&[][..], &[0; 20], &resolved[..9], &resolved[..resolved.len() - 1]] {
        assert!(decode::<Resolved>(bytes).is_err(), "{bytes:?}");
    }
    assert!(decode::<ChangesCursor>(&resolved).unwrap_err().to_string().contains("fingerprint"));
    assert!(decode::<Resolved>(&[&resolved[..], &[0]].concat()).is_err());
    for bytes in [&[][..], &[9, 1], &[1, 255]] {
        assert!(state::decode(bytes).is_err(), "{bytes:?}");
    }
}
