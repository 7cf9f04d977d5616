//! A store node: its store, its applying threads, its server, and what watches them.
//!
//! [`StoreNode::open`] opens the store and spawns nothing; [`StoreNode::start`] starts the rest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::metadata::{ClusterIdentity, follow_indexes};
use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::grpc::Here;
use anabranch_runtime::tasks::{Shutdown, TaskError, Tasks};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::apply::{Apply, Retention};
use crate::backfill::{ASK_AGAIN, Backfill, Declared, REMOVED_AT_ONCE, Reason, Remote, Source};
use crate::config::StoreNodeConfig;
use crate::coordinate::{Coordinator, Remember, View};
use crate::error::Error;
use crate::feed::Feeds;
use crate::gossip::{self, ClusterMark, Gossip, GossipOptions, Incarnation};
use crate::known::Known;
use crate::log::Log;
use crate::losses::Losses;
use crate::membership::{Configurations, Membership};
use crate::metrics;
use crate::observe::{self, Observer};
use crate::persistence::Persistence;
use crate::read::{Reads, blocking};
use crate::rpc::{self, Addressee, Local, Services};
use crate::status::Status;
use crate::storage::{Head, Opened, Progress, Storage, StoreOptions, Unfinished};
use crate::wishes::Wishes;

/// A node that is open and not yet started.
pub struct StoreNode {
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    configurations: Configurations,
    membership: Membership,
    log: Arc<Log>,
    journal: Arc<dyn Journal>,
    opened: Opened,
    gossip: gossip::Settings,
}

/// A node that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// What answers those who are in the same process, until it is stopped.
    pub here: Here,
}

/// Opens a node and starts it, which may be catching up still when this returns.
/// Without a configuration it is the only one of its cluster.
///
/// # Errors
/// If the configuration does not have it, its data directory cannot be used, or its address not be
/// listened on.
pub async fn run(
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    configurations: Configurations,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> Result<Running, Error> {
    let node = blocking(move || StoreNode::open(config, identity, configurations, journal)).await?;
    node.start(tasks, ready).await
}

/// The same of the only node of a cluster, all of which is in this process: it listens nowhere.
///
/// # Errors
/// If its data directory cannot be used.
pub async fn run_here(
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) -> Result<Here, Error> {
    let alone = watch::channel(None).1;
    let node = blocking(move || StoreNode::open(config, identity, alone, journal)).await?;
    Ok(here(node.start_all(tasks, ready), tasks))
}

/// What answers in this process until its shutdown begins.
fn here(routes: Routes, tasks: &Tasks) -> Here {
    let here = Here::new(routes);
    let (closing, shutdown) = (here.clone(), tasks.shutdown().clone());
    tasks.spawn("store-node-here", async move {
        shutdown.begun().await;
        closing.close();
        Ok(())
    });
    here
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
        configurations: Configurations,
        journal: Arc<dyn Journal>,
    ) -> Result<Self, Error> {
        metrics::describe();
        let declared = configurations.borrow().clone();
        let membership =
            Membership::new(config.node.clone(), declared, identity.slices, config.listen)?;
        let log = Arc::new(Log::new(identity.actor, identity.slices, membership.owned()));
        let opened = Storage::open(&StoreOptions::new(&config), &log)?;
        let known = Known::new(identity.clone(), configurations.borrow().clone());
        known.write(&config.data_dir)?;
        tracing::info!(node = %membership.node(), slices = log.read().len(), "the store is open");
        let gossip = gossip::Settings::default();
        Ok(StoreNode { config, identity, configurations, membership, log, journal, opened, gossip })
    }

    /// The same on a disk in memory.
    #[cfg(feature = "simulation")]
    pub(crate) fn open_in_memory(
        config: StoreNodeConfig,
        identity: ClusterIdentity,
        configurations: Configurations,
        journal: Arc<dyn Journal>,
        disk: &crate::storage::MemoryDisk,
    ) -> Result<Self, Error> {
        let declared = configurations.borrow().clone();
        let membership =
            Membership::new(config.node.clone(), declared, identity.slices, config.listen)?;
        let log = Arc::new(Log::new(identity.actor, identity.slices, membership.owned()));
        let opened = Storage::open_in_memory(disk, &StoreOptions::new(&config), &log)?;
        let gossip = gossip::Settings::leisurely();
        Ok(StoreNode { config, identity, configurations, membership, log, journal, opened, gossip })
    }

    /// What it applies.
    #[cfg(feature = "simulation")]
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Starts it. It is ready when it has applied what was in the log.
    ///
    /// # Errors
    /// If its address cannot be listened on, or its certificate cannot be used.
    pub async fn start(self, tasks: &Tasks, ready: ReadyFlag) -> Result<Running, Error> {
        let (server, listener, address) = listen(&self.config).await?;
        tracing::info!(%address, "the store node listens");
        let routes = self.start_all(tasks, ready);
        let served = rpc::serve(server, listener, routes.clone(), tasks.shutdown().clone());
        tasks.spawn("store-node-rpc", async move { served.await.map_err(TaskError::from) });
        Ok(Running { address, here: here(routes, tasks) })
    }

    /// Starts all but what listens. Returns what answers.
    fn start_all(self, tasks: &Tasks, ready: ReadyFlag) -> Routes {
        let (journal, cluster) = (Arc::clone(&self.journal), self.identity.name.clone());
        let (services, upkeep) = self.begin(tasks, ready);
        let (wishes, shutdown) = (Arc::clone(&upkeep.apply.wishes), tasks.shutdown().clone());
        tasks.spawn_thread("store-node-indexes", move || {
            follow_indexes(&journal, &cluster, &shutdown, |declared| wishes.declare(declared));
            Ok(())
        });
        let runtime = Handle::current();
        tasks.spawn_thread("store-node-apply", move || {
            // It starts other threads.
            let _entered = runtime.enter();
            upkeep.run().map_err(TaskError::from)
        });
        rpc::routes(services)
    }

    /// Starts all but what serves it and what keeps its store up with the log.
    pub(crate) fn begin(self, tasks: &Tasks, ready: ReadyFlag) -> (Services, Upkeep) {
        let StoreNode { config, identity, membership, log, journal, .. } = self;
        let (configurations, opened) = (self.configurations, self.opened);
        let Opened { storage, head, unfinished, lost_ranges } = opened;
        let progress = &head.progress;
        let status = Arc::new(Status::new(progress.next, progress.last, progress.time, ready));
        status.set_lost_ranges(lost_ranges);
        tracing::info!(
            cluster = %identity.name.as_str(), next = %progress.next, "the store node starts"
        );
        metrics::set_indexes(&storage.indexes());
        let wishes = Arc::new(Wishes::new(config.automatic_indexes));
        let storage = Arc::new(storage);
        let node = Started { config, identity, log, storage, wishes, status, tasks };
        let gossip = node.gossip(&membership, self.gossip);
        let mark = ClusterMark::of(node.identity.actor);
        let addressee = Addressee::new(membership.node(), mark);
        // Before anything is applied: it says what has to be kept for the reads of other nodes.
        let losses = node.losses(&membership, &journal);
        let view = node.view(membership, gossip.clone(), configurations);
        let (local, tls) = (node.local(), node.config.tls.clone());
        let shutdown = tasks.shutdown().clone();
        let coordinator = Coordinator::new(local.clone(), view, tls, shutdown);
        let (apply, backfill) = node.upkeep(Arc::clone(&journal), coordinator.clone());
        node.observe(journal, losses);
        node.flush();
        let services = Services { local, coordinator, gossip, addressee };
        (services, Upkeep { apply, backfill, head, unfinished })
    }
}

/// A node whose parts are being started.
struct Started<'a> {
    config: StoreNodeConfig,
    identity: ClusterIdentity,
    log: Arc<Log>,
    storage: Arc<Storage>,
    wishes: Arc<Wishes>,
    status: Arc<Status>,
    tasks: &'a Tasks,
}

impl Started<'_> {
    fn gossip(&self, membership: &Membership, settings: gossip::Settings) -> Gossip {
        let options = GossipOptions {
            node: membership.node().clone(),
            incarnation: Incarnation(now_millis()),
            actor: self.identity.actor,
            configuration: membership.configuration().clone(),
            tls: self.config.tls.clone(),
            settings,
            status: Arc::clone(&self.status),
        };
        Gossip::start(options, self.tasks)
    }

    fn view(
        &self,
        membership: Membership,
        gossip: Gossip,
        configurations: Configurations,
    ) -> Arc<View> {
        let (data_dir, identity) = (self.config.data_dir.clone(), self.identity.clone());
        let remember: Remember = Box::new(move |configuration| {
            Known::new(identity.clone(), Some(configuration.clone())).write(&data_dir)
        });
        let (log, status) = (Arc::clone(&self.log), Arc::clone(&self.status));
        let storage = Arc::clone(&self.storage);
        let max_read = Duration::from_millis(self.config.max_read_ms);
        let view = View::new(membership, gossip, log, status, storage, max_read, remember);
        let view = Arc::new(view);
        let watching = Arc::clone(&view).run(configurations, self.tasks.shutdown().clone());
        self.tasks.spawn("store-node-view", watching);
        view
    }

    /// What applies the log, and what takes from other replicas what the log does not have.
    fn upkeep(&self, journal: Arc<dyn Journal>, coordinator: Coordinator) -> (Apply, Backfill) {
        let StoreNodeConfig { history_ms, feed_retention_ms: feed_ms, .. } = self.config;
        let shutdown = self.tasks.shutdown().clone();
        let persistence = Persistence::new(Arc::clone(&self.status), shutdown);
        let apply = Apply {
            cluster: self.identity.name.clone(),
            journal,
            log: Arc::clone(&self.log),
            storage: Arc::clone(&self.storage),
            status: Arc::clone(&self.status),
            persistence: persistence.clone(),
            retention: Retention { history_ms, feed_ms },
            max_buffered_bytes: self.config.max_buffered_bytes,
            wishes: Arc::clone(&self.wishes),
            tasks: self.tasks.clone(),
        };
        let part = self.log.owned().clone();
        let backfill = Backfill {
            log: Arc::clone(&self.log),
            storage: Arc::clone(&self.storage),
            status: Arc::clone(&self.status),
            persistence,
            ask_again: ASK_AGAIN,
            lost_after: Duration::from_millis(self.config.lost_after_ms),
            removed_at_once: REMOVED_AT_ONCE,
            log_has: self.log_has(&apply.journal),
            agreement: Box::new(Declared {
                journal: Arc::clone(&apply.journal),
                cluster: self.identity.name.clone(),
                log: Arc::clone(&self.log),
                coordinator: coordinator.clone(),
            }),
            replicas: Box::new(Remote {
                coordinator,
                runtime: Handle::current(),
                part,
                slices: self.identity.slices,
            }),
        };
        (apply, backfill)
    }

    /// Says whether the log has all that comes after a position; not if that is not known.
    fn log_has(&self, journal: &Arc<dyn Journal>) -> Box<dyn Fn(&Progress) -> bool + Send> {
        let (journal, log) = (Arc::clone(journal), Arc::clone(&self.log));
        let name = self.identity.name.clone();
        Box::new(move |progress| {
            let starts_by = |at: TopicPartition, position: u64| {
                journal.bounds(&at).is_ok_and(|bounds| bounds.start.0 <= position)
            };
            let has = |slice: &Slice| {
                let position = progress.slices[usize::from(slice.0)].position();
                starts_by(TopicPartition::new(name.rounds(), slice.0), position.0)
            };
            starts_by(TopicPartition::new(name.txns(), 0), progress.next.0)
                && log.read().iter().all(has)
        })
    }

    fn losses(&self, membership: &Membership, journal: &Arc<dyn Journal>) -> Losses {
        let member = membership.configuration().member(membership.node());
        Losses {
            journal: Arc::clone(journal),
            cluster: self.identity.name.clone(),
            partition: member.expect("it is a member of its configuration").partition,
            storage: Arc::clone(&self.storage),
            declared: None,
        }
    }

    fn observe(&self, journal: Arc<dyn Journal>, losses: Losses) {
        let name = &self.identity.name;
        let rounds = self.log.read().iter();
        let observer = Observer {
            journal,
            txns: TopicPartition::new(name.txns(), 0),
            rounds: rounds
                .map(|slice| (*slice, TopicPartition::new(name.rounds(), slice.0)))
                .collect(),
            losses: Arc::new(Mutex::new(losses)),
            storage: Arc::clone(&self.storage),
            status: Arc::clone(&self.status),
        };
        self.tasks.spawn("store-node-observe", observer.run(self.tasks.shutdown().clone()));
    }

    fn flush(&self) {
        let interval = Duration::from_millis(self.config.flush_interval_ms.max(1));
        let (storage, status) = (Arc::clone(&self.storage), Arc::clone(&self.status));
        let flushing = flush(storage, status, interval, self.tasks.shutdown().clone());
        self.tasks.spawn("store-node-flush", flushing);
    }

    /// Answers from what this node holds.
    fn local(&self) -> Local {
        let reads = Reads::new(
            Arc::clone(&self.storage),
            Arc::clone(&self.status),
            Arc::clone(&self.wishes),
            self.config.max_streams,
            Duration::from_millis(self.config.max_read_ms),
            self.tasks.shutdown().clone(),
        );
        Local {
            log: Arc::clone(&self.log),
            mark: ClusterMark::of(self.identity.actor),
            source: Source {
                log: Arc::clone(&self.log),
                storage: Arc::clone(&self.storage),
                status: Arc::clone(&self.status),
                reads: reads.clone(),
            },
            reads,
            feeds: Feeds {
                storage: Arc::clone(&self.storage),
                status: Arc::clone(&self.status),
                slices: self.identity.slices,
                shutdown: self.tasks.shutdown().clone(),
            },
            status: Arc::clone(&self.status),
            storage: Arc::clone(&self.storage),
        }
    }
}

/// What keeps a store up with the log.
pub(crate) struct Upkeep {
    pub(crate) apply: Apply,
    pub(crate) backfill: Backfill,
    pub(crate) head: Head,
    pub(crate) unfinished: Option<Unfinished>,
}

impl Upkeep {
    /// Applies the log for as long as the process runs, with a backfill whenever the log does not
    /// have what comes next. Blocks.
    fn run(self) -> Result<(), Error> {
        let mut reason = self.first_reason();
        let Upkeep { apply, backfill, mut head, .. } = self;
        loop {
            if let Some(reason) = reason.take() {
                let Some(filled) = apply.filled(backfill.run(head, reason))? else { return Ok(()) };
                head = filled;
            }
            let Some(trimmed) = apply.run(head)?.trimmed() else { return Ok(()) };
            (head, reason) = (trimmed.0, Some(trimmed.1));
        }
    }

    /// Why something is to be taken from other replicas before the log is applied, if it is.
    pub(crate) fn first_reason(&self) -> Option<Reason> {
        let is_empty = self.head.progress.next == TxnId(0);
        match &self.unfinished {
            Some(unfinished) => Some(Reason::Interrupted(unfinished.clone())),
            None => is_empty.then_some(Reason::Empty),
        }
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
            biased;
            () = shutdown.begun() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
        observe::flush(&storage, &status).await;
    }
}
