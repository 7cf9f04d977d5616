//! What could not be applied, kept with its reason.

use serde::{Deserialize, Serialize};

use anabranch_core::ids::{ActorId, AppId, TxnId};

use crate::avro;

/// A document from a remote cluster that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The app.
    #[serde(with = "avro::uuid_bytes")]
    pub app: AppId,
    /// Name of the replication that received it.
    pub replication: String,
    /// The remote's log.
    #[serde(with = "avro::uuid_bytes")]
    pub remote: ActorId,
    /// Where it was first written.
    #[serde(with = "avro::uuid_bytes")]
    pub origin: ActorId,
    /// Its transaction there.
    #[serde(with = "avro::long")]
    pub origin_txn: TxnId,
    /// The document's id as received; it may not be one.
    #[serde(with = "apache_avro::serde::bytes")]
    pub document_id: Vec<u8>,
    /// The document's state as received; it may not be one.
    #[serde(with = "apache_avro::serde::bytes")]
    pub state: Vec<u8>,
    /// Whether it was sent because it left what was asked for.
    pub left: bool,
    /// A stable name of the reason.
    pub code: String,
    /// The reason.
    pub reason: String,
    /// When it was received, in milliseconds since the Unix epoch.
    #[serde(with = "avro::long")]
    pub received_ms: u64,
}
