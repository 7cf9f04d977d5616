//! Stands in for store node and change data capture: applies the log to a cluster in memory, writes
//! what changed into the topic of changes, and answers scans.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tonic::{Request, Response, Status};

use anabranch_core::ids::{AppId, DocumentId, TxnId};
use anabranch_journal::{
    Journal, NewRecord, Offset, ReadFrom, TopicPartition, TransactionalId, cursors,
};
use anabranch_runtime::grpc::CODE_KEY;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::records::{ChangesCursor, Commit, Resolved, RoundPart, TxnsRecord};
use anabranch_schemas::store::store_node_server::StoreNode;
use anabranch_schemas::store::{
    FeedReply, FeedRequest, GetReply, GetRequest, OutcomeReply, OutcomeRequest, QueryReply,
    QueryRequest, ScanItem, ScanReply, ScanRequest, StatusReply, StatusRequest, VerifyReply,
    VerifyRequest,
};
use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{decode, encode, state};

use super::cluster::{Applied, Cluster};

/// How many documents a reply has.
const ITEMS: usize = 10;

/// The double.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) cluster: Arc<Mutex<Cluster>>,
    /// Every scan that was asked for.
    pub(super) scans: Arc<Mutex<Vec<ScanRequest>>>,
    /// Timestamps below this can no longer be read.
    pub(super) oldest_readable: Arc<AtomicU64>,
    /// Whether it does not answer scans.
    pub(super) is_away: Arc<AtomicBool>,
}

/// Applies the log until the shutdown begins. Blocks.
pub(super) fn follow(node: &Node, journal: &dyn Journal, name: &ClusterName, shutdown: &Shutdown) {
    let slices = node.cluster.lock().unwrap().slices;
    let mut from: Vec<_> = slices
        .all()
        .map(|slice| (TopicPartition::new(name.rounds(), slice.0), ReadFrom::Start))
        .collect();
    let txns = TopicPartition::new(name.txns(), 0);
    from.push((txns.clone(), ReadFrom::Start));
    let mut reader = journal.reader(&from).unwrap();
    let mut parts: HashMap<(u16, u64), RoundPart> = HashMap::new();
    let mut commits: Vec<(TxnId, Commit)> = Vec::new();
    while !shutdown.has_begun() {
        for record in reader.poll(Duration::from_millis(20)).unwrap() {
            let value = record.value.unwrap();
            if record.at == txns {
                // It keeps what deleted documents hide.
                if let TxnsRecord::Commit(commit) = TxnsRecord::decode(&value).unwrap() {
                    commits.push((TxnId(record.offset.0), commit));
                }
            } else {
                let at = (record.at.partition.0, record.offset.0);
                parts.insert(at, decode(&value).unwrap());
            }
        }
        commits.sort_by_key(|(txn, _)| *txn);
        let whole = |(_, commit): &&(TxnId, Commit)| {
            commit.parts.iter().all(|part| parts.contains_key(&(part.slice.0, part.offset)))
        };
        let ready = commits.iter().take_while(whole).count();
        let mut records = Vec::new();
        for (txn, commit) in commits.drain(..ready) {
            let part = |at: &anabranch_schemas::records::PartLocation| {
                parts.remove(&(at.slice.0, at.offset)).unwrap().mutations
            };
            let mutations: Vec<_> = commit.parts.iter().flat_map(part).collect();
            let mut cluster = node.cluster.lock().unwrap();
            cluster.apply(txn, commit, &mutations);
            records.extend(captured(name, cluster.log.last().unwrap()));
        }
        if !records.is_empty() {
            let next = node.cluster.lock().unwrap().end();
            write(journal, name, records, next);
        }
    }
}

/// What goes into the topic of changes for one transaction.
fn captured(name: &ClusterName, applied: &Applied) -> Vec<NewRecord> {
    let topic = name.changes();
    let mut records: Vec<_> = applied
        .changes
        .iter()
        .map(|(slice, key, change)| NewRecord {
            at: TopicPartition::new(topic.as_str(), slice.0),
            key: key.clone(),
            value: Some(encode(change)),
        })
        .collect();
    records.extend(applied.commit.parts.iter().map(|part| NewRecord {
        at: TopicPartition::new(topic.as_str(), part.slice.0),
        key: Bytes::new(),
        value: Some(encode(&Resolved { slice: part.slice, txn: applied.txn })),
    }));
    records
}

fn write(journal: &dyn Journal, name: &ClusterName, records: Vec<NewRecord>, next: TxnId) {
    let mut writer = journal.writer(&TransactionalId::from("changes")).unwrap();
    writer.begin().unwrap();
    for record in records {
        writer.append(record).unwrap();
    }
    cursors::append(writer.as_mut(), name, ChangesCursor::KEY, &ChangesCursor { next }).unwrap();
    let _: Vec<Offset> = writer.flush().unwrap();
    writer.commit().unwrap();
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not part of the double"))
}

#[tonic::async_trait]
impl StoreNode for Node {
    type QueryStream = Replies<QueryReply>;
    type ScanStream = Replies<ScanReply>;
    type FeedStream = Replies<FeedReply>;

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        absent()
    }

    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        absent()
    }

    async fn scan(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Status::unavailable("it is away"));
        }
        self.scans.lock().unwrap().push(request.clone());
        let cluster = self.cluster.lock().unwrap();
        let at = request.at.unwrap_or_default();
        let txn = at.exactly.unwrap_or(cluster.end().0.saturating_sub(1));
        if txn < self.oldest_readable.load(Ordering::Relaxed) {
            let mut status = Status::failed_precondition("too old");
            status.metadata_mut().insert(CODE_KEY, "too_old".parse().unwrap());
            return Err(status);
        }
        let app = AppId(uuid::Uuid::from_slice(&request.app).unwrap());
        let prefix = DocumentId::collection_prefix(app, &request.collection.parse().unwrap());
        let mut items = Vec::new();
        for id in cluster.versions.keys() {
            let document_id = Bytes::from(id.to_bytes());
            if document_id.starts_with(&prefix)
                && document_id > request.after
                && let Some(document) = cluster.read(id, TxnId(txn))
            {
                items.push(ScanItem { document_id, state: state::encode(document) });
            }
        }
        items.sort_by(|a, b| a.document_id.cmp(&b.document_id));
        let replies: Vec<_> = items
            .chunks(ITEMS)
            .map(|items| Ok(ScanReply { txn: Some(txn), items: items.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(replies))))
    }

    async fn outcome(&self, _: Request<OutcomeRequest>) -> Result<Response<OutcomeReply>, Status> {
        absent()
    }

    async fn feed(&self, _: Request<FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        absent()
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyReply>, Status> {
        absent()
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let cluster = self.cluster.lock().unwrap();
        let hlc = cluster.log.last().map_or(0, |applied| applied.commit.hlc.0);
        Ok(Response::new(StatusReply {
            applied_next: cluster.end().0,
            applied_hlc: hlc,
            ..StatusReply::default()
        }))
    }
}
