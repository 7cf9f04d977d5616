//! Reads a cluster's change events and checks that each change is there once, in order, and that
//! together they are what the cluster has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_journal::{Journal, ReadFrom, TopicPartition};
use anabranch_schemas::records::{Change, ChangesRecord, Operation};
use anabranch_schemas::state;
use anabranch_schemas::topics::ClusterName;
use anabranch_tests::cluster::{Api, PATIENCE};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

const POLL: Duration = Duration::from_millis(200);

/// Slices of a cluster that says nothing else.
pub(crate) const SLICES: u16 = 16;

/// Checks all partitions of topic `changes` of a cluster that is quiet, which has these
/// collections; how many changes there are.
pub(crate) fn check(
    journal: &dyn Journal,
    cluster: &ClusterName,
    api: &Api,
    collections: &[&str],
) -> Result<usize> {
    let (mut events, mut images) = (0, BTreeMap::new());
    for slice in 0..SLICES {
        let checker = read(journal, &TopicPartition::new(cluster.changes(), slice))?;
        events += checker.seen.len();
        images.extend(checker.images);
    }
    // A document without event, or without its last one, shows as a difference to what is there.
    for collection in collections {
        let told = documents(&images, collection)?;
        let there = api.documents(collection)?;
        for id in told.keys().chain(there.keys()) {
            let (told, there) = (told.get(id), there.get(id));
            let what = format!("CDC-1: {id} of {collection} in {cluster}");
            ensure!(told == there, "{what}: events say {told:?}, the documents {there:?}");
        }
    }
    Ok(events)
}

/// The documents of a collection that events say there are, as the HTTP API shows them.
fn documents(
    images: &BTreeMap<DocumentId, Option<Value>>,
    collection: &str,
) -> Result<BTreeMap<String, serde_json::Value>> {
    let of_collection = images.iter().filter(|(id, _)| id.collection.as_str() == collection);
    let there = of_collection.filter_map(|(id, image)| Some((id, image.as_ref()?)));
    there
        .map(|(id, image)| {
            let key = json!(id.key.to_value());
            let mut document = json!(image);
            document["_id"] = key.clone();
            Ok((key.to_string(), document))
        })
        .collect()
}

fn read(journal: &dyn Journal, at: &TopicPartition) -> Result<Checker> {
    let end = journal.bounds(at)?.end;
    let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
    let mut checker = Checker::default();
    let begun = Instant::now();
    while reader.position(at).context("it reads this partition")? < end {
        for record in reader.poll(POLL)? {
            let value = record.value.context("a change or a mark")?;
            checker.observe(ChangesRecord::decode(&value)?)?;
        }
        if begun.elapsed() > PATIENCE {
            bail!("{at} is not read to {end} within {PATIENCE:?}: at {:?}", reader.position(at));
        }
    }
    Ok(checker)
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
            ChangesRecord::Lost(lost) => bail!("nothing is ever lost here, but {lost:?}"),
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
