//! From the log into the store, in the order of the log.
//!
//! Two threads read ([`sources`]), bounded by what the third says it can take ([`demand`]); the
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
use std::sync::mpsc::sync_channel;

use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::tasks::{TaskError, Tasks};
use anabranch_schemas::topics::ClusterName;

use self::applier::{Applier, Held};
use self::assembler::Assembler;
use self::demand::Demand;
use self::documents::RecentStates;
use self::sources::{Slices, Source};
use crate::log::Log;
use crate::status::Status;
use crate::storage::{Progress, Storage, Timeline};

pub(crate) use self::applier::Retention;

/// How many messages of the reading threads wait at most; each is what one poll gave.
const INPUTS: usize = 8;

/// All that applying needs.
pub(crate) struct Apply {
    pub(crate) cluster: ClusterName,
    pub(crate) log: Arc<Log>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
    pub(crate) progress: Progress,
    pub(crate) timeline: Timeline,
    pub(crate) retention: Retention,
    pub(crate) max_buffered_bytes: usize,
}

impl Apply {
    /// Starts the three threads.
    pub(crate) fn start(self, journal: &Arc<dyn Journal>, tasks: &Tasks) {
        let demand = Arc::new(Demand::new(self.max_buffered_bytes));
        let (inputs, received) = sync_channel(INPUTS);
        let source = || Source {
            journal: Arc::clone(journal),
            demand: Arc::clone(&demand),
            status: Arc::clone(&self.status),
            shutdown: tasks.shutdown().clone(),
            inputs: inputs.clone(),
        };
        let (commits, parts) = (source(), source());
        drop(inputs);
        let txns = TopicPartition::new(self.cluster.txns(), 0);
        let rounds = self.cluster.rounds();
        let partitions: Vec<_> = self
            .log
            .slices()
            .all()
            .map(|slice| TopicPartition::new(rounds.clone(), slice.0))
            .collect();
        let next = self.progress.next;
        let positions = self.progress.positions();
        let read = self.log.read().to_vec();
        let slices = Slices { read, partitions: partitions.clone(), positions };
        tasks.spawn_thread("store-node-commits", move || {
            sources::read_commits(&commits, &txns, next);
            Ok(())
        });
        tasks.spawn_thread("store-node-parts", move || {
            sources::read_parts(&parts, slices);
            Ok(())
        });
        let applier = Applier {
            storage: self.storage,
            status: self.status,
            demand,
            partitions,
            retention: self.retention,
            timeline: self.timeline,
            assembler: Assembler::new(&self.log, next, &self.progress.slices),
            log: self.log,
            recent: RecentStates::default(),
            held: Held::default(),
            progress: self.progress,
            shutdown: tasks.shutdown().clone(),
        };
        tasks.spawn_thread("store-node-apply", move || {
            applier.run(&received).map_err(TaskError::from)
        });
    }
}
