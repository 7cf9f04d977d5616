//! What a cluster cannot do at the moment, as far as its parts tell. Pure.

use std::collections::BTreeMap;

use super::{NodeStatus, PartStatus};

/// A store node that was not heard for longer, in seconds, and never for so long before, is taken
/// to be away.
const SILENCE: f64 = 2.0;

/// What a store node can do for its partition.
#[derive(Debug, PartialEq, Eq)]
enum Ability {
    /// It serves, and applies what comes.
    Goes,
    /// It serves what it has; and why it may not go on.
    Serves(String),
    /// Why it does not serve.
    Away(String),
}

/// Why something cannot be read or written, in a line each; none if all can. `quorums` says by
/// partition how many nodes have to go on.
pub(super) fn problems(parts: &[PartStatus], nodes: &[NodeStatus], quorums: &[u32]) -> Vec<String> {
    let unknown = parts.iter().filter_map(|PartStatus { part, error, .. }| {
        error.as_ref().map(|error| format!("{part}: {error}"))
    });
    let mut partitions = BTreeMap::<u32, Vec<&NodeStatus>>::new();
    for node in nodes {
        partitions.entry(node.partition).or_default().push(node);
    }
    let unwell = partitions.into_iter().filter_map(|(partition, replicas)| {
        let quorum = quorums.get(partition as usize).copied().unwrap_or(1);
        Some(format!("partition {partition}: {}", unwell(&replicas, quorum as usize)?))
    });
    unknown.chain(unwell).collect()
}

/// What is wrong with a partition, if anything is.
fn unwell(replicas: &[&NodeStatus], quorum: usize) -> Option<String> {
    let abilities: Vec<_> = replicas.iter().map(|node| (&node.node, ability(node))).collect();
    let go = abilities.iter().filter(|(_, ability)| *ability == Ability::Goes).count();
    if go >= quorum {
        return None;
    }
    let why = abilities.iter().filter_map(|(node, ability)| match ability {
        Ability::Goes => None,
        Ability::Serves(why) | Ability::Away(why) => Some(format!("{node} {why}")),
    });
    let why = why.collect::<Vec<_>>().join("; ");
    let all_away = abilities.iter().all(|(_, ability)| matches!(ability, Ability::Away(_)));
    Some(if all_away {
        format!("no replica serves its documents, and nothing new becomes readable: {why}")
    } else {
        format!(
            "{go} of {} replicas go on, and {quorum} have to have what is new before it becomes \
             readable: {why}",
            replicas.len()
        )
    })
}

fn ability(node: &NodeStatus) -> Ability {
    let Some(silent) = node.silent_seconds else {
        return Ability::Away("was not heard of yet".to_owned());
    };
    if silent > SILENCE && node.suspicion >= 1.0 {
        return Ability::Away(format!("was not heard for {silent:.0} s"));
    }
    if let Some(why) = &node.unreached {
        return Ability::Away(format!("is not reached at {}: {why}", node.address));
    }
    match &node.not_ready {
        None => Ability::Goes,
        // Who has not caught up with the log since it started, or copies, does not say how far it is.
        Some(why) if node.copying.is_some() || node.next == Some(0) => {
            Ability::Away(format!("is not ready: {why}"))
        }
        Some(why) => Ability::Serves(format!("is not ready: {why}")),
    }
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
            silent_seconds: Some(0.1),
            ..NodeStatus::default()
        }
    }

    /// Of two nodes of partition 0 and one of partition 1.
    fn told(nodes: [&NodeStatus; 3], quorum: u32) -> Vec<String> {
        problems(&[], &nodes.map(NodeStatus::clone), &[quorum, 1])
    }

    #[test]
    fn a_partition_is_served_as_long_as_one_replica_does() {
        let [mut a1, mut a2, b1] = [node("a1", 0, 7), node("a2", 0, 7), node("b1", 1, 0)];
        assert_eq!(told([&a1, &a2, &b1], 1), [""; 0], "an empty log is served, too");
        (a1.silent_seconds, a1.suspicion) = (Some(12.3), 1.0);
        assert_eq!(told([&a1, &a2, &b1], 1), [""; 0]);
        a2.not_ready = Some("its disk is slow".to_owned());
        a2.copying = Some(3);
        let expected = "partition 0: no replica serves its documents, and nothing new becomes \
                        readable: a1 was not heard for 12 s; a2 is not ready: its disk is slow";
        assert_eq!(told([&a1, &a2, &b1], 1), [expected]);
        (a2.copying, a2.next) = (None, Some(0));
        assert_eq!(told([&a1, &a2, &b1], 1), [expected], "it has not caught up");
        a1.suspicion = 0.8;
        assert_eq!(told([&a1, &a2, &b1], 1), [""; 0], "in a large cluster nodes are heard rarely");
        // Its address is another one's: it talks to the others, and nobody to it.
        a1.unreached = Some("node 'a2' answers".to_owned());
        let expected = "a1 is not reached at a1:7070: node 'a2' answers; a2 is";
        assert!(told([&a1, &a2, &b1], 1)[0].contains(expected));
        a2.silent_seconds = None;
        assert!(told([&a2, &a2, &b1], 1)[0].ends_with("; a2 was not heard of yet"));
    }

    #[test]
    fn nothing_new_becomes_readable_without_a_quorum() {
        let [a1, mut a2, b1] = [node("a1", 0, 7), node("a2", 0, 7), node("b1", 1, 7)];
        a2.not_ready = Some("the log cannot be reached".to_owned());
        assert_eq!(told([&a1, &a2, &b1], 1), [""; 0]);
        let expected = "partition 0: 1 of 2 replicas go on, and 2 have to have what is new before it \
                        becomes readable: a2 is not ready: the log cannot be reached";
        assert_eq!(told([&a1, &a2, &b1], 2), [expected]);
        assert_eq!(told([&a2, &a2, &b1], 1).len(), 1, "it serves, and stands still");
    }

    #[test]
    fn what_is_not_known_is_a_problem() {
        let error = Some("the log does not answer in time".to_owned());
        let parts = [
            PartStatus { part: "cdc".to_owned(), error, ..PartStatus::default() },
            PartStatus { part: "ingest".to_owned(), ..PartStatus::default() },
        ];
        assert_eq!(problems(&parts, &[], &[]), ["cdc: the log does not answer in time"]);
    }
}
