//! Runs the replications that are declared, one task each, and hands them the connections that
//! are accepted for them.
//!
//! Nothing is kept here: which replications there are is in the metadata store, how far each has
//! received is in topic `cursors`.

mod linked;
mod listener;
mod registry;
mod replication;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use anabranch_core::ids::AppId;
use anabranch_journal::Journal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::rounds::{HlcClock, RoundAppender};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::{client_config, server_config};
use anabranch_schemas::resources::{ReplicationSpec, ResourceName};

use crate::config::BridgeConfig;
use crate::error::Error;
use crate::link::Local;
use crate::metrics;
use crate::status::StatusHandle;
use crate::store::Store;
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
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    registry: Registry,
    status: StatusHandle,
}

/// Starts the bridge of a cluster, whose store node is at `store_node` (`host:port`).
///
/// # Errors
/// If its address, the store node's or its certificates cannot be used. Whatever comes later is
/// retried, and told by the status.
pub async fn run(
    config: BridgeConfig,
    cluster: ClusterIdentity,
    store_node: &str,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> Result<Bridge, Error> {
    metrics::describe();
    let BridgeConfig { listen, tls, store_node_tls } = config;
    let tls = tls.ok_or_else(|| {
        let reason = "the bridge needs a certificate, its key and the authorities it trusts: \
                      make them with 'anabranch ca' and name the files in 'bridge.tls'";
        Error::Invalid(reason.to_owned())
    })?;
    let clock = Arc::new(HlcClock::system());
    let context = Arc::new(Context {
        local: Local { cluster: cluster.name.clone(), actor: cluster.actor },
        store: Store::new(store_node, store_node_tls.as_ref())?,
        appender: RoundAppender::new(&cluster.name, cluster.actor, cluster.slices, clock),
        server: server_config(&tls)?,
        client: client_config(&tls)?,
        registry: Registry::default(),
        status: StatusHandle::default(),
        journal,
        cluster,
    });
    let failed = |source| Error::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let status = context.status.clone();
    start(&context, listener, tasks, ready);
    tracing::info!(%address, cluster = %context.cluster.name, "the bridge listens");
    Ok(Bridge { address, status })
}

fn start(context: &Arc<Context>, listener: TcpListener, tasks: &Tasks, ready: ReadyFlag) {
    let (declared, changes) = tokio::sync::watch::channel(Declared::new());
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
    tasks.spawn("bridge-runner", async move {
        run_declared(running, changes, shutdown).await;
        Ok(())
    });
}

/// A replication's task.
struct Running {
    spec: ReplicationSpec,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Keeps one task running for each replication that is declared.
async fn run_declared(
    context: Arc<Context>,
    mut changes: tokio::sync::watch::Receiver<Declared>,
    shutdown: Shutdown,
) {
    let mut running: BTreeMap<(AppId, ResourceName), Running> = BTreeMap::new();
    loop {
        let declared = changes.borrow_and_update().clone();
        let mut ending = BTreeMap::new();
        for key in running.keys().cloned().collect::<Vec<_>>() {
            let as_declared = |running: &mut Running| declared.get(&key) != Some(&running.spec);
            if let Some(Running { stop, task, .. }) = take_if(&mut running, &key, as_declared) {
                stop.cancel();
                ending.insert(key, task);
            }
        }
        for (key, spec) in declared {
            let before = ending.remove(&key);
            if let Entry::Vacant(entry) = running.entry(key) {
                let started = start_replication(&context, entry.key(), spec, before);
                entry.insert(started);
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = shutdown.begun() => break,
        }
    }
    for replication in running.values() {
        replication.stop.cancel();
    }
    for (_, replication) in running {
        // A panic was reported by the task's own handle; there is nothing left to end.
        let _ = replication.task.await;
    }
}

fn take_if<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    condition: impl FnOnce(&mut V) -> bool,
) -> Option<V> {
    if map.get_mut(key).is_some_and(condition) { map.remove(key) } else { None }
}

/// Starts a replication once its predecessor has ended.
fn start_replication(
    context: &Arc<Context>,
    (app, name): &(AppId, ResourceName),
    spec: ReplicationSpec,
    before: Option<JoinHandle<()>>,
) -> Running {
    let stop = CancellationToken::new();
    let (context, app, name) = (context.clone(), *app, name.clone());
    let (stopped, declared) = (stop.clone(), spec.clone());
    let task = tokio::spawn(async move {
        if let Some(before) = before {
            // However it ended: this one fences what it may have left.
            let _ = before.await;
        }
        let reporter = context.status.reporter(app, &name);
        match Replication::new(&context, app, name.clone(), declared) {
            Ok(replication) => replication.run(stopped).await,
            Err(error) => {
                tracing::error!(%app, replication = %name, %error, "a replication cannot run");
                reporter.update(|status| status.last_error = Some(error.to_string()));
                stopped.cancelled().await;
            }
        }
        context.registry.remove(app, &name);
        reporter.remove();
    });
    Running { spec, stop, task }
}
