//! A node reads as much of the log's rounds as it owns of the keyspace, however large the cluster.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::ids::TxnId;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use self::support::cluster::{configuration, name};
use self::support::log::{Log, Round, car};
use self::support::{Node, config, journal, put};

const METRIC: &str = "anabranch_store_node_log_read_bytes_total";

/// Counters by name and labels, as the process counts them.
#[derive(Clone, Default)]
struct Counters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Counters {
    /// Bytes read of a topic by all nodes so far.
    fn read(&self, topic: &str) -> u64 {
        let counters = self.0.lock();
        counters.get(&format!("{METRIC} topic={topic}")).map_or(0, |of| of.load(Ordering::SeqCst))
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Counter::from_arc(Arc::clone(self.0.lock().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The only test here: what it counts is counted for the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_reads_of_the_log_shrinks_with_what_it_owns() {
    let counters = Counters::default();
    metrics::set_global_recorder(counters.clone()).unwrap_or_else(|_| panic!("it is the first"));
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let filler = put(&format!("{{\"filler\":\"{}\"}}", "x".repeat(500)));
    let mut last = TxnId(0);
    for id in 0..100 {
        let first = i64::try_from(id).unwrap() * 40;
        let mutations = (first..first + 40).map(|number| (car(number), filler.clone()));
        last = log.write(&Round { id, millis: 1_000_000, mutations: mutations.collect() });
    }
    let mut read = BTreeMap::new();
    for partitions in [1, 2, 4] {
        let before = ["rounds", "txns"].map(|topic| counters.read(topic));
        // One node of the cluster: the others would be counted with it.
        let configuration = configuration(partitions, 1);
        let is_own = |number: &i64| configuration.partition_of(car(*number).position()).0 == 0;
        let own = (0..).find(is_own).unwrap();
        let mut config = config(&dir.path().join(format!("of-{partitions}")));
        config.node = Some(name(0, 0));
        let node = Node::start_in(Some(configuration), config, log.journal(), None).await;
        assert!(node.read(&car(own), last).await.is_some(), "it has applied all");
        node.stop().await;
        let [rounds, txns] =
            [("rounds", 0), ("txns", 1)].map(|(topic, index)| counters.read(topic) - before[index]);
        read.insert(partitions, (rounds, txns));
    }
    let (all, txns) = read[&1];
    for (partitions, share) in [(2, 2), (4, 4)] {
        let (rounds, commits) = read[&partitions];
        let expected = all / share;
        let is_near = rounds > expected * 8 / 10 && rounds < expected * 12 / 10;
        assert!(is_near, "{partitions} partitions: {rounds} of {all} bytes");
        assert_eq!(commits, txns, "every node reads every commit record");
    }
}
