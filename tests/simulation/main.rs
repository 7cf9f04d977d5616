//! Whole clusters in one thread, from a seed: the store nodes, the coordinators, gossip, backfill and
//! change data capture as they are, on a log, a network, disks and clocks that are simulated. Each
//! run does something else to them; none may ever break one of the invariants, and every bug that is
//! planted has to be found.
//!
//! `ANABRANCH_TEST_SEEDS` says how many seeds are run of each mix. What a failure prints repeats it.

mod checks;
mod cluster;
mod dice;
mod faults;
mod mix;
mod model;
mod node_log;
mod readers;
mod run;
mod writers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anabranch_store_node::simulation::Bug;
use parking_lot::Mutex;

use crate::mix::{MIXES, Mix};
use crate::run::{Report, run};

/// How many seeds of each mix are run if nothing else is said.
const SEEDS: u64 = 1_000;
/// How many are run of each to find a bug.
const BUG_SEEDS: u64 = 60;
/// How many threads run seeds.
const THREADS: usize = 2;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not '{text}'")))
}

fn mix(name: &str) -> Mix {
    let found = MIXES.iter().find(|mix| mix.name == name);
    *found.unwrap_or_else(|| panic!("there is no mix '{name}'"))
}

/// Runs seeds until one fails; which one, and what was done until then.
fn run_seeds(mix: Mix, seeds: u64, bug: Option<Bug>) -> (Option<(u64, Report)>, u64, u64) {
    let (next, writes, reads) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failed.lock().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = run(mix, seed, bug, false);
                    writes.fetch_add(report.writes as u64, Ordering::Relaxed);
                    reads.fetch_add(report.reads, Ordering::Relaxed);
                    if report.violation.is_some() {
                        failed.lock().get_or_insert((seed, report));
                    }
                }
            });
        }
    });
    (failed.into_inner(), writes.into_inner(), reads.into_inner())
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
    let (failed, writes, reads) = run_seeds(mix, seeds, None);
    println!("{name}: {seeds} seeds, {writes} rounds, {reads} reads, {:?}", began.elapsed());
    if let Some((seed, report)) = failed {
        let violation = report.violation.unwrap_or_default();
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
fn losses() {
    check("losses");
}

#[test]
fn everything() {
    check("everything");
}

/// Every bug that can be planted is found, and in which mix first.
#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let began = Instant::now();
        let found = MIXES.iter().find_map(|mix| {
            let (failed, ..) = run_seeds(*mix, BUG_SEEDS, Some(bug));
            failed.map(|(seed, report)| (mix.name, seed, report.violation.unwrap_or_default()))
        });
        let Some((mix, seed, violation)) = found else { panic!("{bug:?} is not found") };
        let text: String = violation.chars().take(100).collect();
        println!("{bug:?}: mix '{mix}', seed {seed}, {:?}: {text}", began.elapsed());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for mix in MIXES {
        let (one, two) = (run(mix, 7, None, false), run(mix, 7, None, false));
        assert_eq!(one, two, "mix '{}'", mix.name);
        assert!(one.writes > 50 && one.reads > 20, "{one:?}");
    }
}
