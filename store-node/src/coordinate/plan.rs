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
/// come farthest first. What was heard is a little old, so all of them are in it. Those that are
/// equally good take turns from one timestamp to the next.
pub(crate) fn order(mut candidates: Vec<Candidate>, at: TxnId) -> Vec<Candidate> {
    let reached = |candidate: &Candidate| candidate.base > at;
    let better = |a: &Candidate, b: &Candidate| {
        let by_suspicion = || a.suspicion.share().total_cmp(&b.suspicion.share());
        let by_place = || match reached(a) {
            true => b.is_here.cmp(&a.is_here),
            false => b.base.cmp(&a.base),
        };
        reached(b).cmp(&reached(a)).then_with(by_place).then_with(by_suspicion)
    };
    candidates.sort_by(|a, b| better(a, b).then_with(|| a.node.cmp(&b.node)));
    let equal = candidates.iter().take_while(|next| better(&candidates[0], next).is_eq()).count();
    if let Some(turn) = usize::try_from(at.0).ok().and_then(|at| at.checked_rem(equal)) {
        candidates[..equal].rotate_left(turn);
    }
    candidates
}
