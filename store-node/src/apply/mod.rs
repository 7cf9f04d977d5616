//! From the log into the store, in the order of the log.
//!
//! Two threads read ([`sources`]), bounded by what a third says it can take ([`demand`]); the
//! third puts rounds together ([`assembler`]), computes what they do ([`round`], [`touched`])
//! and writes it ([`applier`]). The two middle ones are pure.

mod applier;
mod assembler;
mod demand;
mod documents;
mod images;
mod round;
mod run;
mod sources;
#[cfg(test)]
mod tests;
mod touched;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::tasks::Tasks;
use anabranch_schemas::topics::ClusterName;

use self::applier::{Applier, Held};
use self::assembler::Assembler;
use self::demand::Demand;
use self::documents::RecentStates;
use self::sources::{Input, Slices, Source};
use crate::error::Error;
use crate::log::Log;
use crate::persistence::Persistence;
use crate::status::Status;
use crate::storage::{Head, Progress, Storage};

pub(crate) use self::applier::{Ended, Retention};

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
    pub(crate) tasks: Tasks,
}

impl Apply {
    /// Applies the log from `head` on, with two threads that read it. Blocks until it ends.
    pub(crate) fn run(&self, head: Head) -> Result<Ended, Error> {
        let Head { progress, timeline } = head;
        let demand = Arc::new(Demand::new(self.max_buffered_bytes));
        let inputs = self.read(&demand, &progress);
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
        };
        applier.run(&inputs)
    }

    /// Starts the threads that read the log.
    fn read(&self, demand: &Arc<Demand>, progress: &Progress) -> Receiver<Input> {
        let (inputs, received) = sync_channel(INPUTS);
        let source = || Source {
            journal: Arc::clone(&self.journal),
            demand: Arc::clone(demand),
            status: Arc::clone(&self.status),
            shutdown: self.tasks.shutdown().clone(),
            inputs: inputs.clone(),
        };
        let (commits, parts) = (source(), source());
        let txns = TopicPartition::new(self.cluster.txns(), 0);
        let next = progress.next;
        let (read, positions) = (self.log.read().to_vec(), progress.positions());
        let slices = Slices { read, partitions: self.partitions(), positions };
        self.tasks.spawn_thread("store-node-commits", move || {
            sources::read_commits(&commits, &txns, next);
            Ok(())
        });
        self.tasks.spawn_thread("store-node-parts", move || {
            sources::read_parts(&parts, slices);
            Ok(())
        });
        received
    }

    /// The partitions of topic `rounds`.
    fn partitions(&self) -> Vec<TopicPartition> {
        let rounds = self.cluster.rounds();
        let slices = self.log.slices().all();
        slices.map(|slice| TopicPartition::new(rounds.clone(), slice.0)).collect()
    }
}
