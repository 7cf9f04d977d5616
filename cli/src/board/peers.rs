//! What the store nodes say of each other, in one: each answers for itself how it sees the others. Pure.

use anabranch_schemas::store::{NodeStatus, StatusReply};

/// The first reply, with each node as its peers see it: how likely it is gone by the one that suspects
/// it most, how long it was silent by the one that heard it last, and not reached if it is by none. A
/// node that is cut off does not make the others look gone, and looks so itself. What a node says of
/// itself counts only if nobody else says anything, and so does what is of another configuration.
pub(super) fn merged(replies: Vec<StatusReply>) -> Option<StatusReply> {
    let mut replies = replies.into_iter();
    let mut first = replies.next()?;
    let others: Vec<_> = replies.filter(|reply| reply.epoch == first.epoch).collect();
    for node in &mut first.nodes {
        let views = others.iter().flat_map(|reply| &reply.nodes);
        let views = views.filter(|view| view.name == node.name && !is_of_itself(view));
        let views: Vec<_> = views.cloned().chain([node.clone()]).collect();
        let by_peers: Vec<_> = views.iter().filter(|view| !is_of_itself(view)).collect();
        if by_peers.is_empty() {
            continue;
        }
        node.suspicion = by_peers.iter().map(|view| view.suspicion).fold(0.0, f64::max);
        node.silent_ms = by_peers.iter().filter_map(|view| view.silent_ms).min();
        let is_reached = by_peers.iter().any(|view| view.unreached.is_none());
        node.unreached = by_peers[0].unreached.clone().filter(|_| !is_reached);
    }
    Some(first)
}

/// Whether it is what a node says of itself.
fn is_of_itself(view: &NodeStatus) -> bool {
    view.silent_ms == Some(0) && view.suspicion == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one says of some nodes: how long each was silent; nothing of itself is silent.
    fn reply(epoch: u64, silent: &[(&str, u64)]) -> StatusReply {
        let node = |(name, silent): &(&str, u64)| NodeStatus {
            name: (*name).to_owned(),
            silent_ms: Some(*silent),
            suspicion: if *silent > 1_000 { 1.0 } else { 0.0 },
            unreached: (*silent > 1_000).then(|| "connection refused".to_owned()),
            ..NodeStatus::default()
        };
        StatusReply { epoch, nodes: silent.iter().map(node).collect(), ..StatusReply::default() }
    }

    fn seen(replies: Vec<StatusReply>) -> Vec<(f64, Option<u64>, bool)> {
        let nodes = merged(replies).unwrap().nodes.into_iter();
        nodes.map(|node| (node.suspicion, node.silent_ms, node.unreached.is_some())).collect()
    }

    #[test]
    fn who_is_cut_off_is_suspected_and_suspects_in_vain() {
        // It is a that is asked first and cut off.
        let a = reply(1, &[("a", 0), ("b", 9_000), ("c", 9_000)]);
        let b = reply(1, &[("a", 8_000), ("b", 0), ("c", 200)]);
        let c = reply(1, &[("a", 7_000), ("b", 300), ("c", 0)]);
        let expected = [(1.0, Some(7_000), true), (1.0, Some(300), false), (1.0, Some(200), false)];
        assert_eq!(seen(vec![a.clone(), b, c]), expected);
        let alone = [(0.0, Some(0), false), (1.0, Some(9_000), true), (1.0, Some(9_000), true)];
        assert_eq!(seen(vec![a.clone()]), alone);
        let older = reply(0, &[("a", 5), ("b", 5), ("c", 5)]);
        assert_eq!(seen(vec![a, older]), alone, "it is of another configuration");
        assert_eq!(merged(Vec::new()), None);
    }
}
