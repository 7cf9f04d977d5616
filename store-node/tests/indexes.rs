//! Indexes of nodes that run: what is found by them is what a scan finds, before, while and after they
//! are built, under writes; and of a million documents only those are looked at that are returned.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::TxnId;
use anabranch_schemas::store as proto;
use anabranch_store_node::StoreNodeConfig;

use self::support::cluster::Cluster;
use self::support::indexes::{count, declare, explain, give_up, rows, text, until_found_by};
use self::support::log::{Log, Round, car};
use self::support::{Node, PATIENCE_MS, at, config, exactly, journal, put, within};

const DOCUMENTS: i64 = 1_000_000;
const PER_ROUND: i64 = 2_000;
/// How many documents have the same `g`.
const GROUP: i64 = 10;
const GROUPS: i64 = DOCUMENTS / GROUP;
/// The group that is asked for. Nothing moves into it or out of it.
const ASKED: i64 = 4_711;

fn document(number: i64, changes: i64) -> (i64, anabranch_core::document::Mutation) {
    (number, put(&format!(r#"{{"g": {}, "n": {number}, "changes": {changes}}}"#, number % GROUPS)))
}

fn round(id: u128, documents: Vec<(i64, anabranch_core::document::Mutation)>) -> Round {
    let mutations = documents.into_iter().map(|(number, mutation)| (car(number), mutation));
    // All within the history that can be read.
    Round {
        id,
        millis: 1_000 + u64::try_from(id).unwrap() % 100_000,
        mutations: mutations.collect(),
    }
}

/// Goes on changing documents, also what they are found by, until it is told to stop. Returns the
/// last transaction.
fn keep_writing(mut log: Log, stop: &AtomicBool) -> TxnId {
    let mut last = TxnId(0);
    let rounds = (0..).take_while(|_| !stop.load(Ordering::SeqCst));
    for number in rounds {
        let documents = (0..50).map(|step| {
            let n = (number * 7_919 + step * 104_729) % DOCUMENTS;
            match n % GROUPS {
                // It changes, but not what it is found by.
                ASKED => document(n, number),
                g => (n, put(&format!(r#"{{"g": {}, "changes": {number}}}"#, moved(g)))),
            }
        });
        let id = u128::try_from(DOCUMENTS + number).unwrap();
        last = log.write(&round(id, documents.collect()));
        // Some ten thousand documents a second, and not as many as there can be.
        std::thread::sleep(Duration::from_millis(4));
    }
    last
}

/// Another group, and never the one that is asked for.
fn moved(group: i64) -> i64 {
    let other = (group + 1) % GROUPS;
    if other == ASKED { other + 1 } else { other }
}

/// Whether a statement was not found by the index since that is not complete.
fn is_being_built(part: &Value) -> bool {
    let is_told = text(part, "why").contains("by_g (g): it is being built");
    text(part, "access") == "scan" && is_told
}

/// Asks until a statement is not found by the index since that is not complete. It takes seconds to
/// build, and an answer comes at once: to see it complete before is a mistake.
async fn until_it_is_being_built(node: &Node, statement: &str) {
    let asking = async {
        loop {
            let newest = proto::ReadAt { wait_ms: PATIENCE_MS, ..Default::default() };
            let parts = explain(node, statement, newest).await;
            if is_being_built(&parts[0]) {
                return;
            }
            assert_eq!(text(&parts[0], "access"), "scan", "it was never seen incomplete");
        }
    };
    within("the index is begun", asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_million_documents_only_those_are_looked_at_that_are_returned() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir.path().join("log"));
    let mut log = Log::open(Arc::clone(&journal));
    let mut loaded = TxnId(0);
    for id in 0..DOCUMENTS / PER_ROUND {
        let documents = (0..PER_ROUND).map(|n| document(id * PER_ROUND + n, 0)).collect();
        loaded = log.write(&round(id.unsigned_abs().into(), documents));
    }
    let config = StoreNodeConfig {
        write_buffer_bytes: 64 << 20,
        block_cache_bytes: 64 << 20,
        ..config(&dir.path().join("store"))
    };
    let node = Node::start(config, Arc::clone(&journal)).await;
    node.ready().await;

    let statement = format!("SELECT _id, n FROM cars WHERE g = {ASKED} AND n >= 0");
    let expected: Vec<_> = (0..GROUP).map(|n| ASKED + n * GROUPS).collect();
    let numbers = |rows: Vec<Value>| {
        let mut found: Vec<_> = rows.iter().map(|row| count(row, "n")).collect();
        found.sort_unstable();
        found
    };
    let before = explain(&node, &format!("ANALYZE {statement}"), at(loaded)).await;
    assert_eq!(text(&before[0], "access"), "scan");
    assert_eq!((count(&before[0], "examined"), count(&before[0], "rows")), (DOCUMENTS, GROUP));

    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || keep_writing(log, &stop))
    };
    declare(&journal, "by_g", &["g"]);
    let newest = || proto::ReadAt { wait_ms: PATIENCE_MS, ..Default::default() };
    until_it_is_being_built(&node, &statement).await;
    // A run says what it found out when it began: it begins while the index is built, beside one
    // whose rows are looked at.
    let analyze = format!("ANALYZE {statement}");
    let analyzed = explain(&node, &analyze, newest());
    let (meanwhile, found) = tokio::join!(analyzed, rows(&node, &statement, newest()));
    assert!(is_being_built(&meanwhile[0]), "{:?}", meanwhile[0]);
    assert_eq!(count(&meanwhile[0], "rows"), GROUP);
    assert_eq!(numbers(found), expected);
    until_found_by(&node, &statement, "index").await;
    for _ in 0..100 {
        let analyzed = explain(&node, &format!("ANALYZE {statement}"), newest()).await;
        let part = &analyzed[0];
        assert_eq!(text(part, "index"), "by_g (g)");
        assert_eq!((count(part, "examined"), count(part, "rows")), (GROUP, GROUP), "{part}");
        assert_eq!(numbers(rows(&node, &statement, newest()).await), expected);
    }
    stop.store(true, Ordering::SeqCst);
    let last = writing.await.unwrap();

    // Others have moved: what an index and a scan find at one timestamp is the same.
    let groups: Vec<_> = (0..40).map(|n| (n * 7_919 + 1) % GROUPS).collect();
    let groups = groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let moved =
        format!("SELECT g, COUNT(*) AS c FROM cars WHERE g IN ({groups}) GROUP BY g ORDER BY g");
    until_found_by(&node, &moved, "index").await;
    let found = rows(&node, &moved, at(last)).await;
    give_up(&journal, "by_g");
    until_found_by(&node, &moved, "scan").await;
    let scanned = rows(&node, &moved, at(last)).await;
    assert_eq!(found, scanned);
    assert_eq!(found.len(), 40);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_as_of_before_an_index_is_scanned() {
    let mut cluster = Cluster::start_with(1, 1, |_| {}).await;
    let first = cluster.write(vec![(1, put(r#"{"n": 1}"#)), (2, put(r#"{"n": 2}"#))]);
    let last = cluster.write(vec![(1, put(r#"{"n": 2}"#))]);
    let node = cluster.nodes.values().next().unwrap();
    assert_eq!(rows(node, "SELECT _id FROM cars", at(last)).await.len(), 2);
    declare(&cluster.log.journal(), "by_n", &["n"]);
    let statement = "SELECT _id FROM cars WHERE n = 1";
    until_found_by(node, statement, "index").await;
    assert!(rows(node, statement, exactly(last)).await.is_empty());
    let before = explain(node, statement, exactly(first)).await;
    assert_eq!(text(&before[0], "access"), "scan");
    let why = text(&before[0], "why");
    let expected = format!("by_n (n): it serves reads at {last} and later, not at {first}");
    assert!(why.contains(&expected), "{why}");
    assert_eq!(rows(node, statement, exactly(first)).await.len(), 1);
    // After a new start it is there at once.
    let name = cluster.nodes.keys().next().unwrap().clone();
    cluster.stop_node(&name).await;
    cluster.start_node(&name).await;
    let node = cluster.nodes.values().next().unwrap();
    node.ready().await;
    let analyzed = explain(node, &format!("ANALYZE {statement}"), at(last)).await;
    assert_eq!(text(&analyzed[0], "access"), "index");
    assert_eq!(count(&analyzed[0], "examined"), 0);
    cluster.stop().await;
}
