//! How long a commit takes, as far as that is a matter of structure.

use std::time::{Duration, Instant};

use super::Harness;
use super::support::{Bench, must};

/// Kafka's client waits 100 ms for nothing in a commit unless every delivery was awaited before.
const STALL: Duration = Duration::from_millis(100);

/// Transactions from begin to commit, one after the other: their median is below half of the
/// known stall. This finds the stall, not a slow machine, which is why it is so far from what a
/// commit takes (2-4 ms on Kafka).
pub fn commits_do_not_stall(harness: &impl Harness) {
    const TRANSACTIONS: usize = 41;
    let bench = Bench::new(harness, 2);
    let mut writer = bench.writer();
    let mut times: Vec<_> = (0..TRANSACTIONS)
        .map(|_| {
            let started = Instant::now();
            must(writer.begin(), "begin");
            must(writer.append(bench.record(0, "part")), "append");
            must(writer.flush(), "flush");
            must(writer.append(bench.record(1, "commit record")), "append");
            must(writer.commit(), "commit");
            started.elapsed()
        })
        .collect();
    times.sort();
    let median = times[TRANSACTIONS / 2];
    println!("a transaction took {median:?} (median), {:?} (most)", times[TRANSACTIONS - 1]);
    assert!(median < STALL / 2, "a transaction takes {median:?}: the client's stall is back");
}
