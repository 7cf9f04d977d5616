//! Writing rounds: [`RoundAppender`] puts them into a transaction, [`RoundWriter`] makes the
//! transactions.
//!
//! A round is its parts in topic `rounds`, one record or more for each slice it touches, and one
//! commit record in topic `txns` that says where they are. All are in one transaction, so readers
//! find a round whole or not at all (IN-2). Many rounds share a transaction; each has its own
//! commit record, whose offset is its transaction id.
//!
//! * `clock`: the time in commit records.
//! * `appender`: from a round to records.
//! * `dispatch`: which lane writes which round next. Pure.
//! * `lane`: a thread with a writer of its own, one transaction after the other.
//! * `writer`: the front of it all, async.
//! * `expiry`: a record between rounds, by which what was deleted long ago is dropped.
//! * `abandoned`: what other writers leave open when they die.

mod abandoned;
mod appender;
mod clock;
mod dispatch;
mod expiry;
mod lane;
mod writer;

#[cfg(test)]
mod tests;

use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};
use anabranch_schemas::records::{DocumentMutation, Restriction};
use anabranch_schemas::topics::ClusterName;

pub use abandoned::Abandoned;
pub use appender::{EncodedRound, RoundAppender};
pub use clock::HlcClock;
pub use expiry::Expiries;
pub use writer::{RoundWriter, RoundWriterConfig};

/// Mutations that become visible together.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Applied once, however often it is written.
    pub id: RoundId,
    /// The app of all its documents.
    pub app: AppId,
    /// The log it was first written in, and its transaction there; `None` if that is this one,
    /// now.
    pub origin: Option<(ActorId, TxnId)>,
    /// Of the request, if the client named it; else empty.
    pub digest: Vec<u8>,
    /// If a condition of one of its mutations does not hold, none of them applies. They have to be in
    /// one slice.
    pub atomic: bool,
    /// What it asks, in the order in which it applies.
    pub mutations: Vec<DocumentMutation>,
    /// What whoever asks may do, by collection; of others all.
    pub restrictions: Vec<Restriction>,
}

/// What the transactional ids of a server's lanes begin with; a number follows.
fn lane_prefix(cluster: &ClusterName, server: &str) -> String {
    format!("{cluster}-round-{server}-")
}
