//! Reads a cluster's change events and checks that each change is there once, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::{Journal, ReadFrom, TopicPartition};
use anabranch_schemas::records::{Change, ChangesRecord, Operation};
use anabranch_schemas::state;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result, ensure};

const SLICES: u16 = 16;
const POLL: Duration = Duration::from_millis(200);

/// Checks all partitions of topic `changes`; how many changes there are.
pub(crate) fn check(kafka: &str, cluster: &str) -> Result<usize> {
    let journal: Arc<dyn Journal> =
        Arc::new(KafkaJournal::connect(KafkaConfig::new(kafka, "crash-test"))?);
    let cluster: ClusterName = cluster.parse()?;
    let mut events = 0;
    for slice in 0..SLICES {
        let at = TopicPartition::new(cluster.changes(), slice);
        let end = journal.bounds(&at)?.end;
        let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
        let mut checker = Checker::default();
        while reader.position(&at).context("it reads this partition")? < end {
            for record in reader.poll(POLL)? {
                let value = record.value.context("a change or a mark")?;
                checker.observe(ChangesRecord::decode(&value)?)?;
            }
        }
        events += checker.seen.len();
    }
    Ok(events)
}

#[derive(Default)]
struct Checker {
    seen: BTreeSet<(TxnId, DocumentId)>,
    last: Option<TxnId>,
    resolved: Option<TxnId>,
    images: BTreeMap<DocumentId, Option<Value>>,
}

impl Checker {
    fn observe(&mut self, record: ChangesRecord) -> Result<()> {
        match record {
            ChangesRecord::Change(change) => self.change(&change),
            ChangesRecord::Resolved(mark) => {
                ensure!(self.last <= Some(mark.txn), "a mark at {} is behind", mark.txn);
                self.resolved = self.resolved.max(Some(mark.txn));
                Ok(())
            }
        }
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        let id = change.id();
        ensure!(self.seen.insert((change.txn, id.clone())), "CDC-1: {id} twice at {}", change.txn);
        ensure!(Some(change.txn) >= self.last, "CDC-1: {id} at {} is out of order", change.txn);
        ensure!(Some(change.txn) > self.resolved, "CDC-2: {id} at {} comes late", change.txn);
        self.last = Some(change.txn);
        let after = match change.operation {
            Operation::Evict => None,
            _ => state::decode(&change.state)?.value(),
        };
        let before = change.before_image(after.as_ref());
        let known = self.images.insert(id.clone(), after).flatten();
        ensure!(before == known, "{id} at {}: a change is missing before it", change.txn);
        Ok(())
    }
}
