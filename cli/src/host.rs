//! A process that serves: its signals, its admin endpoints, its tasks in the order in which they
//! end.
//!
//! Tasks are in stages. When a signal comes or a task fails, each stage is asked to end once those
//! before it have: what takes requests first, what it relies on later. All of it has a deadline;
//! what is still in the air then is what a crash would lose: nothing that was acknowledged.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anabranch_runtime::admin::{self, Readiness};
use anabranch_runtime::listen::Listener;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::telemetry::MetricsHandle;
use anabranch_runtime::tls::ServedCertificate;
use anyhow::{Context, Result, bail};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// How often recent samples of metrics are folded together.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// The tasks of a process.
pub(crate) struct Host {
    /// What takes requests: ingest and the bridge.
    pub(crate) edge: Tasks,
    /// What follows the store node: cdc.
    pub(crate) feed: Tasks,
    /// What they all ask: the store node.
    pub(crate) store: Tasks,
    /// What answers while the others end.
    admin: Tasks,
}

impl Host {
    pub(crate) fn new() -> Self {
        let tasks = || Tasks::new(Shutdown::new());
        Host { edge: tasks(), feed: tasks(), store: tasks(), admin: tasks() }
    }

    fn stages(&self) -> [&Tasks; 4] {
        [&self.edge, &self.feed, &self.store, &self.admin]
    }

    /// Serves the admin endpoint of a cluster or of a service.
    pub(crate) fn serve_admin(
        &self,
        listener: Listener,
        readiness: Readiness,
        metrics: MetricsHandle,
        more: Router,
    ) {
        let routes = admin::admin_routes(readiness, metrics).merge(more);
        let shutdown = self.admin.shutdown().clone();
        self.admin.spawn("admin", async move {
            admin::serve(listener, routes, shutdown).await;
            Ok(())
        });
    }

    /// Keeps the memory of metrics bounded.
    pub(crate) fn keep_metrics(&self, metrics: MetricsHandle) {
        let shutdown = self.admin.shutdown().clone();
        self.admin.spawn("metrics", async move {
            loop {
                tokio::select! {
                    () = shutdown.begun() => return Ok(()),
                    () = tokio::time::sleep(METRICS_UPKEEP) => metrics.upkeep(),
                }
            }
        });
    }

    /// Looks `every` so often whether a certificate was renewed.
    pub(crate) fn follow_certificate(&self, certificate: ServedCertificate, every: Duration) {
        let shutdown = self.admin.shutdown().clone();
        self.admin.spawn("certificate", async move {
            certificate.follow(every, &shutdown).await;
            Ok(())
        });
    }

    /// Resolves when the shutdown of any stage begins: a task of it failed.
    pub(crate) async fn ends(&self) {
        let [edge, feed, store, admin] = self.stages().map(|stage| stage.shutdown().clone());
        tokio::select! {
            () = edge.begun() => {}
            () = feed.begun() => {}
            () = store.begun() => {}
            () = admin.begun() => {}
        }
    }

    /// Serves until a signal comes or a task fails, then ends all stages in their order.
    pub(crate) async fn serve(self, deadline: Duration, signals: &mut Signals) -> Result<()> {
        tokio::select! {
            signal = signals.next() => tracing::info!(signal, "shutting down"),
            () = self.ends() => {}
        }
        self.close_or_break_off(deadline, signals).await
    }

    /// Ends all stages in their order, or at once when one more signal comes.
    pub(crate) async fn close_or_break_off(
        self,
        deadline: Duration,
        signals: &mut Signals,
    ) -> Result<()> {
        tokio::select! {
            closed = self.close(deadline) => closed,
            signal = signals.next() => bail!("ended at once: {signal} came during the shutdown"),
        }
    }

    /// Ends the store node and what follows it. What takes requests goes on without them.
    pub(crate) async fn close_readers(&mut self, deadline: Duration) -> Result<()> {
        for stage in [&mut self.feed, &mut self.store] {
            let ending = std::mem::replace(stage, Tasks::new(Shutdown::new()));
            ending.shutdown().begin();
            ending.join(deadline).await?;
        }
        Ok(())
    }

    /// Ends all stages in their order.
    pub(crate) async fn close(self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let mut result = Ok(());
        for stage in [self.edge, self.feed, self.store, self.admin] {
            stage.shutdown().begin();
            // What one stage left of the time is enough for the next to be told.
            let left =
                until.saturating_duration_since(Instant::now()).max(Duration::from_millis(200));
            let ended = stage.join(left).await;
            result = result.and(ended.map_err(anyhow::Error::from));
        }
        result
    }
}

/// The signals that tell a process to end. Watching replaces what they do by default for as long as
/// the process lives, so it begins when the process does: one that comes while nobody waits for it
/// is there when somebody does.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn watch() -> Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("watch for SIGINT")?,
        })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Listens on an address that `flag` sets.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::usage(format!("cannot listen on {address}: {error}"))
            .with_hint(format!("another process may use it; {flag} takes another address"))
            .into()
    })
}

/// The same socket twice, for one after the other to accept from.
pub(crate) fn twice(listener: TcpListener) -> Result<(TcpListener, TcpListener)> {
    let doubled = || {
        let first = listener.into_std()?;
        let second = first.try_clone()?;
        Ok::<_, std::io::Error>((TcpListener::from_std(first)?, TcpListener::from_std(second)?))
    };
    doubled().context("hand over a socket")
}

/// The address that a listener got.
pub(crate) fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().context("find out where a socket listens")
}
