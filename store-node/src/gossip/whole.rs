//! Nodes that gossip over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, PartitionSpec};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::gossip::gossip_client::GossipClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use super::announce::{Announce, Incarnation};
use super::doubles::{announce, node, standing};
use super::message::Message;
use super::service::{Gossip, GossipOptions};
use super::state::Settings;
use super::suspicion::Suspicion;
use super::wire::{self, ClusterMark};
use crate::rpc::tls_config;
use crate::status::Status;

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    gossip: Gossip,
    tasks: Tasks,
    readiness: Readiness,
}

impl Node {
    fn start(name: &str, life: u64, configuration: &Configuration, listener: TcpListener) -> Self {
        Node::start_with(name, life, configuration, listener, None)
    }

    fn start_with(
        name: &str,
        life: u64,
        configuration: &Configuration,
        listener: TcpListener,
        tls: Option<TlsFiles>,
    ) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let readiness = Readiness::new();
        let ready = readiness.register("store node");
        let tls_config = tls.as_ref().map(|files| tls_config(files).unwrap());
        let options = GossipOptions {
            node: node(name),
            incarnation: Incarnation(life),
            actor: actor(),
            configuration: configuration.clone(),
            tls,
            settings: Settings::default(),
            status: Arc::new(Status::new(TxnId(0), None, Hlc(0), ready)),
        };
        let gossip = Gossip::start(options, &tasks);
        let (server, shutdown) = (gossip.server(), tasks.shutdown().clone());
        tasks.spawn("server", async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let ended = async move { shutdown.begun().await };
            let server = crate::rpc::server(tls_config)?.add_service(server);
            Ok(server.serve_with_incoming_shutdown(incoming, ended).await?)
        });
        Node { gossip, tasks, readiness }
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
                drop(changes.see());
                let known = self.of(name).is_some_and(|announce| {
                    announce.version.incarnation == Incarnation(life)
                        && announce.standing.applied.base().0 == base
                });
                if known {
                    return;
                }
                changes.changed().await;
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

fn actor() -> ActorId {
    ActorId(Uuid::from_u128(7))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn cluster(epoch: u64, nodes: &[(&str, SocketAddr)]) -> Configuration {
    // The certificates of tests are for this name.
    let address = |address: &SocketAddr| format!("localhost:{}", address.port());
    let nodes = nodes.iter().map(|(name, at)| (node(name), address(at))).collect();
    let partitions = vec![PartitionSpec { weight: 1, nodes }];
    Configuration::new(
        Epoch(epoch),
        SliceCount::default(),
        ClusterSpec { partitions, quorum: None },
    )
    .unwrap()
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

/// An authority and the certificates that it has issued.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { dir: tempfile::tempdir().unwrap(), issuer }
    }

    /// One for this common name and these DNS names.
    fn issue(&self, common: &str, names: &[&str]) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let file = format!("{common}-{}", names.join("-"));
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |kind: &str, text: String| {
            let path = self.dir.path().join(format!("{file}.{kind}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            certificate: write("certificate", certificate.pem()),
            key: write("key", key.serialize_pem()),
            trusted: vec![write("trusted", self.issuer.pem())],
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_nodes_hear_each_other_and_nobody_speaks_for_another() {
    let authority = Authority::new();
    let [(one, a), (two, b)] = [listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b)]);
    let shared = authority.issue("store-nodes", &["localhost"]);
    let of_b = authority.issue("b", &["localhost"]);
    let first = Node::start_with("a", 1, &configuration, one, Some(shared.clone()));
    let second = Node::start_with("b", 1, &configuration, two, Some(of_b.clone()));
    first.gossip.announce(standing(1, 10));
    second.gossip.announce(standing(1, 20));
    first.knows("b", 1, 20).await;
    second.knows("a", 1, 10).await;

    // Another one that is trusted says that it is b, and that b has come far.
    let message = |from: &str| {
        let said = Arc::new(announce("b", 9, 1_000));
        let message = Message { announces: vec![said], ..Message::ping(node(from)) };
        wire::encode(&message, ClusterMark::of(actor()))
    };
    let say = async |files: &TlsFiles, from: &str| {
        let channel = grpc::channel(&format!("localhost:{}", a.port()), Some(files)).unwrap();
        let said = GossipClient::new(channel).exchange(message(from)).await;
        said.map(|_| ()).map_err(|status| status.code())
    };
    let of_a = authority.issue("somebody", &["a"]);
    assert_eq!(say(&of_a, "b").await, Err(Code::PermissionDenied), "by its DNS name it is a");
    assert_eq!(say(&of_b, "a").await, Err(Code::PermissionDenied));
    assert_eq!(first.of("b").unwrap().standing.applied.base(), TxnId(20));
    assert_eq!(say(&of_b, "b").await, Ok(()));
    assert_eq!(say(&shared, "b").await, Ok(()), "it is for none of them, and so for all");
    let others = Authority::new();
    let stranger = others.issue("b", &["localhost"]);
    let stranger = TlsFiles { trusted: of_b.trusted.clone(), ..stranger };
    assert_ne!(say(&stranger, "b").await, Ok(()), "of an authority that nobody trusts");
    for node in [first, second] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_of_one_name_notice_it_and_are_not_ready() {
    let [(one, a), (two, b), (three, c)] = [listener().await, listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b)]);
    let first = Node::start("a", 1, &configuration, one);
    let second = Node::start("b", 1, &configuration, two);
    // It took the name of a, and b hears it as well.
    let namesake = Node::start("a", 2, &configuration, three);
    let (_, _) = (c, second.gossip.announce(standing(1, 10)));
    let mut base = 0;
    let noticed = async {
        let is_named = |node: &Node| {
            let troubles = node.readiness.not_ready();
            troubles.iter().any(|(_, why)| why.contains("gossips as node 'a', too"))
        };
        while !is_named(&first) && !is_named(&namesake) {
            base += 1;
            first.gossip.announce(standing(1, base));
            namesake.gossip.announce(standing(1, base + 1_000));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.unwrap();
    assert!(!second.readiness.not_ready().iter().any(|(_, why)| why.contains("gossips as")));
    for node in [first, second, namesake] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_not_passed_on_and_not_believed() {
    let [(one, a), (two, b)] = [listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b)]);
    let first = Node::start("a", 1, &configuration, one);
    let second = Node::start("b", Incarnation::MAX.0 + 1, &configuration, two);
    second.gossip.announce(standing(1, 20));
    first.gossip.announce(standing(1, 10));
    second.knows("a", 1, 10).await;
    first.suspects("b", |suspicion| suspicion < Suspicion::FULL).await;
    assert_eq!(first.of("b"), None, "nothing newer could be said of it");
    for node in [first, second] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_wrong_by_years_does_no_harm_once_it_is_right() {
    let [(one, a), (two, b)] = [listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b)]);
    let (now, then) = (1_800_000_000_000, 4_000_000_000_000);
    let first = Node::start("a", now, &configuration, one);
    let second = Node::start("b", then, &configuration, two);
    second.gossip.announce(standing(1, 20));
    first.knows("b", then, 20).await;
    second.stop().await;
    let again = Node::start("b", now, &configuration, TcpListener::bind(b).await.unwrap());
    again.gossip.announce(standing(1, 30));
    first.knows("b", then + 1, 30).await;
    for node in [first, again] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_gets_no_sign_of_life() {
    let [(one, a), (two, b), (three, c)] = [listener().await, listener().await, listener().await];
    let configuration = cluster(1, &[("a", a), ("b", b), ("c", c)]);
    let first = Node::start("a", 1, &configuration, one);
    let second = Node::start("b", 1, &configuration, two);
    let removed = Node::start("c", 1, &configuration, three);
    let silence = || removed.gossip.silence(&node("a")).min(removed.gossip.silence(&node("b")));
    removed.suspects("a", |suspicion| suspicion < Suspicion::FULL).await;
    removed.suspects("b", |suspicion| suspicion < Suspicion::FULL).await;
    for node in [&first, &second] {
        node.gossip.configure(&cluster(2, &[("a", a), ("b", b)]));
        node.gossip.announce(standing(2, 10));
    }
    let unheard = async {
        while silence() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unheard).await.expect("it is not heard by those who stay");
    for node in [first, second, removed] {
        node.stop().await;
    }
}
