//! One service of a cluster on Kafka: what `ingest`, `store-node`, `cdc` and `bridge` have in
//! common.
//!
//! The admin endpoint answers from the first moment: while Kafka cannot be reached, `/readyz` says
//! so and the service waits.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_bridge::StatusHandle;
use anabranch_ingest as ingest;
use anabranch_journal::Journal;
use anabranch_journal::kafka::KafkaJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_runtime::admin::{self, Readiness, ReadyFlag};
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::listen::{self, Limits, Listener};
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::telemetry;
use anyhow::Result;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::board::{self, Board};
use crate::cluster::Plan;
use crate::failure::Failure;
use crate::host::{self, Host, Signals};
use crate::https::{self, Https};
use crate::settings::{LogFormat, Settings};
use crate::store_nodes;

/// What a service is started with.
pub(crate) struct Service<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) host: &'a Host,
    /// What its HTTP addresses show.
    pub(crate) https: &'a Https,
    pub(crate) readiness: &'a Readiness,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) cluster: ClusterIdentity,
    /// The service itself says when it can do its work.
    pub(crate) ready: ReadyFlag,
}

impl Service<'_> {
    /// The store nodes of its cluster.
    pub(crate) fn store_nodes(&self, tasks: &Tasks) -> Result<AnyOf> {
        store_nodes::find(self.settings, &self.journal, &self.cluster.name, tasks)
    }
}

/// What a service adds to its admin endpoint.
pub(crate) struct Admin {
    pub(crate) routes: Router,
    /// Its links to other clusters.
    pub(crate) links: Option<StatusHandle>,
    /// Whether it is ingest.
    pub(crate) ingest: bool,
    /// How it is asked how far its store node is.
    pub(crate) store_node: AnyOf,
}

/// Runs a service until it is told to end. Until it has started, `front` answers that it is not
/// ready. With `known`, which says whose log it is, it starts also while the log is away.
pub(crate) async fn run(
    settings: Settings,
    name: &'static str,
    front: Option<TcpListener>,
    known: Option<ClusterIdentity>,
    start: impl AsyncFnOnce(Service<'_>) -> Result<Admin>,
) -> Result<()> {
    let mut signals = Signals::watch()?;
    telemetry::init_tracing(settings.log_format == LogFormat::Json);
    let metrics = telemetry::install_metrics()?;
    let host = Host::new();
    let https = Https::open(&settings, &host)?;
    if front.is_some() {
        https::warn_of_clear_text(&settings);
    }
    let plan = Plan::new(settings.cluster()?, &settings)?;
    let kafka = settings.kafka(&format!("anabranch-{name}"))?;
    let brokers = kafka.bootstrap.clone();
    let journal =
        KafkaJournal::connect(kafka).map_err(|error| Failure::usage(error.to_string()))?;
    let journal: Arc<dyn Journal> = Arc::new(journal);
    let admin = host::listen(settings.listen_admin, "--listen-admin").await?;
    tracing::info!(
        service = name, cluster = plan.name.as_str(), kafka = brokers,
        admin = %host::address(&admin)?, "starting"
    );

    let readiness = Readiness::new();
    let (log_ready, ready) = (readiness.register("journal"), readiness.register(name));
    let late = Late::default();
    host.serve_admin(https.admin(admin)?, readiness.clone(), metrics.clone(), late.routes());
    host.keep_metrics(metrics);
    let limits = settings.ingest.connection_limits();
    let starting = front.map(|front| Starting::serve(https.api(front), limits, readiness.clone()));
    let opened = tokio::select! {
        opened = plan.open(&journal, &log_ready, known, host.edge.shutdown()) => opened?,
        _ = signals.next() => None,
    };
    if let Some(starting) = starting {
        starting.end().await;
    }
    if let Some(cluster) = opened {
        let service = Service {
            settings: &settings,
            host: &host,
            https: &https,
            readiness: &readiness,
            journal: journal.clone(),
            cluster: cluster.clone(),
            ready,
        };
        let Admin { routes, links, ingest, store_node } = start(service).await?;
        let board = Board::new(cluster, journal, readiness, links).asking(store_node);
        let board = if ingest { board.with_ingest() } else { board };
        let (admin, hosts) = (settings.listen_admin, &settings.ingest.allowed_hosts);
        let board = ingest::guarded(admin, hosts, board::routes(board));
        late.set(routes.merge(board));
        return host.serve(settings.shutdown_timeout(), &mut signals).await;
    }
    host.close_or_break_off(settings.shutdown_timeout(), &mut signals).await
}

/// Answers on a service's address while the service waits for its log.
struct Starting {
    end: Shutdown,
    task: JoinHandle<()>,
}

impl Starting {
    fn serve(front: Listener, limits: Limits, readiness: Readiness) -> Self {
        let routes = admin::health_routes(readiness).fallback(not_yet);
        let end = Shutdown::new();
        let until = end.clone();
        let task = tokio::spawn(async move {
            listen::serve(front, routes, limits, &until, || ()).await;
        });
        Starting { end, task }
    }

    async fn end(self) {
        self.end.begin();
        // It accepts nobody any more; who still takes a reply may go on with that.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.task).await;
    }
}

async fn not_yet() -> Response {
    let body = json!({ "error": {
        "code": "journal_unavailable",
        "message": "the server has just started and cannot reach its log yet",
        "hint": "nothing was written; send the request again later",
    } });
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], Json(body)).into_response()
}

/// Routes that are there once the service is.
#[derive(Clone, Default)]
struct Late(Arc<OnceLock<Router>>);

impl Late {
    fn set(&self, routes: Router) {
        // Set once; a second time nothing would change.
        let _ = self.0.set(routes);
    }

    fn routes(&self) -> Router {
        Router::new().fallback(forward).with_state(self.clone())
    }
}

async fn forward(State(late): State<Late>, request: Request) -> Response {
    match late.0.get() {
        Some(routes) => match routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => (StatusCode::SERVICE_UNAVAILABLE, "the service is starting\n").into_response(),
    }
}
