//! From which snapshot on every node keeps what reads see: the cluster's GC timestamp.
//!
//! Each node says which snapshot is the oldest that it needs: that of its oldest read, or about the
//! newest that is stable. None gives up what another one needs, so a long read goes on at another
//! replica when the one that it was reading from dies.
//!
//! Of a node that is gone the last that it said stays. A read has a bounded lifetime, so what a node
//! needs counts for that long once newer snapshots are stable, and then no more: whether the node
//! is dead, cut off, or does not move for whatever other reason. Only who copies what it lacks needs
//! one snapshot for as long as that takes, and has it while it is heard.
//!
//! Pure: the node passes in what it has heard, and the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;

/// What a node needs is heard a little later than it is so.
const LATE: Duration = Duration::from_secs(1);

/// How long what a node copies is kept for it when nothing is heard of it.
const COPYING: Duration = Duration::from_secs(60);

/// What was heard of what a node needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// The oldest snapshot that it needs; `None` if nothing was heard.
    pub(crate) txn: Option<TxnId>,
    /// For how long nothing was heard of it, if what it needs is what it copies.
    pub(crate) copies: Option<Duration>,
}

/// What each node of a cluster needs, as far as one of them has heard.
#[derive(Debug)]
pub(crate) struct Horizon {
    /// How long a node's need counts once it is behind.
    patience: Duration,
    needs: BTreeMap<NodeId, Need>,
    bound: TxnId,
}

/// The oldest snapshot that a node needs.
#[derive(Clone, Copy, Debug)]
struct Need {
    txn: TxnId,
    /// It is copied, by a node that is there.
    is_copied: bool,
    /// Since when it has been older than what is stable.
    behind_since: Option<Instant>,
}

impl Horizon {
    /// In which nobody has said anything; `max_read` is how long a read may take.
    pub(crate) fn new(max_read: Duration) -> Self {
        Horizon { patience: max_read + LATE, needs: BTreeMap::new(), bound: TxnId(0) }
    }

    /// Computes from what every member needs, the node itself included, which snapshots this node
    /// has to keep: those from the one that is returned on. Of whom nothing was heard everything
    /// may be needed. `stable` is the newest snapshot that is stable as far as is known here.
    ///
    /// A read that names an older snapshot which is still there is held as well, so this can go
    /// back; what was given up does not come back.
    pub(crate) fn advance(
        &mut self,
        members: impl IntoIterator<Item = (NodeId, Said)>,
        stable: TxnId,
        now: Instant,
    ) -> TxnId {
        let before = std::mem::take(&mut self.needs);
        for (node, Said { txn, copies }) in members {
            let txn = txn.unwrap_or_default();
            let is_copied = copies.is_some_and(|silence| silence < COPYING);
            let since = before.get(&node).filter(|need| need.txn == txn);
            let since = since.and_then(|need| need.behind_since).unwrap_or(now);
            let behind_since = (txn < stable).then_some(since);
            self.needs.insert(node, Need { txn, is_copied, behind_since });
        }
        let is_read = |need: &&Need| {
            need.behind_since.is_none_or(|since| now.duration_since(since) < self.patience)
        };
        let needs = || self.needs.values();
        let kept_from = oldest(needs().filter(|need| need.is_copied || is_read(need)), stable);
        self.bound = self.bound.max(oldest(needs().filter(is_read), stable));
        kept_from
    }

    /// The GC timestamp as far as it has come: it never goes back. Every node keeps the snapshots
    /// from here on as long as somebody reads them.
    pub(crate) fn bound(&self) -> TxnId {
        self.bound
    }
}

fn oldest<'a>(needs: impl Iterator<Item = &'a Need>, stable: TxnId) -> TxnId {
    needs.map(|need| need.txn).fold(stable, TxnId::min)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::reading::{ActiveReads, Reading};
    use super::*;
    use crate::storage::History;

    const MAX_READ: Duration = Duration::from_secs(10);

    fn reads(txn: Option<TxnId>) -> Said {
        Said { txn, copies: None }
    }

    fn needs(said: &[(&str, Option<u64>)]) -> Vec<(NodeId, Said)> {
        said.iter().map(|(node, txn)| (node.parse().unwrap(), reads(txn.map(TxnId)))).collect()
    }

    #[test]
    fn what_the_neediest_node_reads_is_kept() {
        let (mut horizon, now) = (Horizon::new(MAX_READ), Instant::now());
        let all = needs(&[("a", Some(9)), ("b", Some(5)), ("c", Some(7))]);
        assert_eq!(horizon.advance(all.clone(), TxnId(8), now), TxnId(5));
        assert_eq!(horizon.advance(all, TxnId(4), now), TxnId(4), "no more than is stable here");
        let silent = needs(&[("a", Some(9)), ("b", None)]);
        assert_eq!(horizon.advance(silent, TxnId(8), now), TxnId(0));
        assert_eq!(horizon.bound(), TxnId(5), "it never goes back");
    }

    #[test]
    fn who_is_behind_for_longer_than_a_read_may_take_counts_no_more() {
        let (mut horizon, began) = (Horizon::new(MAX_READ), Instant::now());
        let mut at = |seconds: u64, a: u64, b: Option<u64>, stable: u64| {
            let now = began + Duration::from_secs(seconds);
            horizon.advance(needs(&[("a", Some(a)), ("b", b)]), TxnId(stable), now).0
        };
        assert_eq!(at(0, 5, Some(5), 5), 5);
        assert_eq!(at(100, 5, Some(5), 5), 5, "nothing was written for long: nobody is behind");
        assert_eq!(at(100, 9, Some(5), 9), 5);
        assert_eq!(at(110, 20, Some(5), 20), 5);
        assert_eq!(at(111, 20, Some(5), 20), 20, "b has not moved for longer than any read");
        assert_eq!(at(112, 20, Some(6), 21), 6, "it has, and so it reads");
        assert_eq!(at(120, 20, Some(7), 21), 7);
        assert_eq!(at(130, 21, Some(7), 21), 7);
        assert_eq!(at(131, 21, Some(7), 21), 21);
        assert_eq!(at(132, 21, None, 21), 0, "who begins anew has said nothing yet");
        assert_eq!(at(143, 21, None, 21), 21);
    }

    #[test]
    fn who_copies_has_its_snapshot_for_as_long_as_it_is_heard() {
        let (mut horizon, began) = (Horizon::new(MAX_READ), Instant::now());
        let mut at = |seconds: u64, silence: u64| {
            let copies = Some(Duration::from_secs(silence));
            let copying = ("b".parse().unwrap(), Said { txn: Some(TxnId(5)), copies });
            let all = needs(&[("a", Some(20))]).into_iter().chain([copying]);
            horizon.advance(all, TxnId(20), began + Duration::from_secs(seconds)).0
        };
        assert_eq!([at(0, 0), at(100, 0), at(159, 59)], [5, 5, 5]);
        assert_eq!(at(160, 60), 20, "it is gone");
        assert_eq!(at(161, 1), 5, "it was cut off");
        assert_eq!(horizon.bound(), TxnId(20), "no reads are promised that for so long");
    }

    /// A node as far as this is about it.
    struct Node {
        stable: u64,
        reads: Arc<ActiveReads>,
        history: Arc<History>,
        horizon: Horizon,
        /// What it says, and what it has heard of each.
        says: TxnId,
        heard: Vec<Option<TxnId>>,
        reading: Vec<Reading>,
    }

    impl Node {
        fn new() -> Self {
            Node {
                stable: 0,
                reads: Arc::new(ActiveReads::new(MAX_READ)),
                history: Arc::default(),
                horizon: Horizon::new(MAX_READ),
                says: TxnId(0),
                heard: vec![None; NODES],
                reading: Vec::new(),
            }
        }
    }

    const NODES: usize = 3;

    #[derive(Clone, Debug)]
    enum Step {
        /// More becomes stable, as far as a node knows.
        Stable(usize, u64),
        Say(usize),
        Hear(usize, usize),
        Read(usize),
        End(usize),
        /// A node gives up what it may.
        Collect(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let node = || 0..NODES;
        let step = prop_oneof![
            (node(), 1_u64..5).prop_map(|(node, more)| Step::Stable(node, more)),
            node().prop_map(Step::Say),
            (node(), node()).prop_map(|(from, to)| Step::Hear(from, to)),
            node().prop_map(Step::Read),
            node().prop_map(Step::End),
            node().prop_map(Step::Collect),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// However late what is said is heard: what somebody reads is kept by everybody, and when
        /// nobody reads nothing is kept for ever.
        #[test]
        fn no_node_gives_up_what_another_one_reads(steps in steps()) {
            let now = Instant::now();
            let mut nodes: Vec<_> = (0..NODES).map(|_| Node::new()).collect();
            let names: Vec<NodeId> = (0..NODES).map(|n| format!("n{n}").parse().unwrap()).collect();
            let collect = |node: &mut Node| {
                let said = names.iter().cloned().zip(node.heard.iter().copied().map(reads));
                let kept = node.horizon.advance(said, TxnId(node.stable), now);
                node.history.keep_from(Some(kept));
                node.history.advance(TxnId(u64::MAX))
            };
            for step in steps {
                match step {
                    Step::Stable(node, more) => nodes[node].stable += more,
                    Step::Say(node) => {
                        let Node { stable, reads, history, says, .. } = &mut nodes[node];
                        *says = reads.say(history.oldest_held(), TxnId(*stable), now);
                    }
                    Step::Hear(from, to) => nodes[to].heard[from] = Some(nodes[from].says),
                    Step::Read(node) => {
                        let Node { stable, reads, reading, .. } = &mut nodes[node];
                        let began = reads.begin(TxnId(*stable), now);
                        prop_assert!(began.is_held, "nobody was told of more than is stable");
                        reading.push(began.reading);
                    }
                    Step::End(node) => drop(nodes[node].reading.pop()),
                    Step::Collect(node) => {
                        collect(&mut nodes[node]);
                    }
                }
                for reading in nodes.iter().flat_map(|node| &node.reading) {
                    for (number, node) in nodes.iter().enumerate() {
                        let oldest = node.history.oldest();
                        prop_assert!(oldest <= reading.txn(), "n{} {:?}", number, oldest);
                    }
                }
            }
            for node in &mut nodes {
                node.reading.clear();
                node.stable = 1_000_000;
                node.says = node.reads.say(None, TxnId(1_000_000), now);
            }
            let says: Vec<_> = nodes.iter().map(|node| Some(node.says)).collect();
            for node in &mut nodes {
                node.heard.clone_from(&says);
                prop_assert_eq!(collect(node), TxnId(1_000_000));
            }
        }
    }
}
