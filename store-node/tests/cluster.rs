//! Several nodes over one log: any of them answers for all, whoever holds what and whoever is away.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch};
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::query::OnConflict;
use anabranch_runtime::grpc;
use anabranch_schemas::decode;
use anabranch_schemas::records::Change;
use anabranch_schemas::store as proto;
use bytes::Bytes;

use self::support::cluster::{CARS, Cluster, PARTITIONS, REPLICAS, configuration, name, scan_cars};
use self::support::log::car;
use self::support::model::Model;
use self::support::{Node, PATIENCE_MS, at, exactly, insert, put, until, within};

fn keys(replies: &[proto::QueryReply]) -> Vec<String> {
    replies.iter().flat_map(|reply| &reply.items).map(|item| item.key.clone()).collect()
}

/// What a node says about the whole cluster at a timestamp, against what the log means.
async fn check(node: &Node, model: &Model, last: TxnId) {
    let visible: BTreeMap<&DocumentId, _> = model
        .documents
        .iter()
        .filter_map(|(id, document)| document.value().map(|value| (id, value)))
        .collect();
    for number in 0..CARS {
        let found = node.read(&car(number), last).await;
        let id = car(number);
        let expected = visible.get(&id).map(|value| {
            let anabranch_core::Value::Object(mut fields) = (*value).clone() else { panic!() };
            fields.insert("_id".to_owned(), anabranch_core::Value::Int(number));
            anabranch_core::Value::Object(fields)
        });
        assert_eq!(found, expected, "{number}");
    }
    let expected: Vec<_> = visible.keys().map(|id| id.key.as_str().to_owned()).collect();
    let all = node.query("SELECT * FROM cars", "", at(last)).await.unwrap();
    assert_eq!(keys(&all), expected, "in order of id, each once");
    let some = node.query("SELECT * FROM cars LIMIT 7", "", at(last)).await.unwrap();
    assert_eq!(keys(&some), expected[..7]);
    let pinned = "SELECT * FROM cars WHERE _id = 5 OR _id = 11";
    assert_eq!(keys(&node.query(pinned, "", at(last)).await.unwrap()), ["11", "5"]);
    let mut scan = node.client.clone().scan(scan_cars(at(last))).await.unwrap().into_inner();
    let mut scanned = Vec::new();
    while let Some(reply) = scan.message().await.unwrap() {
        scanned.extend(reply.items.into_iter().map(|item| item.document_id.to_vec()));
    }
    let with_state: Vec<_> = model.documents.keys().map(DocumentId::to_bytes).collect();
    assert_eq!(scanned, with_state, "deleted ones too");
}

/// What was changed, in order.
type Fed = Vec<(TxnId, Vec<DocumentId>)>;

/// The merged feed against what each transaction changed; gives it.
async fn check_feed(node: &Node, model: &Model, end: TxnId) -> Fed {
    let replies = node.feed(&[], TxnId(0), end).await;
    let mut fed = Fed::new();
    for transaction in replies.iter().flat_map(|reply| &reply.transactions) {
        let txn = TxnId(transaction.txn);
        if fed.last().is_none_or(|(last, _)| *last != txn) {
            fed.push((txn, Vec::new()));
        }
        for change in &transaction.changes {
            let event: Change = decode(&change.event).unwrap();
            assert!(transaction.slices.contains(&change.slice));
            fed.last_mut().unwrap().1.push(event.id());
        }
    }
    let txns: Vec<_> = fed.iter().map(|(txn, _)| *txn).collect();
    assert_eq!(txns, model.transactions.keys().copied().collect::<Vec<_>>(), "each once, in order");
    for (txn, changed) in &fed {
        let expected: BTreeSet<_> = model.transactions[txn].keys().collect();
        assert_eq!(changed.len(), expected.len(), "each change of {txn} once");
        assert_eq!(changed.iter().collect::<BTreeSet<_>>(), expected);
    }
    let nexts: Vec<_> = replies.iter().map(|reply| reply.next).collect();
    assert!(nexts.is_sorted());
    fed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_for_all_of_them() {
    let mut cluster = Cluster::start().await;
    let nothing = cluster.nodes[&name(0, 0)].get(&car(1), waiting()).await.unwrap();
    assert_eq!(nothing, proto::GetReply::default());
    let last = cluster.write_some();
    let model = Model::of(&*cluster.log.journal());
    let mut feeds = Vec::new();
    for node in cluster.nodes.values() {
        check(node, &model, last).await;
        feeds.push(check_feed(node, &model, last.next()).await);
    }
    assert!(feeds.windows(2).all(|pair| pair[0] == pair[1]), "the same order, whoever gives it");
    cluster.stop().await;
}

/// At the newest timestamp.
fn waiting() -> proto::ReadAt {
    proto::ReadAt { at_least: None, exactly: None, wait_ms: PATIENCE_MS }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_over_several_partitions_has_one_outcome() {
    let mut cluster = Cluster::start().await;
    let taken: Vec<_> = (0..CARS).step_by(2).collect();
    cluster.write(taken.iter().map(|number| (*number, put("{}"))).collect());
    let all = (0..CARS).map(|number| (number, insert("{}", OnConflict::Fail))).collect();
    let txn = cluster.write(all);
    let round = uuid::Uuid::from_u128(cluster.rounds);
    for node in cluster.nodes.values() {
        let request = proto::OutcomeRequest {
            round_id: Bytes::copy_from_slice(round.as_bytes()),
            txn: Some(txn.0),
            wait_ms: PATIENCE_MS,
            slices: vec![],
        };
        let reply = node.client.clone().outcome(request).await.unwrap().into_inner();
        let outcome = reply.outcome.unwrap();
        assert_eq!(outcome.txn, txn.0);
        let conflicts = outcome.conflicts.iter().map(|conflict| conflict.document_id.to_vec());
        let conflicts: BTreeSet<_> = conflicts.collect();
        let expected: BTreeSet<_> = taken.iter().map(|number| car(*number).to_bytes()).collect();
        assert_eq!(conflicts, expected);
    }
    cluster.stop().await;
}

/// Of two nodes both have to have what is read, until that is changed: without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_follows_a_newer_configuration() {
    let spec = |quorum| ClusterSpec { quorum: Some(quorum), ..configuration(1, 2).spec().clone() };
    let both = Configuration::new(Epoch(1), SliceCount::default(), spec(2)).unwrap();
    let one = ClusterSpec { quorum: Some(1), ..both.spec().clone() };
    let mut cluster = Cluster::start_in(both, |_| {}).await;
    let before = cluster.write_some();
    let read = async |cluster: &Cluster| {
        let reply = cluster.nodes[&name(0, 0)].get(&car(3), waiting()).await.unwrap();
        reply.txn.map(TxnId)
    };
    within("all is stable", async { while read(&cluster).await < Some(before) {} }).await;
    cluster.stop_node(&name(0, 1)).await;
    let after = cluster.write(vec![(3, put("{}"))]);
    // It has it, as who names it sees; and nobody else may see it, since the other one is away.
    let node = &cluster.nodes[&name(0, 0)];
    assert!(node.get(&car(3), at(after)).await.unwrap().txn >= Some(after.0));
    assert!(read(&cluster).await < Some(after));
    node.configure(Configuration::new(Epoch(2), SliceCount::default(), one.clone()).unwrap());
    within("it is stable", async { while read(&cluster).await < Some(after) {} }).await;
    // An older one that comes late changes nothing.
    let strict = ClusterSpec { quorum: Some(2), ..one };
    node.configure(Configuration::new(Epoch(1), SliceCount::default(), strict).unwrap());
    let last = cluster.write(vec![(3, put("{}"))]);
    within("it stays stable", async { while read(&cluster).await < Some(last) {} }).await;
    cluster.stop().await;
}

/// ST-3 and what a dead replica may cost: nothing, as long as another one of its partition lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_of_each_partition_is_enough() {
    let mut cluster = Cluster::start().await;
    let before = cluster.write_some();
    for partition in 0..PARTITIONS {
        cluster.stop_node(&name(partition, partition % REPLICAS)).await;
    }
    let last = cluster.write_some();
    let model = Model::of(&*cluster.log.journal());
    for node in cluster.nodes.values() {
        check(node, &model, last).await;
        check_feed(node, &model, last.next()).await;
        let old = node.get(&car(1), exactly(before)).await.unwrap();
        assert_eq!(old.txn, Some(before.0));
        // The stable timestamp has moved on without those that are away.
        let stable = async {
            while node.get(&car(1), waiting()).await.unwrap().txn < Some(last.0) {
                tokio::task::yield_now().await;
            }
        };
        within("everything is stable", stable).await;
    }
    for partition in 0..PARTITIONS {
        cluster.start_node(&name(partition, partition % REPLICAS)).await;
    }
    for node in cluster.nodes.values() {
        let found = node.get(&car(1), waiting()).await.unwrap();
        assert!(found.txn >= Some(last.0), "a node that was away reads no older than before");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_replicas_is_missed_and_the_others_are_read() {
    let mut cluster = Cluster::start().await;
    let last = cluster.write_some();
    let gone = cluster.partition_of(1);
    let is_kept = |number: &i64| *number != 3 && cluster.partition_of(*number) != gone;
    let kept = (0..CARS).find(is_kept).unwrap();
    for replica in 0..REPLICAS {
        cluster.stop_node(&name(gone, replica)).await;
    }
    for node in cluster.nodes.values() {
        assert!(node.read(&car(kept), last).await.is_some());
        let missed = node.get(&car(1), proto::ReadAt { wait_ms: 100, ..at(last) }).await;
        assert_eq!(missed.unwrap_err().code(), tonic::Code::Unavailable);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_nobody_of_another_partition_is_not_ready_until_he_does() {
    let mut cluster = Cluster::start().await;
    let last = cluster.write_some();
    let kept = (0..CARS).find(|n| *n != 3 && cluster.partition_of(*n) == 0).unwrap();
    for node in cluster.nodes.values() {
        node.ready().await;
    }
    let others = (1..PARTITIONS).flat_map(|p| (0..REPLICAS).map(move |r| name(p, r)));
    let others: Vec<_> = others.collect();
    for node in &others {
        cluster.stop_node(node).await;
    }
    let alone = &cluster.nodes[&name(0, 0)];
    until("it is cut off", || alone.trouble().contains("another partition")).await;
    // It answers as well as it can, and says that another one may do better.
    let request = proto::GetRequest {
        document_id: car(kept).to_bytes().into(),
        at: Some(at(last)),
        readable: String::new(),
    };
    let answer = alone.client.clone().get(request).await.unwrap();
    assert_eq!(answer.metadata().get(grpc::CODE_KEY).unwrap(), grpc::CUT_OFF);
    assert!(answer.into_inner().document.is_some());
    cluster.start_node(&others[0]).await;
    cluster.nodes[&name(0, 0)].ready().await;
    cluster.stop().await;
}
