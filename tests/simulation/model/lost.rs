//! What the replicas of each partition have agreed to be lost.

use std::collections::BTreeMap;

use anabranch_core::cluster::Configuration;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Intervals, Position, Slice, SliceCount};
use anabranch_core::slicing::{PartitionId, Slicing};
use anabranch_journal::metadata::LostRange;

/// The agreements of a cluster, whose partitions stay as they are.
pub(super) struct Lost {
    slices: SliceCount,
    slicing: Slicing,
    partitions: BTreeMap<PartitionId, Intervals>,
    agreed: Vec<LostRange>,
}

impl Lost {
    pub(super) fn new(slices: SliceCount, configuration: &Configuration) -> Self {
        let slicing = configuration.slicing().clone();
        let owned = |partition| (partition, slicing.owned_by(partition));
        let partitions = configuration.partitions().map(owned).collect();
        Lost { slices, slicing, partitions, agreed: Vec::new() }
    }

    pub(super) fn add(&mut self, range: LostRange) {
        self.agreed.push(range);
    }

    pub(super) fn slices(&self) -> SliceCount {
        self.slices
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    pub(super) fn partition_of(&self, position: Position) -> PartitionId {
        self.slicing.owner(position)
    }

    /// Whether a partition's nodes read a slice.
    pub(super) fn is_read_by(&self, slice: Slice, partition: PartitionId) -> bool {
        self.partitions[&partition].slices(self.slices).contains(&slice)
    }

    /// Whether a partition passes over a transaction.
    pub(super) fn is_passed_over(&self, partition: PartitionId, txn: TxnId) -> bool {
        self.passed_over_by(partition, txn).is_some()
    }

    /// The first agreement by which a partition passes over a transaction, counted from 0.
    pub(super) fn passed_over_by(&self, partition: PartitionId, txn: TxnId) -> Option<usize> {
        let covers = |range: &LostRange| {
            range.partition == partition.0 && (range.from..range.to).contains(&txn)
        };
        self.agreed.iter().position(covers)
    }

    /// Whether it does not get to see what a transaction has at this offset of a slice.
    pub(super) fn is_lost(
        &self,
        partition: PartitionId,
        txn: TxnId,
        (slice, offset): (Slice, u64),
    ) -> bool {
        let is_below = |range: &LostRange| {
            let start = range.parts_below.get(&slice.0);
            range.from <= txn && start.is_some_and(|start| offset < *start)
        };
        self.is_passed_over(partition, txn) || self.of(partition).any(is_below)
    }

    fn of(&self, partition: PartitionId) -> impl Iterator<Item = &LostRange> {
        self.agreed.iter().filter(move |range| range.partition == partition.0)
    }
}
