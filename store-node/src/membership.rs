//! Which node of which configuration this is.

use std::net::SocketAddr;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId, PartitionSpec};
use anabranch_core::keyspace::{Intervals, SliceCount};
use tokio::sync::watch;

use crate::error::Error;

/// The configuration of a cluster as it is declared now, and told of when it changes; `None` if the
/// cluster has but one store node, which is declared nowhere.
pub type Configurations = watch::Receiver<Option<Configuration>>;

/// The name of the one node of a cluster for which none was declared.
const ALONE: &str = "node";

/// A node in its cluster's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    node: NodeId,
    configuration: Configuration,
}

impl Membership {
    /// Of the node of this name; the only one of its cluster if none is declared.
    ///
    /// # Errors
    /// If the configuration does not have it.
    pub(crate) fn new(
        name: Option<NodeId>,
        declared: Option<Configuration>,
        slices: SliceCount,
        listen: SocketAddr,
    ) -> Result<Self, Error> {
        let Some(configuration) = declared else {
            return Ok(Membership::alone(name, slices, listen));
        };
        let known = || {
            let names: Vec<_> = configuration.members().keys().map(NodeId::as_str).collect();
            names.join(", ")
        };
        let Some(node) = name else {
            return Err(Error::NoMember(format!(
                "this cluster declares its store nodes: say with --node which one this is, of {}",
                known()
            )));
        };
        if configuration.member(&node).is_none() {
            return Err(Error::NoMember(format!(
                "this cluster does not declare a store node '{node}': it has {}. Start one of \
                 these, or add '{node}' to the resource Cluster",
                known()
            )));
        }
        Ok(Membership { node, configuration })
    }

    /// The same node in a newer configuration.
    ///
    /// # Errors
    /// If it is not in there, or would own another part of the keyspace.
    pub(crate) fn in_newer(&self, configuration: Configuration) -> Result<Self, Error> {
        let node = self.node.clone();
        match configuration.owned_by(&node) {
            Some(owned) if owned == self.owned() => Ok(Membership { node, configuration }),
            Some(_) => Err(Error::NoMember(format!(
                "a newer configuration gives node '{node}' another part of the keyspace than it has: \
                 start it again, on the same data directory if nothing was written before"
            ))),
            None => Err(Error::NoMember(format!(
                "a newer configuration does not have node '{node}': leave it stopped, or start it \
                 again with --node and a name that it has"
            ))),
        }
    }

    fn alone(name: Option<NodeId>, slices: SliceCount, listen: SocketAddr) -> Self {
        let node = name.unwrap_or_else(|| ALONE.parse().expect("it is a name"));
        let nodes = [(node.clone(), listen.to_string())].into();
        let spec =
            ClusterSpec { partitions: vec![PartitionSpec { weight: 1, nodes }], quorum: None };
        let configuration = Configuration::new(Epoch(0), slices, spec)
            .expect("a partition with a node is a cluster");
        Membership { node, configuration }
    }

    /// Its name.
    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    /// The configuration that it is in.
    pub(crate) fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Its part of the keyspace.
    pub(crate) fn owned(&self) -> Intervals {
        self.configuration.owned_by(&self.node).expect("it is a member of its configuration")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const SLICES: SliceCount = SliceCount::MOST;
    const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

    fn declared() -> Configuration {
        let partition = |name: &str| PartitionSpec {
            weight: 1,
            nodes: [(name.parse().unwrap(), format!("{name}:7070"))].into(),
        };
        let partitions = vec![partition("a"), partition("b")];
        Configuration::new(Epoch(1), SLICES, ClusterSpec { partitions, quorum: None }).unwrap()
    }

    #[test]
    fn without_a_declaration_one_node_owns_everything() {
        for name in [None, Some("a".parse().unwrap())] {
            let membership = Membership::new(name, None, SLICES, LISTEN).unwrap();
            assert_eq!(membership.owned(), Intervals::all());
        }
    }

    #[test]
    fn a_declared_node_owns_its_partition() {
        let of = |name: &str| {
            let name = Some(name.parse().unwrap());
            Membership::new(name, Some(declared()), SLICES, LISTEN).unwrap().owned()
        };
        assert_ne!(of("a"), of("b"));
        assert_ne!(of("a"), Intervals::all());
    }

    #[test]
    fn a_newer_configuration_changes_who_else_there_is_and_not_what_is_owned() {
        let a =
            Membership::new(Some("a".parse().unwrap()), Some(declared()), SLICES, LISTEN).unwrap();
        let mut spec = declared().spec().clone();
        spec.partitions[1].nodes.insert("b2".parse().unwrap(), "b2:7070".to_owned());
        let more = Configuration::new(Epoch(2), SLICES, spec.clone()).unwrap();
        assert_eq!(a.in_newer(more).unwrap().owned(), a.owned());
        spec.partitions[1].weight = 2;
        assert!(a.in_newer(Configuration::new(Epoch(3), SLICES, spec.clone()).unwrap()).is_err());
        spec.partitions.remove(0);
        assert!(a.in_newer(Configuration::new(Epoch(4), SLICES, spec).unwrap()).is_err());
    }

    #[test]
    fn who_is_not_declared_is_told_who_is() {
        for name in [None, Some("c".parse().unwrap())] {
            let error =
                Membership::new(name, Some(declared()), SLICES, LISTEN).unwrap_err().to_string();
            assert!(error.contains("a, b"), "{error}");
        }
    }
}
