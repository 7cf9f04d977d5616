//! What every service needs around its work: named tasks with one shutdown, wall time, retries,
//! settings, telemetry, the admin endpoint and TLS. Knows nothing of documents or logs.

pub mod admin;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod retry;
pub mod tasks;
pub mod telemetry;
pub mod tls;
