//! The configuration of a cluster, and how it changes: who belongs to it, and the quorum. It stands in
//! the metadata, and each node hears of it late.

use std::sync::Arc;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId};
use anabranch_journal::metadata::{ClusterIdentity, MetadataStore, Version};
use anabranch_runtime::simulation::on_thread;
use anabranch_schemas::resources::Resource;
use anabranch_store_node::simulation::SimulatedNode;

use crate::cluster::{Cluster, Node, pause};
use crate::dice::Dice;
use crate::faults;
use crate::node_log::NodeLog;

/// How long it takes at most until a node hears of a change, in milliseconds.
const HEARS_AFTER_MS: u64 = 500;

/// Declares the next configuration.
pub(crate) fn declare(log: NodeLog, identity: &ClusterIdentity, configuration: &Configuration) {
    let name = identity.name.clone();
    let store = MetadataStore::open(Arc::new(log), &name).expect("the log is there");
    store.cluster_identity(|| identity.clone()).expect("it is ours");
    let resource = Resource::Cluster { name, spec: configuration.spec().clone() };
    let before = configuration.epoch().0.checked_sub(1).filter(|before| *before > 0).map(Version);
    let set = store.compare_and_set(&resource.id().key(), before, Some(resource.to_json()));
    assert_eq!(set.expect("nobody else declares it").0, configuration.epoch().0);
}

/// A node leaves its partition, its disk is lost, and after a while it joins it again; or only the
/// quorum changes.
pub(crate) async fn change(cluster: &Arc<Cluster>, node: &Node, for_ms: u64, mut dice: Dice) {
    if dice.once_in(3) || !may_leave(cluster, node) {
        let quorum = Some(dice.below(4)).filter(|quorum| *quorum > 0);
        let quorum = quorum.map(|quorum| usize::try_from(quorum).expect("a small one"));
        return cluster.reconfigure(&mut dice, |spec| spec.quorum = quorum).await;
    }
    let leave = |spec: &mut ClusterSpec| {
        spec.partitions[node.partition].nodes.remove(&node.name);
    };
    cluster.reconfigure(&mut dice, leave).await;
    pause(dice.below(2 * HEARS_AFTER_MS)).await;
    cluster.wipe_node(node);
    pause(for_ms).await;
    let join = |spec: &mut ClusterSpec| {
        spec.partitions[node.partition].nodes.insert(node.name.clone(), address(&node.name));
    };
    cluster.reconfigure(&mut dice, join).await;
    // It reads what is declared before it starts, unless it runs already.
    let declared = cluster.declared.lock().clone();
    cluster.hear(node, declared);
    cluster.start_node(node);
}

/// Whether one that stays has what the log does not have.
fn may_leave(cluster: &Cluster, node: &Node) -> bool {
    let replicas = cluster.nodes.iter().filter(|other| other.partition == node.partition);
    let stay = replicas.filter(|other| other.name != node.name && cluster.is_member(other)).count();
    cluster.is_member(node) && stay > 0 && faults::has_another(cluster, node)
}

impl Cluster {
    /// Whether a node is declared.
    pub(crate) fn is_member(&self, node: &Node) -> bool {
        self.declared.lock().member(&node.name).is_some()
    }

    /// Declares another configuration, of which the nodes hear one by one.
    async fn reconfigure(self: &Arc<Self>, dice: &mut Dice, change: impl FnOnce(&mut ClusterSpec)) {
        let _turn = self.declaring.lock().await;
        // From now on nobody counts on who leaves.
        let declared = {
            let mut declared = self.declared.lock();
            let mut spec = declared.spec().clone();
            change(&mut spec);
            let smallest = spec.partitions.iter().map(|partition| partition.nodes.len()).min();
            spec.quorum = spec.quorum.map(|quorum| quorum.min(smallest.unwrap_or_default()));
            let epoch = Epoch(declared.epoch().0 + 1);
            *declared = Configuration::new(epoch, declared.slices(), spec).expect("it makes sense");
            declared.clone()
        };
        self.tell(&format!("declared: {:?}", declared.spec()));
        let (log, identity) = (NodeLog::new(self.log.clone()), self.identity.clone());
        let next = declared.clone();
        on_thread(move || declare(log, &identity, &next)).await;
        for index in 0..self.nodes.len() {
            let (cluster, declared) = (Arc::clone(self), declared.clone());
            let after_ms = dice.below(HEARS_AFTER_MS);
            tokio::spawn(async move {
                pause(after_ms).await;
                cluster.hear(&cluster.nodes[index], declared);
            });
        }
    }

    /// A node hears of a configuration, unless it knows a newer one. One that has no place in it ends,
    /// and is started again once it has.
    fn hear(&self, node: &Node, declared: Configuration) {
        {
            let mut known = node.known.lock();
            if known.epoch() >= declared.epoch() {
                return;
            }
            *known = declared;
            if let Some(running) = &*node.running.lock() {
                running.configure(seen_from(&node.name, &known));
            }
        }
        let has_ended = node.running.lock().as_ref().is_some_and(SimulatedNode::has_ended);
        if has_ended {
            self.crash_node(node);
            self.start_node(node);
        }
    }
}

/// Where a node is, as it is declared.
pub(crate) fn address(node: &NodeId) -> String {
    format!("{node}:7070")
}

/// A configuration with addresses as they are from a node.
pub(crate) fn seen_from(from: &NodeId, configuration: &Configuration) -> Configuration {
    let mut spec = configuration.spec().clone();
    for partition in &mut spec.partitions {
        for (name, address) in &mut partition.nodes {
            *address = format!("{name}.from.{from}");
        }
    }
    Configuration::new(configuration.epoch(), configuration.slices(), spec).expect("it makes sense")
}
