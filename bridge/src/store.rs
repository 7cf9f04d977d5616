//! The store node, asked over gRPC for snapshots.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Status, Streaming};

use anabranch_core::document::Document;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{AppId, Collection, DocumentId, TxnId};
use anabranch_runtime::grpc::{self, AnyOf};
use anabranch_schemas::state;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::store::{ReadAt, ScanReply, ScanRequest, StatusRequest};

use crate::error::Error;

/// A reply holds whole documents.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// How long a scan waits for its timestamp, and a call for its answer.
const WAIT_MS: u32 = 5_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a scan may pause.
const PAUSE: Duration = Duration::from_secs(60);

/// A client of the store node.
#[derive(Clone, Debug)]
pub(crate) struct Store(StoreNodeClient<AnyOf>);

/// How far a store node has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    /// Everything below is applied.
    pub(crate) next: TxnId,
    /// Time of the last applied transaction.
    pub(crate) hlc: Hlc,
}

/// Documents of a collection, in the order of their ids.
pub(crate) struct Scan(Streaming<ScanReply>);

/// Why a scan broke off.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The timestamp can no longer be read.
    TooOld,
    /// Anything else.
    Failed(Error),
}

impl From<ScanError> for Error {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Failed(error) => error,
            ScanError::TooOld => Error::Store("it does not read as of now".to_owned()),
        }
    }
}

impl Store {
    /// A client of these store nodes. Does not connect yet.
    pub(crate) fn new(nodes: AnyOf) -> Self {
        Store(StoreNodeClient::new(nodes).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// How far the store node has come.
    pub(crate) async fn applied(&self) -> Result<Applied, Error> {
        let mut client = self.0.clone();
        let reply = tokio::time::timeout(CALL_TIMEOUT, client.status(StatusRequest {})).await;
        let reply = reply.map_err(|_| late())?.map_err(|status| failed(&status))?.into_inner();
        Ok(Applied { next: TxnId(reply.applied_next), hlc: Hlc(reply.applied_hlc) })
    }

    /// Every document of a collection after `after`, tombstones too: exactly as of `txn`, or as of
    /// now, which is not before it.
    pub(crate) async fn scan(
        &self,
        app: AppId,
        collection: &Collection,
        txn: TxnId,
        exactly: bool,
        after: Bytes,
    ) -> Result<Scan, ScanError> {
        let request = ScanRequest {
            app: Bytes::copy_from_slice(app.0.as_bytes()),
            collection: collection.to_string(),
            at: Some(ReadAt {
                at_least: (!exactly).then_some(txn.0),
                exactly: exactly.then_some(txn.0),
                wait_ms: WAIT_MS,
            }),
            after,
        };
        let mut client = self.0.clone();
        let reply = tokio::time::timeout(CALL_TIMEOUT, client.scan(request)).await;
        let reply = reply.map_err(|_| ScanError::Failed(late()))?;
        Ok(Scan(reply.map_err(|status| scan_error(&status))?.into_inner()))
    }

    /// One document with its state, tombstones too, as of `least` or later.
    pub(crate) async fn document(
        &self,
        id: &DocumentId,
        least: TxnId,
    ) -> Result<Option<Document>, Error> {
        let bytes = Bytes::from(id.to_bytes());
        let after = just_before(&bytes);
        let mut scan = self.scan(id.app, &id.collection, least, false, after).await?;
        let mut first = None;
        // The first reply may be empty: a store node is at work.
        while first.is_none()
            && let Some(reply) = scan.next().await?
        {
            first = reply.items.into_iter().next();
        }
        let Some(item) = first.filter(|item| item.document_id == bytes) else { return Ok(None) };
        let document = state::decode(&item.state)
            .map_err(|error| Error::Corrupt(format!("the state of {id}: {error}")))?;
        Ok(Some(document))
    }
}

/// Where a scan goes on in a collection that has come to `after`; `None` if that is past it. The
/// ids of a collection lie together, and collections in the order of their names.
pub(crate) fn go_on(app: AppId, collection: &Collection, after: Bytes) -> Option<Bytes> {
    let prefix = DocumentId::collection_prefix(app, collection);
    if after.starts_with(&prefix) {
        return Some(after);
    }
    (after[..] < prefix[..]).then(Bytes::new)
}

/// Bytes right before a document id: no other id is between. Ids end in text, in which no byte is
/// 255.
fn just_before(id: &[u8]) -> Bytes {
    let mut before = id.to_vec();
    if let Some(last) = before.pop().filter(|last| *last > 0) {
        before.extend([last - 1, u8::MAX]);
    }
    before.into()
}

impl Scan {
    /// The next documents; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<ScanReply>, ScanError> {
        let next = tokio::time::timeout(PAUSE, self.0.message()).await;
        let next = next.map_err(|_| ScanError::Failed(late()))?;
        next.map_err(|status| scan_error(&status))
    }
}

fn late() -> Error {
    Error::Store("it does not answer".to_owned())
}

fn failed(status: &Status) -> Error {
    Error::Store(match grpc::code_of(status) {
        Some(code) => format!("{} ({code})", status.message()),
        None => format!("{} ({})", status.message(), status.code()),
    })
}

fn scan_error(status: &Status) -> ScanError {
    match grpc::code_of(status) {
        Some("too_old") => ScanError::TooOld,
        _ => ScanError::Failed(failed(status)),
    }
}
