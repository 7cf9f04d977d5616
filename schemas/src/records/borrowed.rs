//! A change event put together from parts that belong to somebody else: a store node makes one for
//! each document it changes, and copies none of its parts for that.

use bytes::Bytes;
use serde::{Serialize, Serializer};

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, TxnId};

use super::{Change, Operation};
use crate::avro;

/// A [`Change`] whose parts are borrowed; field by field the same.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename = "Change")]
pub struct ChangeRef<'a> {
    #[serde(with = "avro::long")]
    pub txn: TxnId,
    #[serde(with = "avro::uuid_bytes")]
    pub app: AppId,
    pub collection: &'a str,
    /// Canonical JSON of the `_id`.
    pub key: &'a str,
    #[serde(with = "avro::uuid_bytes")]
    pub origin: ActorId,
    #[serde(with = "avro::long")]
    pub origin_txn: TxnId,
    #[serde(with = "avro::long")]
    pub hlc: Hlc,
    pub operation: Operation,
    pub existed: bool,
    /// Canonical JSON of an object.
    pub before: &'a str,
    pub added: &'a [&'a str],
    #[serde(serialize_with = "bytes")]
    pub state: &'a [u8],
}

impl ChangeRef<'_> {
    /// The bytes of the [`Change`] that this is.
    pub fn encode(&self) -> Bytes {
        let names: usize = self.added.iter().map(|name| name.len() + 2).sum();
        let text = self.collection.len() + self.key.len() + self.before.len() + names;
        avro::encode_as::<Change, _>(self, 128 + text + self.state.len())
    }

    /// Appends the bytes of the [`Change`] that this is.
    pub fn encode_into(&self, to: &mut Vec<u8>) {
        avro::encode_into::<Change, _>(self, to);
    }
}

fn bytes<S: Serializer>(bytes: &&[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}
