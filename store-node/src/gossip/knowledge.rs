//! The newest announce of every node, and how often each was passed on.
//!
//! An announce is a rumor until it was passed on a few times. Where there is no room for all
//! rumors, those passed on the least go first, and of these the ones that were learned last: they
//! are the least likely to be known where they go.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::cluster::NodeId;

use super::announce::{Announce, Version};
use super::wire;

/// What is known of a node.
#[derive(Clone, Debug)]
struct Known {
    announce: Arc<Announce>,
    /// Its length in a message.
    bytes: usize,
    /// Who told it, and as the how manieth of all.
    teller: NodeId,
    learned: u64,
    /// How often it was passed on.
    sends: u32,
}

/// What is known of all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    known: BTreeMap<NodeId, Known>,
    learned: u64,
}

impl Knowledge {
    /// Takes in an announce, unless it is no newer than what is known; whether it is.
    pub(super) fn learn(&mut self, announce: Arc<Announce>, teller: &NodeId) -> bool {
        if announce.version <= self.version(&announce.node) {
            return false;
        }
        self.learned += 1;
        let known = Known {
            bytes: wire::announce_bytes(&announce),
            teller: teller.clone(),
            learned: self.learned,
            sends: 0,
            announce,
        };
        self.known.insert(known.announce.node.clone(), known);
        true
    }

    /// Of each node the newest announce, by name.
    pub(super) fn announces(&self) -> impl Iterator<Item = &Arc<Announce>> {
        self.known.values().map(|known| &known.announce)
    }

    /// The newest announce of a node.
    pub(super) fn newest(&self, node: &NodeId) -> Option<&Arc<Announce>> {
        self.known.get(node).map(|known| &known.announce)
    }

    /// How new that is.
    pub(super) fn version(&self, node: &NodeId) -> Version {
        self.newest(node).map(|announce| announce.version).unwrap_or_default()
    }

    /// Forgets nodes.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&NodeId) -> bool) {
        self.known.retain(|node, _| is_kept(node));
    }

    /// What is known of a node becomes a rumor again.
    pub(super) fn spread_anew(&mut self, node: &NodeId) {
        if let Some(known) = self.known.get_mut(node) {
            known.sends = 0;
        }
    }

    /// Whether there is something to pass on.
    pub(super) fn has_rumors(&self, limit: u32) -> bool {
        self.known.values().any(|known| known.sends < limit)
    }

    /// What to pass on to a node: what its sender says of itself first and always, then rumors
    /// while there is room. Nothing if there is no rumor for it.
    pub(super) fn take_rumors(
        &mut self,
        from: &NodeId,
        to: &NodeId,
        limit: u32,
        room: usize,
    ) -> Vec<Arc<Announce>> {
        let is_rumor = |known: &&mut Known| {
            known.sends < limit && known.announce.node != *to && known.teller != *to
        };
        let mut rumors: Vec<_> = self.known.values_mut().filter(is_rumor).collect();
        if rumors.is_empty() {
            return Vec::new();
        }
        rumors.sort_unstable_by_key(|known| {
            (known.announce.node != *from, known.sends, Reverse(known.learned))
        });
        let mut left = room;
        let mut taken = Vec::new();
        for known in rumors {
            let is_own = known.announce.node == *from;
            if !is_own && known.bytes > left {
                continue;
            }
            left = left.saturating_sub(known.bytes);
            known.sends += 1;
            taken.push(Arc::clone(&known.announce));
        }
        taken
    }

    /// What is newer than in a digest, in its order, while there is room.
    pub(super) fn newer(&self, digest: &[(NodeId, Version)], room: usize) -> Vec<Arc<Announce>> {
        let mut left = room;
        let newer = digest.iter().filter_map(|(node, version)| {
            let known = self.known.get(node).filter(|known| known.announce.version > *version)?;
            left = left.checked_sub(known.bytes)?;
            Some(Arc::clone(&known.announce))
        });
        newer.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::doubles::{announce, node};
    use super::*;

    fn knowledge(sequences: &[(&str, u64)]) -> Knowledge {
        let mut knowledge = Knowledge::default();
        for (name, sequence) in sequences {
            knowledge.learn(announce(name, *sequence, 0).into(), &node(name));
        }
        knowledge
    }

    fn names(announces: &[Arc<Announce>]) -> Vec<&str> {
        announces.iter().map(|announce| announce.node.as_str()).collect()
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut knowledge = knowledge(&[("a", 5)]);
        for (sequence, is_news) in [(5, false), (4, false), (6, true), (5, false)] {
            let other = announce("a", sequence, 99);
            assert_eq!(knowledge.learn(other.into(), &node("b")), is_news, "{sequence}");
        }
        let mut reborn = announce("a", 1, 0);
        reborn.version.incarnation.0 += 1;
        assert!(knowledge.learn(reborn.into(), &node("b")), "a new life counts from 1 again");
        assert!(!knowledge.learn(announce("a", 100, 0).into(), &node("b")));
    }

    #[test]
    fn rumors_go_least_passed_on_and_last_learned_first_and_not_where_they_came_from() {
        let mut knowledge = knowledge(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let room = 2 * wire::announce_bytes(&announce("b", 1, 0));
        let mut take = |to| knowledge.take_rumors(&node("a"), &node(to), 3, room);
        assert_eq!(names(&take("x")), ["a", "d"], "its own first");
        assert_eq!(names(&take("d")), ["a", "c"]);
        assert_eq!(names(&take("x")), ["a", "b"]);
        assert_eq!(names(&take("x")), ["d", "c"], "its own was passed on often enough");
        assert_eq!(names(&take("b")), ["d", "c"]);
        assert_eq!(names(&take("x")), ["b"]);
        assert_eq!(names(&take("b")), [""; 0]);
        assert!(knowledge.has_rumors(3));
        assert_eq!(names(&knowledge.take_rumors(&node("a"), &node("x"), 3, room)), ["b"]);
        assert!(!knowledge.has_rumors(3));
    }

    #[test]
    fn its_own_needs_no_room() {
        let mut knowledge = knowledge(&[("a", 1), ("b", 1)]);
        assert_eq!(names(&knowledge.take_rumors(&node("a"), &node("x"), 3, 0)), ["a"]);
    }

    #[test]
    fn a_digest_is_answered_with_what_is_newer_and_fits() {
        let knowledge = knowledge(&[("a", 3), ("b", 3), ("c", 3)]);
        let version = |sequence| announce("a", sequence, 0).version;
        let digest = [
            (node("c"), version(2)),
            (node("a"), version(3)),
            (node("x"), version(1)),
            (node("b"), Version::default()),
        ];
        assert_eq!(names(&knowledge.newer(&digest, 10_000)), ["c", "b"]);
        let room = wire::announce_bytes(&announce("b", 3, 0));
        assert_eq!(names(&knowledge.newer(&digest, room)), ["c"]);
    }
}
