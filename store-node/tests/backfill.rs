//! Nodes that lack what the log no longer has: they take it from another replica, and then hold and
//! serve what that one does.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use anabranch_core::Value;
use anabranch_core::cluster::{Configuration, Epoch, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::TopicPartition;
use anabranch_journal::metadata::MetadataStore;
use anabranch_schemas::decode;
use anabranch_schemas::records::Lost;
use anabranch_schemas::store as proto;

use self::support::cluster::{CARS, Cluster, name};
use self::support::log::{Round, car, identity};
use self::support::model::Model;
use self::support::{Node, at, code, exactly, increment, put, until, within};

/// Two replicas of everything.
async fn pair() -> (Cluster, NodeId, NodeId) {
    (Cluster::start_with(1, 2, |_| {}).await, name(0, 0), name(0, 1))
}

/// Nothing that was written so far is in the log any more.
fn trim(cluster: &Cluster) {
    let (journal, topics) = (cluster.log.journal(), identity().name);
    let rounds = identity().slices.all();
    let rounds = rounds.map(|slice| TopicPartition::new(topics.rounds(), slice.0));
    for partition in rounds.chain([TopicPartition::new(topics.txns(), 0)]) {
        let end = journal.bounds(&partition).unwrap().end;
        journal.trim(&partition, end).unwrap();
    }
}

async fn applied(node: &Node, txn: TxnId) {
    node.get(&car(0), at(txn)).await.unwrap();
}

/// Everything that a node says, when it is the only one that can, against what the log meant.
async fn check(node: &Node, model: &Model, last: TxnId) {
    for number in 0..CARS {
        let expected = model.documents.get(&car(number)).and_then(|document| document.value());
        let expected = expected.map(|value| {
            let Value::Object(mut fields) = value else { panic!("a document is an object") };
            fields.insert("_id".to_owned(), Value::Int(number));
            Value::Object(fields)
        });
        assert_eq!(node.read(&car(number), last).await, expected, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_longer_than_the_log_is_kept_takes_it_from_another_one() {
    let (mut cluster, away, stays) = pair().await;
    let seen = cluster.write_some();
    applied(&cluster.nodes[&away], seen).await;
    cluster.stop_node(&away).await;
    let last = cluster.write_some();
    applied(&cluster.nodes[&stays], last).await;
    let model = Model::of(&*cluster.log.journal());
    trim(&cluster);
    cluster.start_node(&away).await;
    cluster.nodes[&away].ready().await;
    cluster.stop_node(&stays).await;
    let node = &cluster.nodes[&away];
    check(node, &model, last).await;
    let request = proto::FeedRequest { slices: vec![], from: seen.0, has_part: false };
    let refused = node.client.clone().feed(request).await.unwrap_err();
    assert_eq!(code(&refused), "partition_away", "of what lies between the other one has changes");
    cluster.start_node(&stays).await;
    for node in cluster.nodes.values() {
        node.ready().await;
        let fed = node.feed(&[], seen, last.next()).await;
        let fed = fed.iter().flat_map(|reply| &reply.transactions).map(|txn| TxnId(txn.txn));
        assert!(fed.eq(model.transactions.keys().copied().filter(|txn| *txn >= seen)));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_what_it_was_and_goes_on() {
    let (mut cluster, wiped, stays) = pair().await;
    let last = cluster.write_some();
    applied(&cluster.nodes[&stays], last).await;
    let model = Model::of(&*cluster.log.journal());
    cluster.stop_node(&wiped).await;
    std::fs::remove_dir_all(cluster.dir.path().join(wiped.as_str())).unwrap();
    trim(&cluster);
    cluster.start_node(&wiped).await;
    cluster.nodes[&wiped].ready().await;
    check(&cluster.nodes[&wiped], &model, last).await;
    // A round that was applied before is repeated, and another one follows it.
    let before = cluster.nodes[&stays].read(&car(0), last).await;
    let again =
        Round { id: 1, millis: 2_000_000, mutations: vec![(car(0), increment("visits", 1))] };
    let repeated = cluster.log.write(&again);
    let end = cluster.write(vec![(1, put("{\"n\":-1}"))]);
    cluster.stop_node(&stays).await;
    let node = &cluster.nodes[&wiped];
    assert_eq!(node.read(&car(0), repeated).await, before, "it is applied once");
    let found = node.read(&car(1), end).await.unwrap();
    assert_eq!(found.get(&["n".to_owned()]), Some(&Value::Int(-1)));
    let fed = node.feed(&[], last.next(), end.next()).await;
    let fed: Vec<_> = fed.iter().flat_map(|reply| &reply.transactions).map(|txn| txn.txn).collect();
    assert_eq!(fed, [repeated.0, end.0], "from there on its feed is complete");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_may_have_it_is_waited_for() {
    let (mut cluster, away, stays) = pair().await;
    cluster.stop_node(&away).await;
    let last = cluster.write_some();
    applied(&cluster.nodes[&stays], last).await;
    let model = Model::of(&*cluster.log.journal());
    cluster.stop_node(&stays).await;
    trim(&cluster);
    cluster.start_node(&away).await;
    let waits = || cluster.nodes[&away].trouble().contains("waiting for p0-r1");
    until("it waits for the other one", waits).await;
    cluster.start_node(&stays).await;
    within("it is whole", cluster.nodes[&away].ready()).await;
    cluster.stop_node(&stays).await;
    check(&cluster.nodes[&away], &model, last).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_lost_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start_with(1, 2, |config| config.lost_after_ms = 100).await;
    let (one, other) = (name(0, 0), name(0, 1));
    let before = cluster.write_some();
    for node in [&one, &other] {
        applied(&cluster.nodes[node], before).await;
        cluster.stop_node(node).await;
    }
    cluster.write_some();
    trim(&cluster);
    for node in [&one, &other] {
        cluster.start_node(node).await;
    }
    let end = cluster.write(vec![(1, increment("visits", 1))]);
    for node in [&one, &other] {
        cluster.nodes[node].ready().await;
    }
    let found: Vec<_> = [&one, &other].map(|node| &cluster.nodes[node]).into_iter().collect();
    let cars =
        async |node: &Node| node.query("SELECT * FROM cars", "", exactly(end)).await.unwrap();
    assert_eq!(cars(found[0]).await[0].items, cars(found[1]).await[0].items);
    let fed = found[0].feed(&[], before.next(), end.next()).await;
    let transactions: Vec<_> = fed.iter().flat_map(|reply| &reply.transactions).collect();
    let [lost, applied] = &transactions[..] else { panic!("{transactions:?}") };
    assert_eq!(applied.txn, end.0);
    let slices: Vec<_> = (0..u32::from(identity().slices.get())).collect();
    assert_eq!(lost.slices, slices);
    for (change, slice) in lost.changes.iter().zip(slices) {
        let told: Lost = decode(&change.event).unwrap();
        assert_eq!(
            (u32::from(told.slice.0), told.from, told.to.0),
            (slice, before.next(), lost.txn)
        );
    }
    assert_eq!(lost.changes.len(), lost.slices.len());
    cluster.stop().await;
}

/// ST-2: a replica that was removed has what the others declare lost. It notices while it runs and
/// when it is started, and is one of them again once it has begun anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_applied_what_is_declared_lost_does_not_answer() {
    let mut cluster = Cluster::start_with(1, 2, |config| config.lost_after_ms = 100).await;
    let (removed, stays) = (name(0, 0), name(0, 1));
    let before = cluster.write_some();
    applied(&cluster.nodes[&stays], before).await;
    cluster.stop_node(&stays).await;
    let lost = cluster.write_some();
    applied(&cluster.nodes[&removed], lost).await;
    trim(&cluster);
    let both = cluster.configuration.clone();
    let mut spec = both.spec().clone();
    spec.partitions[0].nodes.remove(&removed);
    cluster.configuration = Configuration::new(Epoch(2), SliceCount::default(), spec).unwrap();
    cluster.start_node(&stays).await;
    let end = cluster.write(vec![(1, increment("visits", 1))]);
    applied(&cluster.nodes[&stays], end).await;
    let running = cluster.nodes.remove(&removed).unwrap();
    let why = running.failure().await;
    assert!(why.contains("declared lost") && why.contains(removed.as_str()), "{why}");

    cluster.configuration =
        Configuration::new(Epoch(3), SliceCount::default(), both.spec().clone()).unwrap();
    cluster.start_node(&removed).await;
    let started = cluster.nodes.remove(&removed).unwrap();
    let why = started.failure().await;
    assert!(why.contains("declared lost"), "{why}");

    std::fs::remove_dir_all(cluster.dir.path().join(removed.as_str())).unwrap();
    cluster.start_node(&removed).await;
    cluster.nodes[&removed].ready().await;
    let (node, other) = (&cluster.nodes[&removed], &cluster.nodes[&stays]);
    assert_eq!(node.read(&car(1), end).await, other.read(&car(1), end).await);
    // It goes by what it has copied, also when it starts once more.
    cluster.stop_node(&removed).await;
    cluster.start_node(&removed).await;
    cluster.nodes[&removed].ready().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agreement_that_makes_no_sense_halts_the_node_and_does_not_end_it() {
    let mut cluster = Cluster::start_with(1, 1, |config| config.lost_after_ms = 100).await;
    let only = name(0, 0);
    let before = cluster.write_some();
    applied(&cluster.nodes[&only], before).await;
    cluster.stop_node(&only).await;
    cluster.write_some();
    trim(&cluster);
    let metadata = MetadataStore::open(cluster.log.journal(), &identity().name).unwrap();
    let key = format!("lost/0/{:020}/0", before.0 + 1);
    metadata.compare_and_set(&key, None, Some("{}".to_owned())).unwrap();
    cluster.start_node(&only).await;
    let is_halted = || cluster.nodes[&only].trouble().contains(&key);
    until("it says what is wrong", is_halted).await;
    let refused = cluster.nodes[&only].get(&car(0), at(before)).await.unwrap_err();
    assert_eq!(code(&refused), "halted");
    // It stops in order: nothing has failed.
    cluster.stop().await;
}
