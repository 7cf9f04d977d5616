//! Serves the HTTP API to those who connect.

#[cfg(test)]
mod tests;

use anabranch_runtime::listen::{self, Listener};
use anabranch_runtime::tasks::Shutdown;
use axum::Router;

use crate::config::IngestConfig;
use crate::metrics;

/// Serves `routes` until the shutdown begins and what is in flight is answered.
pub(crate) async fn serve(
    listener: Listener,
    routes: Router,
    config: &IngestConfig,
    shutdown: &Shutdown,
) {
    let limits = config.connection_limits();
    listen::serve(listener, routes, limits, shutdown, metrics::connection).await;
}
