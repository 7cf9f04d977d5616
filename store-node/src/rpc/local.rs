//! Answers from what this node holds itself: what store nodes ask each other, and what the other
//! services are answered if this is the only one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::query::{Select, parse_filter};
use anabranch_schemas::store as proto;
use anabranch_schemas::store::replica_server::Replica;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Replies, answer, refused, replies};
use crate::backfill::Source;
use crate::error::Error;
use crate::feed::{FeedStream, Feeds};
use crate::gossip::ClusterMark;
use crate::log::Log;
use crate::read::{
    ChecksumStream, Cut, Found, QueryStream, Question, Reads, ScanStream, parse_question,
};
use crate::status;
use crate::storage::{Conflict, Outcome, Reason, Storage};

/// What is no longer than this is looked at in no time: its conditions have few parts.
const SHORT_BYTES: usize = 4 << 10;

/// What this node holds.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) log: Arc<Log>,
    /// Of the cluster.
    pub(crate) mark: ClusterMark,
    pub(crate) reads: Reads,
    pub(crate) feeds: Feeds,
    pub(crate) source: Source,
    pub(crate) status: Arc<status::Status>,
    pub(crate) storage: Arc<Storage>,
}

pub(crate) fn app(bytes: &[u8]) -> Result<AppId, Error> {
    let app = Uuid::from_slice(bytes).map(AppId);
    app.map_err(|_| Error::InvalidRequest("an app id has 16 bytes".to_owned()))
}

pub(crate) fn document_id(bytes: &[u8]) -> Result<DocumentId, Error> {
    let invalid = |error: anabranch_core::ids::IdError| Error::InvalidRequest(error.to_string());
    let id = DocumentId::from_bytes(bytes).map_err(invalid)?;
    let key = DocumentKey::from_canonical(id.key.as_str()).map_err(invalid)?;
    Ok(DocumentId { key, ..id })
}

impl Local {
    pub(crate) async fn get(&self, request: proto::GetRequest) -> Result<proto::GetReply, Error> {
        let id = document_id(&request.document_id)?;
        if !self.log.owned().contains(id.position()) {
            return Err(Error::NotHere);
        }
        let readable = match request.readable.as_str() {
            "" => None,
            readable => Some(parse_filter(readable)?),
        };
        let snapshot = self.reads.snapshot(request.at).await?;
        let found = self.reads.get(id, readable, &snapshot).await?;
        let (document, document_txn) = match found {
            Some(Found { value, txn, .. }) => (Some(value.to_json()), Some(txn.0)),
            None => (None, None),
        };
        let txn = snapshot.txn.map(|txn| txn.0);
        Ok(proto::GetReply { txn, document, document_txn, stable: None })
    }

    pub(crate) async fn query(&self, request: proto::QueryRequest) -> Result<QueryStream, Error> {
        match parse_question(&request)? {
            Question::Select(select) => self.select(select, &request).await,
            Question::Explain(select, analyze) => {
                let app = app(&request.app)?;
                let snapshot = self.reads.snapshot(request.at).await?;
                self.reads.explain(app, select, analyze, snapshot)
            }
        }
    }

    /// The same of a SELECT that was read already.
    pub(crate) async fn select(
        &self,
        select: Arc<Select>,
        request: &proto::QueryRequest,
    ) -> Result<QueryStream, Error> {
        let app = app(&request.app)?;
        let snapshot = self.reads.snapshot(request.at).await?;
        let proto::QueryRequest { statement, args, readable, .. } = request;
        let is_short = statement.len() + args.len() + readable.len() <= SHORT_BYTES;
        self.reads.query(app, (select, is_short), &request.after, snapshot).await
    }

    pub(crate) async fn scan(&self, request: proto::ScanRequest) -> Result<ScanStream, Error> {
        let app = app(&request.app)?;
        let collection: Collection = request
            .collection
            .parse()
            .map_err(|error| Error::InvalidRequest(format!("{error}")))?;
        let after = (!request.after.is_empty()).then(|| request.after.to_vec());
        let snapshot = self.reads.snapshot(request.at).await?;
        self.reads.scan(app, &collection, after, snapshot)
    }

    pub(crate) async fn outcome(
        &self,
        request: proto::OutcomeRequest,
    ) -> Result<proto::OutcomeReply, Error> {
        let round = Uuid::from_slice(&request.round_id).map(RoundId);
        let round =
            round.map_err(|_| Error::InvalidRequest("a round id has 16 bytes".to_owned()))?;
        let patience = Duration::from_millis(request.wait_ms.into());
        match request.txn.map(TxnId) {
            Some(txn) => self.status.reach(txn, patience).await?,
            None => self.status.catch_up(patience).await?,
        };
        let outcome = self.reads.outcome(round).await?;
        Ok(proto::OutcomeReply { outcome: outcome.map(sent) })
    }

    pub(crate) async fn checksum(
        &self,
        request: proto::ChecksumRequest,
    ) -> Result<ChecksumStream, Error> {
        let cut = Cut::new(request.intervals)?;
        let after = (!request.after.is_empty()).then(|| request.after.to_vec());
        let snapshot = self.reads.snapshot(request.at).await?;
        self.reads.checksum(Arc::clone(&self.log), cut, after, snapshot)
    }

    pub(crate) fn feed(&self, request: &proto::FeedRequest) -> Result<FeedStream, Error> {
        self.feeds.open(&request.slices, TxnId(request.from))
    }

    pub(crate) fn status(&self) -> proto::StatusReply {
        let applied = self.status.applied();
        proto::StatusReply {
            applied_next: applied.next.0,
            applied_hlc: applied.time.0,
            log_end: self.status.log_end().0,
            oldest_readable: self.storage.history().oldest().0,
            lost_parts: self.status.lost_parts(),
            not_ready: self.status.not_ready(),
            quorums: Vec::new(),
            feed_start: self.storage.feed_start().0,
            epoch: 0,
            nodes: Vec::new(),
            // The cluster's.
            gc_timestamp: 0,
        }
    }
}

#[tonic::async_trait]
impl Replica for Local {
    type ChecksumStream = Replies<proto::ChecksumReply>;
    type QueryStream = Replies<proto::QueryReply>;
    type ScanStream = Replies<proto::ScanReply>;
    type FeedStream = Replies<proto::FeedReply>;
    type EntriesStream = Replies<proto::EntriesReply>;

    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetReply>, Status> {
        let began = Instant::now();
        answer("replica_get", began, refused(self.get(request.into_inner()).await))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let began = Instant::now();
        answer("replica_query", began, refused(self.query(request.into_inner()).await.map(replies)))
    }

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let began = Instant::now();
        answer("replica_scan", began, refused(self.scan(request.into_inner()).await.map(replies)))
    }

    async fn outcome(
        &self,
        request: Request<proto::OutcomeRequest>,
    ) -> Result<Response<proto::OutcomeReply>, Status> {
        let began = Instant::now();
        answer("replica_outcome", began, refused(self.outcome(request.into_inner()).await))
    }

    async fn feed(
        &self,
        request: Request<proto::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let began = Instant::now();
        answer("replica_feed", began, refused(self.feed(&request.into_inner()).map(replies)))
    }

    async fn position(
        &self,
        request: Request<proto::PositionRequest>,
    ) -> Result<Response<proto::PositionReply>, Status> {
        let began = Instant::now();
        let position = self.source.position(request.get_ref()).await;
        answer("replica_position", began, refused(position))
    }

    async fn entries(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let began = Instant::now();
        let entries = self.source.entries(request.into_inner()).await;
        answer("replica_entries", began, refused(entries.map(replies)))
    }

    async fn checksum(
        &self,
        request: Request<proto::ChecksumRequest>,
    ) -> Result<Response<Self::ChecksumStream>, Status> {
        let began = Instant::now();
        let summed = self.checksum(request.into_inner()).await.map(replies);
        answer("replica_checksum", began, refused(summed))
    }
}

/// An outcome as it is sent.
fn sent(outcome: Outcome) -> proto::Outcome {
    let Outcome { txn, time: _, digest, is_atomic, conflicts, kept, too_large } = outcome;
    let conflict = |Conflict { id, winner, reason }| proto::Conflict {
        document_id: id,
        txn: winner.map(|txn| txn.0),
        reason: match reason {
            Reason::Exists => proto::ConflictReason::Exists,
            Reason::Changed => proto::ConflictReason::Changed,
            Reason::Missing => proto::ConflictReason::Missing,
            Reason::NotYet => proto::ConflictReason::NotYet,
            Reason::Forbidden => proto::ConflictReason::Forbidden,
        }
        .into(),
    };
    let conflicts = conflicts.into_iter().map(conflict).collect();
    proto::Outcome { txn: txn.0, digest, too_large, conflicts, kept, atomic: is_atomic }
}
