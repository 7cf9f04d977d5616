//! Whoever follows a query has what the query finds, each transaction whole and in order, whoever dies.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use anabranch_tests::cluster::{Api, Cluster, Follower, Layout, PATIENCE, Service};
use anabranch_tests::support::{BrokerProcess, free_port, wait_until};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::BINARY;

const SERVERS: usize = 2;
/// Partitions, and the store nodes of each.
const STORE: (usize, usize) = (2, 2);
/// How many write, how often each, and how many pairs of documents each has.
const WRITERS: usize = 3;
const WRITES: usize = 150;
const PAIRS: usize = 5;
/// How many follow each query.
const FOLLOWERS: usize = 3;
/// Of each document one row, which tells whether a transaction came whole.
const WHOLE: [&str; 2] = ["SELECT * FROM pairs", "SELECT _id, n, pair FROM pairs ORDER BY n DESC"];
const OTHER: [&str; 3] = [
    "SELECT _id, n FROM pairs WHERE n > 50 ORDER BY n DESC, _id LIMIT 4",
    "SELECT COUNT(*) AS documents, SUM(n) AS n FROM pairs",
    "SELECT DISTINCT pair FROM pairs WHERE n < 50 ORDER BY pair",
];

#[test]
fn who_follows_a_query_has_what_it_finds() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(&dir.path().join("kafka"), free_port())?;
    let layout = Layout { partitions: Some(STORE), ingests: SERVERS, ..Layout::default() };
    let (binary, address) = (Path::new(BINARY), broker.address());
    let mut cluster = Cluster::new(binary, dir.path(), "live", &address, &layout)?;
    cluster.start_all()?;
    check(&mut cluster).map_err(|error| cluster.explained(&error))
}

fn check(cluster: &mut Cluster) -> Result<()> {
    all_ready(cluster)?;
    let apis: Vec<Api> =
        (0..SERVERS).map(|number| cluster.api_of(Service::Ingest(number))).collect();
    // Everybody follows until they are told of this transaction.
    let last = Arc::new(AtomicU64::new(u64::MAX));
    let queries = WHOLE.iter().map(|query| (*query, true));
    let queries = queries.chain(OTHER.iter().map(|query| (*query, false)));
    let followers: Vec<_> = queries
        .flat_map(|query| (0..FOLLOWERS).map(move |number| (number, query)))
        .map(|(number, (query, is_whole))| {
            let (mut apis, last) = (apis.clone(), Arc::clone(&last));
            let servers = apis.len();
            apis.rotate_left(number % servers);
            thread::spawn(move || follow(&apis, query, is_whole, &last))
        })
        .collect();
    let left = Arc::new(AtomicUsize::new(WRITERS));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (api, left) = (apis[number % SERVERS].clone(), Arc::clone(&left));
            thread::spawn(move || {
                let written = write(&api, number);
                left.fetch_sub(1, Ordering::SeqCst);
                written
            })
        })
        .collect();
    let victims =
        [Service::StoreNode(0), Service::Ingest(1), Service::StoreNode(2), Service::Ingest(0)];
    cluster.kill_while(&victims, || left.load(Ordering::SeqCst) > 0)?;
    writers.into_iter().try_for_each(joined)?;
    all_ready(cluster)?;
    // Changes the result of every query.
    let pair =
        json!([{"_id": "last-a", "pair": -1, "n": 99}, {"_id": "last-b", "pair": -1, "n": 99}]);
    let end = put(&apis[0], &pair, "last")?;
    let end = put(
        &apis[0],
        &json!([{"_id": "last-a", "n": 9_999}, {"_id": "last-b", "n": 9_999}]),
        "end",
    )
    .map(|txn| txn.max(end))?;
    last.store(end, Ordering::SeqCst);
    for followed in followers {
        let (query, rows, changes) = joined(followed)?;
        let found = apis[1].execute_surely(query, &json!({}), &format!("q-{query}"), Some(end));
        ensure!(found?["items"] == Value::from(rows.clone()), "'{query}' was told {rows:?}");
        ensure!(changes > 10, "'{query}' was told of {changes} changes only");
    }
    cluster.verify()
}

fn all_ready(cluster: &Cluster) -> Result<()> {
    wait_until("all services are ready", PATIENCE, || {
        Ok(cluster.services().all(|service| cluster.is_ready(service)))
    })
}

fn joined<T>(task: thread::JoinHandle<Result<T>>) -> Result<T> {
    task.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn put(api: &Api, documents: &Value, key: &str) -> Result<u64> {
    let insert = "INSERT INTO pairs DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
    let reply = api.execute_surely(insert, &json!({"d": documents}), key, None)?;
    reply["transactionId"].as_u64().context("a transaction")
}

/// Writes pairs of documents, which are in different slices: both have the same number, always. Rows come
/// and go.
fn write(api: &Api, writer: usize) -> Result<()> {
    for number in 0..WRITES {
        let (pair, n) = (writer * PAIRS + number % PAIRS, number * 37 % 100);
        let document = |half: &str| json!({"_id": format!("{pair}-{half}"), "pair": pair, "n": n});
        put(api, &json!([document("a"), document("b")]), &format!("{writer}-{number}"))?;
    }
    Ok(())
}

/// The rows that it has at the end, and how many events came.
fn follow(
    apis: &[Api],
    query: &'static str,
    is_whole: bool,
    last: &AtomicU64,
) -> Result<(&'static str, Vec<Value>, usize)> {
    let mut follower = Follower::new(apis, query)?;
    while follower.followed.txn.is_none_or(|txn| txn < last.load(Ordering::SeqCst)) {
        follower.listen().with_context(|| format!("'{query}' at {:?}", follower.followed.txn))?;
        if is_whole {
            check_whole(&follower)
                .with_context(|| format!("'{query}' at {:?}", follower.followed.txn))?;
        }
    }
    let (results, changes) = follower.followed.events;
    Ok((query, follower.followed.rows().cloned().collect(), results + changes))
}

/// Of each pair both have the same number (IN-2).
fn check_whole(follower: &Follower) -> Result<()> {
    let mut rows: Vec<_> =
        follower.followed.rows().map(|row| (row["_id"].as_str(), &row["n"])).collect();
    rows.sort_by_key(|(id, _)| *id);
    for pair in rows.chunks(2) {
        ensure!(pair.len() == 2 && pair[0].1 == pair[1].1, "a pair came in part: {pair:?}");
    }
    Ok(())
}
