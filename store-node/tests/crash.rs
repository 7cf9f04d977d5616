//! `kill -9` at random moments while rounds are written and applied: whatever was committed is
//! applied once, in order, as a model of the log says (ST-1), and the feed has each change once
//! with the right images (CDC-1).

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_schemas::records::Change;
use anabranch_schemas::{decode, state};

use self::support::log::{Log, Round, car};
use self::support::model::Model;
use self::support::{Node, config, increment, journal, put, until};

const CYCLES: u32 = 8;
const DIR: &str = "ANABRANCH_TEST_STORE_NODE_CRASH_DIR";
const CYCLE: &str = "ANABRANCH_TEST_STORE_NODE_CRASH_CYCLE";

/// Writes and applies until it is killed; does nothing unless it was started to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let (Ok(dir), Ok(cycle)) = (std::env::var(DIR), std::env::var(CYCLE)) else { return };
    let (dir, cycle) = (Path::new(&dir), cycle.parse::<u128>().unwrap());
    let journal = journal(&dir.join("log"));
    let mut log = Log::open(Arc::clone(&journal));
    let mut config = config(&dir.join("node"));
    config.flush_interval_ms = 3;
    config.write_buffer_bytes = 64 << 10;
    let _node = Node::start(config, journal).await;
    for number in 0_u128.. {
        let round = |part: u128| {
            let id = cycle << 64 | number << 8 | part;
            let document = i64::try_from(number % 40).unwrap();
            let new = i64::try_from(1_000 + (cycle << 32) + (number << 8) + part).unwrap();
            let millis = u64::try_from(1_000_000 + (cycle << 16) + number).unwrap();
            let filler = "x".repeat(usize::try_from(number % 7).unwrap() * 300);
            let mutations = vec![
                (car(document), put(&format!("{{\"last\":{number},\"filler\":\"{filler}\"}}"))),
                (car(document), increment("n", 1)),
                (car(new), put(&format!("{{\"n\":{number}}}"))),
            ];
            Round { id, millis, mutations }
        };
        // Some rounds are written twice, as a client does that got no answer.
        let rounds =
            if number % 5 == 0 { vec![round(0), round(0)] } else { vec![round(0), round(1)] };
        let txns = log.write_all(&rounds);
        println!("\nwritten {}", txns.last().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_random_moments_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = None;
    for cycle in 0..CYCLES {
        // Different amounts of work, and so different moments; the scheduler adds to it.
        let written = 3 + (cycle * 37) % 101;
        acknowledged = write_and_kill(dir.path(), cycle, written).max(acknowledged);
        check(dir.path(), acknowledged.unwrap()).await;
    }
}

/// Starts a process, kills it once it has written so many times; the last transaction it told of.
fn write_and_kill(dir: &Path, cycle: u32, writes: u32) -> Option<TxnId> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["the_process_that_is_killed", "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(CYCLE, cycle.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let txns = lines.filter_map(|line| {
        line.unwrap().strip_prefix("written ").map(|txn| TxnId(txn.parse().unwrap()))
    });
    let last = txns.take(usize::try_from(writes).unwrap()).last();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(last.is_some(), "the process died by itself");
    last
}

async fn check(dir: &Path, acknowledged: TxnId) {
    let journal = journal(&dir.join("log"));
    let model = Model::of(&*journal);
    let (last, _) = model.transactions.last_key_value().expect("something was written");
    assert!(acknowledged <= *last, "what was acknowledged is in the log");
    let node = Node::start(config(&dir.join("node")), Arc::clone(&journal)).await;
    node.ready().await;
    for (id, document) in &model.documents {
        let found = node.read(id, *last).await;
        let mut expected = document.value();
        if let Some(anabranch_core::Value::Object(fields)) = &mut expected {
            fields.insert("_id".to_owned(), id.key.to_value());
        }
        assert_eq!(found, expected, "{id}");
    }
    check_feed(&node, &model, last.next()).await;
    node.stop().await;
    until("all handles of the log are gone", || Arc::strong_count(&journal) == 1).await;
}

async fn check_feed(node: &Node, model: &Model, end: TxnId) {
    let mut in_feed = BTreeMap::new();
    for reply in node.feed(&[], TxnId(0), end).await {
        for transaction in reply.transactions {
            let changes = transaction.changes.into_iter().map(|change| {
                let change: Change = decode(&change.event).unwrap();
                let after = state::decode(&change.state).unwrap().value();
                (change.id(), (change.before_image(after.as_ref()), after))
            });
            let changes: Vec<_> = changes.collect();
            let count = changes.len();
            let changes: BTreeMap<_, _> = changes.into_iter().collect();
            assert_eq!(changes.len(), count, "a change came twice");
            let before = in_feed.insert(TxnId(transaction.txn), changes);
            assert!(before.is_none(), "a transaction came twice");
        }
    }
    assert_eq!(in_feed, model.transactions);
}
