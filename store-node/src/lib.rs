//! The store node: applies the log in its order, keeps a version of each document per
//! transaction, answers reads at a timestamp and streams what it applied.
//!
//! * `backfill`: from other replicas, what the log no longer has.
//! * `apply`: from the log into the store, the pure core and the threads around it.
//! * `storage`: RocksDB; everything of some transactions is one batch.
//! * `read`: one document, queries, scans, each of one snapshot.
//! * `wishes`: which indexes there are to be.
//! * `feed`: what was applied, from a transaction on.
//! * `rpc`: all of that over gRPC.

mod apply;
mod backfill;
mod config;
mod coordinate;
mod error;
mod feed;
mod gossip;
mod known;
mod log;
mod losses;
mod membership;
mod metrics;
mod node;
mod observe;
mod persistence;
mod read;
mod rpc;
#[cfg(feature = "simulation")]
pub mod simulation;
mod stability;
mod status;
mod storage;
mod wishes;

pub use config::StoreNodeConfig;
pub use error::Error;
pub use known::Known;
pub use membership::Configurations;
pub use node::{Running, StoreNode, run, run_here};
