//! A whole cluster in one thread: its log, its store nodes, ingest servers, change data capture and
//! bridge, the network between them, and what is known of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use anabranch_cdc::CdcConfig;
use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, Member, NodeId, PartitionSpec};
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_core::slicing::PartitionId;
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, Offset, cluster_topics};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::simulation::World;
use anabranch_runtime::tasks::Tasks;
use anabranch_store_node::StoreNodeConfig;
use anabranch_store_node::simulation::{Disk, NodeOptions, SimulatedNode};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::bridges::Bridge;
use crate::captured::Captured;
use crate::members;
use crate::mix::{Fault, Mix};
use crate::model::Model;
use crate::node_log::NodeLog;
use crate::servers::Server;
use crate::story::Story;

/// When simulations begin, in milliseconds since the Unix epoch.
pub(crate) const BEGAN_MS: u64 = 1_750_000_000_000;
/// How far the clock of a process is from what time it is, at most. Two are not further apart than
/// clocks may be.
const MOST_CLOCK_AHEAD_MS: i64 = 25_000;

/// A cluster, and what is known of it.
pub(crate) struct Cluster {
    pub(crate) mix: Mix,
    pub(crate) world: World,
    /// Says which clock is how wrong.
    clocks: u64,
    pub(crate) log: MemoryJournal,
    pub(crate) identity: ClusterIdentity,
    pub(crate) model: Mutex<Model>,
    pub(crate) captured: Mutex<Vec<Captured>>,
    pub(crate) nodes: Vec<Node>,
    /// Who belongs to it now.
    pub(crate) declared: Mutex<Configuration>,
    /// One change of it at a time.
    pub(crate) declaring: tokio::sync::Mutex<()>,
    capture: Mutex<Option<Tasks>>,
    pub(crate) servers: Vec<Server>,
    pub(crate) bridge: Bridge,
    /// What the names of its processes begin with.
    prefix: String,
    story: Arc<Story>,
}

/// A store node.
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) partition: usize,
    pub(crate) log: NodeLog,
    pub(crate) disk: Disk,
    pub(crate) running: Mutex<Option<SimulatedNode>>,
    /// The configuration that it knows.
    pub(crate) known: Mutex<Configuration>,
    /// What it needed of the log when it was last looked at.
    needs: Mutex<(TxnId, BTreeMap<Slice, Offset>)>,
}

impl Node {
    /// Its partition.
    pub(crate) fn id(&self) -> PartitionId {
        PartitionId(u32::try_from(self.partition).expect("a few"))
    }
}

impl Cluster {
    /// A cluster of this name that runs. Within a runtime whose time is paused.
    pub(crate) fn start(mix: Mix, name: &str, world: World, story: Arc<Story>) -> Arc<Self> {
        let among = |least: u64, most: u64| least + world.number() % (most - least + 1);
        let partitions = among(1, mix.partitions);
        let replicas = among(mix.replicas_at_least, mix.replicas);
        // Each partition has one at least.
        let slices = (1 << among(1, 3)).max(partitions.next_power_of_two());
        let slices = u16::try_from(slices).ok().and_then(|count| SliceCount::try_from(count).ok());
        let slices = slices.expect("a power of two");
        let identity = ClusterIdentity {
            name: name.parse().expect("a name"),
            actor: ActorId(Uuid::from_u128(name.bytes().map(u128::from).sum())),
            slices,
            created_ms: BEGAN_MS,
        };
        let log = MemoryJournal::new();
        log.set_time(world.now_millis());
        log.ensure_topics(&cluster_topics(&identity.name, slices, None)).expect("they are new");
        // Processes of several clusters have to be told apart.
        let prefix = if mix.clusters > 1 { format!("{name}-") } else { String::new() };
        let declared = (0..partitions).map(|partition| {
            let nodes = (0..replicas).map(|replica| {
                let name = format!("{prefix}p{partition}r{replica}").parse().expect("a name");
                let address = members::address(&name);
                (name, address)
            });
            PartitionSpec { weight: 1, nodes: nodes.collect() }
        });
        let spec = ClusterSpec { partitions: declared.collect(), quorum: None };
        let declared = Configuration::new(Epoch(1), slices, spec).expect("it makes sense");
        members::declare(NodeLog::new(log.clone()), &identity, &declared);
        let node = |(name, member): (&NodeId, &Member)| Node {
            name: name.clone(),
            partition: usize::try_from(member.partition.0).expect("a few"),
            log: NodeLog::new(log.clone()),
            disk: Disk::default(),
            running: Mutex::new(None),
            known: Mutex::new(declared.clone()),
            needs: Mutex::default(),
        };
        let nodes = declared.members().iter().map(node).collect();
        let server =
            |number| Server::new(format!("{prefix}ingest-{number}"), NodeLog::new(log.clone()));
        let servers = (0..mix.servers).map(server).collect();
        let bridge = Bridge::new(name, NodeLog::new(log.clone()));
        let model = Mutex::new(Model::new(&log, &identity, &declared));
        let captured = slices.all().map(|slice| Captured::new(&log, &identity, slice));
        let captured = Mutex::new(captured.collect());
        let clocks = world.number();
        let cluster = Arc::new(Cluster {
            mix,
            clocks,
            world,
            log,
            identity,
            model,
            captured,
            nodes,
            declared: Mutex::new(declared),
            declaring: tokio::sync::Mutex::default(),
            capture: Mutex::new(None),
            servers,
            bridge,
            prefix,
            story,
        });
        cluster.nodes.iter().for_each(|node| cluster.start_node(node));
        cluster.servers.iter().for_each(|server| cluster.start_server(server));
        cluster.start_capture();
        cluster
    }

    /// Whether what nobody has may be declared lost.
    pub(crate) fn may_lose(&self) -> bool {
        self.mix.faults.contains(&Fault::TrimAll)
    }

    /// Whether a store may have to copy what the log no longer has, and lack the changes before that.
    pub(crate) fn may_copy(&self) -> bool {
        let copies = [Fault::Wipe, Fault::Trim, Fault::TrimAll];
        copies.iter().any(|fault| self.mix.faults.contains(fault))
    }

    /// Every node would begin a read at this timestamp or a later one.
    pub(crate) fn stable_everywhere(&self) -> Option<TxnId> {
        let stable = self.nodes.iter().map(|node| node.running.lock().as_ref()?.stable());
        stable.min().flatten()
    }

    /// The tasks of a process, whose clock is some seconds ahead of others or behind them, always the
    /// same.
    pub(crate) fn tasks_of(&self, name: &str) -> Tasks {
        let mut hasher = DefaultHasher::new();
        (self.clocks, name).hash(&mut hasher);
        let range = u64::try_from(2 * MOST_CLOCK_AHEAD_MS + 1).expect("it is positive");
        let ahead_ms = i64::try_from(hasher.finish() % range).expect("a small one");
        Tasks::of_simulated_process(ahead_ms - MOST_CLOCK_AHEAD_MS)
    }

    /// The addresses of all store nodes, as they are from somebody.
    pub(crate) fn addresses(&self, from: &str) -> String {
        let addresses: Vec<_> =
            self.nodes.iter().map(|node| format!("{}.from.{from}", node.name)).collect();
        addresses.join(",")
    }

    /// Starts a node that does not run, unless it has left.
    pub(crate) fn start_node(&self, node: &Node) {
        let known = node.known.lock().clone();
        let has_left = !self.is_member(node) || known.member(&node.name).is_none();
        let mut running = node.running.lock();
        if running.is_some() || has_left {
            return;
        }
        self.tell(&format!("{} starts", node.name));
        let config = StoreNodeConfig {
            node: Some(node.name.clone()),
            history_ms: self.mix.history_ms,
            max_read_ms: 5_000,
            lost_after_ms: 500,
            flush_interval_ms: 700,
            max_buffered_bytes: 1 << 20,
            ..StoreNodeConfig::default()
        };
        let options = NodeOptions {
            config,
            identity: self.identity.clone(),
            configuration: members::seen_from(&node.name, &known),
            journal: Arc::new(node.log.clone()),
            disk: node.disk.clone(),
            tasks: self.tasks_of(node.name.as_str()),
        };
        let ready = Readiness::new().register("store node");
        match SimulatedNode::start(&self.world, options, ready) {
            Ok(started) => *running = Some(started),
            Err(error) => {
                drop(running);
                self.violate(&format!("ST-1: {} does not start: {error}", node.name));
            }
        }
    }

    /// A node dies where it is.
    pub(crate) fn crash_node(&self, node: &Node) {
        self.look_at_needs(node);
        if let Some(running) = node.running.lock().take() {
            self.tell(&format!("{} dies", node.name));
            running.crash();
        }
    }

    /// A node dies and loses its disk.
    pub(crate) fn wipe_node(&self, node: &Node) {
        self.crash_node(node);
        self.tell(&format!("{} is wiped", node.name));
        node.disk.wipe();
        *node.needs.lock() = Default::default();
    }

    fn look_at_needs(&self, node: &Node) {
        if let Some(running) = &*node.running.lock() {
            *node.needs.lock() = running.needs();
        }
    }

    /// What each node needs of the log after a crash.
    pub(crate) fn needs(&self, node: &Node) -> (TxnId, BTreeMap<Slice, Offset>) {
        self.look_at_needs(node);
        node.needs.lock().clone()
    }

    /// The name of change data capture in the network.
    pub(crate) fn capture_name(&self) -> String {
        format!("{}capture", self.prefix)
    }

    /// Starts change data capture, unless it runs.
    pub(crate) fn start_capture(&self) {
        let mut capture = self.capture.lock();
        if capture.is_some() {
            return;
        }
        let tasks = self.tasks_of(&self.capture_name());
        let config =
            CdcConfig { mark_interval_ms: 100, idle_mark_interval_ms: 300, ..CdcConfig::default() };
        let nodes = self.addresses(&self.capture_name());
        let nodes = AnyOf::new(&nodes, None).expect("these are addresses");
        let ready = Readiness::new().register("capture");
        let log = Arc::new(NodeLog::new(self.log.clone()));
        anabranch_cdc::run(config, self.identity.clone(), nodes, log, &tasks, ready);
        *capture = Some(tasks);
    }

    /// Change data capture dies where it is.
    pub(crate) fn crash_capture(&self) {
        if let Some(tasks) = self.capture.lock().take() {
            self.tell(&format!("{} dies", self.capture_name()));
            tasks.crash();
        }
    }

    /// Ends all of it.
    pub(crate) fn stop(&self) {
        self.crash_bridge();
        self.crash_capture();
        self.servers.iter().for_each(|server| self.crash_server(server));
        self.nodes.iter().for_each(|node| self.crash_node(node));
    }

    /// Something that must never happen has happened.
    pub(crate) fn violate(&self, what: &str) {
        self.story.violate(what);
    }

    /// What went wrong, if anything did.
    pub(crate) fn violation(&self) -> Option<String> {
        self.story.violation()
    }

    /// Notes what happens.
    pub(crate) fn tell(&self, what: &str) {
        self.story.tell(what);
    }

    /// What the log has by now is in the model, and records that are appended have this time.
    pub(crate) fn follow(&self) {
        self.log.set_time(self.world.now_millis());
        self.model.lock().follow();
    }
}

/// Waits for some milliseconds.
pub(crate) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
