//! Up to where every partition can be read: the universal stable timestamp.
//!
//! Pure; the node advances it with every announce that it hears. Invariant ST-3: it never goes
//! back. Announces do, when a node has crashed and reads the log again.

use std::collections::BTreeMap;

use anabranch_core::cluster::{Configuration, Epoch, NodeId};
use anabranch_core::ids::TxnId;

use crate::gossip::Announce;
use anabranch_runtime::planted;

/// The universal stable timestamp. Ordered by epoch, then by transaction: two of one epoch can be
/// compared, and with a later epoch it begins again at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stable {
    /// The configuration in whose partitions it holds.
    pub(crate) epoch: Epoch,
    /// Every transaction below this is stable; this one itself is not yet.
    pub(crate) next: TxnId,
}

impl Stable {
    /// The last transaction that is stable, if there is one: the timestamp to read at.
    pub(crate) fn last(self) -> Option<TxnId> {
        self.next.0.checked_sub(1).map(TxnId)
    }
}

/// Computes it, for one configuration.
#[derive(Clone, Debug)]
pub(crate) struct Stability {
    stable: Stable,
    /// By partition how many of its nodes must have a transaction.
    quorums: Vec<usize>,
    /// Of each node the index of its partition.
    partitions: BTreeMap<NodeId, usize>,
}

impl Stability {
    /// In which nothing is stable yet.
    pub(crate) fn new(configuration: &Configuration) -> Self {
        let mut partitions = BTreeMap::new();
        let mut quorums = Vec::new();
        for (index, partition) in configuration.partitions().enumerate() {
            quorums.push(configuration.quorum(partition));
            partitions.extend(configuration.replicas(partition).map(|node| (node.clone(), index)));
        }
        let stable = Stable { epoch: configuration.epoch(), next: TxnId(0) };
        Stability { stable, quorums, partitions }
    }

    /// In a newer configuration, in which everybody owns what he owned: it goes on from where it is
    /// (ST-3).
    pub(crate) fn follow(&mut self, configuration: &Configuration) {
        let Stable { next, .. } = self.stable;
        *self = Stability::new(configuration);
        self.stable.next = if planted!(ForgetsWhatWasStable) { TxnId(0) } else { next };
    }

    /// The timestamp as it was computed last.
    pub(crate) fn stable(&self) -> Stable {
        self.stable
    }

    /// Computes it anew from the newest announce of each node. For each partition it takes the
    /// base that a quorum of its nodes has reached, and of these the lowest.
    ///
    /// An announce about another configuration counts for nothing: its base is that of other parts
    /// of the keyspace.
    pub(crate) fn advance<'a>(
        &mut self,
        announces: impl IntoIterator<Item = &'a Announce>,
    ) -> Stable {
        let mut bases = vec![Vec::new(); self.quorums.len()];
        for Announce { node, standing, .. } in announces {
            if let Some(index) =
                self.partitions.get(node).filter(|_| standing.epoch == self.stable.epoch)
            {
                bases[*index].push(standing.applied.base());
            }
        }
        let reached = bases.into_iter().zip(&self.quorums).map(|(mut bases, quorum)| {
            bases.sort_unstable_by(|a, b| b.cmp(a));
            bases.get(quorum - 1).copied().unwrap_or_default()
        });
        let next = match planted!(StableIsMaximum) {
            true => reached.max(),
            false => reached.min(),
        };
        let next = next.expect("a configuration has a partition");
        // ST-3: a replica that lost what it had since its last flush says less than before.
        self.stable.next = self.stable.next.max(next);
        self.stable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gossip::doubles::{announce, configuration};

    const CLUSTER: &[&[&str]] = &[&["a1", "a2", "a3"], &["b1", "b2", "b3"], &["c1"]];

    #[test]
    fn st_3_a_newer_configuration_does_not_set_it_back() {
        let mut stability = Stability::new(&configuration(1, CLUSTER, None));
        let mut said = Said::default();
        let nodes = ["a1", "a2", "b1", "b2", "c1"];
        nodes.iter().for_each(|node| said.say(node, 1, 7));
        assert_eq!(stability.advance(said.0.values()).next, TxnId(7));
        stability.follow(&configuration(2, CLUSTER, None));
        let followed = stability.advance(said.0.values());
        assert_eq!(followed, Stable { epoch: Epoch(2), next: TxnId(7) }, "and nobody is in it yet");
        nodes.iter().for_each(|node| said.say(node, 2, 9));
        assert_eq!(stability.advance(said.0.values()).next, TxnId(9));
    }

    /// What each node says now.
    #[derive(Default)]
    struct Said(BTreeMap<String, Announce>);

    impl Said {
        fn say(&mut self, node: &str, epoch: u64, base: u64) {
            let mut said = announce(node, 1, base);
            said.standing.epoch = Epoch(epoch);
            self.0.insert(node.to_owned(), said);
        }

        fn base(&self, node: &str, epoch: u64) -> u64 {
            let said = self.0.get(node).map(|said| &said.standing);
            said.filter(|said| said.epoch.0 == epoch).map_or(0, |said| said.applied.base().0)
        }
    }

    /// Everything in a cluster at one base, but for some nodes.
    fn stable(quorum: Option<usize>, others: &[(&str, u64)]) -> u64 {
        let mut said = Said::default();
        for node in CLUSTER.iter().copied().flatten() {
            said.say(node, 4, 100);
        }
        for (node, base) in others {
            said.say(node, 4, *base);
        }
        let mut stability = Stability::new(&configuration(4, CLUSTER, quorum));
        let stable = stability.advance(said.0.values());
        assert_eq!((stable.epoch, stability.stable()), (Epoch(4), stable));
        stable.next.0
    }

    #[test]
    fn a_dead_replica_does_not_hold_it_while_a_quorum_lives() {
        assert_eq!(stable(None, &[]), 100);
        assert_eq!(stable(None, &[("a1", 7)]), 100);
        assert_eq!(stable(None, &[("a1", 7), ("b3", 0)]), 100);
        assert_eq!(stable(None, &[("a1", 7), ("a3", 9)]), 9, "two of three are behind");
        assert_eq!(stable(None, &[("c1", 5)]), 5, "the only one of its partition");
        assert_eq!(stable(None, &[("a1", 500)]), 100, "one is ahead");
    }

    #[test]
    fn a_quorum_is_what_was_declared() {
        // A quorum has to fit the smallest partition, so here all have two nodes.
        let cluster: &[&[&str]] = &[&["a", "b"], &["c", "d"]];
        let reached = |quorum| {
            let mut said = Said::default();
            for (node, base) in [("a", 9), ("b", 20), ("c", 30), ("d", 40)] {
                said.say(node, 1, base);
            }
            Stability::new(&configuration(1, cluster, quorum)).advance(said.0.values()).next.0
        };
        assert_eq!(reached(Some(1)), 20);
        assert_eq!(reached(None), 20, "half of two is one");
        assert_eq!(reached(Some(2)), 9, "all: the one that is behind holds it");
    }

    #[test]
    fn whoever_says_nothing_or_is_elsewhere_counts_for_nothing() {
        let mut stability = Stability::new(&configuration(4, &[&["a", "b"]], Some(2)));
        let mut said = Said::default();
        assert_eq!(stability.advance(said.0.values()).last(), None);
        said.say("a", 4, 10);
        said.say("x", 4, 10);
        assert_eq!(stability.advance(said.0.values()).next, TxnId(0));
        for (epoch, next) in [(3, 0), (5, 0), (4, 8)] {
            said.say("b", epoch, 8);
            assert_eq!(stability.advance(said.0.values()).next, TxnId(next), "{epoch}");
        }
        assert_eq!(stability.stable().last(), Some(TxnId(7)));
    }

    #[test]
    fn st_3_a_crash_that_sets_a_replica_back_does_not_set_it_back() {
        let mut stability = Stability::new(&configuration(1, &[&["a", "b"]], Some(2)));
        let mut said = Said::default();
        for (base, next) in [(10, 10), (4, 10), (9, 10), (11, 11)] {
            said.say("a", 1, base);
            said.say("b", 1, base);
            assert_eq!(stability.advance(said.0.values()).next, TxnId(next), "{base}");
        }
    }

    proptest! {
        /// The model counts: the highest `next` that in every partition enough nodes have reached.
        #[test]
        fn st_3_it_is_the_highest_the_model_ever_had(
            says in prop::collection::vec((0_usize..7, 3_u64..6, 0_u64..12), 0..60),
            quorum in prop::option::of(Just(1_usize)),
        ) {
            let mut stability = Stability::new(&configuration(4, CLUSTER, quorum));
            let mut said = Said::default();
            let mut highest = 0;
            let mut before = Stable::default();
            let nodes: Vec<_> = CLUSTER.iter().copied().flatten().collect();
            for (node, epoch, base) in says {
                said.say(nodes[node], epoch, base);
                let is_reached = |next: &u64| CLUSTER.iter().all(|partition| {
                    let reached = partition.iter().filter(|node| said.base(node, 4) >= *next);
                    let enough = quorum.unwrap_or(partition.len().div_ceil(2));
                    reached.count() >= enough
                });
                highest = highest.max((0..12).rev().find(is_reached).unwrap());
                let stable = stability.advance(said.0.values());
                prop_assert_eq!(stable, Stable { epoch: Epoch(4), next: TxnId(highest) });
                prop_assert!(stable >= before);
                before = stable;
            }
        }
    }
}
