//! Several nodes over one log.

#![allow(clippy::unwrap_used)] // a test's

use std::collections::BTreeMap;
use std::net::TcpListener;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId, PartitionSpec};
use anabranch_core::document::Mutation;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::SliceCount;
use anabranch_schemas::store as proto;
use anabranch_store_node::StoreNodeConfig;
use bytes::Bytes;
use tempfile::TempDir;

use super::log::{APP, Log, Round, car};
use super::{Node, config, increment, journal, put};

pub const PARTITIONS: usize = 3;
pub const REPLICAS: usize = 2;
/// How many documents there are once some was written.
pub const CARS: i64 = 60;

/// Nodes over a log.
pub struct Cluster {
    pub dir: TempDir,
    pub log: Log,
    pub configuration: Configuration,
    pub nodes: BTreeMap<NodeId, Node>,
    pub rounds: u128,
    change: fn(&mut StoreNodeConfig),
}

pub fn name(partition: usize, replica: usize) -> NodeId {
    format!("p{partition}-r{replica}").parse().unwrap()
}

/// So many partitions of so many nodes.
pub fn configuration(partitions: usize, replicas: usize) -> Configuration {
    // All are held until all are drawn: so no two are the same.
    let held: Vec<_> =
        (0..partitions * replicas).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |number: usize| held[number].local_addr().unwrap().to_string();
    let node = |partition: usize, replica: usize| {
        (name(partition, replica), address(partition * replicas + replica))
    };
    let partition = |partition| PartitionSpec {
        weight: 1,
        nodes: (0..replicas).map(|replica| node(partition, replica)).collect(),
    };
    let partitions = (0..partitions).map(partition).collect();
    Configuration::new(Epoch(1), SliceCount::default(), ClusterSpec { partitions, quorum: None })
        .unwrap()
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(PARTITIONS, REPLICAS, |_| {}).await
    }

    /// With settings that are changed first.
    pub async fn start_with(
        partitions: usize,
        replicas: usize,
        change: fn(&mut StoreNodeConfig),
    ) -> Self {
        Self::start_in(configuration(partitions, replicas), change).await
    }

    /// Of this configuration.
    pub async fn start_in(configuration: Configuration, change: fn(&mut StoreNodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(journal(&dir.path().join("log")));
        let nodes = BTreeMap::new();
        let mut cluster = Cluster { dir, log, configuration, nodes, rounds: 0, change };
        for node in cluster.configuration.clone().members().keys() {
            cluster.start_node(node).await;
        }
        cluster
    }

    pub async fn start_node(&mut self, node: &NodeId) {
        let mut config = config(&self.dir.path().join(node.as_str()));
        config.node = Some(node.clone());
        config.listen = self.configuration.member(node).unwrap().address.parse().unwrap();
        (self.change)(&mut config);
        let configuration = Some(self.configuration.clone());
        let started = Node::start_in(configuration, config, self.log.journal(), None).await;
        self.nodes.insert(node.clone(), started);
    }

    pub async fn stop_node(&mut self, node: &NodeId) {
        self.nodes.remove(node).unwrap().stop().await;
    }

    pub async fn stop(self) {
        for node in self.nodes.into_values() {
            node.stop().await;
        }
    }

    /// The partition of a car.
    pub fn partition_of(&self, number: i64) -> usize {
        let partition = self.configuration.partition_of(car(number).position());
        usize::try_from(partition.0).unwrap()
    }

    /// A round, a second of the log's time after the one before.
    pub fn write(&mut self, mutations: Vec<(i64, Mutation)>) -> TxnId {
        self.rounds += 1;
        let millis = 1_000_000 + u64::try_from(self.rounds).unwrap() * 1_000;
        let mutations =
            mutations.into_iter().map(|(number, mutation)| (car(number), mutation)).collect();
        self.log.write(&Round { id: self.rounds, millis, mutations })
    }

    /// Rounds over all partitions; the last transaction.
    pub fn write_some(&mut self) -> TxnId {
        let mut last = TxnId(0);
        for number in 0..CARS {
            let everywhere = (0..CARS).step_by(7).map(|other| (other, increment("visits", 1)));
            let this = (number, put(&format!("{{\"n\":{number}}}")));
            last = self.write(everywhere.chain([this]).collect());
        }
        self.write(vec![(3, Mutation::Delete)]).max(last)
    }
}

/// Every car's state.
pub fn scan_cars(at: proto::ReadAt) -> proto::ScanRequest {
    proto::ScanRequest {
        app: Bytes::copy_from_slice(APP.0.as_bytes()),
        collection: "cars".to_owned(),
        at: Some(at),
        after: Bytes::new(),
    }
}
