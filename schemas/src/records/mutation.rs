//! A mutation, typed and as Avro has it: flat, since Avro's unions would cost more than the empty
//! fields of the kinds that do not use them.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{FieldPath, OnConflict};

use super::key;
use crate::avro;
use crate::datum::{put_array, put_bytes, put_long, put_optional_long, put_text};
use crate::state;

/// What a round asks of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentMutation {
    /// The collection, in the round's app.
    pub collection: Collection,
    /// The `_id`.
    pub key: DocumentKey,
    /// Only if the document is there and no transaction after this one has changed it.
    pub unchanged_since: Option<TxnId>,
    /// What is asked.
    pub mutation: Mutation,
}

impl DocumentMutation {
    /// One without a condition.
    pub fn new(collection: Collection, key: DocumentKey, mutation: Mutation) -> Self {
        DocumentMutation { collection, key, unchanged_since: None, mutation }
    }

    /// The document's full id.
    pub fn id(&self, app: AppId) -> DocumentId {
        DocumentId { app, collection: self.collection.clone(), key: self.key.clone() }
    }
}

/// In the order of the schema.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum MutationKind {
    Insert,
    Update,
    Delete,
    Merge,
    Evict,
    Forget,
}

/// In the order of the schema.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OnConflictKind {
    Fail,
    DoNothing,
    DoUpdate,
    DoUpdateLocalDiff,
}

#[derive(Deserialize)]
struct Assignment {
    path: Vec<String>,
    value: String,
}

#[derive(Deserialize)]
struct Increment {
    path: Vec<String>,
    by: i64,
}

/// A mutation as Avro has it. The name is the one in the schema: Avro checks it.
#[derive(Deserialize)]
#[serde(rename = "Mutation")]
struct FlatMutation {
    collection: Collection,
    #[serde(deserialize_with = "key")]
    key: DocumentKey,
    #[serde(default, deserialize_with = "avro::optional_long::deserialize")]
    unchanged_since: Option<TxnId>,
    kind: MutationKind,
    on_conflict: OnConflictKind,
    fields: String,
    set: Vec<Assignment>,
    unset: Vec<Vec<String>>,
    increment: Vec<Increment>,
    #[serde(deserialize_with = "apache_avro::serde::bytes::deserialize")]
    state: Vec<u8>,
}

impl DocumentMutation {
    /// Appends the mutation as Avro has it.
    pub(super) fn put_datum(&self, to: &mut Vec<u8>) {
        let DocumentMutation { collection, key, unchanged_since, mutation } = self;
        let (mut conflict, mut fields) = (OnConflict::Fail, None);
        let (mut set, mut unset, mut increment): (&[_], &[_], &[_]) = (&[], &[], &[]);
        let mut state = Bytes::new();
        let kind = match mutation {
            Mutation::Insert { fields: value, on_conflict } => {
                (conflict, fields) = (*on_conflict, Some(value.to_json()));
                MutationKind::Insert
            }
            Mutation::Update { set: sets, unset: unsets, increment: increments } => {
                (set, unset, increment) = (sets, unsets, increments);
                MutationKind::Update
            }
            Mutation::Delete => MutationKind::Delete,
            Mutation::Forget => MutationKind::Forget,
            Mutation::Merge(document) => {
                state = state::encode(document);
                MutationKind::Merge
            }
            Mutation::Evict(document) => {
                state = state::encode(document);
                MutationKind::Evict
            }
        };
        put_text(collection.as_str(), to);
        put_text(key.as_str(), to);
        put_optional_long(unchanged_since.map(|txn| txn.0), to);
        put_long(kind as i64, to);
        put_long(OnConflictKind::of(conflict) as i64, to);
        put_text(fields.as_deref().unwrap_or_default(), to);
        put_array(set, to, |(path, value), to| {
            put_path(path, to);
            put_text(&value.to_json(), to);
        });
        put_array(unset, to, put_path);
        put_array(increment, to, |(path, by), to| {
            put_path(path, to);
            put_long(*by, to);
        });
        put_bytes(&state, to);
    }
}

fn put_path(path: &FieldPath, to: &mut Vec<u8>) {
    put_array(path.steps(), to, |step, to| put_text(step, to));
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
                let set = self
                    .set
                    .into_iter()
                    .map(|assignment| Ok((path(assignment.path)?, json(&assignment.value)?)));
                let increment = self
                    .increment
                    .into_iter()
                    .map(|increment| Ok::<_, String>((path(increment.path)?, increment.by)));
                Mutation::Update {
                    set: set.collect::<Result<_, String>>()?,
                    unset: self.unset.into_iter().map(path).collect::<Result<_, _>>()?,
                    increment: increment.collect::<Result<_, _>>()?,
                }
            }
            MutationKind::Delete => Mutation::Delete,
            MutationKind::Forget => Mutation::Forget,
            MutationKind::Merge => Mutation::Merge(document()?),
            MutationKind::Evict => Mutation::Evict(document()?),
        };
        let FlatMutation { collection, key, unchanged_since, .. } = self;
        Ok(DocumentMutation { collection, key, unchanged_since, mutation })
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
