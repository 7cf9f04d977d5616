//! Random faults under concurrent writes.

use std::sync::Arc;

use anabranch_core::ErrorKind;
use proptest::prelude::*;

use super::support::{Bench, Fault, round};

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::Nothing),
        1 => Just(Fault::AppendFails),
        1 => Just(Fault::FlushFails),
        1 => Just(Fault::CommitFails),
        1 => Just(Fault::CommitLost),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::Fenced),
        1 => Just(Fault::DiskFull),
        1 => Just(Fault::Spent),
    ]
}

/// IN-1 and IN-2: an acknowledged round is in the log once, whole, where it was said to be; one
/// that was said not to have happened is not; one whose outcome is unknown is there at most once.
async fn write_through(faults: Vec<Fault>, rounds: u128, lanes: usize) {
    let bench = Bench::new();
    bench.journal.fail(faults);
    let writer = Arc::new(bench.writer(|config| {
        config.lanes = Some(lanes);
        config.max_batch_documents = 7;
    }));
    let writes: Vec<_> = (1..=rounds)
        .map(|number| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.write(round(number, number % 5)).await })
        })
        .collect();
    let mut results = Vec::new();
    for write in writes {
        results.push(write.await.unwrap());
    }
    writer.shutdown().await;
    let counts = bench.counts();
    for (number, result) in (1..).zip(results) {
        let found = counts.get(&round(number, 0).id);
        match result {
            Ok(txn) => assert_eq!(found, Some(&(1, txn)), "round {number} was acknowledged"),
            Err(error) if error.kind() == ErrorKind::Unknown => {
                assert!(found.is_none_or(|(count, _)| *count == 1), "round {number} is doubled");
            }
            Err(error) => assert_eq!(found, None, "round {number} failed with {error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_callers_are_told_is_what_is_in_the_log(
        faults in prop::collection::vec(fault(), 0..30),
        rounds in 1..60_u128,
        lanes in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(write_through(faults, rounds, lanes));
    }
}
