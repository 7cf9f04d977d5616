//! Kills one process after the other under load and checks that nothing was lost, doubled or
//! reordered (IN-1, ST-1, CDC-1, CDC-2, BR-1, BR-3).
//!
//! Two clusters on a Kafka of the test's own, each wanting a part of what the other has. Writers
//! repeat each write under its key until it is acknowledged, and keep what they wrote as a model.
//! Which process dies after how many acknowledged writes comes from a seed, which is printed;
//! `ANABRANCH_SEED=n` repeats a choice, `ANABRANCH_CRASH_CYCLES=n` changes how many there are.

mod changes;
mod load;

use std::path::Path;

use anabranch_tests::cluster::{Certificates, Cluster, PATIENCE, Service};
use anabranch_tests::support::{BrokerProcess, free_port, wait_until};
use anyhow::{Context, Result, ensure};

use load::{Load, Random};

const BINARY: &str = env!("CARGO_BIN_EXE_anabranch");
const CYCLES: u64 = 20;
/// A process dies after this many more acknowledged writes at the most.
const WRITES_BETWEEN: u64 = 60;
/// What west wants of `items`; east wants all of `shared` and `notes`, west all of `shared`.
const FILTER: &str = "Origin = 'Japan'";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Service(Service),
    Broker,
}

#[test]
fn nothing_is_lost_doubled_or_reordered() -> Result<()> {
    let seed = number("ANABRANCH_SEED").unwrap_or(u64::from(std::process::id()));
    let cycles = number("ANABRANCH_CRASH_CYCLES").unwrap_or(CYCLES);
    println!("seed {seed}: repeat with ANABRANCH_SEED={seed} cargo test --test crash");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir()?;
    let kafka = dir.path().join("kafka");
    let mut broker = BrokerProcess::start(&kafka, free_port())?;
    let (mut east, mut west) = clusters(dir.path(), &broker.address())?;

    let load = Load::start(&east.api(), &west.api(), seed)?;
    for (cycle, victim) in victims(cycles, &mut random).into_iter().enumerate() {
        let more = 1 + random.below(WRITES_BETWEEN);
        go_on(&load, more, &mut east, &mut west).with_context(|| format!("cycle {cycle}"))?;
        let cluster = if random.below(2) == 0 { &mut east } else { &mut west };
        println!("cycle {cycle}: {victim:?} of {} dies", cluster.name());
        match victim {
            Victim::Service(service) => cluster.kill_and_restart(service)?,
            Victim::Broker => {
                broker.kill_hard()?;
                broker.restart()?;
            }
        }
    }
    go_on(&load, WRITES_BETWEEN, &mut east, &mut west).context("after the last cycle")?;
    let model = load.finish().with_context(|| format!("{}{}", east.logs(), west.logs()))?;
    println!("{} writes were acknowledged", model.writes);

    let logs = || format!("{}{}", east.logs(), west.logs());
    model.wait_until_in(&east.api(), &west.api(), FILTER_VALUE).with_context(logs)?;
    for cluster in [&east, &west] {
        let events = changes::check(&broker.address(), cluster.name()).with_context(logs)?;
        println!("{} changes in {}", events, cluster.name());
        ensure!(events > 0, "no changes in {}", cluster.name());
    }
    Ok(())
}

/// Waits for more acknowledged writes. A process that ended by itself is started again and told of.
fn go_on(load: &Load, more: u64, east: &mut Cluster, west: &mut Cluster) -> Result<()> {
    let until = load.acknowledged() + more;
    let waited = wait_until("writes go on", PATIENCE, || {
        load.check()?;
        for ended in [east.revive()?, west.revive()?].concat() {
            println!("ENDED BY ITSELF, started again: {ended}");
        }
        Ok(load.acknowledged() >= until)
    });
    waited.with_context(|| format!("{}{}", east.logs(), west.logs()))
}

const FILTER_VALUE: &str = "Japan";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Every kind dies equally often, in a random order.
fn victims(cycles: u64, random: &mut Random) -> Vec<Victim> {
    let kinds: Vec<_> =
        Service::ALL.map(Victim::Service).into_iter().chain([Victim::Broker]).collect();
    let turns = (0..cycles).zip(kinds.into_iter().cycle());
    let mut victims: Vec<_> = turns.map(|(_, victim)| victim).collect();
    for last in (1..victims.len()).rev() {
        victims.swap(last, random.index(last + 1));
    }
    victims
}

fn clusters(dir: &Path, kafka: &str) -> Result<(Cluster, Cluster)> {
    let binary = Path::new(BINARY);
    let certificates = Certificates::make(binary, &dir.join("ca"), &["east", "west"])?;
    let both = ["east", "west"];
    let mut east = Cluster::new(binary, dir, "east", kafka, &certificates.flags("east", &both))?;
    let mut west = Cluster::new(binary, dir, "west", kafka, &certificates.flags("west", &both))?;
    east.start_all()?;
    west.start_all()?;
    east.replicate(&[], &[("shared", "true"), ("notes", "true")])?;
    west.replicate(&[east.bridge_address()], &[("items", FILTER), ("shared", "true")])?;
    Ok((east, west))
}
