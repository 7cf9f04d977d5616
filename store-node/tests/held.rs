//! What a read sees is kept by all nodes while it runs, and not for ever by one that is gone.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::BTreeMap;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use anabranch_schemas::state;
use anabranch_schemas::store as proto;
use anabranch_store_node::StoreNodeConfig;
use tonic::Streaming;

use self::support::cluster::{Cluster, name, scan_cars};
use self::support::log::car;
use self::support::{Node, at, exactly, increment, put, within};

/// Far more than waits on the way to a client.
const LARGE: i64 = 120;

fn short_history(config: &mut StoreNodeConfig) {
    config.history_ms = 10_000;
}

async fn status(node: &Node) -> proto::StatusReply {
    node.client.clone().status(proto::StatusRequest {}).await.unwrap().into_inner()
}

fn write_large(cluster: &mut Cluster) -> TxnId {
    let large = put(&format!("{{\"filler\":\"{}\"}}", "x".repeat(200_000)));
    let numbers: Vec<_> = (0..LARGE).collect();
    let rounds = numbers.chunks(10).map(|numbers| {
        cluster.write(numbers.iter().map(|number| (*number, large.clone())).collect())
    });
    rounds.last().unwrap()
}

/// Replaces everything, and lets more time pass in the log than history is kept.
async fn write_much(cluster: &mut Cluster) {
    let mut last = cluster.write((0..LARGE).map(|number| (number, put("{}"))).collect());
    for n in 0..40 {
        last = cluster.write((0..8).map(|number| (number, increment("n", n))).collect());
    }
    for node in cluster.nodes.values() {
        node.read(&car(1), last).await;
    }
}

/// Waits until a node is known to need this by another one.
async fn needs(asked: &Node, node: &NodeId, wanted: impl Fn(u64) -> bool) {
    let needs = async {
        loop {
            let nodes = status(asked).await.nodes;
            let known = nodes.iter().find(|known| known.name == node.as_str()).unwrap();
            if known.gc_timestamp.is_some_and(&wanted) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{node} says what it needs"), needs).await;
}

/// A scan of which the first reply was taken.
async fn begin(node: &Node, at: proto::ReadAt) -> (Streaming<proto::ScanReply>, proto::ScanReply) {
    let mut scan = node.client.clone().scan(scan_cars(at)).await.unwrap().into_inner();
    let first = within("the first reply", scan.message()).await.unwrap().unwrap();
    (scan, first)
}

/// Writes a little until a node no longer has a snapshot.
async fn given_up(cluster: &mut Cluster, node: (usize, usize), txn: TxnId) {
    let node = name(node.0, node.1);
    let given_up = async {
        while status(&cluster.nodes[&node]).await.oldest_readable <= txn.0 {
            let last = cluster.write(vec![(1, increment("n", 1)), (2, increment("n", 1))]);
            cluster.nodes[&node].read(&car(1), last).await;
        }
    };
    within("what nobody reads is given up", given_up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_goes_on_at_another_replica_however_much_was_written_meanwhile() {
    let mut cluster = Cluster::start_with(2, 2, short_history).await;
    let last = write_large(&mut cluster);
    let (mut scan, first) = begin(&cluster.nodes[&name(0, 0)], at(last)).await;
    write_much(&mut cluster).await;
    for (name, node) in &cluster.nodes {
        assert!(status(node).await.oldest_readable <= last.0, "{name} keeps it");
    }
    let reader = &cluster.nodes[&name(0, 0)];
    assert!(status(reader).await.gc_timestamp <= last.0);
    needs(reader, &name(0, 0), |txn| txn == last.0).await;

    // The replica that it reads from says so as well, and the other one goes on with what is new.
    // The first dies, and the other one was started anew before.
    let (first_goes_on, second_goes_on) = (name(1, 0), name(1, 1));
    let other = tokio::select! {
        () = needs(reader, &first_goes_on, |txn| txn > last.0) => 0,
        () = needs(reader, &second_goes_on, |txn| txn > last.0) => 1,
    };
    let source = 1 - other;
    needs(reader, &name(1, source), |txn| txn == last.0).await;
    cluster.stop_node(&name(1, other)).await;
    cluster.start_node(&name(1, other)).await;
    cluster.nodes[&name(1, other)].ready().await;
    cluster.stop_node(&name(1, source)).await;
    let mut states: BTreeMap<Vec<u8>, _> = BTreeMap::new();
    let mut reply = Some(first);
    while let Some(proto::ScanReply { txn, items }) = reply {
        assert_eq!(txn, Some(last.0));
        states.extend(items.into_iter().map(|item| (item.document_id.to_vec(), item.state)));
        reply = within("the scan goes on", scan.message()).await.unwrap();
    }
    assert_eq!(states.len(), usize::try_from(LARGE).unwrap());
    for state in states.values() {
        assert!(state::decode(state).unwrap().value().unwrap().to_json().contains("xxx"));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_an_older_snapshot_is_held_by_all_as_well() {
    let mut cluster = Cluster::start_with(2, 2, short_history).await;
    let old = write_large(&mut cluster);
    for _ in 0..5 {
        cluster.write((0..8).map(|number| (number, put("{}"))).collect());
    }
    let (scan, _) = begin(&cluster.nodes[&name(0, 0)], exactly(old)).await;
    needs(&cluster.nodes[&name(1, 0)], &name(0, 0), |txn| txn == old.0).await;
    write_much(&mut cluster).await;
    for (name, node) in &cluster.nodes {
        assert!(status(node).await.oldest_readable <= old.0, "{name} keeps it, asked or not");
    }
    drop(scan);
    given_up(&mut cluster, (1, 0), old).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_holds_nothing_for_longer_than_a_read_may_take() {
    let mut cluster = Cluster::start_with(2, 1, |config| {
        short_history(config);
        config.max_read_ms = 10_000;
    })
    .await;
    let last = write_large(&mut cluster);
    let (scan, _) = begin(&cluster.nodes[&name(0, 0)], at(last)).await;
    let newer = cluster.write((0..8).map(|number| (number, increment("n", 1))).collect());
    let survivor = &cluster.nodes[&name(1, 0)];
    let stable = async {
        while status(survivor).await.applied_next <= newer.0 {
            tokio::task::yield_now().await;
        }
    };
    within("more is stable", stable).await;
    needs(survivor, &name(0, 0), |txn| txn == last.0).await;
    cluster.stop_node(&name(0, 0)).await;
    drop(scan);
    let given_up = async {
        while status(&cluster.nodes[&name(1, 0)]).await.oldest_readable <= last.0 {
            cluster.write(vec![(1, increment("n", 1)), (2, increment("n", 1))]);
            tokio::task::yield_now().await;
        }
    };
    within("it is given up all the same", given_up).await;
    cluster.stop().await;
}
