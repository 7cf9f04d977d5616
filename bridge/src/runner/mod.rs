//! Runs the replications that are declared, one task each, and hands them the connections that
//! are accepted for them.
//!
//! Nothing is kept here: which replications there are is in the metadata store, how far each has
//! received is in topic `cursors`.

#[cfg(test)]
mod absences;
#[cfg(test)]
mod chains;
mod declared;
mod holding;
mod lagging;
mod linked;
mod listener;
mod registry;
mod replication;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use anabranch_journal::Journal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::rounds::{HlcClock, RoundAppender};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::{client_config, server_config};
use anabranch_runtime::watched::{Watched, Watcher};
use anabranch_schemas::resources::ReplicationSpec;

use crate::config::BridgeConfig;
use crate::error::Error;
use crate::link::{Dialler, Listener, Local};
use crate::metrics;
use crate::status::StatusHandle;
use crate::store::Store;
use declared::{Key, Replications, Runner};
use registry::Registry;
use replication::Replication;
use watch::Declared;

/// A bridge that runs.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where it listens.
    pub address: SocketAddr,
    /// How its replications are doing.
    pub status: StatusHandle,
}

/// What all replications of a process share.
struct Context {
    journal: Arc<dyn Journal>,
    cluster: ClusterIdentity,
    local: Local,
    store: Store,
    appender: RoundAppender,
    dialler: Dialler,
    registry: Registry,
    status: StatusHandle,
}

/// Starts the bridge of a cluster, which asks any of its store nodes.
///
/// # Errors
/// If its address or its certificates cannot be used. Whatever comes later is
/// retried, and told by the status.
pub async fn run(
    config: BridgeConfig,
    cluster: ClusterIdentity,
    store_node: AnyOf,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> Result<Bridge, Error> {
    metrics::describe();
    let BridgeConfig { listen, tls, max_clock_drift_ms } = config;
    let tls = tls.ok_or_else(|| {
        let reason = "the bridge needs a certificate, its key and the authorities it trusts: \
                      make them with 'anabranch ca' and name the files in 'bridge.tls'";
        Error::Invalid(reason.to_owned())
    })?;
    let (server, dialler) = (server_config(&tls)?, Dialler::Tls(client_config(&tls)?));
    let failed = |source| Error::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let context = Context::new(cluster, store_node, journal, dialler, max_clock_drift_ms);
    let status = context.status.clone();
    tracing::info!(%address, cluster = %context.cluster.name, "the bridge listens");
    start(&Arc::new(context), Listener::Tls(listener, server), tasks, ready);
    Ok(Bridge { address, status })
}

/// Starts the bridge of a cluster in a simulation, as the process of this name: `cluster.bridge`,
/// since that stands for its certificate. The host that others dial is the same.
#[cfg(feature = "simulation")]
pub fn run_simulated(
    name: &str,
    max_clock_drift_ms: u64,
    cluster: ClusterIdentity,
    store_node: AnyOf,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> StatusHandle {
    let world = anabranch_runtime::simulation::current().expect("it runs in a simulation");
    let listener = Listener::Simulated(world.network().accept_streams(name));
    let dialler = Dialler::Simulated(name.to_owned());
    let context = Context::new(cluster, store_node, journal, dialler, max_clock_drift_ms);
    let status = context.status.clone();
    start(&Arc::new(context), listener, tasks, ready);
    status
}

impl Context {
    fn new(
        cluster: ClusterIdentity,
        store_node: AnyOf,
        journal: Arc<dyn Journal>,
        dialler: Dialler,
        max_clock_drift_ms: u64,
    ) -> Self {
        let clock = Arc::new(HlcClock::system());
        Context {
            local: Local {
                cluster: cluster.name.clone(),
                actor: cluster.actor,
                max_clock_drift: Duration::from_millis(max_clock_drift_ms),
            },
            store: Store::new(store_node),
            appender: RoundAppender::new(&cluster.name, cluster.actor, cluster.slices, clock),
            dialler,
            registry: Registry::default(),
            status: StatusHandle::default(),
            journal,
            cluster,
        }
    }
}

fn start(context: &Arc<Context>, listener: Listener, tasks: &Tasks, ready: ReadyFlag) {
    let declared = Watched::new(Declared::new());
    let changes = declared.watch();
    let (journal, cluster) = (context.journal.clone(), context.cluster.name.clone());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_thread("bridge-watch", move || {
        watch::follow(&journal, &cluster, &declared, &ready, &shutdown);
        Ok(())
    });
    let (accepting, shutdown) = (context.clone(), tasks.shutdown().clone());
    tasks.spawn("bridge-listener", async move {
        listener::accept_all(accepting, listener, shutdown).await;
        Ok(())
    });
    let (running, shutdown) = (context.clone(), tasks.shutdown().clone());
    tasks
        .spawn("bridge-runner", async move { Ok(run_declared(running, changes, shutdown).await?) });
}

/// Runs what is declared until the shutdown begins.
async fn run_declared(
    context: Arc<Context>,
    mut changes: Watcher<Declared>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let mut runner = Runner::new(Running(context));
    loop {
        let declared = changes.see().clone();
        runner.adjust(&declared);
        tokio::select! {
            biased;
            () = shutdown.begun() => break,
            ended = runner.ended() => ended?,
            () = changes.changed() => {}
        }
    }
    runner.stop().await
}

/// The replications of a process.
struct Running(Arc<Context>);

impl Replications for Running {
    fn add(
        &self,
        (app, name): &Key,
        spec: ReplicationSpec,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        let (app, reporter) = (*app, self.0.status.reporter(*app, name));
        match Replication::new(&self.0, app, name.clone(), spec) {
            Ok(replication) => Box::pin(replication.run(stop)),
            Err(error) => {
                tracing::error!(%app, replication = %name, %error, "a replication cannot run");
                reporter.update(|status| status.last_error = Some(error.to_string()));
                Box::pin(stop.cancelled_owned())
            }
        }
    }

    fn remove(&self, (app, name): &Key) {
        self.0.registry.remove(*app, name);
        self.0.status.reporter(*app, name).remove();
    }
}
