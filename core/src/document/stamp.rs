//! Dots, stamps and version vectors: who wrote what, and which of two concurrent writes wins.

use std::collections::BTreeMap;

use crate::hlc::Hlc;
use crate::ids::ActorId;

/// Decides which of two writes wins: the later time, then the actor, then its sequence.
/// The order of the fields is the order of comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Time of the round, raised above every stamp the document already had.
    pub hlc: Hlc,
    /// The cluster that accepted the write.
    pub actor: ActorId,
    /// The round's place in that cluster's log.
    pub sequence: u64,
}

impl Stamp {
    /// This stamp, raised if need be so that it wins over `seen`. Within one log this makes the
    /// order of the log decide, however the clocks of its writers differ.
    #[must_use]
    pub fn raised_above(self, seen: Option<Stamp>) -> Stamp {
        match seen {
            Some(seen) if self <= seen => Stamp { hlc: seen.hlc.next(), ..self },
            _ => self,
        }
    }
}

/// For each actor, the highest sequence of it that a document includes. Sound because each actor's
/// writes are totally ordered and reach everyone in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector(BTreeMap<ActorId, u64>);

impl VersionVector {
    /// Includes everything `actor` wrote up to `sequence`.
    pub fn include(&mut self, actor: ActorId, sequence: u64) {
        let seen = self.0.entry(actor).or_insert(sequence);
        *seen = (*seen).max(sequence);
    }

    /// Includes what `other` includes.
    pub fn merge(&mut self, other: &VersionVector) {
        for (actor, sequence) in other.iter() {
            self.include(actor, sequence);
        }
    }

    /// Whether everything in `other` is included here.
    pub fn covers(&self, other: &VersionVector) -> bool {
        other.iter().all(|(actor, sequence)| self.0.get(&actor).is_some_and(|s| *s >= sequence))
    }

    /// Actors and sequences, by actor.
    pub fn iter(&self) -> impl Iterator<Item = (ActorId, u64)> {
        self.0.iter().map(|(actor, sequence)| (*actor, *sequence))
    }
}

impl FromIterator<(ActorId, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (ActorId, u64)>>(entries: I) -> Self {
        let mut vector = VersionVector::default();
        for (actor, sequence) in entries {
            vector.include(actor, sequence);
        }
        vector
    }
}
