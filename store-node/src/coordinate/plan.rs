//! Which replica of a partition to ask first. Pure.

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;

use crate::gossip::Suspicion;

/// A node that holds the partition, as it is known here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// Every transaction below this is applied there, as far as was heard.
    pub(crate) base: TxnId,
    /// Nothing, for this node itself.
    pub(crate) suspicion: Suspicion,
    /// Whether it is this node.
    pub(crate) is_here: bool,
}

/// The nodes in the order in which to ask them to read at `at`: first those that have come that
/// far, of these this node itself and then whoever is suspected least; then the others, whoever has
/// come farthest first. What was heard is a little old, so all of them are in it.
pub(crate) fn order(mut candidates: Vec<Candidate>, at: TxnId) -> Vec<Candidate> {
    let reached = |candidate: &Candidate| candidate.base > at;
    candidates.sort_by(|a, b| {
        let by_suspicion = || a.suspicion.share().total_cmp(&b.suspicion.share());
        let by_base = || b.base.cmp(&a.base);
        reached(b)
            .cmp(&reached(a))
            .then_with(|| if reached(a) { b.is_here.cmp(&a.is_here) } else { by_base() })
            .then_with(by_suspicion)
            .then_with(by_base)
            .then_with(|| a.node.cmp(&b.node))
    });
    candidates
}
