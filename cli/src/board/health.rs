//! What a cluster cannot do at the moment, as far as its parts tell. Pure.

use std::collections::BTreeMap;

use super::{NodeStatus, PartStatus};

/// A store node that was not heard for longer, in seconds, is taken to be away.
const SILENCE: f64 = 2.0;

/// Why something cannot be read or written, in a line each; none if all can.
pub(super) fn problems(parts: &[PartStatus], nodes: &[NodeStatus]) -> Vec<String> {
    let unknown = parts.iter().filter_map(|PartStatus { part, error, .. }| {
        error.as_ref().map(|error| format!("{part}: {error}"))
    });
    let mut partitions = BTreeMap::<u32, Vec<&NodeStatus>>::new();
    for node in nodes {
        partitions.entry(node.partition).or_default().push(node);
    }
    let unserved = partitions.into_iter().filter_map(|(partition, replicas)| {
        let why_not = |node: &&NodeStatus| Some(format!("{} {}", node.node, why_not(node)?));
        let why: Vec<_> = replicas.iter().map(why_not).collect::<Option<_>>()?;
        Some(format!(
            "partition {partition}: no replica serves its documents, and nothing new is stable: {}",
            why.join("; ")
        ))
    });
    unknown.chain(unserved).collect()
}

/// Why a node serves no reads of its partition; `None` if it does.
fn why_not(node: &NodeStatus) -> Option<String> {
    let Some(silent) = node.silent_seconds else {
        return Some("was not heard of yet".to_owned());
    };
    if silent > SILENCE {
        return Some(format!("was not heard for {silent:.0} s"));
    }
    // Who has not caught up with the log since it started, or copies, says nothing of how far it is.
    let reason = node.not_ready.as_ref().filter(|_| node.copying.is_some() || node.next == Some(0));
    reason.map(|reason| format!("is not ready: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, partition: u32, next: u64) -> NodeStatus {
        NodeStatus {
            node: name.to_owned(),
            partition,
            address: format!("{name}:7070"),
            next: Some(next),
            durable: None,
            gc_timestamp: None,
            lag_transactions: None,
            lag_seconds: None,
            suspicion: 0.0,
            detached_ranges: 0,
            copying: None,
            silent_seconds: Some(0.1),
            not_ready: None,
        }
    }

    #[test]
    fn a_partition_is_served_as_long_as_one_replica_does() {
        let [mut a1, mut a2, b1] = [node("a1", 0, 7), node("a2", 0, 7), node("b1", 1, 0)];
        let told = |nodes: &[&NodeStatus]| {
            problems(&[], &nodes.iter().map(|node| (*node).clone()).collect::<Vec<_>>())
        };
        assert_eq!(told(&[&a1, &a2, &b1]), [""; 0], "a log without anything is served, too");
        a1.silent_seconds = Some(12.3);
        assert_eq!(told(&[&a1, &a2, &b1]), [""; 0]);
        a2.not_ready = Some("its disk is slow".to_owned());
        assert_eq!(told(&[&a1, &a2, &b1]), [""; 0], "it serves all the same");
        a2.copying = Some(3);
        let expected = "partition 0: no replica serves its documents, and nothing new is stable: a1 was \
                        not heard for 12 s; a2 is not ready: its disk is slow";
        assert_eq!(told(&[&a1, &a2, &b1]), [expected]);
        (a2.copying, a2.next) = (None, Some(0));
        assert_eq!(told(&[&a1, &a2, &b1]), [expected], "it has not caught up");
        a2.silent_seconds = None;
        assert!(told(&[&a1, &a2, &b1])[0].ends_with("; a2 was not heard of yet"));
    }

    #[test]
    fn what_is_not_known_is_a_problem() {
        let error = Some("the log does not answer in time".to_owned());
        let parts = [
            PartStatus { part: "cdc".to_owned(), error, ..PartStatus::default() },
            PartStatus { part: "ingest".to_owned(), ..PartStatus::default() },
        ];
        assert_eq!(problems(&parts, &[]), ["cdc: the log does not answer in time"]);
    }
}
