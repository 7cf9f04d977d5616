//! What the other services of a cluster ask of any of its store nodes. A node that hears nothing of
//! the others answers as well as it can, and says so: the next request goes to another one.

use std::time::Instant;

use anabranch_runtime::grpc::{CODE_KEY, CUT_OFF};
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_server::StoreNode;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::{Replies, answer};
use crate::coordinate::Coordinator;

impl Coordinator {
    fn said<T>(&self, answer: Result<Response<T>, Status>) -> Result<Response<T>, Status> {
        let mut answer = answer?;
        if self.is_cut_off() {
            answer.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(CUT_OFF));
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl StoreNode for Coordinator {
    type QueryStream = Replies<proto::QueryReply>;
    type ScanStream = Replies<proto::ScanReply>;
    type FeedStream = Replies<proto::FeedReply>;

    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetReply>, Status> {
        let began = Instant::now();
        self.said(answer("get", began, self.get(request.into_inner()).await))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let began = Instant::now();
        self.said(answer("query", began, self.query(request.into_inner()).await))
    }

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let began = Instant::now();
        self.said(answer("scan", began, self.scan(request.into_inner()).await))
    }

    async fn outcome(
        &self,
        request: Request<proto::OutcomeRequest>,
    ) -> Result<Response<proto::OutcomeReply>, Status> {
        let began = Instant::now();
        self.said(answer("outcome", began, self.outcome(request.into_inner()).await))
    }

    async fn feed(
        &self,
        request: Request<proto::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let began = Instant::now();
        self.said(answer("feed", began, self.feed(request.into_inner()).await))
    }

    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        self.said(self.status().await.map(Response::new))
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyReply>, Status> {
        let began = Instant::now();
        self.said(answer("verify", began, self.verify(request.into_inner()).await))
    }
}
