//! A cluster of many store nodes under load, in which something goes wrong all the time, and clients
//! that record what they see (IN-1, IN-2, ST-2, ST-3, ST-4, CDC-1, CDC-2).
//!
//! Three partitions of two replicas each, two ingest servers and change data capture, on a Kafka of
//! the test's own. Sessions write rounds of several documents and read, with the tokens that they
//! have and that they give each other. Meanwhile store nodes are killed, wiped, paused, cut off from
//! each other and from the log, but never all replicas of a partition; now and then a server dies.
//! The log is trimmed to a few seconds. In the end everything is read from each replica, all of which
//! must hold the same, and the history is checked.
//!
//! `make chaos` runs it for half an hour and writes a report. What can be set:
//! * `ANABRANCH_TEST_SEED`: what goes wrong when, and what clients do; it is printed.
//! * `ANABRANCH_TEST_CHAOS_SECONDS`: for how long things go wrong.
//! * `ANABRANCH_TEST_CHAOS_BOUND_MS`: how long a partition may not be read, a reader see
//!   nothing new, and a session wait for a read. It is generous unless set: the machine of a test
//!   may stand still for seconds.
//! * `ANABRANCH_TEST_CHAOS_REPORT`: the file of the report.

#[path = "../crash/changes.rs"]
mod changes;
mod fault;
mod finale;
mod nodes;
mod report;
mod session;
mod stage;
mod trim;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs};

use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_tests::cluster::{Cluster, Layout, PATIENCE, Service, Terms};
use anabranch_tests::history::{History, Operation, Txn, check};
use anabranch_tests::support::{
    BrokerProcess, BrokerSettings, End, Network, free_port, wait_until,
};
use anyhow::{Context, Result, anyhow, ensure};

use fault::Chaos;
use nodes::Nodes;
use report::Report;
use session::Session;
use stage::{COLLECTIONS, Notes, Stage, id};
use trim::{Trimmed, Trimmer};
use watch::Watch;

/// How long what was deleted goes on hiding what it was: so short that much of it expires.
const TOMBSTONES_LIVE_MS: &str = "3000";
const BINARY: &str = env!("CARGO_BIN_EXE_anabranch");
const PARTITIONS: usize = 3;
const REPLICAS: usize = 2;
const INGESTS: usize = 2;
/// Clients.
const SESSIONS: usize = 6;
/// How long things go wrong if nothing is said, and what then is too long.
const SECONDS: u64 = 40;
const BOUND_MS: u64 = 10_000;

#[test]
fn clients_see_a_causally_consistent_database_whatever_fails() -> Result<()> {
    let seed = number("ANABRANCH_TEST_SEED")?.unwrap_or(u64::from(std::process::id()));
    let lasts = number("ANABRANCH_TEST_CHAOS_SECONDS")?.unwrap_or(SECONDS);
    println!(
        "seed {seed}: repeat with ANABRANCH_TEST_SEED={seed} ANABRANCH_TEST_CHAOS_SECONDS={lasts} \
         cargo test --workspace --test chaos"
    );
    let dir = tempfile::tempdir()?;
    let result = Run::start(dir.path(), seed).and_then(|run| run.go(Duration::from_secs(lasts)));
    if result.is_err() {
        println!("logs, data and core dumps are kept in {}", dir.keep().display());
    }
    result
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = env::var(variable).ok();
    text.map(|text| text.parse().with_context(|| format!("{variable}={text}"))).transpose()
}

/// A cluster, its clients, and what they share.
struct Run {
    dir: PathBuf,
    broker: BrokerProcess,
    network: Arc<Network>,
    cluster: Cluster,
    nodes: Arc<Nodes>,
    stage: Arc<Stage>,
    sessions: Vec<JoinHandle<Vec<Operation>>>,
    prepared: Vec<Operation>,
    watch: Watch,
    trimmer: JoinHandle<Trimmed>,
    ended: Vec<String>,
}

impl Run {
    fn start(dir: &Path, seed: u64) -> Result<Self> {
        let network = Arc::new(Network::new()?);
        let mut settings = BrokerSettings::default();
        let mut logs = Vec::new();
        for number in 0..PARTITIONS * REPLICAS {
            let port = free_port();
            let reached = network.way(End::LogOf(number), port)?;
            settings = settings.way(port, reached);
            logs.push(format!("127.0.0.1:{reached}"));
        }
        let broker = BrokerProcess::start_with(&dir.join("kafka"), free_port(), settings)?;
        // A build meanwhile does not change what runs.
        let binary = dir.join("anabranch");
        fs::copy(BINARY, &binary)?;
        let layout = Layout {
            partitions: Some((PARTITIONS, REPLICAS)),
            ingests: INGESTS,
            bridge: None,
            network: Some(Arc::clone(&network)),
            logs,
            settings: vec![("ANABRANCH_INGEST__TOMBSTONE_TIME_TO_LIVE_MS", TOMBSTONES_LIVE_MS)],
        };
        let mut cluster = Cluster::new(&binary, dir, "chaos", &broker.address(), &layout)?;
        cluster.start_all()?;
        let servers = (0..INGESTS).map(|number| cluster.api_of(Service::Ingest(number)));
        let stage = Arc::new(Stage::new(seed, servers.collect()));
        let notes = Arc::new(Notes::new(SESSIONS));
        let session = |number| Session::new(number, Arc::clone(&stage), Arc::clone(&notes));
        let (prepared, last) =
            session(SESSIONS).prepare().map_err(|error| cluster.explained(&error))?;
        are_stable(&stage, last).map_err(|error| cluster.explained(&error))?;

        let nodes = Arc::new(Nodes::of(&cluster)?);
        let watch = Watch::start(&stage, &finale::one_of_each()?, &nodes);
        let name = cluster.name().parse()?;
        let trimmer = Trimmer::new(broker.address(), name, &stage, &nodes)?.start();
        let run = |number| {
            let session = session(number).told(last);
            thread::spawn(move || session.run())
        };
        let sessions = (0..SESSIONS).map(run).collect();
        let (dir, ended) = (dir.to_owned(), Vec::new());
        Ok(Run {
            dir,
            broker,
            network,
            cluster,
            nodes,
            stage,
            sessions,
            prepared,
            watch,
            trimmer,
            ended,
        })
    }

    fn go(mut self, lasts: Duration) -> Result<()> {
        let stage = Arc::clone(&self.stage);
        let chaos = Chaos {
            cluster: &mut self.cluster,
            network: &self.network,
            nodes: &self.nodes,
            stage: &stage,
            watch: &self.watch,
            ended: &mut self.ended,
        };
        let happened = chaos.run(lasts);
        stage.stop();
        let happened = happened.map_err(|error| self.cluster.explained(&error))?;
        let mut history = History::default();
        for session in self.sessions {
            history.sessions.push(session.join().map_err(|_| anyhow!("a session panicked"))?);
        }
        history.sessions.push(self.prepared);
        let watched = self.watch.finish()?;
        let trimmed = self.trimmer.join().map_err(|_| anyhow!("the trimmer panicked"))?;
        stage.check().map_err(|error| self.cluster.explained(&error))?;

        let mut cluster = self.cluster;
        let mut checks = vec![cluster.verify().context("ST-2, after all faults")];
        let expired = finale::check_expired(&cluster);
        let last = history.writes().filter_map(|write| write.outcome).max();
        let end = finale::read_replicas(&mut cluster, last.context("a round")?);
        history.end = end.map_err(|error| cluster.explained(&error))?;
        checks.push(cluster.verify().context("ST-2, after all restarts"));
        checks.push(expired);
        let violations = check(&history);
        let kafka = KafkaConfig::new(self.broker.address(), "chaos-test");
        let events = finale::check_changes(&cluster, &KafkaJournal::connect(kafka)?);
        let report = Report {
            seed: stage.seed,
            lasted: stage.lasted(),
            happened: &happened,
            watched: &watched,
            history: &history,
            trimmed,
            refused: stage.refused.load(Ordering::Relaxed),
            waits: &stage.waits.lock(),
            events: *events.as_ref().unwrap_or(&0),
            violations: &violations,
            ended: &self.ended,
            bound: bound()?,
        };
        checks.push(conclude(&report, &self.dir));
        checks.push(events.map(|_| ()));
        for failure in checks.iter().filter_map(|check| check.as_ref().err()) {
            println!("{failure:#}");
        }
        checks.into_iter().collect::<Result<()>>().map_err(|error| cluster.explained(&error))
    }
}

/// Waits until reads without a token see this transaction.
fn are_stable(stage: &Stage, txn: Txn) -> Result<()> {
    wait_until("what was prepared is stable", PATIENCE, || {
        let all = (0..stage.servers())
            .map(|server| stage.api(server).try_get_on(COLLECTIONS[0], &id(0), &Terms::default()));
        Ok(all.into_iter().all(|reply| reply.is_ok_and(|reply| reply.txn >= Some(txn.0))))
    })
}

fn bound() -> Result<Duration> {
    let bound = number("ANABRANCH_TEST_CHAOS_BOUND_MS")?.unwrap_or(BOUND_MS);
    Ok(Duration::from_millis(bound))
}

/// Writes the report, and fails if it says that something is wrong.
fn conclude(report: &Report<'_>, dir: &Path) -> Result<()> {
    let page = report.page();
    println!("{page}");
    if let Ok(file) = env::var("ANABRANCH_TEST_CHAOS_REPORT") {
        fs::write(&file, &page).with_context(|| format!("cannot write {file}"))?;
    }
    if !report.violations.is_empty() {
        let operations = report.history.operations();
        let lines = operations.map(|(session, operation)| format!("{session}: {operation:?}\n"));
        fs::write(dir.join("history"), lines.collect::<String>())?;
    }
    ensure!(report.violations.is_empty(), "{} violations", report.violations.len());
    ensure!(report.ended.is_empty(), "ended by themselves:\n{}", report.ended.join("\n"));
    let (unread, unstable) = (report.longest_unread(), report.longest_unstable());
    let (waited, bound) = (report.longest_wait(), report.bound);
    ensure!(unread <= bound, "a partition could not be read for {unread:?}");
    ensure!(unstable <= bound, "a reader saw nothing new for {unstable:?}");
    ensure!(waited <= bound, "a session waited for a read for {waited:?}");
    Ok(())
}
