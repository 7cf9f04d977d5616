//! The admin endpoint of a process: `/healthz` says that it lives, `/readyz` that all its parts
//! can do their work, `/metrics` what they did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;

use crate::listen::{self, Limits, Listener};
use crate::tasks::Shutdown;
use crate::telemetry::MetricsHandle;

/// What the endpoint grants to those who connect: few do, and none has to be slow.
const LIMITS: Limits = Limits {
    connections: 256,
    head: Duration::from_secs(30),
    pause: Duration::from_secs(30),
    last_replies: Duration::from_secs(30),
};

/// Which parts of a process are ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// How a part says whether it is ready.
#[derive(Clone, Debug)]
pub struct ReadyFlag {
    part: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// No parts yet.
    pub fn new() -> Self {
        Readiness::default()
    }

    /// Adds a part, which is not ready yet.
    pub fn register(&self, part: &'static str) -> ReadyFlag {
        let flag = ReadyFlag { part, readiness: self.clone() };
        flag.set_not_ready("starting");
        flag
    }

    /// The parts that are not ready, and why.
    pub fn not_ready(&self) -> Vec<(&'static str, String)> {
        let parts = self.0.lock();
        parts.iter().filter_map(|(part, why)| why.clone().map(|why| (*part, why))).collect()
    }
}

impl ReadyFlag {
    /// The part can do its work.
    pub fn set_ready(&self) {
        self.readiness.0.lock().insert(self.part, None);
    }

    /// The part cannot do its work now.
    pub fn set_not_ready(&self, why: impl Into<String>) {
        self.readiness.0.lock().insert(self.part, Some(why.into()));
    }
}

/// `GET /healthz` and `/readyz`.
pub fn health_routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
}

/// `GET /healthz`, `/readyz` and `/metrics`.
pub fn admin_routes(readiness: Readiness, metrics: MetricsHandle) -> Router {
    health_routes(readiness).route("/metrics", get(render).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.not_ready();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = missing.iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn render(State(metrics): State<MetricsHandle>) -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text, metrics.render()).into_response()
}

/// Serves `routes` until the shutdown begins and what is in flight is answered.
pub async fn serve(listener: Listener, routes: Router, shutdown: Shutdown) {
    listen::serve(listener, routes, LIMITS, &shutdown, || ()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_all_its_parts_are() {
        let readiness = Readiness::new();
        let (log, store) = (readiness.register("log"), readiness.register("store"));
        log.set_ready();
        assert_eq!(readiness.not_ready(), vec![("store", "starting".to_owned())]);
        store.set_ready();
        assert!(readiness.not_ready().is_empty());
        log.set_not_ready("down");
        assert_eq!(readiness.not_ready(), vec![("log", "down".to_owned())]);
    }
}
