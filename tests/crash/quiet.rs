//! Tells when nothing is under way any more in two clusters that replicate with each other.

use std::collections::BTreeMap;

use anabranch_journal::{Journal, Offset, TopicPartition};
use anabranch_schemas::topics::ClusterName;
use anabranch_tests::cluster::{Cluster, Service};
use anyhow::{Context, Result};
use serde_json::Value;

use crate::changes::SLICES;

/// Where a cluster's log and all that read it are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    ends: BTreeMap<TopicPartition, Offset>,
    /// What is not where the log ends, or not known to be.
    behind: Vec<String>,
}

impl Look {
    pub(crate) fn at(cluster: &Cluster, journal: &dyn Journal) -> Result<Self> {
        let name: ClusterName = cluster.name().parse()?;
        let sliced = |topic: String| (0..SLICES).map(move |i| TopicPartition::new(&*topic, i));
        let mut partitions = vec![TopicPartition::new(name.txns(), 0)];
        partitions.extend(sliced(name.rounds()).chain(sliced(name.changes())));
        let mut ends = BTreeMap::new();
        for at in partitions {
            let end = journal.bounds(&at)?.end;
            ends.insert(at, end);
        }
        let mut behind = Vec::new();
        let parts = cluster.status_of(Service::Ingest(0))?;
        for part in parts["parts"].as_array().context("parts")? {
            note(&mut behind, &format!("{} of {name}", part["part"]), &part["lagTransactions"]);
        }
        for node in parts["nodes"].as_array().context("nodes")? {
            note(&mut behind, &format!("{} of {name}", node["node"]), &node["lagTransactions"]);
        }
        for number in 0..cluster.store_nodes() {
            let parts = cluster.status_of(Service::StoreNode(number))?;
            let parts = parts["parts"].as_array().context("parts")?;
            let node = parts.iter().find(|part| part["part"] == "store-node");
            let lag = &node.context("a store node tells of itself")?["lagTransactions"];
            note(&mut behind, &format!("store node {number} of {name}"), lag);
        }
        let links = cluster.status_of(Service::Bridge)?;
        for link in links["links"].as_array().context("links")? {
            note(&mut behind, &format!("the link of {name}"), &link["lagTransactions"]);
        }
        Ok(Look { ends, behind })
    }

    /// Whether all that read the log have read all of it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.behind.is_empty()
    }
}

fn note(behind: &mut Vec<String>, what: &str, lag: &Value) {
    if lag != 0 {
        behind.push(format!("{what}: {lag}"));
    }
}
