//! Store nodes that are taken out of a partition. What only they have is lost with them: so one of
//! those that stay has to be known to have everything, or whoever declares it says that it may be
//! lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::Response;

use crate::error::{Code, Refusal};

/// How long the store nodes may take to say which of them has what.
const ANSWER: Duration = Duration::from_secs(2);
/// A node that was not heard for longer, in milliseconds, may be gone.
const SILENCE_MS: u64 = 2_000;

const HINT: &str = "nothing was changed. Change one node of a partition after the other, each once \
                    `anabranch status` shows that another one is ready; or apply it with --lose \
                    (?lose=true): what only those have that leave is lost then";

/// A partition that some of its nodes leave. Who is to be found at another address may be another
/// one there, with nothing, so it counts as one that leaves.
#[derive(Debug, PartialEq, Eq)]
struct Left<'a> {
    partition: PartitionId,
    leave: Vec<&'a NodeId>,
    stay: Vec<&'a NodeId>,
}

/// Refuses a change after which a partition may be without what the log no longer has: documents,
/// or changes from `captured` on, if those before it are in topic `changes`. Blocks.
pub(super) fn admit(
    store_nodes: &AnyOf,
    captured: Option<TxnId>,
    before: &Configuration,
    after: &ClusterSpec,
) -> Result<(), Refusal> {
    let left = left(before.spec(), after);
    if left.is_empty() {
        return Ok(());
    }
    let known = Handle::current().block_on(known(store_nodes, before.epoch()))?;
    left.iter().find_map(|left| refused(left, captured, &known)).map_or(Ok(()), Err)
}

fn left<'a>(before: &'a ClusterSpec, after: &ClusterSpec) -> Vec<Left<'a>> {
    let pairs = (0..).map(PartitionId).zip(before.partitions.iter().zip(&after.partitions));
    let left = pairs.filter_map(|(partition, (old, new))| {
        let is_the_same =
            |(node, address): &(&NodeId, &String)| new.nodes.get(*node) == Some(*address);
        let (stay, leave): (Vec<_>, Vec<_>) = old.nodes.iter().partition(is_the_same);
        let [stay, leave] =
            [stay, leave].map(|nodes| nodes.into_iter().map(|(node, _)| node).collect());
        let left: Left<'_> = Left { partition, leave, stay };
        (!left.leave.is_empty()).then_some(left)
    });
    left.collect()
}

/// The store nodes as one of them knows them that goes by this configuration, by name.
async fn known(
    store_nodes: &AnyOf,
    epoch: Epoch,
) -> Result<BTreeMap<String, proto::NodeStatus>, Refusal> {
    let mut client = StoreNodeClient::new(store_nodes.clone());
    let mut why = "none answers in time".to_owned();
    let asking = async {
        // One that does not answer is not asked again at once.
        for _ in 0..store_nodes.count().max(1) {
            match client.status(proto::StatusRequest {}).await.map(Response::into_inner) {
                Ok(reply) if reply.epoch == epoch.0 => return Some(reply.nodes),
                Ok(_) => why = "they have not heard yet of what was declared last".to_owned(),
                Err(status) => status.message().clone_into(&mut why),
            }
        }
        None
    };
    if let Ok(Some(nodes)) = timeout(ANSWER, asking).await {
        return Ok(nodes.into_iter().map(|node| (node.name.clone(), node)).collect());
    }
    let message = format!("no store node says which of those that stay has the data: {why}");
    Err(Refusal::new(Code::StoreUnavailable, message).with_hint(HINT))
}

fn refused(
    Left { partition, leave, stay }: &Left<'_>,
    captured: Option<TxnId>,
    known: &BTreeMap<String, proto::NodeStatus>,
) -> Option<Refusal> {
    // The feed of those that leave may go back farther than that of those that stay.
    let feed_of = |node: &&NodeId| known.get(node.as_str()).and_then(|node| node.history_from);
    let feed_from = leave.iter().map(feed_of).min().flatten().unwrap_or(0);
    let needed = captured.map(|captured| captured.max(TxnId(feed_from)));
    let why_not = |node: &&NodeId| {
        let why = why_not(known.get(node.as_str()), needed)?;
        Some(format!("{node} {why}"))
    };
    // One that may have everything is enough.
    let why: Vec<_> = stay.iter().map(why_not).collect::<Option<_>>()?;
    let leave: Vec<_> = leave.iter().map(|node| node.as_str()).collect();
    let why = if why.is_empty() { "there is none".to_owned() } else { why.join("; ") };
    let message = format!(
        "{} would leave partition {partition}, or its address, and of those that stay where they \
         are none is known to have its data: {why}",
        leave.join(", "),
    );
    Some(Refusal::new(Code::MayLose, message).with_hint(HINT))
}

/// Why a node may lack something that is no longer in the log, or changes from `needed` on; `None`
/// if it does not.
fn why_not(node: Option<&proto::NodeStatus>, needed: Option<TxnId>) -> Option<String> {
    let Some(node) = node else { return Some("is not known to the others".to_owned()) };
    let proto::NodeStatus { silent_ms, not_ready, is_whole, history_from, .. } = node;
    let Some(silent_ms) = silent_ms else { return Some("was not heard of".to_owned()) };
    if *silent_ms > SILENCE_MS {
        return Some(format!("was not heard for {} s", silent_ms / 1_000));
    }
    if !is_whole {
        let why = not_ready.as_deref();
        let why = why.unwrap_or("it has not made durable yet what the log gives up");
        return Some(format!("may lack something: {why}"));
    }
    let (needed, from) = (needed?, TxnId(history_from.unwrap_or(u64::MAX)));
    (needed < from).then(|| {
        format!("has the changes from {from} on, and cdc has yet to capture those from {needed} on")
    })
}

#[cfg(test)]
mod tests {
    use anabranch_core::cluster::PartitionSpec;

    use super::*;

    #[test]
    fn who_is_heard_and_whole_is_enough() {
        let node = proto::NodeStatus {
            silent_ms: Some(300),
            is_whole: true,
            history_from: Some(7),
            ..proto::NodeStatus::default()
        };
        let told = |change: &dyn Fn(&mut proto::NodeStatus)| {
            let mut node = node.clone();
            change(&mut node);
            why_not(Some(&node), Some(TxnId(7)))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(told(&|_| {}), None);
        assert_eq!(told(&|node| node.not_ready = text("its disk is slow")), None);
        let halted = told(&|node| {
            (node.is_whole, node.not_ready) = (false, text("the journal is corrupt"));
        });
        assert_eq!(halted, text("may lack something: the journal is corrupt"));
        assert!(told(&|node| node.is_whole = false).is_some());
        assert_eq!(told(&|node| node.silent_ms = Some(2_001)), text("was not heard for 2 s"));
        assert_eq!(told(&|node| node.silent_ms = None), text("was not heard of"));
        assert_eq!(why_not(None, None), text("is not known to the others"));
        let copied = told(&|node| node.history_from = Some(8)).unwrap();
        assert!(copied.contains("from 8 on") && copied.contains("from 7 on"), "{copied}");
        assert_eq!(why_not(Some(&node), None), None, "nobody captures changes");
    }

    #[test]
    fn who_moves_does_not_stay() {
        let partition = |nodes: &[(&str, &str)]| {
            let node = |(name, address): &(&str, &str)| (name.parse().unwrap(), (*address).into());
            PartitionSpec { weight: 1, nodes: nodes.iter().map(node).collect() }
        };
        let spec = |nodes| ClusterSpec { partitions: vec![partition(nodes)], quorum: None };
        let before = spec(&[("a", "x:1"), ("b", "x:2"), ("c", "x:3")]);
        let names = |after: &ClusterSpec| {
            let name = |node: &&NodeId| node.to_string();
            let left = left(&before, after).into_iter().next()?;
            Some((
                left.leave.iter().map(name).collect::<String>(),
                left.stay.iter().map(name).collect::<String>(),
            ))
        };
        assert_eq!(names(&spec(&[("a", "x:1"), ("b", "x:2"), ("c", "x:3"), ("d", "x:4")])), None);
        let expected = Some(("a".to_owned(), "bc".to_owned()));
        assert_eq!(names(&spec(&[("a", "x:9"), ("b", "x:2"), ("c", "x:3")])), expected);
        let expected = Some(("abc".to_owned(), String::new()));
        assert_eq!(names(&spec(&[("a", "x:2"), ("b", "x:1"), ("c", "x:4")])), expected);
        let expected = Some(("ac".to_owned(), "b".to_owned()));
        assert_eq!(names(&spec(&[("a", "x:9"), ("b", "x:2"), ("d", "x:4")])), expected);
    }
}
