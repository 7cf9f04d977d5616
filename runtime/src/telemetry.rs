//! Logs and metrics of a process.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Sends logs to stderr: at `info` and above, or as `RUST_LOG` says. Later calls do nothing.
pub fn init_tracing(json: bool) {
    init_tracing_at(json, "info");
}

/// Sends logs to stderr: as `RUST_LOG` says, else as `filter` does. Later calls do nothing.
pub fn init_tracing_at(json: bool, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let colours = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // An error means that another part of the process was first; its choice stands.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

/// The metrics of the process.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

/// Collects the metrics of the process from now on.
///
/// # Errors
/// If something collects them already.
pub fn install_metrics() -> Result<MetricsHandle, TelemetryError> {
    let matching = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(matching("_seconds"), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(matching("_bytes"), &BYTES))
        .and_then(|builder| builder.set_buckets(&COUNTS))
        .map_err(TelemetryError)?;
    builder.install_recorder().map(MetricsHandle).map_err(TelemetryError)
}

/// Metrics could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("install the metrics recorder: {0}")]
pub struct TelemetryError(#[source] metrics_exporter_prometheus::BuildError);

/// Upper bounds of histograms, in seconds: from a fast local write to a request's deadline.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Upper bounds of histograms of sizes: from one record to the largest.
const BYTES: [f64; 9] = [256.0, 1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6];

/// Upper bounds of histograms of how many there are of something.
const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1e3, 1e4];

impl MetricsHandle {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recent samples into histograms; to be called every few seconds, so that their memory
    /// stays bounded when nobody scrapes.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}
