//! Ingest: the HTTP API of a cluster. Statements and bulk loads become rounds in the journal,
//! reads are passed to the store node.
//!
//! * `access`: who asks, and what they may do.
//! * `http`: routes, errors, the reply to each request, OpenAPI; `limits` keeps it up under load.
//! * `execute`: statements, `load`: bulk loads; both write through `rounds`.
//! * `live`: queries whose results are followed.
//! * `idempotency`: what makes a repeated request the same request.
//! * `store`: the store node, asked over gRPC.
//! * `admin`: resources, on the listener for operators.
//! * `examples`: requests and replies, shown in the descriptions of both.
//! * `hosts`: the names that both listeners answer to.
//!
//! The server keeps no state: whatever dies, a client that repeats its request under the same
//! `Idempotency-Key` gets it done once (IN-1, IN-2).

mod access;
mod admin;
mod config;
mod document;
#[cfg(test)]
mod doubles;
mod error;
mod examples;
mod execute;
mod expiry;
mod hosts;
mod http;
mod idempotency;
mod limits;
mod live;
mod load;
mod metrics;
mod rounds;
mod seal;
mod service;
#[cfg(feature = "simulation")]
pub mod simulation;
mod store;

pub use access::{ApiToken, Audit, JsonWebToken, NoKey, NoToken, ShownKey};
pub use admin::{Operated, Operators, ReplicationProbe, admin_routes, guarded};
pub use config::IngestConfig;
pub use error::Error;
pub use service::{Context, run};
