//! Queries and scans: requests that a coordinator asks of each partition in the same way.

use std::future::Future;

use anabranch_schemas::store as proto;
use futures::{StreamExt, TryStreamExt};
use tonic::Status;

use super::merge::{Item, Items};
use super::replicas::Replica;

/// A request whose answer is rows, in order, of which each partition has a part.
pub(super) trait RowsRequest: Clone + Send + Sync + 'static {
    type Item: Item;

    /// Asks for the rows behind the one with this key.
    fn start_after(&mut self, key: Vec<u8>);

    /// Asks a replica.
    fn ask(
        self,
        replica: Replica,
        at: proto::ReadAt,
    ) -> impl Future<Output = Result<Items<Self::Item>, Status>> + Send;
}

impl Item for proto::QueryItem {
    fn key(&self) -> &[u8] {
        self.stands_at()
    }
}

impl RowsRequest for proto::QueryRequest {
    type Item = proto::QueryItem;

    fn start_after(&mut self, key: Vec<u8>) {
        self.after = key.into();
    }

    async fn ask(self, replica: Replica, at: proto::ReadAt) -> Result<Items<Self::Item>, Status> {
        let replies = replica.query(proto::QueryRequest { at: Some(at), ..self }).await?;
        Ok(replies.map_ok(|reply| reply.items).boxed())
    }
}

impl Item for proto::ScanItem {
    fn key(&self) -> &[u8] {
        &self.document_id
    }
}

impl RowsRequest for proto::ScanRequest {
    type Item = proto::ScanItem;

    fn start_after(&mut self, key: Vec<u8>) {
        self.after = key.into();
    }

    async fn ask(self, replica: Replica, at: proto::ReadAt) -> Result<Items<Self::Item>, Status> {
        let replies = replica.scan(proto::ScanRequest { at: Some(at), ..self }).await?;
        Ok(replies.map_ok(|reply| reply.items).boxed())
    }
}
