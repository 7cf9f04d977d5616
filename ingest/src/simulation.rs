//! A server in a simulation: all of it but its sockets.

use anabranch_runtime::tasks::Tasks;
use axum::Router;

use crate::config::IngestConfig;
use crate::error::Error;
use crate::service::{self, Context};

/// Starts a server. Returns what answers its requests.
///
/// # Errors
/// If a setting cannot be used.
pub fn start(config: &IngestConfig, context: Context, tasks: &Tasks) -> Result<Router, Error> {
    Ok(service::start(config, context, tasks)?.routes)
}
