//! The round writer when things go wrong in a known way.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use tokio::time::{Instant, timeout};

use super::support::{Bench, Fault, PATIENCE, insert, round};
use crate::error::Error;
use crate::rounds::{Round, RoundWriter, RoundWriterConfig};

fn config(_: &mut RoundWriterConfig) {}

/// Starts a write and waits until a lane has it.
async fn in_flight(
    bench: &Bench,
    writer: &Arc<RoundWriter>,
    number: u128,
) -> tokio::task::JoinHandle<Result<anabranch_core::ids::TxnId, Error>> {
    let begun = bench.journal.begun();
    let writer = Arc::clone(writer);
    let task = tokio::spawn(async move { writer.write(round(number, 2)).await });
    let journal = bench.journal.clone();
    tokio::task::spawn_blocking(move || journal.wait_begun(begun + 1)).await.unwrap();
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rounds_share_few_transactions() {
    let bench = Bench::new();
    let writer = Arc::new(bench.writer(config));
    bench.journal.hold(true);
    let first = in_flight(&bench, &writer, 1).await;
    let second = in_flight(&bench, &writer, 2).await;
    let others: Vec<_> = (3..103)
        .map(|number| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move { writer.write(round(number, 3)).await })
        })
        .collect();
    while writer.waiting() < 100 {
        tokio::task::yield_now().await;
    }
    bench.journal.hold(false);
    let mut txns = vec![first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    for other in others {
        txns.push(other.await.unwrap().unwrap());
    }
    let counts = bench.counts();
    assert_eq!(counts.len(), 102);
    assert!(counts.values().all(|(count, txn)| *count == 1 && txns.contains(txn)));
    assert!(bench.journal.begun() < 10, "{} transactions", bench.journal.begun());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_commit_is_nobodys_concern() {
    let bench = Bench::new();
    let writer = bench.writer(config);
    let faults =
        [Fault::AppendFails, Fault::FlushFails, Fault::CommitFails, Fault::Fenced, Fault::Fenced];
    bench.journal.fail(faults);
    let txn = writer.write(round(1, 5)).await.unwrap();
    assert_eq!(bench.counts().values().collect::<Vec<_>>(), [&(1, txn)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_told_and_never_tried_again() {
    for (fault, found) in [(Fault::CommitLost, 0), (Fault::AnswerLost, 1)] {
        let bench = Bench::new();
        let writer = bench.writer(config);
        bench.journal.fail([fault]);
        let error = writer.write(round(1, 5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        // The next one has a new writer, and what the old one left open is not in its way.
        writer.write(round(2, 5)).await.unwrap();
        writer.shutdown().await;
        assert_eq!(bench.counts().len(), 1 + found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_at_once() {
    let bench = Bench::new();
    let writer = bench.writer(config);
    bench.journal.fail([Fault::DiskFull]);
    let error = writer.write(round(1, 1)).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull(_)), "{error:?}");
    writer.write(round(2, 1)).await.unwrap();
    assert_eq!(bench.counts().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_down_is_told_by_the_deadline_and_found_again() {
    let bench = Bench::new();
    bench.journal.set_down(true);
    let writer = bench.writer(config);
    let begun = Instant::now();
    let error =
        writer.write_by(&round(1, 1), begun + Duration::from_millis(200)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("nobody answers")), "{error}");
    bench.journal.set_down(false);
    writer.write(round(2, 1)).await.unwrap();
    // And when it goes down under writers that are open.
    bench.journal.set_down(true);
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = writer.write_by(&round(3, 1), deadline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error:?}");
    bench.journal.set_down(false);
    writer.write(round(4, 1)).await.unwrap();
    assert_eq!(bench.counts().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_in_flight_at_its_deadline_has_an_unknown_outcome() {
    let bench = Bench::new();
    let writer = bench.writer(config);
    bench.journal.hold(true);
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = writer.write_by(&round(1, 1), deadline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    bench.journal.hold(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let bench = Bench::new();
    let writer = Arc::new(bench.writer(|config| {
        config.max_waiting_rounds = 1;
        config.lanes = Some(1);
    }));
    bench.journal.hold(true);
    let first = in_flight(&bench, &writer, 1).await;
    let waits = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.write(round(2, 1)).await }
    });
    while writer.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let error = writer.write(round(3, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Busy { waiting: 1 }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    bench.journal.hold(false);
    first.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_gone_writes_nothing() {
    let bench = Bench::new();
    let writer = Arc::new(bench.writer(|config| config.lanes = Some(1)));
    bench.journal.hold(true);
    let first = in_flight(&bench, &writer, 1).await;
    timeout(Duration::from_millis(20), writer.write(round(2, 1))).await.unwrap_err();
    bench.journal.hold(false);
    first.await.unwrap().unwrap();
    writer.write(round(3, 1)).await.unwrap();
    writer.shutdown().await;
    let ids: Vec<_> = bench.counts().into_keys().collect();
    assert_eq!(ids, [round(1, 0).id, round(3, 0).id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_of_one_name_are_told() {
    let bench = Bench::new();
    let writer = bench.writer(config);
    bench.journal.always_fail(Some(Fault::Fenced));
    let error = writer.write(round(1, 1)).await.unwrap_err();
    assert!(error.to_string().contains("another process may write as server 's1'"), "{error}");
    bench.journal.always_fail(None);
    writer.write(round(2, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_takes_over() {
    let bench = Bench::new();
    let first = bench.writer(config);
    first.write(round(1, 1)).await.unwrap();
    let second = bench.writer(config);
    second.write(round(2, 1)).await.unwrap();
    assert_eq!(bench.counts().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_writer_is_made_anew() {
    let bench = Bench::new();
    let writer = bench.writer(|config| config.lanes = Some(1));
    bench.journal.fail([Fault::Spent, Fault::Nothing, Fault::Nothing]);
    for number in 1..=3 {
        writer.write(round(number, 1)).await.unwrap();
    }
    assert_eq!(bench.journal.opened(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_writes_what_waits() {
    let bench = Bench::new();
    let writer = Arc::new(bench.writer(|config| config.lanes = Some(1)));
    bench.journal.hold(true);
    let first = in_flight(&bench, &writer, 1).await;
    let waits = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.write(round(2, 1)).await }
    });
    while writer.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let shutdown = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.shutdown().await }
    });
    let round_3 = round(3, 1);
    let refused = || writer.write_by(&round_3, Instant::now());
    while !matches!(refused().await, Err(Error::Shutdown)) {
        tokio::task::yield_now().await;
    }
    bench.journal.hold(false);
    first.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    timeout(PATIENCE, shutdown).await.unwrap().unwrap();
    assert_eq!(bench.counts().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_is_too_large_concerns_only_its_round() {
    let bench = Bench::new();
    let mut bench = bench;
    bench.appender = bench.appender.clone().with_limits(1_000, 2_000);
    let writer = bench.writer(config);
    let large = Round { mutations: vec![insert(1, 3_000)], ..round(1, 0) };
    let (refused, written) = tokio::join!(writer.write(large), writer.write(round(2, 1)));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    written.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_told() {
    let bench = Bench::new();
    let other = "west".parse().unwrap();
    let appender = crate::rounds::RoundAppender::new(
        &other,
        super::support::ACTOR,
        16.try_into().unwrap(),
        Arc::new(crate::rounds::HlcClock::system()),
    );
    let config = RoundWriterConfig::new("s1");
    let writer = RoundWriter::open(bench.journal.faulty(), &other, appender, config).unwrap();
    let (first, second) = tokio::join!(writer.write(round(1, 1)), writer.write(round(2, 1)));
    for refused in [first, second] {
        assert!(matches!(refused, Err(Error::UnknownTopic(_))), "{refused:?}");
    }
}

/// Whoever gives a round in while the lanes go to sleep wakes one.
#[tokio::test(flavor = "multi_thread")]
async fn no_round_is_forgotten() {
    let bench = Bench::new();
    let writer = Arc::new(bench.writer(config));
    let clients: Vec<_> = (0..8_u128)
        .map(|client| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                for number in 0..2_000 {
                    writer.write(round(client * 10_000 + number, 1)).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
