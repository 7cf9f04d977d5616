//! A store node: its store, its applying threads, its server, and what watches them.
//!
//! [`StoreNode::open`] opens the store and spawns nothing; [`StoreNode::start`] starts the rest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::Configuration;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::tasks::{Shutdown, TaskError, Tasks};
use tokio::net::TcpListener;

use crate::apply::{Apply, Retention};
use crate::config::StoreNodeConfig;
use crate::coordinate::{Coordinator, View};
use crate::error::Error;
use crate::feed::Feeds;
use crate::gossip::{self, Gossip, GossipOptions, Incarnation};
use crate::log::Log;
use crate::membership::Membership;
use crate::metrics;
use crate::observe::{self, Observer};
use crate::read::{Reads, blocking};
use crate::rpc::{self, Local, Services};
use crate::status::Status;
use crate::storage::{Opened, Storage, StoreOptions};

/// A node that is open and not yet started.
pub struct StoreNode {
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    membership: Membership,
    log: Arc<Log>,
    journal: Arc<dyn Journal>,
    opened: Opened,
}

/// Opens a node and starts it; returns where it listens, with the node catching up meanwhile.
/// Without a `configuration` it is the only one of its cluster.
///
/// # Errors
/// If the configuration does not have it, its data directory cannot be used, or its address not be
/// listened on.
pub async fn run(
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    configuration: Option<Configuration>,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> Result<SocketAddr, Error> {
    let node = blocking(move || StoreNode::open(config, identity, configuration, journal)).await?;
    node.start(tasks, ready).await
}

impl StoreNode {
    /// Opens the node's store, or makes it. Blocks.
    ///
    /// # Errors
    /// If the configuration does not have it, or the data directory cannot be used: it belongs to
    /// another log or another part of the keyspace, was written by a newer version, holds something
    /// else, or another process has it open.
    pub fn open(
        config: StoreNodeConfig,
        identity: ClusterIdentity,
        configuration: Option<Configuration>,
        journal: Arc<dyn Journal>,
    ) -> Result<Self, Error> {
        metrics::describe();
        let membership = Membership::new(config.node.clone(), configuration, config.listen)?;
        let log = Arc::new(Log::new(identity.actor, identity.slices, membership.owned()));
        let opened = Storage::open(&StoreOptions::new(&config), &log)?;
        tracing::info!(node = %membership.node(), slices = log.read().len(), "the store is open");
        Ok(StoreNode { config, identity, membership, log, journal, opened })
    }

    /// Starts it; returns where it listens. It is ready when it has applied what was in the log.
    ///
    /// # Errors
    /// If its address cannot be listened on, or its certificate cannot be used.
    pub async fn start(self, tasks: &Tasks, ready: ReadyFlag) -> Result<SocketAddr, Error> {
        let StoreNode { config, identity, membership, log, journal, opened } = self;
        let Opened { storage, progress, timeline } = opened;
        let (server, listener, address) = listen(&config).await?;
        let storage = Arc::new(storage);
        let status = Arc::new(Status::new(progress.next, progress.last, progress.time, ready));
        tracing::info!(
            cluster = %identity.name.as_str(), %address, next = %progress.next,
            "the store node starts"
        );
        Apply {
            cluster: identity.name.clone(),
            log: Arc::clone(&log),
            storage: Arc::clone(&storage),
            status: Arc::clone(&status),
            progress,
            timeline,
            retention: Retention {
                history_ms: config.history_ms,
                feed_ms: config.feed_retention_ms,
            },
            max_buffered_bytes: config.max_buffered_bytes,
        }
        .start(&journal, tasks);
        let observer = Observer {
            journal,
            txns: TopicPartition::new(identity.name.txns(), 0),
            rounds: log
                .read()
                .iter()
                .map(|slice| (*slice, TopicPartition::new(identity.name.rounds(), slice.0)))
                .collect(),
            storage: Arc::clone(&storage),
            status: Arc::clone(&status),
        };
        tasks.spawn("store-node-observe", observer.run(tasks.shutdown().clone()));
        let interval = Duration::from_millis(config.flush_interval_ms.max(1));
        tasks.spawn(
            "store-node-flush",
            flush(Arc::clone(&storage), Arc::clone(&status), interval, tasks.shutdown().clone()),
        );
        let local = Local {
            log: Arc::clone(&log),
            reads: Reads::new(
                Arc::clone(&storage),
                Arc::clone(&status),
                config.max_streams,
                Duration::from_millis(config.max_read_ms),
                tasks.shutdown().clone(),
            ),
            feeds: Feeds {
                storage: Arc::clone(&storage),
                status: Arc::clone(&status),
                slices: identity.slices,
                shutdown: tasks.shutdown().clone(),
            },
            status: Arc::clone(&status),
            storage: Arc::clone(&storage),
        };
        let gossip = Gossip::start(
            GossipOptions {
                node: membership.node().clone(),
                incarnation: Incarnation(now_millis()),
                actor: identity.actor,
                configuration: membership.configuration().clone(),
                tls: config.tls.clone(),
                settings: gossip::Settings::default(),
            },
            tasks,
        );
        let view = Arc::new(View::new(membership, gossip.clone(), log, status, storage));
        tasks.spawn("store-node-view", Arc::clone(&view).run(tasks.shutdown().clone()));
        let shutdown = tasks.shutdown().clone();
        let coordinator =
            Coordinator::new(local.clone(), view, config.tls.clone(), shutdown.clone());
        let services = Services { local, coordinator, gossip };
        tasks.spawn("store-node-rpc", async move {
            let served = rpc::serve(server, listener, services, shutdown);
            served.await.map_err(TaskError::from)
        });
        Ok(address)
    }
}

async fn listen(
    config: &StoreNodeConfig,
) -> Result<(tonic::transport::Server, TcpListener, SocketAddr), Error> {
    let failed = |reason: String| Error::Listen { address: config.listen.to_string(), reason };
    let tls = match &config.tls {
        Some(files) => Some(rpc::tls_config(files).map_err(failed)?),
        None => None,
    };
    let server = rpc::server(tls).map_err(|error| failed(chain(&error)))?;
    let bind = async {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = bind.await.map_err(|error| failed(error.to_string()))?;
    Ok((server, listener, address))
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Makes what was applied durable now and then. The last time is when applying ends.
async fn flush(
    storage: Arc<Storage>,
    status: Arc<Status>,
    interval: Duration,
    shutdown: Shutdown,
) -> Result<(), TaskError> {
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
        observe::flush(&storage, &status).await;
    }
}
