//! Puts the parts together and runs them.
//!
//! Readiness is tried, not assumed: every second the store node is asked for a document and the
//! journal for the end of its log. A server that is not ready still answers; whoever balances load
//! decides what to make of it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, DocumentId, DocumentKey};
use anabranch_journal::metadata::{ClusterIdentity, OpenedLater, follow_keys};
use anabranch_journal::rounds::{
    Abandoned, Expiries, HlcClock, RoundAppender, RoundWriter, RoundWriterConfig,
};
use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::admin::{Readiness, ReadyFlag};
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::listen::Listener;
use anabranch_runtime::tasks::{Shutdown, Tasks, blocking};
use axum::Router;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::access::{Keys, Readable};
use crate::config::IngestConfig;
use crate::error::{Error, Refusal};
use crate::execute::{Executor, LogEnd, RoundLog};
use crate::expiry;
use crate::hosts::Hosts;
use crate::http::{self, Api, server};
use crate::limits::Limits;
use crate::live::Live;
use crate::load::Loader;
use crate::metrics;
use crate::rounds::Rounds;
use crate::store::{At, Store};

/// How often readiness is tried, and how long a try may take.
const TRY_EVERY: Duration = Duration::from_secs(1);
const TRY_TIME: Duration = Duration::from_secs(2);

/// What a server works with.
pub struct Context {
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// Whose log it is.
    pub cluster: ClusterIdentity,
    /// The store nodes, any of which is asked.
    pub store_node: AnyOf,
    /// Of the whole process, for `/readyz`.
    pub readiness: Readiness,
    /// Of this server.
    pub ready: ReadyFlag,
}

/// A server that runs, and does not listen yet.
pub(crate) struct Started {
    /// What it answers.
    pub(crate) routes: Router,
    writer: Arc<RoundWriter>,
}

/// Starts a server on `listener`. It runs until the shutdown of `tasks` begins; then requests that
/// run are finished, and what waits for the journal is written.
///
/// # Errors
/// If a setting cannot be used. Whatever comes later is retried.
pub fn run(
    config: IngestConfig,
    listener: Listener,
    context: Context,
    tasks: &Tasks,
) -> Result<(), Error> {
    let hosts = Hosts::at(listener.local_addr()?, &config.allowed_hosts);
    let Started { routes, writer } = start(&config, context, tasks)?;
    let (routes, shutdown) = (hosts.guard(routes), tasks.shutdown().clone());
    tasks.spawn("ingest", async move {
        server::serve(listener, routes, &config, &shutdown).await;
        writer.shutdown().await;
        Ok(())
    });
    Ok(())
}

/// Starts all of a server but its listener.
pub(crate) fn start(
    config: &IngestConfig,
    context: Context,
    tasks: &Tasks,
) -> Result<Started, Error> {
    config.check()?;
    metrics::describe();
    let Context { journal, cluster, store_node, readiness, ready } = context;
    let store = Store::new(store_node, cluster.actor, cluster.slices, config.read_wait());
    let clock = Arc::new(HlcClock::system());
    let appender = RoundAppender::new(&cluster.name, cluster.actor, cluster.slices, clock);
    let mut settings = RoundWriterConfig::new(&config.server_name);
    settings.write_timeout = config.request_timeout();
    let writer = RoundWriter::open(journal.clone(), &cluster.name, appender.clone(), settings)?;
    let writer = Arc::new(writer);
    let rounds = Rounds::new(writer.clone(), store.clone());
    let log = RoundLog::new(journal.clone(), cluster.name.clone());
    let log_end = LogEnd::new(journal.clone(), &cluster.name);
    let metadata = Arc::new(OpenedLater::new(journal.clone(), cluster.name.clone()));
    let keys = Arc::new(Keys::new(config.open_to_all));
    let api = Arc::new(Api {
        keys: Arc::clone(&keys),
        limits: Limits::new(config),
        executor: Executor::new(
            config,
            store.clone(),
            rounds.clone(),
            log,
            log_end.clone(),
            metadata,
        ),
        log_end,
        loader: Loader::new(config, store.clone(), rounds, tasks.shutdown().clone()),
        live: Live::new(config, store.clone(), tasks.shutdown().clone()),
        store: store.clone(),
        readiness,
        config: config.clone(),
    });
    let shutdown = tasks.shutdown().clone();
    if !keys.is_open() {
        let (journal, name, until) = (journal.clone(), cluster.name.clone(), shutdown.clone());
        let keys = Arc::clone(&keys);
        tasks.spawn_thread("ingest-keys", move || {
            follow_keys(&journal, &name, &until, |declared| keys.replace(declared));
            Ok(())
        });
    }
    let abandoned =
        Abandoned::new(journal.clone(), &cluster.name, cluster.slices, &config.server_name);
    let until = shutdown.clone();
    tasks.spawn_thread("ingest-abandoned", move || {
        abandoned.run(&until);
        Ok(())
    });
    let (server, time_to_live) = (&config.server_name, config.tombstone_time_to_live());
    let expiries = Expiries::new(journal.clone(), &cluster.name, appender, server, time_to_live);
    let until = shutdown.clone();
    tasks.spawn("ingest-expiry", async move {
        expiry::run(expiries, time_to_live, &until).await;
        Ok(())
    });
    let txns = TopicPartition::new(cluster.name.txns(), 0);
    let probe = Probe { store, journal, txns, keys };
    let until = shutdown;
    tasks.spawn("ingest-readiness", async move {
        probe.run(&ready, &until).await;
        Ok(())
    });
    Ok(Started { routes: http::router(api), writer })
}

/// Tries what requests need.
struct Probe {
    store: Store,
    journal: Arc<dyn Journal>,
    txns: TopicPartition,
    keys: Arc<Keys>,
}

impl Probe {
    async fn run(&self, ready: &ReadyFlag, shutdown: &Shutdown) {
        let trying = async {
            loop {
                match self.try_once().await {
                    Ok(()) => ready.set_ready(),
                    Err(refusal) => ready.set_not_ready(refusal.to_string()),
                }
                sleep(TRY_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.begun() => ready.set_not_ready("shutting down"),
            () = trying => {}
        }
    }

    async fn try_once(&self) -> Result<(), Refusal> {
        self.keys.check_read()?;
        let (journal, txns) = (self.journal.clone(), self.txns.clone());
        let bounds = blocking(move || journal.bounds(&txns)).await;
        if let Ok(Err(error)) = bounds {
            return Err(Refusal::of_journal(&error));
        }
        // A document that nobody has: only whether there is an answer matters.
        let id = DocumentId {
            app: AppId(Uuid::nil()),
            collection: "readiness".parse().expect("it is a name"),
            key: DocumentKey::from_value(&Value::from(0)).expect("it is an id"),
        };
        let deadline = Instant::now() + TRY_TIME;
        self.store.get(&id, &Readable::ALL, At::Newest(None), deadline).await.map(|_| ())
    }
}
