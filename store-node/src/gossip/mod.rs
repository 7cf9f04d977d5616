//! What the store nodes of a cluster tell each other, and how each learns who is alive.
//!
//! * `announce`: what a node says of itself.
//! * `state`: the pure state machine: what a node knows, what it sends to whom and when.
//! * `knowledge`: what is known of each node, and what is still to be passed on.
//! * `suspicion`: how likely it is that a peer is gone.
//! * `doubt`: what of it is not believed.
//! * `certified`: for whom a certificate speaks.
//! * `message`, `wire`: what is sent, and as which bytes.
//! * `dice`: chance from a seed.
//! * `service`, `outbox`: the tasks around the state machine, and the server.

mod announce;
mod certified;
mod dice;
#[cfg(test)]
pub(crate) mod doubles;
mod doubt;
mod knowledge;
mod message;
mod outbox;
mod service;
#[cfg(test)]
mod simulation;
mod state;
mod suspicion;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
mod wire;

pub(crate) use announce::{Announce, Applied, Incarnation, NotReady, Standing};
pub(crate) use service::{Gossip, GossipOptions};
pub(crate) use state::Settings;
pub(crate) use suspicion::Suspicion;
pub(crate) use wire::ClusterMark;
