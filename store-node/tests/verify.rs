//! Replicas hold the same, and it is found out and said where one does not (ST-2).

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use anabranch_schemas::store as proto;
use rocksdb::{DB, IteratorMode, Options};

use self::support::cluster::{CARS, Cluster, PARTITIONS, REPLICAS, name};
use self::support::log::{Log, Round, car};
use self::support::model::Model;
use self::support::{Node, PATIENCE_MS, code, config, increment, journal, put, within};

fn request(nodes: &[&str]) -> proto::VerifyRequest {
    let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
    proto::VerifyRequest { intervals: 64, nodes, wait_ms: PATIENCE_MS }
}

async fn verify(node: &Node, nodes: &[&str]) -> proto::VerifyReply {
    node.client.clone().verify(request(nodes)).await.unwrap().into_inner()
}

/// At a transaction or later.
async fn verify_from(node: &Node, last: TxnId) -> proto::VerifyReply {
    let reached = async {
        loop {
            let reply = verify(node, &[]).await;
            if reply.txn >= Some(last.0) {
                break reply;
            }
        }
    };
    within("what was written is stable", reached).await
}

/// What each partition's nodes hold.
fn by_partition(reply: &proto::VerifyReply) -> BTreeMap<u32, Vec<proto::IntervalSum>> {
    let mut partitions: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for node in &reply.nodes {
        assert_eq!(node.error, "", "{}", node.name);
        partitions.entry(node.partition).or_default().push(node.sum.unwrap());
    }
    partitions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_hold_the_same_at_every_timestamp_while_writes_go_on() {
    let mut cluster = Cluster::start().await;
    let nothing = verify(&cluster.nodes[&name(0, 0)], &[]).await;
    assert_eq!(nothing, proto::VerifyReply::default(), "nothing was written yet");
    let last = cluster.write_some();
    let model = Model::of(&*cluster.log.journal());
    let asked = name(0, 1);
    let reply = verify_from(&cluster.nodes[&asked], last).await;
    assert_eq!(reply.differences, []);
    assert_eq!(reply.nodes.len(), PARTITIONS * REPLICAS);
    let partitions = by_partition(&reply);
    assert!(partitions.values().all(|sums| sums[0] == sums[1]), "{partitions:?}");
    let documents: u64 = partitions.values().map(|sums| sums[0].documents).sum();
    assert_eq!(documents, model.documents.len() as u64, "deleted ones, too");
    let mut sums = Vec::new();
    for round in 0..20 {
        let txn = cluster.write((0..CARS).map(|number| (number, increment("n", round))).collect());
        let reply = match round % 4 {
            0 => verify_from(&cluster.nodes[&asked], txn).await,
            _ => verify(&cluster.nodes[&asked], &[]).await,
        };
        assert_eq!(reply.differences, []);
        if round % 4 == 0 {
            sums.push(by_partition(&reply));
        }
    }
    sums.dedup();
    assert_eq!(sums.len(), 5, "each write is another sum");
    let one = verify(&cluster.nodes[&asked], &["p1-r0"]).await;
    assert_eq!((one.nodes.len(), one.nodes[0].name.as_str()), (1, "p1-r0"), "of one alone");
    let unknown = cluster.nodes[&asked].client.clone().verify(request(&["p9"])).await.unwrap_err();
    assert_eq!(code(&unknown), "invalid_request");
    let odd = proto::VerifyRequest { intervals: 3, ..request(&[]) };
    let odd = cluster.nodes[&asked].client.clone().verify(odd).await.unwrap_err();
    assert_eq!(code(&odd), "invalid_request");
    cluster.stop().await;
}

/// Changes the newest version of a document in the store of a node that does not run; `None` takes
/// it away.
fn plant(store: &Path, number: i64, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let tables = ["default", "versions", "changes", "rounds", "indexes"];
    let db = DB::open_cf(&Options::default(), store, tables).unwrap();
    let versions = db.cf_handle("versions").unwrap();
    let prefix = [&car(number).to_bytes()[..], &[0]].concat();
    let mut entries = db.iterator_cf(&versions, IteratorMode::Start).map(Result::unwrap);
    let is_version = |key: &[u8]| key.len() == prefix.len() + 8 && key.starts_with(&prefix);
    let (key, value) = entries.find(|(key, _)| is_version(key)).unwrap();
    match change(&value) {
        Some(value) => db.put_cf(&versions, &key, value).unwrap(),
        None => db.delete_cf(&versions, &key).unwrap(),
    }
    db.flush_cf(&versions).unwrap();
}

fn another_state(value: &[u8]) -> Option<Vec<u8>> {
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    Some(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found_and_the_interval_and_the_nodes_are_named() {
    let mut cluster = Cluster::start().await;
    let all = (0..CARS).map(|number| (number, put(&format!("{{\"n\":{number}}}")))).collect();
    let last = cluster.write(all);
    for node in cluster.nodes.values() {
        node.read(&car(1), last).await;
    }
    let (changed, missing) = (5, 11);
    for (number, replica) in [(changed, 0), (missing, 1)] {
        let node: NodeId = name(cluster.partition_of(number), replica);
        cluster.stop_node(&node).await;
        let store = cluster.dir.path().join(node.as_str());
        plant(&store, number, |value| if number == changed { another_state(value) } else { None });
        cluster.start_node(&node).await;
        cluster.nodes[&node].ready().await;
    }
    let reply = verify_from(&cluster.nodes[&name(0, 0)], last).await;
    let find = |number: i64| {
        let (partition, position) = (cluster.partition_of(number), car(number).position().0);
        let found = reply.differences.iter().find(|found| {
            found.partition as usize == partition && (found.first..=found.last).contains(&position)
        });
        let sums = &found.unwrap_or_else(|| panic!("{number}: {:?}", reply.differences)).sums;
        let names: Vec<_> = sums.iter().map(|sum| sum.name.clone()).collect();
        assert_eq!(names, [0, 1].map(|replica| name(partition, replica).to_string()));
        sums.iter().map(|sum| sum.sum.unwrap()).collect::<Vec<_>>()
    };
    let sums = find(changed);
    assert_eq!(sums[0].documents, sums[1].documents);
    assert_ne!((sums[0].high, sums[0].low), (sums[1].high, sums[1].low));
    let sums = find(missing);
    assert_eq!(sums[0].documents, sums[1].documents + 1);
    assert_eq!(reply.differences.len(), 2, "and nowhere else");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_away_is_named_and_the_others_are_compared() {
    let mut cluster = Cluster::start().await;
    let last = cluster.write_some();
    for node in cluster.nodes.values() {
        node.read(&car(1), last).await;
    }
    cluster.stop_node(&name(2, 1)).await;
    let reply = verify_from(&cluster.nodes[&name(0, 0)], last).await;
    let away: Vec<_> = reply.nodes.iter().filter(|node| node.sum.is_none()).collect();
    assert_eq!((away.len(), away[0].name.as_str()), (1, "p2-r1"));
    assert_ne!(away[0].error, "");
    assert_eq!(reply.differences, []);
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_is_alone_says_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let node = Node::start(config(&dir.path().join("node")), log.journal()).await;
    node.ready().await;
    let mutations = (0..100).map(|number| (car(number), put("{}"))).collect();
    let last = log.write(&Round { id: 1, millis: 1, mutations });
    node.read(&car(1), last).await;
    let reply = verify(&node, &[]).await;
    assert_eq!((reply.txn, reply.nodes.len()), (Some(last.0), 1));
    assert_eq!(reply.nodes[0].sum.unwrap().documents, 100);
    node.stop().await;
}
