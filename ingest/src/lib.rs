//! anabranch-ingest
mod config;
mod document;
#[cfg(test)]
mod doubles;
mod error;
mod execute;
mod http;
mod idempotency;
mod limits;
mod load;
mod metrics;
mod rounds;
mod store;

pub use config::IngestConfig;
pub use error::Error;
