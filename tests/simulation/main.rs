//! Whole clusters in one thread, from a seed: ingest servers, store nodes, change data capture and
//! bridges as they are, on a log, a network, disks and clocks that are simulated. Each run does
//! something else to them; none may ever break one of the invariants, and every bug that is planted
//! has to be found.
//!
//! `ANABRANCH_TEST_SEEDS` says how many seeds are run of each mix. What a failure prints repeats it.

mod bridges;
mod bugs;
mod captured;
mod checks;
mod cluster;
mod dice;
mod faults;
mod followers;
mod members;
mod mix;
mod model;
mod node_log;
mod readers;
mod run;
mod servers;
mod story;
mod users;
mod writers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::time::Instant;

use crate::bugs::{BUGS, Bug};
use crate::mix::{MIXES, Mix, mix};
use crate::run::{Report, run};

/// How many seeds of each mix are run if nothing else is said.
const SEEDS: u64 = 1_000;
/// How many are run of each to find a bug.
const BUG_SEEDS: u64 = 1_500;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not '{text}'")))
}

/// What many runs of a mix came to.
#[derive(Default)]
struct Runs {
    writes: usize,
    reads: u64,
    /// The first seed that failed, and what was violated.
    failed: Option<(u64, String)>,
}

/// Runs seeds until one fails.
fn run_seeds(mix: Mix, seeds: u64, bug: Option<Bug>) -> Runs {
    let mut runs = Runs::default();
    for seed in 0..seeds {
        let Report { violation, writes, reads, .. } = run(mix, seed, bug, false);
        runs.writes += writes;
        runs.reads += reads;
        if let Some(violation) = violation {
            runs.failed = Some((seed, violation));
            break;
        }
    }
    runs
}

/// Runs a mix with the seed that is asked for, or with many.
fn check(name: &str) {
    let mix = mix(name);
    let seeds = number_from("ANABRANCH_TEST_SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = number_from("ANABRANCH_TEST_SEED") {
        let report = run(mix, seed, None, true);
        assert_eq!(report.violation, None, "{report:?}");
        return;
    }
    let began = Instant::now();
    let Runs { writes, reads, failed } = run_seeds(mix, seeds, None);
    println!("{name}: {seeds} seeds, {writes} rounds, {reads} reads, {:?}", began.elapsed());
    if let Some((seed, violation)) = failed {
        panic!(
            "mix '{name}', seed {seed}: {violation}\nto repeat it: ANABRANCH_TEST_SEED={seed} cargo \
             test --workspace --test simulation {name} -- --nocapture"
        );
    }
}

#[test]
fn calm() {
    check("calm");
}

#[test]
fn crashes() {
    check("crashes");
}

#[test]
fn network() {
    check("network");
}

#[test]
fn backfill() {
    check("backfill");
}

#[test]
fn capture() {
    check("capture");
}

#[test]
fn ingest() {
    check("ingest");
}

#[test]
fn bridge() {
    check("bridge");
}

#[test]
fn members() {
    check("members");
}

#[test]
fn losses() {
    check("losses");
}

#[test]
fn everything() {
    check("everything");
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let began = Instant::now();
        let (name, mix) = (bug.name, bug.mix());
        match run_seeds(mix, BUG_SEEDS, Some(bug)).failed {
            Some((seed, violation)) => {
                assert!(violation.starts_with(bug.breaks), "{name}: {violation}");
                let without = run(mix, seed, None, false);
                assert_eq!(without.violation, None, "{name}: it is not for the bug");
                let (mix, found_after) = (mix.name, began.elapsed());
                let told: String = violation.chars().take(160).collect();
                println!("{name}: mix '{mix}', seed {seed}, after {found_after:?}: {told}");
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for mix in MIXES {
        let (mut writes, mut reads, mut heard) = (0, 0, 0);
        for seed in 3..8 {
            let (one, two) = (run(mix, seed, None, false), run(mix, seed, None, false));
            assert_eq!(one, two, "mix '{}'", mix.name);
            (writes, reads, heard) = (writes + one.writes, reads + one.reads, heard + one.heard);
        }
        assert!(writes > 100, "{writes} writes of mix '{}'", mix.name);
        assert!(heard > 50 || mix.followers == 0, "{heard} events of '{}'", mix.name);
        assert!(reads > 3 || mix.readers + mix.users == 0, "{reads} reads of '{}'", mix.name);
    }
}
