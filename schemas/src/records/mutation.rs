//! A mutation, typed and as Avro has it: flat, since Avro's unions would cost more than the empty
//! fields of the kinds that do not use them.

use std::borrow::Cow;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey};
use anabranch_core::query::{FieldPath, OnConflict};

use super::key;
use crate::state;

/// What a round asks of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentMutation {
    /// The collection, in the round's app.
    pub collection: Collection,
    /// The `_id`.
    pub key: DocumentKey,
    /// What is asked.
    pub mutation: Mutation,
}

impl DocumentMutation {
    /// The document's full id.
    pub fn id(&self, app: AppId) -> DocumentId {
        DocumentId { app, collection: self.collection.clone(), key: self.key.clone() }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum MutationKind {
    Insert,
    Update,
    Delete,
    Merge,
    Evict,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OnConflictKind {
    Fail,
    DoNothing,
    DoUpdate,
    DoUpdateLocalDiff,
}

#[derive(Serialize, Deserialize)]
struct Assignment<'a> {
    path: Cow<'a, [String]>,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Increment<'a> {
    path: Cow<'a, [String]>,
    by: i64,
}

/// A mutation as Avro has it. The name is the one in the schema: Avro checks it.
#[derive(Deserialize)]
#[serde(rename = "Mutation")]
struct FlatMutation {
    collection: Collection,
    #[serde(with = "key")]
    key: DocumentKey,
    kind: MutationKind,
    on_conflict: OnConflictKind,
    fields: String,
    set: Vec<Assignment<'static>>,
    unset: Vec<Vec<String>>,
    increment: Vec<Increment<'static>>,
    #[serde(with = "apache_avro::serde::bytes")]
    state: Vec<u8>,
}

impl Serialize for DocumentMutation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut kind = MutationKind::Delete;
        let mut conflict = OnConflictKind::Fail;
        let mut fields = String::new();
        let mut set = Vec::new();
        let mut unset: Vec<&[String]> = Vec::new();
        let mut increment = Vec::new();
        let mut state = Bytes::new();
        match &self.mutation {
            Mutation::Insert { fields: value, on_conflict } => {
                kind = MutationKind::Insert;
                conflict = OnConflictKind::of(*on_conflict);
                fields = value.to_json();
            }
            Mutation::Update { set: sets, unset: unsets, increment: increments } => {
                kind = MutationKind::Update;
                set.extend(sets.iter().map(|(path, value)| Assignment {
                    path: Cow::Borrowed(path.steps()),
                    value: value.to_json(),
                }));
                unset.extend(unsets.iter().map(FieldPath::steps));
                increment.extend(
                    increments
                        .iter()
                        .map(|(path, by)| Increment { path: Cow::Borrowed(path.steps()), by: *by }),
                );
            }
            Mutation::Delete => {}
            Mutation::Merge(document) => {
                kind = MutationKind::Merge;
                state = state::encode(document);
            }
            Mutation::Evict(document) => {
                kind = MutationKind::Evict;
                state = state::encode(document);
            }
        }
        let mut to = serializer.serialize_struct("Mutation", 9)?;
        to.serialize_field("collection", &self.collection.as_str())?;
        to.serialize_field("key", self.key.as_str())?;
        to.serialize_field("kind", &kind)?;
        to.serialize_field("on_conflict", &conflict)?;
        to.serialize_field("fields", &fields)?;
        to.serialize_field("set", &set)?;
        to.serialize_field("unset", &unset)?;
        to.serialize_field("increment", &increment)?;
        to.serialize_field("state", &AvroBytes(&state))?;
        to.end()
    }
}

impl<'de> Deserialize<'de> for DocumentMutation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FlatMutation::deserialize(deserializer)?.into_typed().map_err(serde::de::Error::custom)
    }
}

impl FlatMutation {
    fn into_typed(self) -> Result<DocumentMutation, String> {
        let json = |text: &str| Value::from_json(text.as_bytes()).map_err(|e| e.to_string());
        let path = |steps: Vec<String>| FieldPath::new(steps).map_err(|e| e.to_string());
        let document = || state::decode(&self.state).map_err(|e| e.to_string());
        let mutation = match self.kind {
            MutationKind::Insert => Mutation::Insert {
                fields: json(&self.fields)?,
                on_conflict: self.on_conflict.policy(),
            },
            MutationKind::Update => {
                let set = self.set.into_iter().map(|assignment| {
                    Ok((path(assignment.path.into_owned())?, json(&assignment.value)?))
                });
                let increment = self.increment.into_iter().map(|increment| {
                    Ok::<_, String>((path(increment.path.into_owned())?, increment.by))
                });
                Mutation::Update {
                    set: set.collect::<Result<_, String>>()?,
                    unset: self.unset.into_iter().map(path).collect::<Result<_, _>>()?,
                    increment: increment.collect::<Result<_, _>>()?,
                }
            }
            MutationKind::Delete => Mutation::Delete,
            MutationKind::Merge => Mutation::Merge(document()?),
            MutationKind::Evict => Mutation::Evict(document()?),
        };
        Ok(DocumentMutation { collection: self.collection, key: self.key, mutation })
    }
}

impl OnConflictKind {
    fn of(policy: OnConflict) -> Self {
        match policy {
            OnConflict::Fail => OnConflictKind::Fail,
            OnConflict::DoNothing => OnConflictKind::DoNothing,
            OnConflict::DoUpdate => OnConflictKind::DoUpdate,
            OnConflict::DoUpdateLocalDiff => OnConflictKind::DoUpdateLocalDiff,
        }
    }

    fn policy(self) -> OnConflict {
        match self {
            OnConflictKind::Fail => OnConflict::Fail,
            OnConflictKind::DoNothing => OnConflict::DoNothing,
            OnConflictKind::DoUpdate => OnConflict::DoUpdate,
            OnConflictKind::DoUpdateLocalDiff => OnConflict::DoUpdateLocalDiff,
        }
    }
}

/// Serializes as Avro `bytes`, not as an array of integers.
struct AvroBytes<'a>(&'a [u8]);

impl Serialize for AvroBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
