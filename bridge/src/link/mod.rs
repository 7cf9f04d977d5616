//! The protocol between the bridges of two clusters: messages in frames over mutual TLS 1.3.
//!
//! Both sides say [`Hello`](anabranch_schemas::link::Hello) first; then each may ask for documents
//! and is sent them. Who dialled makes no difference. A side that will not go on says why, in a
//! refusal with a stable code, and closes.

use bytes::Bytes;
use uuid::Uuid;

use anabranch_core::document::{Document, VersionVector};
use anabranch_core::ids::ActorId;
use anabranch_schemas::state;

use crate::error::Error;

mod codec;
mod flow;
mod handshake;
mod session;
#[cfg(test)]
mod tests;
mod transport;
mod trust;

pub(crate) use codec::MAX_FRAME_BYTES;
#[cfg(test)]
pub(crate) use flow::WINDOW_BYTES;
pub(crate) use flow::{
    Arrivals, Flow, MAX_HOLDINGS, MAX_HOLDINGS_BYTES, MAX_VERSIONS_BYTES, WINDOW,
};
pub(crate) use handshake::{Incoming, Link, Local, Peer, dial};
pub(crate) use session::{Handlers, run};
pub(crate) use transport::{Caller, Dialler, Listener};
pub(crate) use trust::explain;

/// The version of the protocol that this program speaks.
pub(crate) const VERSION: u32 = 2;

/// An actor as messages have it.
pub(crate) fn actor(bytes: &[u8]) -> Result<ActorId, Error> {
    let uuid = Uuid::from_slice(bytes);
    uuid.map(ActorId).map_err(|_| Error::protocol("an actor that is not 16 bytes long"))
}

/// Versions of a document as messages have them: a state without fields.
pub(crate) fn versions_bytes(versions: &VersionVector) -> Bytes {
    state::encode(&Document { versions: versions.clone(), ..Document::default() })
}

/// Why a side will not go on. The text is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The versions of the protocol differ.
    Version,
    /// The app is not replicated here.
    UnknownApp,
    /// The answer is about another app than the one that was asked for.
    AppMismatch,
    /// Both sides are the same cluster.
    SameCluster,
    /// The side is not who it says it is, or not who was expected.
    Identity,
    /// The clocks of the two sides differ too much.
    ClockDrift,
    /// The replication is linked to another cluster.
    Busy,
    /// There is a link between the two already, and it stays.
    Duplicate,
    /// The queries cannot be read.
    InvalidQuery,
    /// A frame is too large.
    TooLarge,
    /// A message makes no sense, or not now.
    Protocol,
    /// The replication was changed or removed, or could not write what it received.
    Restarting,
    /// The process is stopping.
    ShuttingDown,
}

impl RefusalCode {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::Version => "version",
            RefusalCode::UnknownApp => "unknown_app",
            RefusalCode::AppMismatch => "app_mismatch",
            RefusalCode::SameCluster => "same_cluster",
            RefusalCode::Identity => "identity",
            RefusalCode::ClockDrift => "clock_drift",
            RefusalCode::Busy => "busy",
            RefusalCode::Duplicate => "duplicate",
            RefusalCode::InvalidQuery => "invalid_query",
            RefusalCode::TooLarge => "too_large",
            RefusalCode::Protocol => "protocol",
            RefusalCode::Restarting => "restarting",
            RefusalCode::ShuttingDown => "shutting_down",
        }
    }
}
