//! Nodes and announces for tests.

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId, PartitionSpec};
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::{Intervals, SliceCount};

use super::announce::{Announce, Applied, Incarnation, Standing, Version};

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A node that has the same everywhere.
pub(crate) fn standing(epoch: u64, base: u64) -> Standing {
    let mut map = IntervalMap::default();
    map.splice_all(TxnId(0)..TxnId(base));
    Standing {
        epoch: Epoch(epoch),
        applied: Applied::of(&map, &Intervals::all()),
        durable: TxnId(base.saturating_sub(100)),
        gc_timestamp: TxnId(base.saturating_sub(1_000)),
        history_from: TxnId(0),
        copying: None,
        not_ready: None,
        is_whole: true,
    }
}

pub(crate) fn announce(name: &str, sequence: u64, base: u64) -> Announce {
    let mut version = Version::first(Incarnation(1_750_000_000_000));
    version.sequence.0 = sequence;
    Announce { node: node(name), version, standing: standing(1, base) }
}

/// Partitions of these nodes.
pub(crate) fn configuration(
    epoch: u64,
    partitions: &[&[&str]],
    quorum: Option<usize>,
) -> Configuration {
    let partition = |nodes: &&[&str]| PartitionSpec {
        weight: 1,
        nodes: nodes.iter().map(|name| (node(name), format!("{name}:7070"))).collect(),
    };
    let partitions = partitions.iter().map(partition).collect();
    Configuration::new(Epoch(epoch), SliceCount::MOST, ClusterSpec { partitions, quorum }).unwrap()
}
