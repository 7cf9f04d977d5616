//! The log that a node applies, and the part of the keyspace that it keeps of it.

use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::{Intervals, Slice, SliceCount};

/// Whose log it is, and what this node owns of the keyspace.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    actor: ActorId,
    slices: SliceCount,
    owned: Intervals,
    /// The slices in which something is owned, in order: only these are read.
    read: Vec<Slice>,
}

impl Log {
    /// Of a cluster, for a node that owns this: whole slices, so that what one record of a slice
    /// asks is decided by one node.
    pub(crate) fn new(actor: ActorId, slices: SliceCount, owned: Intervals) -> Self {
        let read = owned.slices(slices);
        let whole: Intervals = read.iter().map(|slice| slices.interval(*slice)).collect();
        assert_eq!(owned, whole, "a node owns whole slices");
        Log { actor, slices, owned, read }
    }

    /// The cluster as an actor.
    pub(crate) fn actor(&self) -> ActorId {
        self.actor
    }

    /// How many slices the log has.
    pub(crate) fn slices(&self) -> SliceCount {
        self.slices
    }

    /// What this node owns.
    pub(crate) fn owned(&self) -> &Intervals {
        &self.owned
    }

    /// The slices that are read, in order.
    pub(crate) fn read(&self) -> &[Slice] {
        &self.read
    }

    /// Whether a slice is read.
    pub(crate) fn reads(&self, slice: Slice) -> bool {
        self.read.binary_search(&slice).is_ok()
    }
}
