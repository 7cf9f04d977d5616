//! From the log into the store, in the order of the log.
//!
//! Two threads read ([`sources`]), bounded by what a third says it can take ([`demand`]); the
//! third puts rounds together ([`assembler`]), computes what they do ([`round`], [`touched`])
//! and writes it ([`applier`]). The two middle ones are pure. Between rounds stand records by which
//! what was deleted long ago is dropped ([`expire`]).

mod applier;
mod assembler;
mod demand;
mod documents;
mod expire;
mod images;
mod moves;
mod permit;
mod round;
mod run;
mod sources;
mod tend;
#[cfg(test)]
mod tests;
mod touched;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::tasks::Tasks;
use anabranch_schemas::topics::ClusterName;

use self::applier::{Applier, Held};
use self::assembler::Assembler;
use self::demand::Demand;
use self::documents::RecentStates;
use self::sources::{Commits, Input, POLL, Parts, Slices, Source};
use crate::error::Error;
use crate::log::Log;
use crate::persistence::Persistence;
use crate::status::Status;
use crate::storage::{Head, Storage};
use crate::wishes::Wishes;

pub(crate) use self::applier::{Ended, Retention};
#[cfg(feature = "simulation")]
pub(crate) use self::moves::Image;

/// How many messages of the reading threads wait at most; each is what one poll gave.
const INPUTS: usize = 8;

/// All that applying needs.
pub(crate) struct Apply {
    pub(crate) cluster: ClusterName,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) log: Arc<Log>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
    pub(crate) persistence: Persistence,
    pub(crate) retention: Retention,
    pub(crate) max_buffered_bytes: usize,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) tasks: Tasks,
}

/// What reads the log and what applies it, before they run.
pub(crate) struct Parted {
    commits: Commits,
    parts: Parts,
    inputs: Receiver<Input>,
    applier: Applier,
}

impl Apply {
    /// Applies the log from `head` on, with two threads that read it. Blocks until it ends.
    pub(crate) fn run(&self, head: Head) -> Result<Ended, Error> {
        let Parted { commits, parts, inputs, applier } = self.begin(head, POLL);
        self.tasks.spawn_thread("store-node-commits", move || {
            commits.run();
            Ok(())
        });
        self.tasks.spawn_thread("store-node-parts", move || {
            parts.run();
            Ok(())
        });
        applier.run(&inputs)
    }

    /// Where a backfill has come to; `None` if the node stops, or is halted by what it found.
    pub(crate) fn filled(&self, done: Result<Head, Error>) -> Result<Option<Head>, Error> {
        match done {
            Ok(head) => Ok(Some(head)),
            Err(Error::Shutdown) => Ok(None),
            Err(error) => self.status.halt_if_corrupt(error).map(|()| None),
        }
    }

    /// What is needed to apply the log from `head` on; its readers wait that long for what is not
    /// there yet.
    pub(crate) fn begin(&self, head: Head, poll: Duration) -> Parted {
        let Head { progress, timeline } = head;
        let demand = Arc::new(Demand::new(self.max_buffered_bytes));
        let (given, inputs) = sync_channel(INPUTS);
        let source = || Source {
            journal: Arc::clone(&self.journal),
            demand: Arc::clone(&demand),
            status: Arc::clone(&self.status),
            shutdown: self.tasks.shutdown().clone(),
            inputs: given.clone(),
            poll,
        };
        let txns = TopicPartition::new(self.cluster.txns(), 0);
        let commits = Commits::new(source(), txns, progress.next);
        let (read, positions) = (self.log.read().to_vec(), progress.positions());
        let slices = Slices { read, partitions: self.partitions(), positions };
        let parts = Parts::new(source(), slices);
        let applier = Applier {
            storage: Arc::clone(&self.storage),
            status: Arc::clone(&self.status),
            demand,
            partitions: self.partitions(),
            retention: self.retention,
            timeline,
            assembler: Assembler::new(&self.log, progress.next, &progress.slices),
            log: Arc::clone(&self.log),
            recent: RecentStates::default(),
            held: Held::default(),
            progress,
            persistence: self.persistence.clone(),
            wishes: Arc::clone(&self.wishes),
            expires_at_most: expire::AT_MOST,
            expires_at_once: expire::PAGE,
            indexed_at_once: tend::PAGE,
        };
        Parted { commits, parts, inputs, applier }
    }

    /// The partitions of topic `rounds`.
    fn partitions(&self) -> Vec<TopicPartition> {
        let rounds = self.cluster.rounds();
        let slices = self.log.slices().all();
        slices.map(|slice| TopicPartition::new(rounds.clone(), slice.0)).collect()
    }
}

#[cfg(feature = "simulation")]
impl Parted {
    /// Reads once and applies what is there; how it ended, if it did. It never waits.
    pub(crate) fn step(mut self) -> Result<Result<Self, Ended>, Error> {
        let reads = self.commits.step() & self.parts.step();
        match self.applier.apply_waiting(&self.inputs) {
            Ok(()) if reads => Ok(Ok(self)),
            Ok(()) => self.applier.end(Error::Shutdown).map(Err),
            Err(error) => self.applier.end(error).map(Err),
        }
    }
}
