//! Indexes that a node makes by itself: over what its queries keep looking for in vain, as many as
//! its settings say, and none in the place of one that is used.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_journal::Journal;
use anabranch_runtime::telemetry::install_metrics;
use anabranch_store_node::StoreNodeConfig;
use tempfile::TempDir;

use self::support::indexes::{count, declare, explain, rows, text, until_found_by};
use self::support::log::{Log, Round, car};
use self::support::{Node, at, config, journal, put};

const DOCUMENTS: i64 = 50_000;
const PER_ROUND: i64 = 2_000;
/// So many queries look at more than a million documents in vain, with some to spare: what the last
/// ones looked at may be counted only after their rows have come.
const OFTEN: i64 = 24;
/// So many uses of an index are worth keeping it.
const OFTEN_ENOUGH: i64 = 12;

/// A node with documents.
struct Store {
    node: Node,
    journal: Arc<dyn Journal>,
    loaded: TxnId,
    _dir: TempDir,
}

impl Store {
    /// One that makes so many indexes at most.
    async fn start(automatic_indexes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(&dir.path().join("log"));
        let mut log = Log::open(Arc::clone(&journal));
        let mut loaded = TxnId(0);
        for id in 0..DOCUMENTS / PER_ROUND {
            let numbers = id * PER_ROUND..(id + 1) * PER_ROUND;
            let document = |n: i64| (car(n), put(&format!(r#"{{"n": {n}, "m": {n}}}"#)));
            let id = id.unsigned_abs();
            let mutations = numbers.map(document).collect();
            loaded = log.write(&Round { id: id.into(), millis: 1_000 + id, mutations });
        }
        // All is in memory, so that looking at all of it takes no longer than it has to.
        let config = StoreNodeConfig {
            automatic_indexes,
            write_buffer_bytes: 64 << 20,
            block_cache_bytes: 64 << 20,
            ..config(&dir.path().join("store"))
        };
        let node = Node::start(config, Arc::clone(&journal)).await;
        node.ready().await;
        Store { node, journal, loaded, _dir: dir }
    }

    /// Looks so many times for one document by a field.
    async fn look_for(&self, field: &str, times: i64) {
        for value in 0..times {
            let statement = asking(field, value);
            let found = rows(&self.node, &statement, at(self.loaded)).await;
            assert_eq!(found.len(), 1, "{statement}");
        }
    }

    /// Which index finds documents by a field, if one does, and why.
    async fn index_of(&self, field: &str) -> (Option<String>, String) {
        let parts = explain(&self.node, &asking(field, 1), at(self.loaded)).await;
        let is_found = text(&parts[0], "access") == "index";
        let index = is_found.then(|| text(&parts[0], "index").to_owned());
        (index, text(&parts[0], "why").to_owned())
    }

    /// Declares an index and waits for it. It is filled last: by then all that was wished for
    /// before has been begun, and all that was to go for it is gone.
    async fn settle(&self) {
        declare(&self.journal, "declared", &["x"]);
        until_found_by(&self.node, &asking("x", 1), "index").await;
    }
}

fn asking(field: &str, value: i64) -> String {
    format!("SELECT _id FROM cars WHERE {field} = {value}")
}

/// A node that has made one, which it uses, and would make another one if it might have two.
async fn with_one() -> Store {
    let store = Store::start(1).await;
    let (index, why) = store.index_of("n").await;
    assert_eq!((index, why.as_str()), (None, "the collection has no index"));
    store.look_for("n", OFTEN).await;
    until_found_by(&store.node, &asking("n", 1), "index").await;
    assert_eq!(store.index_of("n").await.0.as_deref(), Some("automatic (n)"));
    let statement = format!("ANALYZE {}", asking("n", 1));
    let analyzed = explain(&store.node, &statement, at(store.loaded)).await;
    assert_eq!((count(&analyzed[0], "examined"), count(&analyzed[0], "rows")), (1, 1));
    store.look_for("n", OFTEN_ENOUGH).await;
    store.look_for("m", OFTEN).await;
    store
}

/// A node that may not make any does not, however often it looks in vain.
async fn with_none() {
    let store = Store::start(0).await;
    store.look_for("n", OFTEN).await;
    store.settle().await;
    let (index, why) = store.index_of("n").await;
    // One that is being built would be named here, too.
    let expected = "no index serves; declared (x): the condition gives no value or range for x";
    assert_eq!((index, why.as_str()), (None, expected));
    store.node.stop().await;
}

/// The only test here: what is measured is measured for the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_makes_indexes_by_itself_if_it_may_and_keeps_what_is_used() {
    let metrics = install_metrics().unwrap();
    let (store, ()) = tokio::join!(with_one(), with_none());
    store.settle().await;
    assert_eq!(store.index_of("n").await.0.as_deref(), Some("automatic (n)"), "it is of use");
    let (index, why) = store.index_of("m").await;
    assert_eq!(index, None);
    assert!(!why.contains("(m)"), "none was begun: {why}");
    let rendered = metrics.render();
    for (kind, state, count) in [
        ("automatic", "built", 1),
        ("automatic", "building", 0),
        ("declared", "built", 1),
        ("declared", "building", 0),
    ] {
        let line =
            format!(r#"anabranch_store_node_indexes{{kind="{kind}",state="{state}"}} {count}"#);
        assert!(rendered.lines().any(|found| found == line), "{line} in\n{rendered}");
    }
    store.node.stop().await;
}
