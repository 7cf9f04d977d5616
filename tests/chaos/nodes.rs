//! Store nodes, asked directly: no cut is in the way.

use std::time::Duration;

use anabranch_runtime::grpc;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::store::{NodeStatus, StatusReply, StatusRequest};
use anabranch_tests::cluster::{Cluster, node};
use anyhow::Result;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Clients of all store nodes.
pub(crate) struct Nodes {
    runtime: Runtime,
    clients: Vec<StoreNodeClient<grpc::Transport>>,
}

impl Nodes {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let within = runtime.enter();
        let client = |number| {
            let channel = grpc::channel(&cluster.store_node_address(number), None)?;
            Ok(StoreNodeClient::new(channel))
        };
        let clients = (0..cluster.store_nodes()).map(client).collect::<Result<_>>()?;
        drop(within);
        Ok(Nodes { runtime, clients })
    }

    pub(crate) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.clients.len()
    }

    /// What a node tells of its cluster; `None` if it is away, or has not caught up.
    fn status(&self, number: usize) -> Option<StatusReply> {
        let mut client = self.clients[number].clone();
        let asked = async { timeout(PATIENCE, client.status(StatusRequest {})).await };
        Some(self.runtime.block_on(asked).ok()?.ok()?.into_inner())
    }

    /// Every transaction below this is stable, as a node tells it.
    pub(crate) fn stable(&self, number: usize) -> Option<u64> {
        self.status(number).map(|status| status.applied_next)
    }

    /// Whether a node knows that another one has every transaction up to this one.
    pub(crate) fn knows(&self, number: usize, other: usize, txn: u64) -> bool {
        self.told(number, other).and_then(|other| other.base).is_some_and(|base| base > txn)
    }

    /// From which transaction on a node has all changes, as it tells itself.
    pub(crate) fn history_from(&self, number: usize) -> Option<u64> {
        self.told(number, number)?.history_from
    }

    /// What a node tells of one, itself or another.
    fn told(&self, number: usize, of: usize) -> Option<NodeStatus> {
        let name = node(of);
        self.status(number)?.nodes.into_iter().find(|one| one.name == name)
    }
}
