//! The records of a cluster's topics.
//!
//! Each has a schema in `avro/` with the meaning of its fields; the Rust types say the same with
//! the words of [`anabranch_core`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, Collection, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_core::query::{FieldPath, OnConflict};

use crate::avro::{self, RecordError, record};
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

/// The mutations of one round that fall into one slice, or a part of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundPart {
    /// The round.
    #[serde(with = "avro::uuid_bytes")]
    pub round: RoundId,
    /// The app of all its documents.
    #[serde(with = "avro::uuid_bytes")]
    pub app: AppId,
    /// Which part of the round, from 0.
    pub index: i32,
    /// How many parts the round has.
    pub count: i32,
    /// The mutations, in the order in which they apply.
    pub mutations: Vec<DocumentMutation>,
}
record!(RoundPart, "round part", "round_part.v1.avsc");

/// Where a part of a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLocation {
    /// The slice, which is the partition.
    #[serde(with = "slice")]
    pub slice: Slice,
    /// The offset there.
    #[serde(with = "avro::long")]
    pub offset: u64,
    /// CRC-32C of the record's value: another record there is noticed.
    #[serde(with = "checksum")]
    pub checksum: u32,
}

/// Makes a round part of history: its offset is the round's [`TxnId`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The round.
    #[serde(with = "avro::uuid_bytes")]
    pub round: RoundId,
    /// The app of all its documents.
    #[serde(with = "avro::uuid_bytes")]
    pub app: AppId,
    /// Where it was first written.
    #[serde(with = "avro::uuid_bytes")]
    pub origin: ActorId,
    /// Its transaction there; `None` if it was written here.
    #[serde(with = "avro::optional_long")]
    pub origin_txn: Option<TxnId>,
    /// Its time, by this cluster's clocks.
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
    /// Of the request, if the client named it; else empty.
    #[serde(with = "apache_avro::serde::bytes")]
    pub digest: Vec<u8>,
    /// How many mutations it has.
    pub mutations: i32,
    /// Where its parts stand.
    pub parts: Vec<PartLocation>,
}
record!(Commit, "commit", "commit.v1.avsc");

/// The CRC-32C that a [`PartLocation`] has of a record's value.
pub fn part_checksum(value: &[u8]) -> u32 {
    crc32c::crc32c(value)
}

/// What a change did to a document, as a reader saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operation {
    /// It appeared.
    Insert,
    /// It changed, or only its hidden state did.
    Update,
    /// It was deleted.
    Delete,
    /// It was forgotten here; elsewhere it lives on.
    Evict,
}

/// What one transaction did to one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The transaction, in this cluster.
    #[serde(with = "avro::long")]
    pub txn: TxnId,
    /// The app.
    #[serde(with = "avro::uuid_bytes")]
    pub app: AppId,
    /// The collection.
    pub collection: Collection,
    /// The `_id`.
    #[serde(with = "key")]
    pub key: DocumentKey,
    /// Where the change was first written.
    #[serde(with = "avro::uuid_bytes")]
    pub origin: ActorId,
    /// Its transaction there.
    #[serde(with = "avro::long")]
    pub origin_txn: TxnId,
    /// Time of the commit record in this cluster.
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
    /// What happened.
    pub operation: Operation,
    /// Whether a reader saw the document before.
    pub existed: bool,
    /// The changed top-level fields as they were, an object.
    #[serde(with = "json")]
    pub before: Value,
    /// The changed top-level fields that were missing before.
    pub added: Vec<String>,
    /// The state after (see [`crate::state`]); of an eviction the last one.
    #[serde(with = "apache_avro::serde::bytes")]
    pub state: Vec<u8>,
}
record!(Change, "change", "change.v1.avsc");

impl Change {
    /// The document's full id.
    pub fn id(&self) -> DocumentId {
        DocumentId { app: self.app, collection: self.collection.clone(), key: self.key.clone() }
    }

    /// The document as a reader saw it before, `_id` not included, given how it is `after`.
    pub fn before_image(&self, after: Option<&Value>) -> Option<Value> {
        if !self.existed {
            return None;
        }
        let mut fields = after.and_then(Value::as_object).cloned().unwrap_or_default();
        for name in &self.added {
            fields.remove(name);
        }
        let before = self.before.as_object().into_iter().flatten();
        fields.extend(before.map(|(name, value)| (name.clone(), value.clone())));
        Some(Value::Object(fields))
    }
}

/// All changes of a slice up to a transaction were written before this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The slice.
    #[serde(with = "slice")]
    pub slice: Slice,
    /// The transaction, included.
    #[serde(with = "avro::long")]
    pub txn: TxnId,
    /// Its time.
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
}
record!(Resolved, "resolved mark", "resolved.v1.avsc");

/// What stands in topic `changes`.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangesRecord {
    /// A change event.
    Change(Change),
    /// A resolved mark.
    Resolved(Resolved),
}

impl ChangesRecord {
    /// Reads either.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if avro::is::<Resolved>(bytes) {
            avro::decode(bytes).map(ChangesRecord::Resolved)
        } else {
            avro::decode(bytes).map(ChangesRecord::Change)
        }
    }
}

/// How far the feed was written into topic `changes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesCursor {
    /// Every transaction below it was written.
    #[serde(with = "avro::long")]
    pub next: TxnId,
}
record!(ChangesCursor, "changes cursor", "changes_cursor.v1.avsc");

/// How far this cluster has received from a remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCursor {
    /// The remote's log.
    #[serde(with = "avro::uuid_bytes")]
    pub remote: ActorId,
    /// Tail: every transaction below it was received. Snapshot: its timestamp plus one.
    #[serde(with = "avro::long")]
    pub next: TxnId,
    /// Within a snapshot: the canonical id of the last document received.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub snapshot_after: Option<Vec<u8>>,
    /// Digest of the queries for which this holds.
    #[serde(with = "avro::long")]
    pub queries: u64,
    /// Time at the remote of the last round received.
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
}
record!(RemoteCursor, "remote cursor", "remote_cursor.v1.avsc");

/// One entry of the metadata store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// 1 at first, one more at each change.
    #[serde(with = "avro::long")]
    pub version: u64,
    /// JSON; `None` if the entry was removed.
    pub value: Option<String>,
}
record!(Metadata, "metadata entry", "metadata.v1.avsc");

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

/// A mutation as Avro has it.
#[derive(Deserialize)]
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

/// `int` of a slice.
mod slice {
    use super::*;

    pub(super) fn serialize<S: Serializer>(slice: &Slice, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i32(i32::from(slice.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Slice, D::Error> {
        let index = i32::deserialize(from)?;
        u16::try_from(index).map(Slice).map_err(serde::de::Error::custom)
    }
}

/// `long` of a CRC-32C.
mod checksum {
    use super::*;

    pub(super) fn serialize<S: Serializer>(checksum: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(i64::from(*checksum))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        u32::try_from(i64::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// `string` of a canonical `_id`.
mod key {
    use super::*;

    pub(super) fn serialize<S: Serializer>(key: &DocumentKey, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(key.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DocumentKey, D::Error> {
        let text = String::deserialize(from)?;
        DocumentKey::from_canonical(&text).map_err(serde::de::Error::custom)
    }
}

/// `string` of a JSON value.
mod json {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &Value, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_json())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        let text = String::deserialize(from)?;
        Value::from_json(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}
