//! How large a document may become in the log. What goes beyond is left out when a round is applied:
//! every replica has to decide alike, so these are no settings, and a change of them is a change of
//! what the log means.
//!
//! Readers see at most [`MAX_BYTES`](anabranch_core::document::MAX_BYTES) of JSON, which ingest
//! checks for what is written at once; but what is written in pieces adds up only when it is
//! applied, and a state also has stamps and what was removed.

/// The largest state that a write of this cluster may make.
pub const MAX_STATE_BYTES: usize = 16 << 20;

/// The largest change event, whoever wrote it. States that other clusters send are merged up to
/// here, since replicas of a document that refuse each other's states diverge. Below what the
/// topics take with room for the record around it.
pub const MAX_CHANGE_BYTES: usize = 30 << 20;
