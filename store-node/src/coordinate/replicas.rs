//! How the nodes that hold a partition are asked: this one directly, the others over gRPC, one
//! after the other until one answers.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_runtime::grpc;
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::replica_client::ReplicaClient;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::rpc::{Local, MAX_MESSAGE_BYTES, Replies, refused, replies};

/// A node that has not answered within this time is not waited for alone.
const HEDGE: Duration = Duration::from_millis(30);

/// A node that holds a partition.
#[derive(Clone)]
pub(crate) enum Replica {
    Here(Local),
    There(ReplicaClient<Channel>),
}

impl Replica {
    pub(crate) async fn get(self, request: proto::GetRequest) -> Result<proto::GetReply, Status> {
        match self {
            Replica::Here(local) => refused(local.get(request).await),
            Replica::There(mut client) => Ok(client.get(request).await?.into_inner()),
        }
    }

    pub(crate) async fn query(
        self,
        request: proto::QueryRequest,
    ) -> Result<Replies<proto::QueryReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.query(request).await.map(replies)),
            Replica::There(mut client) => Ok(client.query(request).await?.into_inner().boxed()),
        }
    }

    pub(crate) async fn scan(
        self,
        request: proto::ScanRequest,
    ) -> Result<Replies<proto::ScanReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.scan(request).await.map(replies)),
            Replica::There(mut client) => Ok(client.scan(request).await?.into_inner().boxed()),
        }
    }

    pub(crate) async fn outcome(
        self,
        request: proto::OutcomeRequest,
    ) -> Result<proto::OutcomeReply, Status> {
        match self {
            Replica::Here(local) => refused(local.outcome(request).await),
            Replica::There(mut client) => Ok(client.outcome(request).await?.into_inner()),
        }
    }

    pub(crate) async fn feed(
        self,
        request: proto::FeedRequest,
    ) -> Result<Replies<proto::FeedReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.feed(&request).map(replies)),
            Replica::There(mut client) => Ok(client.feed(request).await?.into_inner().boxed()),
        }
    }
}

/// The clients of other nodes, each made when it is first needed.
pub(super) struct Peers {
    tls: Option<TlsFiles>,
    clients: Mutex<BTreeMap<NodeId, (String, ReplicaClient<Channel>)>>,
}

impl Peers {
    pub(super) fn new(tls: Option<TlsFiles>) -> Self {
        Peers { tls, clients: Mutex::default() }
    }

    /// The node at this address.
    pub(super) fn replica(&self, node: &NodeId, address: &str) -> Result<Replica, Status> {
        let mut clients = self.clients.lock();
        if let Some((known, client)) = clients.get(node)
            && known == address
        {
            return Ok(Replica::There(client.clone()));
        }
        let channel = grpc::channel(address, self.tls.as_ref());
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let client = ReplicaClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        clients.insert(node.clone(), (address.to_owned(), client.clone()));
        Ok(Replica::There(client))
    }
}

/// Asks one after the other until one answers: the next as soon as one fails or has not answered
/// for a while. Returns who answered first.
pub(super) async fn first_answer<T, F>(
    replicas: Vec<(NodeId, Replica)>,
    call: impl Fn(Replica) -> F,
) -> Result<(NodeId, T), Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut waiting = replicas.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failure: Option<Status> = None;
    let mut patience = HEDGE;
    loop {
        if asked.is_empty() {
            let Some((node, replica)) = waiting.next() else {
                return Err(failure.unwrap_or_else(|| Status::unavailable("nobody to ask")));
            };
            asked.push(named(node, call(replica)));
        }
        tokio::select! {
            answer = asked.select_next_some() => match answer {
                (node, Ok(answer)) => return Ok((node, answer)),
                (_, Err(status)) if is_final(&status) => return Err(status),
                (_, Err(status)) => {
                    failure = Some(worse(failure.take(), status));
                    asked.extend(waiting.next().map(|(node, next)| named(node, call(next))));
                }
            },
            () = sleep(patience), if waiting.len() > 0 => {
                patience *= 2;
                asked.extend(waiting.next().map(|(node, next)| named(node, call(next))));
            }
        }
    }
}

async fn named<T>(
    node: NodeId,
    call: impl Future<Output = Result<T, Status>>,
) -> (NodeId, Result<T, Status>) {
    (node, call.await)
}

/// Whether another replica would say the same.
fn is_final(status: &Status) -> bool {
    grpc::code_of(status).is_some() && status.code() == Code::InvalidArgument
}

/// Which of two failures to tell of: what a node said rather than that another was not reached.
fn worse(before: Option<Status>, now: Status) -> Status {
    match before {
        Some(before) if grpc::code_of(&before).is_some() && grpc::code_of(&now).is_none() => before,
        _ => now,
    }
}
