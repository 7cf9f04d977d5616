//! The records of a cluster's topics.
//!
//! Each has a schema in `avro/` with the meaning of its fields; the Rust types say the same with
//! the words of [`anabranch_core`].

mod borrowed;
mod dead_letter;
mod mutation;
mod restriction;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use anabranch_core::Value;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, Collection, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::Slice;

use crate::avro::{self, RecordError, record};
use crate::resources::ResourceName;

pub use borrowed::{ChangeRef, RoundPartRef};
pub use dead_letter::DeadLetter;
pub use mutation::DocumentMutation;
pub use restriction::Restriction;

record!(DeadLetter, "dead letter", "dead_letter.v1.avsc");

/// The mutations of one round that fall into one slice, or a part of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RoundPart {
    /// The round.
    #[serde(deserialize_with = "avro::uuid_bytes::deserialize")]
    pub round: RoundId,
    /// The app of all its documents.
    #[serde(deserialize_with = "avro::uuid_bytes::deserialize")]
    pub app: AppId,
    /// Which part of the round, from 0.
    pub index: i32,
    /// How many parts the round has.
    pub count: i32,
    /// The mutations, in the order in which they apply.
    pub mutations: Vec<DocumentMutation>,
    /// What whoever asks may do, by collection; of others all.
    #[serde(default)]
    pub restrictions: Vec<Restriction>,
}
record!(
    RoundPart,
    "round part",
    "round_part.v3.avsc",
    was "round_part.v2.avsc",
    was "round_part.v1.avsc",
    |part, to| {
        let RoundPart { round, app, index, count, mutations, restrictions } = part;
        let mutations: Vec<_> = mutations.iter().collect();
        let (round, app, index, count) = (*round, *app, *index, *count);
        let restrictions: Vec<_> = restrictions.iter().collect();
        let (mutations, restrictions) = (&mutations, &restrictions);
        RoundPartRef { round, app, index, count, mutations, restrictions }.put_datum(to);
    }
);

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
    /// If a condition of one of its mutations does not hold, none of them applies: all of them are in
    /// one slice.
    #[serde(default)]
    pub atomic: bool,
    /// How many mutations it has.
    pub mutations: i32,
    /// Where its parts stand.
    pub parts: Vec<PartLocation>,
}
record!(Commit, "commit", "commit.v2.avsc", was "commit.v1.avsc");

/// What documents hide that were deleted long ago is dropped, as of this transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Its time, by this cluster's clocks.
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
    /// For how long they go on hiding it, in milliseconds of the log's time.
    #[serde(with = "avro::long")]
    pub time_to_live_ms: u64,
}
record!(Expiry, "expiry", "expiry.v1.avsc");

/// What stands in topic `txns`.
#[derive(Clone, Debug, PartialEq)]
pub enum TxnsRecord {
    /// Makes a round part of history.
    Commit(Commit),
    /// Drops what deleted documents hide.
    Expiry(Expiry),
}

impl TxnsRecord {
    /// Reads any of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if avro::is::<Expiry>(bytes) {
            avro::decode(bytes).map(TxnsRecord::Expiry)
        } else {
            avro::decode(bytes).map(TxnsRecord::Commit)
        }
    }

    /// Its time, by this cluster's clocks.
    pub fn hlc(&self) -> Hlc {
        match self {
            TxnsRecord::Commit(commit) => commit.hlc,
            TxnsRecord::Expiry(expiry) => expiry.hlc,
        }
    }

    /// Where the parts of its round stand, if it is one.
    pub fn parts(&self) -> &[PartLocation] {
        match self {
            TxnsRecord::Commit(commit) => &commit.parts,
            TxnsRecord::Expiry(_) => &[],
        }
    }
}

/// The CRC-32C that a [`PartLocation`] has of a record's value.
pub fn part_checksum(value: &[u8]) -> u32 {
    crc32c::crc32c(value)
}

/// What a change did to a document, as a reader saw it; in the order of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Change {
    /// The transaction, in this cluster.
    #[serde(deserialize_with = "avro::long::deserialize")]
    pub txn: TxnId,
    /// The app.
    #[serde(deserialize_with = "avro::uuid_bytes::deserialize")]
    pub app: AppId,
    /// The collection.
    pub collection: Collection,
    /// The `_id`.
    #[serde(deserialize_with = "key")]
    pub key: DocumentKey,
    /// Where the change was first written.
    #[serde(deserialize_with = "avro::uuid_bytes::deserialize")]
    pub origin: ActorId,
    /// Its transaction there.
    #[serde(deserialize_with = "avro::long::deserialize")]
    pub origin_txn: TxnId,
    /// Time of the commit record in this cluster.
    #[serde(deserialize_with = "avro::long::deserialize")]
    pub hlc: Hlc,
    /// What happened.
    pub operation: Operation,
    /// Whether a reader saw the document before.
    pub existed: bool,
    /// The changed top-level fields as they were, an object.
    #[serde(deserialize_with = "json")]
    pub before: Value,
    /// The changed top-level fields that were missing before.
    pub added: Vec<String>,
    /// The state after (see [`crate::state`]); of an eviction the last one.
    #[serde(deserialize_with = "apache_avro::serde::bytes::deserialize")]
    pub state: Vec<u8>,
}
record!(Change, "change", "change.v1.avsc", |change, to| {
    let added: Vec<_> = change.added.iter().map(String::as_str).collect();
    change.borrowed(&change.before.to_json(), &added).put_datum(to);
});

impl Change {
    /// The document's full id.
    pub fn id(&self) -> DocumentId {
        DocumentId { app: self.app, collection: self.collection.clone(), key: self.key.clone() }
    }

    fn borrowed<'a>(&'a self, before: &'a str, added: &'a [&'a str]) -> ChangeRef<'a> {
        let Change { collection, key, before: _, added: _, state, .. } = self;
        let Change { txn, app, origin, origin_txn, hlc, operation, existed, .. } = *self;
        let (collection, key) = (collection.as_str(), key.as_str());
        ChangeRef {
            txn,
            app,
            collection,
            key,
            origin,
            origin_txn,
            hlc,
            operation,
            existed,
            before,
            added,
            state,
        }
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
}
record!(Resolved, "resolved mark", "resolved.v1.avsc");

/// What some transactions changed in a slice is not known: it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The slice.
    #[serde(with = "slice")]
    pub slice: Slice,
    /// The first transaction.
    #[serde(with = "avro::long")]
    pub from: TxnId,
    /// The last transaction, included.
    #[serde(with = "avro::long")]
    pub to: TxnId,
}
record!(Lost, "lost range", "lost.v1.avsc");

/// What stands in topic `changes`.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangesRecord {
    /// A change event.
    Change(Change),
    /// A resolved mark.
    Resolved(Resolved),
    /// Changes that are lost.
    Lost(Lost),
}

impl ChangesRecord {
    /// Reads any of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if avro::is::<Resolved>(bytes) {
            avro::decode(bytes).map(ChangesRecord::Resolved)
        } else if avro::is::<Lost>(bytes) {
            avro::decode(bytes).map(ChangesRecord::Lost)
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

impl ChangesCursor {
    /// Its key in topic `cursors`.
    pub const KEY: &str = "changes";
}

/// How much of one transaction was written into topic `changes`, while that is a part of it only:
/// one that is too large for a transaction of the log takes several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialChanges {
    /// The transaction. This holds while it is the `next` of the [`ChangesCursor`].
    #[serde(with = "avro::long")]
    pub txn: TxnId,
    /// How many of its changes were written, in the order of the feed.
    #[serde(with = "avro::long")]
    pub written: u64,
}
record!(PartialChanges, "partial changes", "partial_changes.v1.avsc");

impl PartialChanges {
    /// Its key in topic `cursors`.
    pub const KEY: &str = "changes/partial";
}

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

impl RemoteCursor {
    /// Its key in topic `cursors`, for the replication that receives from `remote`.
    pub fn key(app: AppId, replication: &ResourceName, remote: ActorId) -> String {
        format!("{}{remote}", RemoteCursor::key_prefix(app, replication))
    }

    /// What the keys of a replication's positions begin with: it may have one for each remote.
    pub fn key_prefix(app: AppId, replication: &ResourceName) -> String {
        format!("bridge/{app}/{replication}/")
    }
}

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

/// Of the `string` of a canonical `_id`.
fn key<'de, D: Deserializer<'de>>(from: D) -> Result<DocumentKey, D::Error> {
    let text = String::deserialize(from)?;
    DocumentKey::from_canonical(&text).map_err(serde::de::Error::custom)
}

/// Of the `string` of a JSON value.
fn json<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
    let text = String::deserialize(from)?;
    Value::from_json(text.as_bytes()).map_err(serde::de::Error::custom)
}
