//! What may become of a cluster's configuration, and what follows of it.
//!
//! Data cannot move between partitions yet. So once there is any, a configuration must leave it
//! where it is: partitions stay, each with its weight, and so do nodes, each in its partition.
//! [`admit`] decides this on the entry that is then replaced by compare-and-set, so two changes
//! that are admitted each for itself never come together. That a cluster has data it learns from
//! the log, where somebody may write in between for the first time: declare a cluster before its
//! clients start.

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Interval;
use anabranch_core::slicing::PartitionId;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Bounds, Offset, TopicPartition, cursors};
use anabranch_schemas::records::ChangesCursor;
use anabranch_schemas::topics::ClusterName;
use serde_json::{Value, json};

use super::{Admin, leaving};
use crate::error::{Code, Refusal};

/// Refuses what is declared for another cluster.
pub(super) fn check_name(admin: &Admin, name: &ClusterName) -> Result<(), Refusal> {
    let ours = &admin.cluster.name;
    if name == ours {
        return Ok(());
    }
    let message = format!("metadata.name: '{name}' is another cluster; this one is '{ours}'");
    Err(Refusal::new(Code::InvalidResource, message)
        .with_hint(format!("write {ours}, or apply it to a server of {name}")))
}

/// Refuses what does not fit the cluster's slices, and a change after which data would not be where
/// it is looked for, or nowhere unless that `may_lose` it. `before` is `None` for a cluster without
/// a configuration: one node holds everything.
pub(super) fn admit(
    admin: &Admin,
    before: Option<&Configuration>,
    after: &ClusterSpec,
    may_lose: bool,
) -> Result<(), Refusal> {
    let Some(store_nodes) = &admin.store_nodes else {
        let message = "this process is the whole cluster, and its one store node has everything";
        return Err(Refusal::new(Code::ClusterInUse, message).with_hint(
            "to have several store nodes run ingest, store-node and cdc by themselves, on Kafka",
        ));
    };
    Configuration::new(Epoch::default(), admin.cluster.slices, after.clone()).map_err(|error| {
        Refusal::new(Code::InvalidResource, format!("spec.partitions: {error}"))
    })?;
    if !has_data(admin)? {
        return Ok(());
    }
    let Some(before) = before else {
        return Err(in_use("the cluster would get its first configuration"));
    };
    match moves(before.spec(), after) {
        Some(change) => Err(in_use(&change)),
        None if may_lose || has_whole_log(admin)? => Ok(()),
        None => leaving::admit(store_nodes, captured(admin)?, before, after),
    }
}

/// Refuses to remove the configuration from data.
pub(super) fn admit_removal(admin: &Admin) -> Result<(), Refusal> {
    if has_data(admin)? {
        return Err(in_use("the cluster would lose its configuration"));
    }
    Ok(())
}

/// Whether anything was ever written.
fn has_data(admin: &Admin) -> Result<bool, Refusal> {
    let txns = TopicPartition::new(admin.cluster.name.txns(), 0);
    Ok(bounds(admin, &txns)?.end > Offset::default())
}

/// Whether the log has all that was ever written.
fn has_whole_log(admin: &Admin) -> Result<bool, Refusal> {
    let ClusterIdentity { name, slices, .. } = &admin.cluster;
    let rounds = slices.all().map(|slice| TopicPartition::new(name.rounds(), slice.0));
    for at in rounds.chain([TopicPartition::new(name.txns(), 0)]) {
        if bounds(admin, &at)?.start > Offset::default() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Up to where changes were captured; `None` if nobody ever did.
fn captured(admin: &Admin) -> Result<Option<TxnId>, Refusal> {
    let name = &admin.cluster.name;
    let cursor = cursors::read::<ChangesCursor>(admin.journal.as_ref(), name, ChangesCursor::KEY)
        .map_err(|error| Refusal::of_journal(&error))?;
    Ok(cursor.map(|cursor| cursor.next))
}

fn bounds(admin: &Admin, at: &TopicPartition) -> Result<Bounds, Refusal> {
    admin.journal.bounds(at).map_err(|error| Refusal::of_journal(&error))
}

fn in_use(change: &str) -> Refusal {
    let message = format!(
        "{change}, but the cluster has data, which cannot move between partitions yet; what may \
         change are addresses, the quorum, and which nodes a partition has, of which a quorum stays"
    );
    Refusal::new(Code::ClusterInUse, message)
}

/// What moves data from one node to another, if anything does.
fn moves(before: &ClusterSpec, after: &ClusterSpec) -> Option<String> {
    let [old, new] = [before, after].map(|spec| spec.partitions.len());
    if old != new {
        return Some(format!("the cluster would have {new} partitions instead of {old}"));
    }
    if let Some((node, old, new)) = moved(before, after) {
        return Some(format!("node '{node}' would move from partition {old} to partition {new}"));
    }
    let mut pairs = before.partitions.iter().zip(&after.partitions).enumerate();
    pairs.find_map(|(id, (old, new))| {
        if old.weight != new.weight {
            let (old, new) = (old.weight, new.weight);
            return Some(format!("partition {id} would have the weight {new} instead of {old}"));
        }
        // Who is new has nothing until it has read the log; if the log is trimmed it never has.
        let stay = old.nodes.keys().filter(|node| new.nodes.contains_key(*node)).count();
        let quorum = after.quorum_of(new);
        (stay < quorum).then(|| {
            format!(
                "partition {id} would keep {stay} of its nodes, fewer than its quorum of {quorum}"
            )
        })
    })
}

/// A node that is in another partition than before, and both.
fn moved<'a>(before: &'a ClusterSpec, after: &ClusterSpec) -> Option<(&'a NodeId, usize, usize)> {
    before.partitions.iter().enumerate().find_map(|(old, partition)| {
        partition.nodes.keys().find_map(|node| {
            let new = after.partitions.iter().position(|new| new.nodes.contains_key(node))?;
            (new != old).then_some((node, old, new))
        })
    })
}

/// What follows of a configuration.
pub(super) fn status(admin: &Admin, epoch: Epoch, spec: &ClusterSpec) -> Result<Value, Refusal> {
    let configuration = Configuration::new(epoch, admin.cluster.slices, spec.clone())
        .map_err(|error| Refusal::new(Code::Internal, format!("the configuration: {error}")))?;
    let partition = |id: PartitionId| {
        json!({
            "id": id,
            "share": share(&configuration, id),
            "quorum": configuration.quorum(id),
            "nodes": configuration.replicas(id).collect::<Vec<_>>(),
        })
    };
    let partitions: Vec<_> = configuration.partitions().map(partition).collect();
    Ok(json!({"epoch": epoch, "partitions": partitions}))
}

/// The part of the keyspace that a partition owns, of 1.
fn share(configuration: &Configuration, partition: PartitionId) -> f64 {
    let owned = configuration.slicing().owned_by(partition);
    let positions: u128 = owned.iter().map(Interval::positions).sum();
    positions as f64 / Interval::ALL.positions() as f64
}
