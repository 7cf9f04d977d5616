//! Trims the log as its retention does, only much sooner: who is wiped, or was away for a while, does
//! not find in it what it lacks and has to copy that from another replica.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::{Journal, Offset, TopicPartition};
use anabranch_schemas::topics::ClusterName;
use anyhow::Result;

use crate::changes::SLICES;
use crate::nodes::Nodes;
use crate::stage::Stage;

/// How often the log is trimmed, up to where it ended the time before.
const OFTEN: Duration = Duration::from_secs(4);
/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(100);

/// Trims the log of a cluster.
pub(crate) struct Trimmer {
    journal: KafkaJournal,
    cluster: ClusterName,
    stage: Arc<Stage>,
    nodes: Arc<Nodes>,
}

/// Where the partitions of the log ended at some time.
struct Ends {
    rounds: Vec<(TopicPartition, Offset)>,
    txns: (TopicPartition, Offset),
}

impl Trimmer {
    /// On the broker at this address, to which no cut is in the way.
    pub(crate) fn new(
        broker: String,
        cluster: ClusterName,
        stage: &Arc<Stage>,
        nodes: &Arc<Nodes>,
    ) -> Result<Self> {
        let journal = KafkaJournal::connect(KafkaConfig::new(broker, "chaos-trim"))?;
        Ok(Trimmer { journal, cluster, stage: Arc::clone(stage), nodes: Arc::clone(nodes) })
    }

    /// Trims until the run is over; how many transactions it took away in the end, and how often it
    /// did.
    pub(crate) fn start(self) -> JoinHandle<Trimmed> {
        thread::spawn(move || {
            let (mut trimmed, mut last, mut next) = (Trimmed::default(), None, Duration::ZERO);
            let stage = Arc::clone(&self.stage);
            stage.until_over(|| {
                thread::sleep(LOOK);
                if stage.now() < next {
                    return Ok(());
                }
                next = stage.now() + OFTEN;
                let now = self.ends()?;
                // What is stable as of now has all its records before what was the end then, and
                // a replica of each partition has it.
                if let Some(before) = last.replace(now).filter(|before| self.is_stable(before)) {
                    self.trim(&before)?;
                    trimmed.times += 1;
                    trimmed.up_to = before.txns.1.0;
                }
                Ok(())
            });
            trimmed
        })
    }

    fn ends(&self) -> Result<Ends> {
        let end = |at: TopicPartition| {
            let end = self.journal.bounds(&at)?.end;
            Ok((at, end))
        };
        let rounds = (0..SLICES).map(|slice| TopicPartition::new(self.cluster.rounds(), slice));
        let rounds = rounds.map(end).collect::<Result<_>>()?;
        Ok(Ends { rounds, txns: end(TopicPartition::new(self.cluster.txns(), 0))? })
    }

    fn is_stable(&self, ends: &Ends) -> bool {
        let stable = self.nodes.numbers().filter_map(|node| self.nodes.stable(node)).max();
        stable >= Some(ends.txns.1.0)
    }

    fn trim(&self, ends: &Ends) -> Result<()> {
        for (at, end) in ends.rounds.iter().chain([&ends.txns]) {
            self.journal.trim(at, *end)?;
        }
        Ok(())
    }
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trimmed {
    pub(crate) times: u64,
    /// Every transaction below this.
    pub(crate) up_to: u64,
}
