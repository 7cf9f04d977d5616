//! Conditions are decided in the order of the log, whoever dies: of many that insert one id one wins,
//! and who counts by what it has read counts exactly.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anabranch_tests::cluster::{Api, Cluster, Layout, PATIENCE, Reply, Service, Terms};
use anabranch_tests::support::{BrokerProcess, free_port, wait_until};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;

use crate::BINARY;

const SERVERS: usize = 2;
/// Partitions, and the store nodes of each.
const STORE: (usize, usize) = (2, 2);
/// How many insert the same ids, all at once, and how many ids.
const RIVALS: usize = 200;
const IDS: usize = 4;
/// How many count, and how often each.
const COUNTERS: usize = 8;
const COUNTS: usize = 25;
/// How long after one id the rivals go on to the next, in milliseconds.
const NEXT_MS: u64 = 1_500;
const AGAIN: Duration = Duration::from_millis(50);

#[test]
fn the_log_decides_who_wins_whoever_dies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(&dir.path().join("kafka"), free_port())?;
    let layout = Layout { partitions: Some(STORE), ingests: SERVERS, ..Layout::default() };
    let (binary, address) = (Path::new(BINARY), broker.address());
    let mut cluster = Cluster::new(binary, dir.path(), "conditional", &address, &layout)?;
    cluster.start_all()?;
    check(&mut cluster).map_err(|error| cluster.explained(&error))
}

fn check(cluster: &mut Cluster) -> Result<()> {
    wait_until("all services are ready", PATIENCE, || {
        Ok(cluster.services().all(|service| cluster.is_ready(service)))
    })?;
    let insert = "INSERT INTO counters DOCUMENTS ({'_id': 'read', 'n': 0})";
    let inserted = cluster.api().execute_surely(insert, &json!({}), "counter", None)?;
    // Whoever counts has to see it, also on a server that has not heard yet that it is stable.
    let inserted = inserted["transactionId"].as_u64().context("a transaction")?;
    let apis = (0..SERVERS).map(|number| cluster.api_of(Service::Ingest(number)));
    let apis: Arc<[Api]> = apis.collect();
    let began = Instant::now() + Duration::from_secs(1);
    let left = Arc::new(AtomicUsize::new(RIVALS + COUNTERS));
    let rivals: Vec<_> = (0..RIVALS)
        .map(|number| spawn(&apis, &left, move |apis| compete(apis, number, began)))
        .collect();
    let counters: Vec<_> = (0..COUNTERS)
        .map(|number| spawn(&apis, &left, move |apis| count_often(apis, number, inserted)))
        .collect();
    let victims =
        [Service::Ingest(0), Service::StoreNode(0), Service::Ingest(1), Service::StoreNode(3)];
    cluster.kill_while(&victims, || left.load(Ordering::SeqCst) > 0)?;

    let told = rivals.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
    let conflicts = counters.into_iter().map(joined).sum::<Result<usize>>()?;
    let mut expected = BTreeMap::new();
    for id in 0..IDS {
        let told = told.iter().map(|told| &told[id]).zip(0..);
        let winners: Vec<_> = told.clone().filter(|(told, _)| told.has_won).collect();
        let [(winner, number)] = winners[..] else { bail!("{} have won {id}", winners.len()) };
        for (loser, _) in told.filter(|(told, _)| !told.has_won) {
            ensure!(loser.winner == winner.winner, "{loser:?} is told of another than {winner:?}");
        }
        expected.insert(id.to_string(), json!({"_id": id, "by": number}));
    }
    wait_until("all services are ready again", PATIENCE, || {
        Ok(cluster.services().all(|service| cluster.is_ready(service)))
    })?;
    for api in apis.iter() {
        let found = api.documents("rivals")?;
        ensure!(found == expected, "{found:?} is there, not {expected:?}");
        let counters = api.documents("counters")?;
        let expected = json!({"_id": "read", "n": COUNTERS * COUNTS});
        ensure!(counters.values().eq([&expected]), "{counters:?}, not {expected}");
    }
    ensure!(conflicts > 0, "nobody was ever in the way of another");
    cluster.verify()
}

type Task<T> = thread::JoinHandle<Result<T>>;

fn spawn<T: Send + 'static>(
    apis: &Arc<[Api]>,
    left: &Arc<AtomicUsize>,
    task: impl FnOnce(&[Api]) -> Result<T> + Send + 'static,
) -> Task<T> {
    let (apis, left) = (Arc::clone(apis), Arc::clone(left));
    thread::spawn(move || {
        let result = task(&apis);
        left.fetch_sub(1, Ordering::SeqCst);
        result
    })
}

fn joined<T>(task: Task<T>) -> Result<T> {
    task.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// What one of those that insert the same id was told.
#[derive(Debug)]
struct Told {
    has_won: bool,
    /// The transaction that has the document.
    winner: Option<u64>,
}

/// Inserts one id after the other, each at the same moment as all the others.
fn compete(apis: &[Api], number: usize, began: Instant) -> Result<Vec<Told>> {
    let compete_for = |id: usize| {
        let starts = began + Duration::from_millis(id as u64 * NEXT_MS);
        thread::sleep(starts.saturating_duration_since(Instant::now()));
        insert(apis, number, id)
    };
    (0..IDS).map(compete_for).collect()
}

fn insert(apis: &[Api], number: usize, id: usize) -> Result<Told> {
    let args = json!({"d": {"_id": id, "by": number}});
    let insert = "INSERT INTO rivals DOCUMENTS (:d) ON ID CONFLICT FAIL";
    let key = format!("rival-{number}-{id}");
    let reply = surely(apis, number, |api| {
        api.try_execute_on(insert, &args, &Terms { key: Some(&key), ..Terms::default() })
    })?;
    match reply.status {
        200 => Ok(Told { has_won: true, winner: reply.txn }),
        409 => {
            let conflict = &reply.body["error"]["conflicts"][0];
            ensure!(conflict["_id"] == id && conflict["reason"] == "exists", "{reply:?}");
            Ok(Told { has_won: false, winner: conflict["transactionId"].as_u64() })
        }
        _ => bail!("it is not told whether it has won: {reply:?}"),
    }
}

/// Counts so often what was inserted by this transaction; how often another one was first.
fn count_often(apis: &[Api], number: usize, inserted: u64) -> Result<usize> {
    let (mut counted, mut conflicts) = (0, 0);
    while counted < COUNTS {
        let key = format!("counter-{number}-{counted}-{conflicts}");
        if count(apis, number, inserted, &key)? { counted += 1 } else { conflicts += 1 }
    }
    Ok(conflicts)
}

/// Writes one more than was read, if nobody else has by then.
fn count(apis: &[Api], number: usize, inserted: u64, key: &str) -> Result<bool> {
    let terms = Terms::at(Some(inserted));
    let read = surely(apis, number, |api| api.try_get_on("counters", "read", &terms))?;
    let version = read.version.with_context(|| format!("no version: {read:?}"))?;
    let args = json!({"n": read.body["n"].as_u64().context("a number")? + 1});
    let terms = Terms { key: Some(key), unchanged_since: Some(version), ..Terms::default() };
    let update = "UPDATE counters SET n = :n WHERE _id = 'read'";
    let reply = surely(apis, number, |api| api.try_execute_on(update, &args, &terms))?;
    match (reply.status, reply.code()) {
        (200, _) => Ok(true),
        (409, "document_changed") => {
            let winner = &reply.body["error"]["conflicts"][0]["transactionId"];
            ensure!(winner.as_u64() > Some(version), "{winner} is no winner: {reply:?}");
            Ok(false)
        }
        _ => bail!("it is not told whether it has counted: {reply:?}"),
    }
}

/// Asks one server after the other until one answers.
fn surely(apis: &[Api], number: usize, ask: impl Fn(&Api) -> Result<Reply>) -> Result<Reply> {
    let began = Instant::now();
    for api in apis.iter().cycle().skip(number % apis.len()) {
        match ask(api) {
            Ok(reply) if !reply.may_be_repeated() => return Ok(reply),
            last if began.elapsed() > PATIENCE => {
                bail!("not answered within {PATIENCE:?}: {:?}", last.map(|reply| reply.body))
            }
            Ok(_) | Err(_) => thread::sleep(AGAIN),
        }
    }
    Err(anyhow!("there is no server"))
}
