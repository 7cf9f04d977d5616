//! Ingest servers: they die, and are started again.

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_ingest::{Context, IngestConfig, simulation};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::Tasks;
use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes, to_bytes};
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use parking_lot::Mutex;
use tower::ServiceExt;

use crate::cluster::Cluster;
use crate::node_log::NodeLog;

/// No answer is larger, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// An ingest server.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) log: Mutex<NodeLog>,
    running: Mutex<Option<Running>>,
}

struct Running {
    /// The newest timestamp of a read that named none.
    floor: Option<TxnId>,
    tasks: Tasks,
    routes: Router,
}

impl Server {
    pub(crate) fn new(name: String, log: NodeLog) -> Self {
        Server { name, log: Mutex::new(log), running: Mutex::new(None) }
    }

    /// How new a read is at least that names no timestamp and begins now.
    pub(crate) fn floor(&self) -> Option<TxnId> {
        self.running.lock().as_ref()?.floor
    }

    /// It has answered such a read.
    pub(crate) fn has_read(&self, txn: TxnId) {
        if let Some(running) = &mut *self.running.lock() {
            running.floor = running.floor.max(Some(txn));
        }
    }

    /// Sends it a request. `None` if it is dead, or dies before it has answered.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Option<(StatusCode, Vec<u8>)> {
        let (status, Streaming { tasks, body }) = self.open(request).await?;
        let body = unless_dead(&tasks, to_bytes(Body::from_stream(body), MAX_ANSWER)).await?;
        Some((status, body.ok()?.to_vec()))
    }

    /// The same, and takes the answer as it comes.
    pub(crate) async fn open(&self, request: Request<Body>) -> Option<(StatusCode, Streaming)> {
        let (routes, tasks) = {
            let running = self.running.lock();
            let Running { routes, tasks, .. } = running.as_ref()?;
            (routes.clone(), tasks.clone())
        };
        let response = unless_dead(&tasks, routes.oneshot(request)).await?;
        let (head, body) = response.unwrap_or_else(|never| match never {}).into_parts();
        Some((head.status, Streaming { tasks, body: body.into_data_stream() }))
    }
}

/// An answer that comes in pieces.
pub(crate) struct Streaming {
    tasks: Tasks,
    body: BodyDataStream,
}

impl Streaming {
    /// The next piece. `None` if there is none, or the server dies.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        unless_dead(&self.tasks, self.body.next()).await??.ok()
    }
}

/// Does something as a part of a server, unless that dies before it is done.
async fn unless_dead<F: Future>(tasks: &Tasks, what: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        () = tasks.shutdown().begun() => None,
        done = tasks.run(what) => Some(done),
    }
}

impl Cluster {
    /// Starts a server that does not run.
    pub(crate) fn start_server(&self, server: &Server) {
        let mut running = server.running.lock();
        if running.is_some() {
            return;
        }
        self.tell(&format!("{} starts", server.name));
        let log = server.log.lock().revive();
        *server.log.lock() = log.clone();
        let config = IngestConfig {
            server_name: server.name.clone(),
            request_timeout_ms: 3_000,
            read_wait_ms: 1_000,
            tombstone_time_to_live_ms: 30_000,
            open_to_all: true,
            ..IngestConfig::default()
        };
        let readiness = Readiness::new();
        let context = Context {
            journal: Arc::new(log),
            cluster: self.identity.clone(),
            store_node: AnyOf::new(&self.addresses(&server.name), None).expect("addresses"),
            ready: readiness.register("ingest"),
            readiness,
        };
        let tasks = self.tasks_of(&server.name);
        match simulation::start(&config, context, &tasks) {
            Ok(routes) => *running = Some(Running { floor: None, tasks, routes }),
            Err(error) => self.violate(&format!("{} does not start: {error}", server.name)),
        }
    }

    /// A server dies where it is.
    pub(crate) fn crash_server(&self, server: &Server) {
        if let Some(Running { tasks, .. }) = server.running.lock().take() {
            self.tell(&format!("{} dies", server.name));
            server.log.lock().die();
            tasks.crash();
        }
    }

    /// A part of a server that has ended by itself.
    pub(crate) fn failed_part(&self, server: &Server) -> Option<&'static str> {
        server.running.lock().as_ref()?.tasks.failed()
    }
}
