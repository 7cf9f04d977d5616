//! Names of things: apps, collections, documents, actors, rounds, transactions.
//!
//! A document id is (app, collection, `_id`). Its canonical bytes are the app's 16 bytes, the
//! collection, a zero byte and the canonical JSON of `_id`: equal ids have equal bytes, different
//! ids different ones, and all documents of a collection are neighbours in byte order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keyspace::Position;
use crate::value::Value;

/// The longest collection name, in bytes.
pub const MAX_COLLECTION_BYTES: usize = 128;
/// The longest canonical `_id`, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// A name or id that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(String);

/// A tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AppId(pub Uuid);

impl FromStr for AppId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::parse_str(text)
            .map(AppId)
            .map_err(|_| IdError(format!("app id '{text}' is not a UUID")))
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who writes: one incarnation of a cluster's log. A log made anew is another actor, so an actor
/// never uses a sequence twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActorId(pub Uuid);

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Mutations that become visible together carry one of these; a round is applied once per id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoundId(pub Uuid);

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The offset of a round's commit record in the `txns` topic. Totally ordered, not dense.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TxnId(pub u64);

impl TxnId {
    /// The first id that may follow this one.
    pub fn next(self) -> Self {
        TxnId(self.0 + 1)
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A collection's name: 1 to 128 bytes, a letter or `_` first, then letters, digits, `_`, `-`, `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Collection(String);

impl Collection {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Collection {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        let mut chars = name.chars();
        let starts = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        let continues =
            chars.all(|next| next.is_ascii_alphanumeric() || matches!(next, '_' | '-' | '.'));
        if starts && continues && name.len() <= MAX_COLLECTION_BYTES {
            Ok(Collection(name.to_owned()))
        } else {
            Err(IdError(format!(
                "collection name '{name}' must be 1 to {MAX_COLLECTION_BYTES} characters: \
                 a letter or '_' first, then letters, digits, '_', '-' or '.'"
            )))
        }
    }
}

impl TryFrom<String> for Collection {
    type Error = IdError;

    fn try_from(name: String) -> Result<Self, IdError> {
        name.parse()
    }
}

impl From<Collection> for String {
    fn from(collection: Collection) -> Self {
        collection.0
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A document's `_id` as canonical JSON text: of a string, an integer or an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey(String);

impl DocumentKey {
    /// From the value of an `_id` field.
    pub fn from_value(value: &Value) -> Result<Self, IdError> {
        let usable = match value {
            Value::String(text) => !text.is_empty(),
            Value::Int(_) => true,
            Value::Object(fields) => !fields.is_empty() && !holds_float(value),
            _ => false,
        };
        if !usable {
            return Err(IdError(format!(
                "_id must be a string, an integer or an object, not empty and without numbers that \
                 have a fraction, not {}",
                value.to_json()
            )));
        }
        let text = value.to_json();
        if text.len() > MAX_KEY_BYTES {
            return Err(IdError(format!(
                "_id is {} bytes long; the limit is {MAX_KEY_BYTES}",
                text.len()
            )));
        }
        Ok(DocumentKey(text))
    }

    /// From canonical JSON text, as [`DocumentKey::as_str`] gives it.
    pub fn from_canonical(text: &str) -> Result<Self, IdError> {
        let value = Value::from_json(text.as_bytes())
            .map_err(|error| IdError(format!("_id '{text}' is not JSON: {error}")))?;
        let key = DocumentKey::from_value(&value)?;
        if key.0 == text {
            Ok(key)
        } else {
            Err(IdError(format!("_id {text} is not in canonical form; that is {}", key.0)))
        }
    }

    /// The canonical JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the `_id` field.
    pub fn to_value(&self) -> Value {
        Value::from_json(self.0.as_bytes()).expect("a key was made from a JSON value")
    }
}

impl DocumentKey {
    /// The fields of the document with its `_id` among them, as a reader sees it.
    pub fn add_to(&self, fields: Value) -> Value {
        let Value::Object(mut fields) = fields else { return fields };
        fields.insert("_id".to_owned(), self.to_value());
        Value::Object(fields)
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Doubles in ids would make equality depend on how a client prints numbers.
fn holds_float(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::Array(items) => items.iter().any(holds_float),
        Value::Object(fields) => fields.values().any(holds_float),
        _ => false,
    }
}

/// A document's full id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    /// The tenant.
    pub app: AppId,
    /// The collection.
    pub collection: Collection,
    /// The `_id`.
    pub key: DocumentKey,
}

impl DocumentId {
    /// Canonical bytes: app (16), collection, 0, canonical `_id`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::collection_prefix(self.app, &self.collection);
        bytes.extend_from_slice(self.key.0.as_bytes());
        bytes
    }

    /// What the canonical bytes of every document of a collection start with.
    pub fn collection_prefix(app: AppId, collection: &Collection) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(app.0.as_bytes());
        bytes.extend_from_slice(collection.0.as_bytes());
        bytes.push(0);
        bytes
    }

    /// The same of the collection of the document with these canonical bytes; `None` if there is none
    /// with them.
    pub fn collection_prefix_of(bytes: &[u8]) -> Option<&[u8]> {
        let collection = bytes.get(16..)?;
        let zero = collection.iter().position(|byte| *byte == 0)?;
        bytes.get(..16 + zero + 1)
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        let broken = || IdError("document id bytes are broken".to_owned());
        let (app, rest) = bytes.split_first_chunk::<16>().ok_or_else(broken)?;
        let zero = rest.iter().position(|byte| *byte == 0).ok_or_else(broken)?;
        let collection = std::str::from_utf8(&rest[..zero]).map_err(|_| broken())?.parse()?;
        let key = std::str::from_utf8(&rest[zero + 1..]).map_err(|_| broken())?;
        Ok(DocumentId {
            app: AppId(Uuid::from_bytes(*app)),
            collection,
            key: DocumentKey(key.to_owned()),
        })
    }

    /// Where in the keyspace this document lies.
    pub fn position(&self) -> Position {
        Position::of(&self.to_bytes())
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.app, self.collection, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(json: &str) -> Result<DocumentKey, IdError> {
        DocumentKey::from_value(&Value::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn equal_ids_have_one_canonical_form() {
        assert_eq!(key(r#"{"b": 1, "a": "x"}"#), key(r#"{ "a":"x","b":1 }"#));
        assert_eq!(key(r#""A""#).unwrap().as_str(), r#""A""#);
        assert_ne!(key("1"), key(r#""1""#));
    }

    #[test]
    fn what_cannot_be_an_id_is_refused() {
        for json in ["null", "1.5", "true", "[1]", "\"\"", "{}", r#"{"a":0.5}"#] {
            assert!(key(json).is_err(), "{json}");
        }
        assert!(key(&format!("\"{}\"", "x".repeat(MAX_KEY_BYTES))).is_err());
    }

    #[test]
    fn bytes_round_trip() {
        let id = DocumentId {
            app: AppId(Uuid::from_u128(7)),
            collection: "cars".parse().unwrap(),
            key: key(r#"{"plant":"x","n":3}"#).unwrap(),
        };
        assert_eq!(DocumentId::from_bytes(&id.to_bytes()).unwrap(), id);
    }

    #[test]
    fn collection_names_are_checked() {
        for name in ["", "1a", "a b", "a\0b", "é"] {
            assert!(name.parse::<Collection>().is_err(), "{name}");
        }
        assert!("_a-b.c9".parse::<Collection>().is_ok());
    }
}
