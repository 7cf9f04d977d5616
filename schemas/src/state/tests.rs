use anabranch_core::document::{Commit, Mutation};
use anabranch_core::query::{FieldPath, OnConflict};

use super::*;

/// What is written by hand is what the protobuf library would write.
#[test]
fn bytes_are_those_of_the_library() {
    let mut document = Document::default();
    let actor = ActorId(Uuid::from_u128(5));
    let long = "long ".repeat(5_000);
    let fields = [
        ("empty", Value::from("")),
        ("zero", Value::Int(0)),
        ("minus", Value::Int(i64::MIN)),
        ("no", Value::Bool(false)),
        ("float", Value::Float(0.0)),
        ("null", Value::Null),
        ("list", Value::Array(vec![Value::from(long.as_str()), Value::Int(1)])),
        ("edge", Value::from(&long[..110])),
        ("long", Value::from(long.as_str())),
        ("map", [(long.clone(), Value::Int(7))].into_iter().collect()),
        ("none", Value::Object(BTreeMap::new())),
        ("", Value::from("a name without letters")),
    ];
    let fields: Value = fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let Value::Object(entries) = &fields else { unreachable!("it was collected from pairs") };
    for (hlc, sequence) in [(0, 0), (9, 0), (0, 9), (9, 9)] {
        let at = Commit { hlc: Hlc(hlc), actor, sequence };
        let insert = Mutation::Insert { fields: fields.clone(), on_conflict: OnConflict::DoUpdate };
        document = Document::default();
        document.apply(&insert, at);
        let stamp = Stamp { hlc: at.hlc, actor, sequence };
        let mut inserted = InsertedStates::new(b"before", stamp);
        let expected = encode_after(b"before", &document);
        assert_eq!([inserted.encode(entries), inserted.encode(entries)], [&expected; 2]);
    }
    // More stamps than are listed.
    for sequence in 1..200 {
        let path = FieldPath::new(vec![format!("count{}", sequence % 3)]).unwrap();
        let increment = vec![(path, if sequence % 2 == 0 { 1 } else { -1 })];
        let update = Mutation::Update { set: vec![], unset: vec![], increment };
        document.apply(&update, Commit { hlc: Hlc(sequence), actor, sequence });
    }
    for sequence in 200..300 {
        let path = FieldPath::new(vec![format!("stamp{}", sequence % 40)]).unwrap();
        let set = vec![(path, Value::Int(1))];
        let update = Mutation::Update { set, unset: vec![], increment: vec![] };
        document.apply(&update, Commit { hlc: Hlc(sequence), actor, sequence });
    }
    let bytes = encode(&document);
    assert_eq!(encode_after(b"before", &document), [b"before", &bytes[..]].concat());
    assert_eq!(decode(&bytes).unwrap(), document);
    for wants in [|name: &str| name.starts_with("count"), |_: &str| false, |_: &str| true] {
        let mut some = document.clone();
        some.fields.retain(|name, _| wants(name));
        assert_eq!(decode_some(&bytes, wants).unwrap(), some);
    }
    assert!((0..bytes.len() - 1).all(|end| {
        decode_some(&bytes[..end], |_| true).is_ok() == decode(&bytes[..end]).is_ok()
    }));
    let message = wire::Document::decode(&bytes[1..]).unwrap();
    assert_eq!(message.encode_to_vec(), bytes[1..]);
}
