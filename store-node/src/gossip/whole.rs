//! Nodes that gossip over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, PartitionSpec};
use anabranch_core::ids::ActorId;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use super::announce::{Announce, Incarnation};
use super::doubles::{node, standing};
use super::service::{Gossip, GossipOptions};
use super::state::Settings;
use super::suspicion::Suspicion;

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    gossip: Gossip,
    tasks: Tasks,
}

impl Node {
    fn start(name: &str, life: u64, configuration: &Configuration, listener: TcpListener) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let options = GossipOptions {
            node: node(name),
            incarnation: Incarnation(life),
            actor: ActorId(Uuid::from_u128(7)),
            configuration: configuration.clone(),
            tls: None,
            settings: Settings::default(),
        };
        let gossip = Gossip::start(options, &tasks);
        let (server, shutdown) = (gossip.server(), tasks.shutdown().clone());
        tasks.spawn("server", async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let ended = async move { shutdown.begun().await };
            let server = Server::builder().add_service(server);
            Ok(server.serve_with_incoming_shutdown(incoming, ended).await?)
        });
        Node { gossip, tasks }
    }

    async fn stop(self) {
        self.tasks.shutdown().begin();
        self.tasks.join(PATIENCE).await.unwrap();
    }

    fn of(&self, name: &str) -> Option<Arc<Announce>> {
        self.gossip.announces().into_iter().find(|announce| announce.node == node(name))
    }

    /// Waits until it knows that a node in one of its lives has this base.
    async fn knows(&self, name: &str, life: u64, base: u64) {
        let mut changes = self.gossip.changes();
        let known = async {
            loop {
                changes.borrow_and_update();
                let known = self.of(name).is_some_and(|announce| {
                    announce.version.incarnation == Incarnation(life)
                        && announce.standing.applied.base().0 == base
                });
                if known {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        let patience = tokio::time::timeout(PATIENCE, known);
        patience.await.unwrap_or_else(|_| panic!("{name} {life} {base}: {:?}", self.of(name)));
    }

    async fn suspects(&self, name: &str, suspected: impl Fn(Suspicion) -> bool) {
        let holds = async {
            while !suspected(self.gossip.look_at(&node(name)).1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("{name}"));
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn cluster(epoch: u64, nodes: &[(&str, SocketAddr)]) -> Configuration {
    let nodes = nodes.iter().map(|(name, address)| (node(name), address.to_string())).collect();
    let partitions = vec![PartitionSpec { weight: 1, nodes }];
    Configuration::new(Epoch(epoch), ClusterSpec { partitions, quorum: None }).unwrap()
}

/// Three nodes, and a fourth that takes connections and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_started_again_is_heard_and_a_deaf_one_delays_nobody() {
    let [(one, a), (two, b), (three, c), (_deaf, d)] =
        [listener().await, listener().await, listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b), ("c", c), ("d", d)]);
    let first = Node::start("a", 1, &configuration, one);
    let second = Node::start("b", 1, &configuration, two);
    let third = Node::start("c", 1, &configuration, three);
    let began = std::time::Instant::now();
    for base in 1..=100 {
        first.gossip.announce(standing(1, base));
        second.knows("a", 1, base).await;
        third.knows("a", 1, base).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "each would take a second and more: {took:?}");
    third.gossip.announce(standing(1, 50));
    first.knows("c", 1, 50).await;
    first.suspects("d", |suspicion| suspicion == Suspicion::FULL).await;
    first.suspects("c", |suspicion| suspicion < Suspicion::FULL).await;

    third.stop().await;
    first.suspects("c", |suspicion| suspicion == Suspicion::FULL).await;
    first.gossip.announce(standing(1, 200));
    second.gossip.announce(standing(1, 300));
    let third = Node::start("c", 2, &configuration, TcpListener::bind(c).await.unwrap());
    third.gossip.announce(standing(1, 40));
    first.knows("c", 2, 40).await;
    second.knows("c", 2, 40).await;
    third.knows("a", 1, 200).await;
    third.knows("b", 1, 300).await;
    first.suspects("c", |suspicion| suspicion < Suspicion::FULL).await;
    for node in [first, second, third] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_configuration_is_noticed_and_its_nodes_are_heard() {
    let [(one, a), (two, b), (three, c)] = [listener().await, listener().await, listener().await];
    let before = cluster(1, &[("a", a), ("b", b)]);
    let after = cluster(2, &[("a", a), ("b", b), ("c", c)]);
    let first = Node::start("a", 1, &before, one);
    let second = Node::start("b", 1, &after, two);
    let third = Node::start("c", 1, &after, three);
    second.gossip.announce(standing(2, 10));
    third.gossip.announce(standing(2, 20));
    first.knows("b", 1, 10).await;
    assert_eq!(first.gossip.heard_epoch(), Epoch(2));
    second.knows("c", 1, 20).await;
    assert_eq!(first.of("c"), None);
    first.gossip.configure(&after);
    first.knows("c", 1, 20).await;
    first.gossip.announce(standing(2, 30));
    third.knows("a", 1, 30).await;
    for node in [first, second, third] {
        node.stop().await;
    }
}
