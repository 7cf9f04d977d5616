//! A store node in a simulation: all of it but its threads, its disk and its sockets.
//!
//! Its store is in memory, with a disk that keeps what was flushed. What elsewhere are threads takes
//! turns with everything else. A crash ends all of it where it is; the disk stays.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::cluster::Configuration;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::keyspace::{Intervals, Slice};
use anabranch_journal::metadata::{ClusterIdentity, DeclaredIndexes};
use anabranch_journal::{Journal, Offset};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::simulation::{World, on_thread};
use anabranch_runtime::tasks::{TaskError, Tasks};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::apply::Image;
use crate::config::StoreNodeConfig;
use crate::coordinate::Coordinator;
use crate::error::Error;
use crate::node::{StoreNode, Upkeep};
use crate::read::decode_id;
use crate::rpc;
use crate::status::Status;
use crate::storage::{Positions, Storage, decode_state};
use crate::wishes::Wishes;

pub use crate::storage::MemoryDisk as Disk;

/// How fast a node goes.
#[derive(Debug)]
pub struct Pace {
    is_paused: AtomicBool,
    rest_us: AtomicU64,
}

/// A node that runs.
pub struct SimulatedNode {
    name: String,
    world: World,
    tasks: Tasks,
    storage: Arc<Storage>,
    status: Arc<Status>,
    wishes: Arc<Wishes>,
    coordinator: Coordinator,
    owned: Intervals,
    slices: Vec<Slice>,
    pace: Arc<Pace>,
    configurations: watch::Sender<Option<Configuration>>,
}

/// What a node is started with.
pub struct NodeOptions {
    /// It names the node.
    pub config: StoreNodeConfig,
    /// Whose log it applies.
    pub identity: ClusterIdentity,
    /// With addresses as they are from this node.
    pub configuration: Configuration,
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// What it has of earlier lives.
    pub disk: Disk,
    /// What its tasks are to be among.
    pub tasks: Tasks,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Every transaction below this is applied.
    pub next: TxnId,
    /// The last one that was.
    pub last: Option<TxnId>,
    /// Whether it serves reads.
    pub serves: bool,
    /// The oldest snapshot that can be read.
    pub oldest: TxnId,
    /// How many ranges of transactions are lost.
    pub lost_ranges: u64,
}

impl SimulatedNode {
    /// Starts a node.
    ///
    /// # Errors
    /// As [`StoreNode::open`].
    pub fn start(world: &World, options: NodeOptions, ready: ReadyFlag) -> Result<Self, Error> {
        let NodeOptions { config, identity, configuration, journal, disk, tasks } = options;
        let name = config.node.as_ref().map(ToString::to_string).unwrap_or_default();
        let configurations = watch::Sender::new(Some(configuration));
        let node = StoreNode::open_in_memory(
            config,
            identity,
            configurations.subscribe(),
            journal,
            &disk,
        )?;
        let (owned, slices) = (node.log().owned().clone(), node.log().read().to_vec());
        let (services, upkeep) = node.begin(&tasks, ready);
        let (storage, status) =
            (Arc::clone(&upkeep.apply.storage), Arc::clone(&upkeep.apply.status));
        let wishes = Arc::clone(&upkeep.apply.wishes);
        let coordinator = services.coordinator.clone();
        world.network().listen(&name, rpc::routes(services));
        let pace = Arc::new(Pace {
            is_paused: AtomicBool::new(false),
            rest_us: Pace::USUAL_REST_US.into(),
        });
        let keeping_up = keep_up(upkeep, Arc::clone(&pace));
        tasks.spawn("store-node-apply", async move { keeping_up.await.map_err(TaskError::from) });
        let world = world.clone();
        Ok(SimulatedNode {
            name,
            world,
            tasks,
            storage,
            status,
            wishes,
            coordinator,
            owned,
            slices,
            pace,
            configurations,
        })
    }

    /// Ends it where it is.
    pub fn crash(self) {
        self.world.network().close(&self.name);
        self.tasks.crash();
    }

    /// It hears of a newer configuration, with addresses as they are from it.
    pub fn configure(&self, configuration: Configuration) {
        self.configurations.send_replace(Some(configuration));
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.tasks.shutdown().has_begun()
    }

    /// The task that has failed, if one has: then the process would have ended.
    pub fn failed(&self) -> Option<&'static str> {
        self.tasks.failed()
    }

    /// Why nothing more will be applied, if that is so.
    pub fn halted(&self) -> Option<String> {
        self.status.applied().halted.map(|reason| reason.to_string())
    }

    /// What it needs of the log after a crash: from which transaction on, and from where on of each
    /// slice that it reads.
    pub fn needs(&self) -> (TxnId, BTreeMap<Slice, Offset>) {
        let Positions { next, slices } = self.storage.durable();
        let read = self.slices.iter().map(|slice| (*slice, slices[usize::from(slice.0)]));
        (next, read.collect())
    }

    /// The oldest snapshot that it reads for clients now.
    pub fn reads_from(&self) -> Option<TxnId> {
        self.coordinator.reads_from()
    }

    /// How fast it goes.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Its part of the keyspace.
    pub fn owned(&self) -> &Intervals {
        &self.owned
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        let applied = self.status.applied();
        Standing {
            next: applied.next,
            last: applied.last,
            serves: applied.caught_up,
            oldest: self.storage.history().oldest(),
            lost_ranges: self.status.lost_ranges(),
        }
    }

    /// The newest timestamp at which it would begin a read.
    pub fn stable(&self) -> Option<TxnId> {
        self.coordinator.stable().now_or_never()?.ok()?
    }

    /// All documents of a snapshot, as they are stored.
    ///
    /// # Errors
    /// If the store is broken.
    pub fn documents(&self, at: TxnId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let mut found = BTreeMap::new();
        self.storage.documents(&[], None, at, |id, _, state| {
            found.insert(id.to_vec(), state.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Which indexes it is to have.
    pub fn declare_indexes(&self, declared: DeclaredIndexes) {
        self.wishes.declare(declared);
    }

    /// What is not found by an index that serves a snapshot, and is there.
    ///
    /// # Errors
    /// If the store is broken.
    pub fn not_indexed(&self, at: TxnId) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for index in self.storage.indexes().all().filter(|index| index.serves(at)) {
            let prefix = DocumentId::collection_prefix(index.over.app, &index.over.collection);
            self.storage.documents(&prefix, None, at, |id, _, state| {
                let id = decode_id(id)?;
                let document = decode_state(state)?;
                let entry = Image::of(Some(&document)).entry(index, &id.key);
                if let Some(values) = entry
                    && !self.storage.has_entry(index.number, &values, &id.key, at)?
                {
                    missing.push(format!("{} by {}", id.key, index.over.paths));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(missing)
    }

    /// Makes what was applied durable.
    ///
    /// # Errors
    /// If the store is broken.
    pub fn flush(&self) -> Result<(), Error> {
        self.storage.flush()
    }

    /// Drops what may be dropped.
    pub fn compact(&self) {
        self.storage.compact();
    }
}

impl Pace {
    /// How long it rests if nothing else is said, in microseconds.
    pub const USUAL_REST_US: u64 = 8_000;

    /// It stands still, but for what it answers; or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// How long it rests between two looks at the log, in microseconds.
    pub fn rest_for(&self, rest_us: u64) {
        self.rest_us.store(rest_us, Ordering::Relaxed);
    }

    async fn rest(&self) {
        loop {
            sleep(Duration::from_micros(self.rest_us.load(Ordering::Relaxed))).await;
            if !self.is_paused.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// As [`Upkeep::run`], in turns.
async fn keep_up(upkeep: Upkeep, pace: Arc<Pace>) -> Result<(), Error> {
    let mut reason = upkeep.first_reason();
    let Upkeep { apply, mut backfill, mut head, .. } = upkeep;
    loop {
        if let Some(reason) = reason.take() {
            let run = move || {
                let done = backfill.run(head, reason);
                (backfill, done)
            };
            let (back, done) = on_thread(run).await;
            backfill = back;
            let Some(filled) = apply.filled(done)? else { return Ok(()) };
            head = filled;
        }
        let mut applying = apply.begin(head, Duration::ZERO);
        let ended = loop {
            pace.rest().await;
            match applying.step()? {
                Ok(still) => applying = still,
                Err(ended) => break ended,
            }
        };
        let Some(trimmed) = ended.trimmed() else { return Ok(()) };
        (head, reason) = (trimmed.0, Some(trimmed.1));
    }
}
