//! What one node sends to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::cluster::NodeId;

use super::announce::{Announce, Version};

/// A message. One without announces and digest is a ping, or the answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who sends it.
    pub(crate) from: NodeId,
    /// News.
    pub(crate) announces: Vec<Arc<Announce>>,
    /// What the sender has of these nodes. If there are any, whoever has newer answers with that.
    pub(crate) digest: Vec<(NodeId, Version)>,
}

impl Message {
    /// One that says only who lives.
    pub(crate) fn ping(from: NodeId) -> Self {
        Message { from, announces: Vec::new(), digest: Vec::new() }
    }

    /// Takes a later message to the same node into one that has not yet left: the newest of each
    /// is sent, so what waits for a slow node stays as small as the cluster.
    pub(super) fn absorb(&mut self, later: Message) {
        let Message { from, announces, digest } = later;
        self.from = from;
        let mut newest: BTreeMap<NodeId, Arc<Announce>> = BTreeMap::new();
        for announce in self.announces.drain(..).chain(announces) {
            let known = newest.entry(announce.node.clone()).or_insert_with(|| announce.clone());
            if known.version < announce.version {
                *known = announce;
            }
        }
        self.announces = newest.into_values().collect();
        if !digest.is_empty() {
            self.digest = digest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::doubles::announce;
    use super::*;

    fn message(announces: &[(&str, u64)], digest: &[&str]) -> Message {
        Message {
            from: "a".parse().unwrap(),
            announces: announces.iter().map(|(node, n)| announce(node, *n, *n).into()).collect(),
            digest: digest.iter().map(|n| (n.parse().unwrap(), Version::default())).collect(),
        }
    }

    #[test]
    fn what_waits_is_replaced_by_what_is_newer() {
        let mut waiting = message(&[("a", 1), ("b", 7)], &["b"]);
        waiting.absorb(message(&[("a", 2), ("b", 6), ("c", 1)], &[]));
        assert_eq!(waiting, message(&[("a", 2), ("b", 7), ("c", 1)], &["b"]));
        waiting.absorb(message(&[], &["c"]));
        assert_eq!(waiting, message(&[("a", 2), ("b", 7), ("c", 1)], &["c"]));
    }
}
