//! How batches are cut, and what they weigh.

use bytes::Bytes;

use anabranch_core::ids::ActorId;
use anabranch_schemas::link;

use crate::link::MAX_FRAME_BYTES;

/// What a change weighs besides its id and state.
const OVERHEAD_BYTES: usize = 16;

/// How large batches may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// A batch of several rounds has at most this many bytes.
    pub(crate) max_bytes: usize,
    /// And at most this many documents.
    pub(crate) max_documents: usize,
    /// A round above this many bytes is cut.
    pub(crate) max_round_bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchLimits {
            max_bytes: 1024 * 1024,
            max_documents: 2_000,
            max_round_bytes: MAX_FRAME_BYTES / 2,
        }
    }
}

/// What a change weighs in a batch, roughly.
pub(crate) fn change_bytes(change: &link::Change) -> usize {
    change.document_id.len() + change.state.len() + OVERHEAD_BYTES
}

/// An actor as messages have it.
pub(crate) fn actor_bytes(actor: ActorId) -> Bytes {
    Bytes::copy_from_slice(actor.0.as_bytes())
}
