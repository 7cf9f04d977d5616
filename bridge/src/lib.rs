//! Replication between clusters over mutual TLS 1.3.
//!
//! * [`run`] starts a bridge; it runs what `Replication` resources declare.
//! * `runner`: a task for each replication, the listener, who gets which link.
//! * `link`: the protocol.
//! * `send`: what a receiver asked for, in the order of the log. Keeps no state.
//! * `receive`: what arrives, with the position it brings, in one transaction.
//! * `lag`: how far the other side is behind.
//! * `queries`: what is asked for.
//! * [`identity`]: a cluster's authority and certificates.

mod config;
#[cfg(test)]
mod doubles;
mod error;
pub mod identity;
mod lag;
mod link;
mod metrics;
mod queries;
mod receive;
mod runner;
mod send;
#[cfg(test)]
mod simulation;
mod status;
mod store;
mod worker;

pub use config::BridgeConfig;
pub use error::Error;
pub use link::RefusalCode;
#[cfg(feature = "simulation")]
pub use runner::run_simulated;
pub use runner::{Bridge, run};
pub use status::{Connected, Progress, ReplicationStatus, StatusHandle};
