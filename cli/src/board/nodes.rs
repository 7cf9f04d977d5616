//! What is known of the store nodes: what they say themselves, or else what is declared.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{Member, NodeId};
use anabranch_journal::metadata::MetadataError;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::store::{self as proto, StatusRequest};
use tokio::time::{Instant, timeout};

use super::{Board, NodeStatus, peers};

/// How long for a store node, and how many are asked.
const ASK_STORE: Duration = Duration::from_secs(1);
const MOST_ASKED: usize = 16;

/// Of a cluster none of whose store nodes answers.
const NOBODY_DECLARED: &str = "no resource Cluster is declared, so one store node is expected at the \
                               address that is set (--store-node). Start it, or declare several";

/// What store nodes say of their cluster.
#[derive(Default)]
pub(super) struct Told {
    pub(super) nodes: Vec<NodeStatus>,
    pub(super) stable: Option<u64>,
    pub(super) gc_timestamp: Option<u64>,
    /// By partition how many of its nodes have to have a transaction.
    pub(super) quorums: Vec<u32>,
    /// What is wrong with the only one, if there is only one.
    pub(super) alone: Option<String>,
}

impl Board {
    /// What the store nodes have told; `None` if none of them answers.
    pub(super) async fn told(
        self: &Arc<Self>,
        until: Instant,
        reply: Option<proto::StatusReply>,
    ) -> Told {
        let Some(reply) = reply else {
            // What is declared is known without them.
            return match self.blocking(until, |board| board.declared()).await {
                Ok(Some(nodes)) => Told { nodes, ..Told::default() },
                Ok(None) => Told { alone: Some(NOBODY_DECLARED.to_owned()), ..Told::default() },
                Err(_) => Told::default(),
            };
        };
        let proto::StatusReply { applied_next, gc_timestamp, quorums, not_ready, .. } = reply;
        let alone = not_ready.filter(|_| reply.nodes.is_empty());
        let mut nodes = Vec::new();
        for node in reply.nodes {
            nodes.push(self.node(until, node).await);
        }
        Told { nodes, stable: Some(applied_next), gc_timestamp: Some(gc_timestamp), quorums, alone }
    }

    /// The store nodes that are declared, of which nothing is known; `None` if none are.
    fn declared(&self) -> Result<Option<Vec<NodeStatus>>, MetadataError> {
        let declared = self.metadata.get()?.configuration(&self.cluster.name)?;
        let unknown = |(name, member): (&NodeId, &Member)| NodeStatus {
            node: name.to_string(),
            partition: member.partition.0,
            address: member.address.clone(),
            suspicion: 1.0,
            ..NodeStatus::default()
        };
        Ok(declared.map(|declared| {
            let mut nodes: Vec<_> = declared.members().iter().map(unknown).collect();
            nodes.sort_by_key(|node| node.partition);
            nodes
        }))
    }

    async fn node(self: &Arc<Self>, until: Instant, node: proto::NodeStatus) -> NodeStatus {
        let behind = match node.base {
            Some(base) => self.behind(until, base).await.ok(),
            None => None,
        };
        let (lag_transactions, lag_seconds) = behind.unzip();
        NodeStatus {
            node: node.name,
            partition: node.partition,
            address: node.address,
            next: node.base,
            durable: node.durable,
            gc_timestamp: node.gc_timestamp,
            lag_transactions,
            lag_seconds,
            suspicion: node.suspicion,
            detached_ranges: node.detached,
            copying: node.copying,
            silent_seconds: node.silent_ms.map(|millis| millis as f64 / 1_000.0),
            not_ready: node.not_ready,
            unreached: node.unreached,
        }
    }
}

/// Asks some store nodes, all at once: what they say in one.
pub(super) async fn ask(store: &AnyOf) -> Result<proto::StatusReply, String> {
    let mut turn = store.turn();
    let calls = (0..store.count().clamp(1, MOST_ASKED)).map(|_| {
        let mut client = StoreNodeClient::new(store.at(turn));
        turn = turn.next();
        let call = async move { client.status(StatusRequest {}).await };
        tokio::spawn(timeout(ASK_STORE, call))
    });
    let (mut replies, mut why) = (Vec::new(), String::new());
    for call in calls.collect::<Vec<_>>() {
        match call.await.map_err(|error| error.to_string())? {
            Ok(Ok(reply)) => replies.push(reply.into_inner()),
            Ok(Err(status)) => status.message().clone_into(&mut why),
            Err(_) => "a store node does not answer".clone_into(&mut why),
        }
    }
    peers::merged(replies).ok_or(why)
}
