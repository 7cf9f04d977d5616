//! Store nodes that are taken out of a partition. What only they have is lost with them: so one of
//! those that stay has to be known to have everything, or whoever declares it says that it may be
//! lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::cluster::{ClusterSpec, NodeId};
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::{Code, Refusal};

/// How long the store nodes may take to say which of them has what.
const ANSWER: Duration = Duration::from_secs(2);
/// A node that was not heard for longer, in milliseconds, may be gone.
const SILENCE_MS: u64 = 2_000;

/// A partition that some of its nodes leave.
#[derive(Debug, PartialEq, Eq)]
struct Left<'a> {
    partition: PartitionId,
    leave: Vec<&'a NodeId>,
    stay: Vec<&'a NodeId>,
}

/// Refuses a change after which a partition may be without its data, which begin in the log at
/// transaction `log_start`. Blocks.
pub(super) fn admit(
    store_nodes: &AnyOf,
    before: &ClusterSpec,
    after: &ClusterSpec,
    log_start: u64,
) -> Result<(), Refusal> {
    let left = left(before, after);
    if left.is_empty() {
        return Ok(());
    }
    let nodes = Handle::current().block_on(known(store_nodes))?;
    left.iter().find_map(|left| refused(left, &nodes, log_start)).map_or(Ok(()), Err)
}

fn left<'a>(before: &'a ClusterSpec, after: &ClusterSpec) -> Vec<Left<'a>> {
    let pairs = (0..).map(PartitionId).zip(before.partitions.iter().zip(&after.partitions));
    let left = pairs.map(|(partition, (old, new))| {
        let (stay, leave) = old.nodes.keys().partition(|node| new.nodes.contains_key(*node));
        Left { partition, leave, stay }
    });
    left.filter(|left| !left.leave.is_empty()).collect()
}

/// The store nodes as one of them knows them, by name.
async fn known(store_nodes: &AnyOf) -> Result<BTreeMap<String, proto::NodeStatus>, Refusal> {
    let mut client = StoreNodeClient::new(store_nodes.clone());
    let why = match timeout(ANSWER, client.status(proto::StatusRequest {})).await {
        Ok(Ok(reply)) => {
            let nodes = reply.into_inner().nodes.into_iter();
            return Ok(nodes.map(|node| (node.name.clone(), node)).collect());
        }
        Ok(Err(status)) => status.message().to_owned(),
        Err(_) => "none answers".to_owned(),
    };
    let message = format!("no store node says which of those that stay has the data: {why}");
    Err(Refusal::new(Code::StoreUnavailable, message).with_hint(HINT))
}

const HINT: &str = "nothing was changed. Wait until `anabranch status` shows one of those that stay \
                    caught up and not silent; or apply it with --lose (?lose=true): what only the \
                    nodes that leave have is lost then";

fn refused(
    Left { partition, leave, stay }: &Left<'_>,
    nodes: &BTreeMap<String, proto::NodeStatus>,
    log_start: u64,
) -> Option<Refusal> {
    let why_not = |node: &&NodeId| {
        let why = why_not(nodes.get(node.as_str()), log_start)?;
        Some(format!("{node} {why}"))
    };
    // One that may have everything is enough.
    let why: Vec<_> = stay.iter().map(why_not).collect::<Option<_>>()?;
    let leave: Vec<_> = leave.iter().map(|node| node.as_str()).collect();
    let message = format!(
        "{} would leave partition {partition}, and of those that stay none is known to have its \
         data: {}",
        leave.join(", "),
        why.join("; ")
    );
    Some(Refusal::new(Code::MayLose, message).with_hint(HINT))
}

/// Why a node may lack something that is no longer in the log; `None` if it does not.
fn why_not(node: Option<&proto::NodeStatus>, log_start: u64) -> Option<&'static str> {
    let Some(proto::NodeStatus { base, silent_ms, copying, .. }) = node else {
        return Some("is not known to the others");
    };
    let (Some(base), Some(silent_ms)) = (base, silent_ms) else {
        return Some("was not heard of");
    };
    if *silent_ms > SILENCE_MS {
        return Some("is not heard");
    }
    if copying.is_some() {
        return Some("is copying what it lacks");
    }
    // Who has not caught up with the log since it started says 0.
    (*base < log_start.max(1)).then_some("has not caught up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_all_that_the_log_does_not_have_is_enough() {
        let node = proto::NodeStatus {
            base: Some(20),
            silent_ms: Some(300),
            ..proto::NodeStatus::default()
        };
        let told = |change: &dyn Fn(&mut proto::NodeStatus)| {
            let mut node = node.clone();
            change(&mut node);
            why_not(Some(&node), 15)
        };
        assert_eq!(told(&|_| {}), None);
        assert_eq!(told(&|node| node.base = Some(15)), None, "it goes on with the log");
        assert_eq!(told(&|node| node.base = Some(14)), Some("has not caught up"));
        assert_eq!(told(&|node| node.base = Some(0)), Some("has not caught up"));
        assert_eq!(told(&|node| node.copying = Some(0)), Some("is copying what it lacks"));
        assert_eq!(told(&|node| node.silent_ms = Some(2_001)), Some("is not heard"));
        assert_eq!(told(&|node| node.silent_ms = None), Some("was not heard of"));
        assert_eq!(told(&|node| node.base = None), Some("was not heard of"));
        assert_eq!(why_not(None, 0), Some("is not known to the others"));
    }
}
