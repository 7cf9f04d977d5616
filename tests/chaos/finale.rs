//! The end of a run: everything is read again, from one set of replicas after the other.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, PartitionSpec};
use anabranch_core::ids::{AppId, DocumentId, DocumentKey};
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::Journal;
use anabranch_tests::cluster::{APP, Api, Cluster, PATIENCE, Reply, Service, Terms, node};
use anabranch_tests::history::{Document, Read, Scope, Seen, Txn};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::session::{is_answer, rows, seen};
use crate::stage::{COLLECTIONS, DOCUMENTS, collections, document, documents};
use crate::{PARTITIONS, REPLICAS, changes};

const AGAIN: Duration = Duration::from_millis(100);

/// Reads all documents as of `last` or later, while of each partition only one replica is there,
/// each replica in its turn. What a replica no longer has of the history, since it copied it from the
/// others, is captured before those are gone.
pub(crate) fn read_replicas(cluster: &mut Cluster, last: Txn) -> Result<Vec<Read>> {
    let mut reads = Vec::new();
    for replica in 0..REPLICAS {
        let others = (0..PARTITIONS * REPLICAS).filter(|number| number % REPLICAS != replica);
        let others: Vec<_> = others.map(Service::StoreNode).collect();
        wait_captured(cluster)?;
        others.iter().try_for_each(|other| cluster.kill(*other))?;
        let read = read_all(&cluster.api(), last);
        reads.extend(read.with_context(|| format!("from replicas number {replica}"))?);
        others.iter().try_for_each(|other| cluster.start(*other))?;
        wait_until("all store nodes are ready", PATIENCE, || {
            Ok(others.iter().all(|other| cluster.is_ready(*other)))
        })?;
    }
    Ok(reads)
}

/// Fails unless something that was deleted has expired since the store nodes were started.
pub(crate) fn check_expired(cluster: &Cluster) -> Result<()> {
    const EXPIRED: &str = "anabranch_store_node_expired_documents_total";
    let mut expired = 0;
    for number in 0..PARTITIONS * REPLICAS {
        let metrics = cluster.api_of(Service::StoreNode(number)).metrics()?;
        let count = metrics.lines().find_map(|line| line.strip_prefix(EXPIRED));
        expired += count.map_or(Ok(0), |count| count.trim().parse::<u64>())?;
    }
    ensure!(expired > 0, "nothing that was deleted has expired");
    Ok(())
}

fn read_all(api: &Api, last: Txn) -> Result<Vec<Read>> {
    let terms = Terms::at(Some(last.0));
    let mut reads = Vec::new();
    for collection in collections() {
        let statement = format!("SELECT * FROM {collection}");
        let reply = until_answered(|| api.try_execute_on(&statement, &json!({}), &terms))?;
        let scope = Scope::Collection(collection.to_owned());
        reads.push(read(scope, &reply, rows(collection, &reply.body)?));
        // One by one they also tell their versions.
        for document in documents(collection) {
            let reply = until_answered(|| api.try_get_on(collection, &document.id, &terms))?;
            let mut there = BTreeMap::new();
            if reply.status == 200 {
                let version = reply.version.map(Txn);
                there.insert(document.clone(), Seen { version, ..seen(&reply.body)? });
            }
            reads.push(read(Scope::Documents([document].into()), &reply, there));
        }
    }
    Ok(reads)
}

fn read(scope: Scope, reply: &Reply, seen: BTreeMap<Document, Seen>) -> Read {
    Read { scope, snapshot: reply.txn.map(Txn), server: None, seen }
}

fn until_answered(mut ask: impl FnMut() -> Result<Reply>) -> Result<Reply> {
    let mut answer = None;
    wait_until("an answer", PATIENCE, || {
        match ask() {
            Ok(reply) if is_answer(&reply) => answer = Some(reply),
            Ok(_) | Err(_) => thread::sleep(AGAIN),
        }
        Ok(answer.is_some())
    })?;
    answer.context("it was waited for")
}

/// Checks that every change was captured once, in order, and that together they are what is there.
pub(crate) fn check_changes(cluster: &Cluster, journal: &dyn Journal) -> Result<usize> {
    wait_captured(cluster)?;
    let collections: Vec<_> = collections().chain(["ticks"]).collect();
    changes::check(journal, &cluster.name().parse()?, &cluster.api(), &collections)
}

fn wait_captured(cluster: &Cluster) -> Result<()> {
    wait_until("all changes are captured", PATIENCE, || {
        let status = cluster.status_of(Service::Ingest(0))?;
        let parts = status["parts"].as_array().context("parts")?;
        Ok(parts.iter().all(|part| part["lagTransactions"] == 0))
    })
}

/// A document of the first collection in each partition, by number.
pub(crate) fn one_of_each() -> Result<Vec<usize>> {
    let partition = |number: usize| {
        let nodes = (0..REPLICAS).map(|replica| {
            let number = number * REPLICAS + replica;
            Ok((node(number).parse()?, format!("127.0.0.1:{}", number + 1)))
        });
        Ok(PartitionSpec { weight: 1, nodes: nodes.collect::<Result<_>>()? })
    };
    let partitions = (0..PARTITIONS).map(partition).collect::<Result<_>>()?;
    let spec = ClusterSpec { partitions, quorum: None };
    let configuration = Configuration::new(Epoch(1), SliceCount::default(), spec)?;
    let mut found = BTreeMap::new();
    for number in 0..DOCUMENTS {
        let Document { collection, id } = document(COLLECTIONS[0], number);
        let id = DocumentId {
            app: AppId(APP.parse()?),
            collection: collection.parse()?,
            key: DocumentKey::from_value(&anabranch_core::Value::String(id))?,
        };
        found.entry(configuration.partition_of(id.position())).or_insert(number);
    }
    ensure!(found.len() == PARTITIONS, "a partition has no document: {found:?}");
    Ok(found.into_values().collect())
}
