//! The configuration of a cluster: which partitions there are, which store nodes hold each, and how
//! many of them must have a transaction before everybody may read it.
//!
//! A [`ClusterSpec`] is what an operator declares. A [`Configuration`] is what follows of it, the
//! same on every node: who owns which part of the keyspace. Each node holds one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::keyspace::{Intervals, Position, SliceCount};
use crate::slicing::{PartitionId, Slicing, Weights};

/// The most partitions of a cluster.
pub const MAX_PARTITIONS: usize = 1024;
/// The most nodes of a partition.
pub const MAX_REPLICAS: usize = 16;

/// A store node's name: 1 to 63 lower-case letters and digits, with `-` and `.` between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// A name that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 63 lower-case letters and digits, with '-' and '.' between")]
pub struct NodeIdError;

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(name: &str) -> Result<Self, NodeIdError> {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let has_ends = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']);
        if (1..=63).contains(&name.len()) && name.chars().all(is_inner) && has_ends {
            Ok(NodeId(name.to_owned()))
        } else {
            Err(NodeIdError)
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = NodeIdError;

    fn try_from(name: String) -> Result<Self, NodeIdError> {
        name.parse()
    }
}

impl From<NodeId> for String {
    fn from(node: NodeId) -> String {
        node.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often the configuration was changed. Zero: nobody declared one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an operator declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// The partitions; a partition's id is its place in this list.
    pub partitions: Vec<PartitionSpec>,
    /// How many nodes of each partition must have a transaction before everybody may read it;
    /// half of them, rounded up, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<usize>,
}

impl ClusterSpec {
    /// How many nodes of one of its partitions must have a transaction.
    pub fn quorum_of(&self, partition: &PartitionSpec) -> usize {
        self.quorum.unwrap_or(partition.nodes.len().div_ceil(2))
    }
}

/// A partition, as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartitionSpec {
    /// How much of the keyspace it owns, in proportion to the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// The nodes that hold it, each with the address at which other processes ask it, `host:port`.
    pub nodes: BTreeMap<NodeId, String>,
}

fn one() -> u32 {
    1
}

/// Why a [`ClusterSpec`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterSpecError {
    /// None, or too many.
    #[error("a cluster has 1 to {MAX_PARTITIONS} partitions, not {0}")]
    Partitions(usize),
    /// None, or too many.
    #[error("a partition has 1 to {MAX_REPLICAS} nodes; partition {partition} has {count}")]
    Replicas {
        /// The partition.
        partition: PartitionId,
        /// How many nodes it has.
        count: usize,
    },
    /// It would own nothing.
    #[error("the weight of partition {0} is 0: leave the partition out instead")]
    Weight(PartitionId),
    /// It would own nothing either: what a partition owns are whole slices.
    #[error(
        "partition {partition} would get none of the cluster's {slices} slices: give it more weight, \
         or declare fewer partitions"
    )]
    Share {
        /// The partition.
        partition: PartitionId,
        /// The number of slices.
        slices: u16,
    },
    /// A node cannot hold two partitions.
    #[error("node '{0}' is in two partitions")]
    Twice(NodeId),
    /// Two nodes cannot listen at one address.
    #[error("two nodes have the address '{0}'")]
    Address(String),
    /// More nodes than a partition has could never agree, and none is no quorum.
    #[error("a quorum of {quorum} does not fit a partition of {replicas} nodes")]
    Quorum {
        /// What was asked for.
        quorum: usize,
        /// The nodes of the smallest partition.
        replicas: usize,
    },
}

/// A store node, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The partition that it holds.
    pub partition: PartitionId,
    /// Where other processes ask it, `host:port`.
    pub address: String,
}

/// Who holds what. Equal specs give equal configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(Epoch, SliceCount, ClusterSpec)", into = "(Epoch, SliceCount, ClusterSpec)")]
pub struct Configuration {
    epoch: Epoch,
    slices: SliceCount,
    spec: ClusterSpec,
    slicing: Slicing,
    members: BTreeMap<NodeId, Member>,
}

impl Configuration {
    /// What follows of a spec in a cluster of so many slices.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(
        epoch: Epoch,
        slices: SliceCount,
        spec: ClusterSpec,
    ) -> Result<Self, ClusterSpecError> {
        let count = spec.partitions.len();
        if !(1..=MAX_PARTITIONS).contains(&count) {
            return Err(ClusterSpecError::Partitions(count));
        }
        let mut weights = Weights::new();
        let mut members = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for (id, PartitionSpec { weight, nodes }) in (0..).map(PartitionId).zip(&spec.partitions) {
            if *weight == 0 {
                return Err(ClusterSpecError::Weight(id));
            }
            weights.insert(id, *weight);
            let count = nodes.len();
            if !(1..=MAX_REPLICAS).contains(&count) {
                return Err(ClusterSpecError::Replicas { partition: id, count });
            }
            if let Some(quorum) = spec.quorum.filter(|quorum| !(1..=count).contains(quorum)) {
                return Err(ClusterSpecError::Quorum { quorum, replicas: count });
            }
            for (node, address) in nodes {
                if !addresses.insert(address) {
                    return Err(ClusterSpecError::Address(address.clone()));
                }
                let member = Member { partition: id, address: address.clone() };
                if members.insert(node.clone(), member).is_some() {
                    return Err(ClusterSpecError::Twice(node.clone()));
                }
            }
        }
        let slicing = Slicing::new(&weights, slices).expect("every weight is above 0");
        let owners: BTreeSet<_> = slicing.intervals().map(|(_, owner)| owner).collect();
        if let Some(partition) = weights.into_keys().find(|partition| !owners.contains(partition)) {
            return Err(ClusterSpecError::Share { partition, slices: slices.get() });
        }
        Ok(Configuration { epoch, slices, spec, slicing, members })
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many slices the cluster has.
    pub fn slices(&self) -> SliceCount {
        self.slices
    }

    /// What was declared.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// Who owns which part of the keyspace.
    pub fn slicing(&self) -> &Slicing {
        &self.slicing
    }

    /// Every node, by name.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// A node.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Every partition, in order.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..).map(PartitionId).take(self.spec.partitions.len())
    }

    /// The nodes of a partition, by name.
    pub fn replicas(&self, partition: PartitionId) -> impl Iterator<Item = &NodeId> {
        self.partition(partition).into_iter().flat_map(|partition| partition.nodes.keys())
    }

    /// How many nodes of a partition must have a transaction before everybody may read it.
    pub fn quorum(&self, partition: PartitionId) -> usize {
        self.partition(partition).map_or(0, |partition| self.spec.quorum_of(partition))
    }

    /// The partition that owns a position.
    pub fn partition_of(&self, position: Position) -> PartitionId {
        self.slicing.owner(position)
    }

    /// What a node owns; `None` if it is not in this configuration.
    pub fn owned_by(&self, node: &NodeId) -> Option<Intervals> {
        self.member(node).map(|member| self.slicing.owned_by(member.partition))
    }

    fn partition(&self, partition: PartitionId) -> Option<&PartitionSpec> {
        usize::try_from(partition.0).ok().and_then(|index| self.spec.partitions.get(index))
    }
}

impl TryFrom<(Epoch, SliceCount, ClusterSpec)> for Configuration {
    type Error = ClusterSpecError;

    fn try_from(
        (epoch, slices, spec): (Epoch, SliceCount, ClusterSpec),
    ) -> Result<Self, ClusterSpecError> {
        Configuration::new(epoch, slices, spec)
    }
}

impl From<Configuration> for (Epoch, SliceCount, ClusterSpec) {
    fn from(configuration: Configuration) -> Self {
        (configuration.epoch, configuration.slices, configuration.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn spec(partitions: &[&[&str]], quorum: Option<usize>) -> ClusterSpec {
        let partition = |nodes: &&[&str]| PartitionSpec {
            weight: 1,
            nodes: nodes.iter().map(|name| (node(name), format!("{name}:7070"))).collect(),
        };
        ClusterSpec { partitions: partitions.iter().map(partition).collect(), quorum }
    }

    fn refused(spec: ClusterSpec) -> ClusterSpecError {
        Configuration::new(Epoch(1), SliceCount::default(), spec).unwrap_err()
    }

    #[test]
    fn every_position_has_the_nodes_of_its_partition() {
        let spec = spec(&[&["a1", "a2", "a3"], &["b1", "b2"]], None);
        let configuration = Configuration::new(Epoch(3), SliceCount::default(), spec).unwrap();
        let [first, last] = [Position(0), Position(u64::MAX)];
        assert_eq!(configuration.partition_of(first), PartitionId(0));
        assert_eq!(configuration.partition_of(last), PartitionId(1));
        let replicas: Vec<_> = configuration.replicas(PartitionId(1)).map(NodeId::as_str).collect();
        assert_eq!(replicas, ["b1", "b2"]);
        assert_eq!(configuration.replicas(PartitionId(9)).count(), 0);
        assert_eq!([0, 1].map(|id| configuration.quorum(PartitionId(id))), [2, 1]);
        let owned = configuration.owned_by(&node("b2")).unwrap();
        assert!(owned.contains(last) && !owned.contains(first));
        assert_eq!(configuration.owned_by(&node("c")), None);
        assert_eq!(configuration.partitions().count(), 2);
    }

    #[test]
    fn it_reads_back_and_what_is_wrong_is_refused_there_too() {
        let configuration =
            Configuration::new(Epoch(7), SliceCount::default(), spec(&[&["a"], &["b"]], Some(1)))
                .unwrap();
        let text = serde_json::to_string(&configuration).unwrap();
        assert_eq!(serde_json::from_str::<Configuration>(&text).unwrap(), configuration);
        let twice = text.replace("\"b\"", "\"a\"");
        assert!(serde_json::from_str::<Configuration>(&twice).is_err());
    }

    #[test]
    fn weights_are_shares() {
        let mut spec = spec(&[&["a"], &["b"]], None);
        spec.partitions[1].weight = 3;
        let configuration = Configuration::new(Epoch(1), SliceCount::default(), spec).unwrap();
        let positions = |name| -> u128 {
            configuration.owned_by(&node(name)).unwrap().iter().map(|i| i.positions()).sum()
        };
        assert_eq!(positions("b"), 3 * positions("a"));
    }

    #[test]
    fn what_could_not_work_is_refused() {
        assert_eq!(refused(spec(&[], None)), ClusterSpecError::Partitions(0));
        let none = ClusterSpecError::Replicas { partition: PartitionId(1), count: 0 };
        assert_eq!(refused(spec(&[&["a"], &[]], None)), none);
        let mut weightless = spec(&[&["a"], &["b"]], None);
        weightless.partitions[1].weight = 0;
        assert_eq!(refused(weightless), ClusterSpecError::Weight(PartitionId(1)));
        let mut twice = spec(&[&["a"], &["a"]], None);
        *twice.partitions[1].nodes.get_mut(&node("a")).unwrap() = "elsewhere:7070".to_owned();
        assert_eq!(refused(twice), ClusterSpecError::Twice(node("a")));
        let mut address = spec(&[&["a", "b"]], None);
        *address.partitions[0].nodes.get_mut(&node("b")).unwrap() = "a:7070".to_owned();
        assert_eq!(refused(address), ClusterSpecError::Address("a:7070".to_owned()));
        let names: Vec<_> = (0..17).map(|number| format!("n{number}")).collect();
        let names: Vec<_> = names.iter().map(|name| [name.as_str()]).collect();
        let many: Vec<_> = names.iter().map(|names| &names[..]).collect();
        let none = ClusterSpecError::Share { partition: PartitionId(0), slices: 16 };
        assert_eq!(refused(spec(&many, None)), none);
        for quorum in [0, 2] {
            let small = spec(&[&["a", "b"], &["c"]], Some(quorum));
            let replicas = if quorum == 0 { 2 } else { 1 };
            assert_eq!(refused(small), ClusterSpecError::Quorum { quorum, replicas });
        }
    }

    #[test]
    fn names_of_nodes_can_be_host_names() {
        for good in ["a", "node-1.east", "0"] {
            assert_eq!(node(good).as_str(), good);
        }
        for bad in ["", "-a", "a.", "A", "a b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<NodeId>(), Err(NodeIdError), "{bad}");
        }
    }
}
