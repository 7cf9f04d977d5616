//! Whether the replicas of each partition hold the same (ST-2): every one of them is asked for its
//! sums at one timestamp, which all nodes keep meanwhile, and what they say is compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_core::slicing::PartitionId;
use anabranch_schemas::store as proto;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use tokio::time::{sleep, timeout_at};
use tonic::Status;

use super::merge::may_pass;
use super::replicas::Replica;
use super::{Coordinator, Timestamp};
use crate::error::Error;
use crate::membership::Membership;
use crate::read::{Cut, Sum};
use crate::rpc::{refuse, refused};

/// Into how many intervals the keyspace is cut if nothing is said.
const INTERVALS: u32 = 256;
/// How often a node that broke off is asked to go on, and how long to wait before that.
const MOST_FAILURES: u32 = 5;
const DELAY: Duration = Duration::from_millis(200);

/// What a node holds in each interval in which it holds something.
type Sums = BTreeMap<u32, Sum>;

/// A node, its partition, and what it holds, or why that is not known.
struct Summed {
    node: NodeId,
    partition: PartitionId,
    sums: Result<Sums, Status>,
}

/// Asks the nodes, each of them for itself.
pub(super) async fn verify(
    coordinator: &Coordinator,
    request: &proto::VerifyRequest,
) -> Result<proto::VerifyReply, Status> {
    let intervals = if request.intervals == 0 { INTERVALS } else { request.intervals };
    let cut = refused(Cut::new(intervals))?;
    let membership = coordinator.view.membership();
    let nodes = refused(asked(&membership, &request.nodes))?;
    // What is stable is heard of a little later, also by a node that is alone.
    let applied = coordinator.local.status.applied().last;
    let at_least = applied.filter(|_| coordinator.view.is_alone()).map(|last| last.0);
    let at = proto::ReadAt { at_least, exactly: None, wait_ms: request.wait_ms };
    let Some(at) = coordinator.timestamp(at).await? else {
        return Ok(proto::VerifyReply::default());
    };
    let summed = nodes.into_iter().map(|(node, partition)| {
        let at = &at;
        async move {
            let sums = sums_of(coordinator, &node, at, (intervals, cut)).await;
            Summed { node, partition, sums }
        }
    });
    let summed = join_all(summed).await;
    Ok(proto::VerifyReply {
        txn: Some(at.txn.0),
        nodes: summed.iter().map(verified).collect(),
        differences: differences(&summed, cut),
    })
}

/// The nodes of these names, all if there is none, by partition and name.
fn asked(
    membership: &Arc<Membership>,
    names: &[String],
) -> Result<Vec<(NodeId, PartitionId)>, Error> {
    let members = membership.configuration().members();
    let is_known = |name: &&String| members.keys().any(|node| node.as_str() == *name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(Error::InvalidRequest(format!("the cluster has no store node '{unknown}'")));
    }
    let is_asked =
        |node: &NodeId| names.is_empty() || names.iter().any(|name| name == node.as_str());
    let nodes = members.iter().filter(|(node, _)| is_asked(node));
    let mut nodes: Vec<_> = nodes.map(|(node, member)| (node.clone(), member.partition)).collect();
    nodes.sort_by(|(a, first), (b, second)| (first, a).cmp(&(second, b)));
    Ok(nodes)
}

/// What a node holds. If it breaks off it goes on behind what it has looked at.
async fn sums_of(
    coordinator: &Coordinator,
    node: &NodeId,
    at: &Timestamp,
    cut: (u32, Cut),
) -> Result<Sums, Status> {
    let (mut sums, mut after) = (Sums::new(), Bytes::new());
    let mut failures = 0;
    loop {
        let adding = async {
            let replica = coordinator.replica(node)?;
            add_sums(replica, at, cut, &mut sums, &mut after).await
        };
        let added = timeout_at(at.over, adding).await;
        let status = match added.unwrap_or_else(|_| Err(too_long(coordinator))) {
            Ok(()) => return Ok(sums),
            Err(status) => status,
        };
        failures += 1;
        if failures > MOST_FAILURES || !may_pass(&status) {
            return Err(status);
        }
        sleep(DELAY * failures).await;
    }
}

fn too_long(coordinator: &Coordinator) -> Status {
    let max_read_ms = coordinator.view.reads().max_read().as_millis();
    refuse(&Error::Expired(u64::try_from(max_read_ms).unwrap_or(u64::MAX)))
}

async fn add_sums(
    replica: Replica,
    at: &Timestamp,
    (intervals, cut): (u32, Cut),
    sums: &mut Sums,
    after: &mut Bytes,
) -> Result<(), Status> {
    let request =
        proto::ChecksumRequest { at: Some(at.read_at()), intervals, after: after.clone() };
    let mut replies = replica.checksum(request).await?;
    while let Some(reply) = replies.next().await {
        let proto::ChecksumReply { txn, sums: more, last } = reply?;
        if txn != Some(at.txn.0) {
            return Err(Status::internal("a store node has summed another snapshot"));
        }
        for sum in &more {
            let known = sums.entry(refused(cut.check(sum.interval))?).or_default();
            *known = known.and(Sum::decode(sum));
        }
        *after = last;
    }
    Ok(())
}

/// A node as it is told.
fn verified(Summed { node, partition, sums }: &Summed) -> proto::VerifiedNode {
    let (sum, error) = match sums {
        Ok(sums) => {
            let all = sums.values().fold(Sum::default(), |all, sum| all.and(*sum));
            (Some(all.encode(0)), String::new())
        }
        Err(status) => (None, status.message().to_owned()),
    };
    proto::VerifiedNode { name: node.to_string(), partition: partition.0, sum, error }
}

/// Where nodes of a partition do not hold the same.
fn differences(summed: &[Summed], cut: Cut) -> Vec<proto::Difference> {
    let mut partitions: BTreeMap<PartitionId, Vec<(&NodeId, &Sums)>> = BTreeMap::new();
    for Summed { node, partition, sums } in summed {
        if let Ok(sums) = sums {
            partitions.entry(*partition).or_default().push((node, sums));
        }
    }
    let mut differences = Vec::new();
    for (partition, nodes) in partitions {
        let mut intervals: Vec<_> = nodes.iter().flat_map(|(_, sums)| sums.keys()).collect();
        intervals.sort_unstable();
        intervals.dedup();
        for interval in intervals {
            let of = |sums: &Sums| sums.get(interval).copied().unwrap_or_default();
            if nodes.windows(2).all(|pair| of(pair[0].1) == of(pair[1].1)) {
                continue;
            }
            let (first, last) = cut.bounds(*interval);
            let sum = |(node, sums): &(&NodeId, &Sums)| proto::NodeSum {
                name: node.to_string(),
                sum: Some(of(sums).encode(*interval)),
            };
            differences.push(proto::Difference {
                partition: partition.0,
                first: first.0,
                last: last.0,
                sums: nodes.iter().map(sum).collect(),
            });
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(node: &str, partition: u32, sums: Option<&[(u32, u64)]>) -> Summed {
        let sum = |(interval, low): &(u32, u64)| {
            let sent = proto::IntervalSum { interval: *interval, documents: 1, high: 0, low: *low };
            (*interval, Sum::decode(&sent))
        };
        let sums = sums.map(|sums| sums.iter().map(sum).collect());
        let (node, partition) = (node.parse().unwrap(), PartitionId(partition));
        Summed { node, partition, sums: sums.ok_or_else(|| Status::unavailable("it is away")) }
    }

    #[test]
    fn only_nodes_of_one_partition_are_compared_interval_by_interval() {
        let all = [
            summed("a", 0, Some(&[(0, 7), (1, 8)])),
            summed("b", 0, Some(&[(0, 7), (1, 9), (3, 1)])),
            summed("c", 1, Some(&[(1, 5)])),
            summed("d", 1, Some(&[(1, 5)])),
            summed("e", 1, None),
        ];
        let found = differences(&all, Cut::new(4).unwrap());
        let named: Vec<_> = found
            .iter()
            .map(|found| {
                let sums = found.sums.iter().map(|of| of.sum.as_ref().unwrap().documents);
                (found.partition, found.first >> 62, found.last >> 62, sums.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(named, [(0, 1, 1, vec![1, 1]), (0, 3, 3, vec![0, 1])]);
        let away = verified(&all[4]);
        assert_eq!((away.sum, away.error.as_str()), (None, "it is away"));
        assert_eq!(verified(&all[1]).sum.unwrap().documents, 3);
    }
}
