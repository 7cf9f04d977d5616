//! What every service needs around its work: named tasks with one shutdown, wall time, retries,
//! settings, telemetry, the admin endpoint, connections and TLS. Knows nothing of documents or
//! logs.

pub mod admin;
pub mod chance;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod listen;
mod metrics;
mod planted;
pub mod retry;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod tasks;
pub mod telemetry;
pub mod threads;
pub mod tls;
pub mod watched;
