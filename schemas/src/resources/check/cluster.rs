//! Reads clusters. What concerns a key alone is checked here; what it takes the whole to know,
//! `Configuration` decides.

use std::collections::BTreeMap;

use serde_json::Value;

use anabranch_core::cluster::{
    ClusterSpec, ClusterSpecError, Configuration, Epoch, MAX_PARTITIONS, NodeId, NodeIdError,
    PartitionSpec,
};
use anabranch_core::keyspace::SliceCount;

use super::{address, array, mistyped, object, refuse, required, shorten, whole};
use crate::resources::ResourceError;

const PARTITIONS: &str = "spec.partitions";

pub(super) fn cluster(value: &Value) -> Result<ClusterSpec, ResourceError> {
    let fields = object("spec", value, &["partitions", "quorum"])?;
    let items = array(PARTITIONS, required("spec", fields, "partitions")?, MAX_PARTITIONS)?;
    let partitions = items.iter().enumerate();
    let partitions = partitions
        .map(|(index, item)| partition(&format!("{PARTITIONS}[{index}]"), item))
        .collect::<Result<_, _>>()?;
    let quorum = fields.get("quorum").map(|value| whole("spec.quorum", value)).transpose()?;
    let spec = ClusterSpec { partitions, quorum };
    match Configuration::new(Epoch::default(), SliceCount::MOST, spec.clone()) {
        // How many slices the cluster has knows only who takes the declaration.
        Ok(_) | Err(ClusterSpecError::Share { .. }) => Ok(spec),
        Err(error) => Err(refuse(&path_of(&error, &spec), error.to_string())),
    }
}

fn partition(path: &str, value: &Value) -> Result<PartitionSpec, ResourceError> {
    let fields = object(path, value, &["weight", "nodes"])?;
    let weight = match fields.get("weight") {
        Some(value) => whole(&format!("{path}.weight"), value)?,
        None => 1,
    };
    let nodes = nodes(&format!("{path}.nodes"), required(path, fields, "nodes")?)?;
    Ok(PartitionSpec { weight, nodes })
}

fn nodes(path: &str, value: &Value) -> Result<BTreeMap<NodeId, String>, ResourceError> {
    let Value::Object(fields) = value else {
        return Err(mistyped(path, "an object of addresses by name of node", value));
    };
    let node = |(name, value): (&String, &Value)| {
        let node: NodeId = name.parse().map_err(|error: NodeIdError| {
            refuse(path, format!("'{}' cannot be a node's name", shorten(name)))
                .with_hint(error.to_string())
        })?;
        let address = address(&format!("{path}.{node}"), value, "10.0.0.1:7070")?;
        Ok((node, address))
    };
    fields.iter().map(node).collect()
}

/// The part of a spec to blame.
fn path_of(error: &ClusterSpecError, spec: &ClusterSpec) -> String {
    // Of two nodes that cannot be together the later one is to blame.
    let last_node = |is_it: &dyn Fn(&NodeId, &String) -> bool| {
        let partitions = spec.partitions.iter().enumerate();
        let nodes = partitions.flat_map(|(index, partition)| {
            partition.nodes.iter().map(move |(node, address)| (index, node, address))
        });
        let found = nodes.filter(|(_, node, address)| is_it(node, address)).last();
        found.map_or(PARTITIONS.to_owned(), |(index, node, _)| {
            format!("{PARTITIONS}[{index}].nodes.{node}")
        })
    };
    match error {
        ClusterSpecError::Partitions(_) => PARTITIONS.to_owned(),
        ClusterSpecError::Replicas { partition, .. } => format!("{PARTITIONS}[{partition}].nodes"),
        ClusterSpecError::Weight(partition) => format!("{PARTITIONS}[{partition}].weight"),
        ClusterSpecError::Twice(twice) => last_node(&|node, _| node == twice),
        ClusterSpecError::Address(twice) => last_node(&|_, address| address == twice),
        ClusterSpecError::Share { partition, .. } => format!("{PARTITIONS}[{partition}].weight"),
        ClusterSpecError::Quorum { .. } => "spec.quorum".to_owned(),
    }
}
