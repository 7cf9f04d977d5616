//! From a round to records.

use std::time::Duration;

use anabranch_core::ids::{ActorId, TxnId};
use uuid::Uuid;

use super::support::{ACTOR, APP, Bench, Fault, insert, round};
use crate::error::Error;
use crate::log::{Journal, TransactionalId};
use crate::rotating::run_transaction;
use crate::rounds::{Expiries, Round, RoundAppender};

fn append(bench: &Bench, appender: &RoundAppender, rounds: &[Round]) -> Result<Vec<TxnId>, Error> {
    let mut writer = bench.journal.log.writer(&TransactionalId::from("test")).unwrap();
    run_transaction(writer.as_mut(), |writer| appender.append(writer, rounds))
}

#[test]
fn a_round_is_its_parts_and_a_commit_record() {
    let bench = Bench::new();
    let remote = (ActorId(Uuid::from_u128(5)), TxnId(77));
    let here = Round { digest: vec![1, 2, 3], ..round(1, 40) };
    let there = Round { origin: Some(remote), ..round(2, 1) };
    let txns = append(&bench, &bench.appender, &[here.clone(), there]).unwrap();
    let rounds = bench.rounds();
    assert_eq!(rounds.iter().map(|(txn, ..)| *txn).collect::<Vec<_>>(), txns);
    let (_, first, mutations) = &rounds[0];
    assert_eq!((first.round, first.app, first.digest.as_slice()), (here.id, APP, &[1, 2, 3][..]));
    assert_eq!((first.origin, first.origin_txn), (ACTOR, None));
    assert_eq!(first.parts.len(), 4, "40 documents are in all four slices");
    assert!(here.mutations.iter().all(|mutation| mutations.contains(mutation)));
    let (_, second, _) = &rounds[1];
    assert_eq!((second.origin, second.origin_txn), (remote.0, Some(remote.1)));
    assert!(first.hlc < second.hlc);
}

#[test]
fn an_expiry_is_a_record_between_rounds() {
    let bench = Bench::new();
    let time_to_live = Duration::from_secs(60);
    let (journal, appender) = (bench.journal.faulty(), bench.appender.clone());
    let expiries = Expiries::new(journal, &bench.cluster, appender, "s1", time_to_live);
    assert_eq!(expiries.write().unwrap(), None, "there is nothing that could expire");
    let first = append(&bench, &bench.appender, &[round(1, 1)]).unwrap()[0];
    bench.journal.fail([Fault::CommitFails]);
    assert!(expiries.write().is_err());
    let [expired, again] = [(); 2].map(|()| expiries.write().unwrap().unwrap());
    let second = append(&bench, &bench.appender, &[round(2, 1)]).unwrap()[0];
    assert!([first, expired, again, second].is_sorted());
    let written = bench.expiries();
    assert_eq!(written.iter().map(|(txn, _)| *txn).collect::<Vec<_>>(), [expired, again]);
    assert!(written.iter().all(|(_, expiry)| expiry.time_to_live_ms == 60_000));
    let hlc = |index: usize| bench.rounds()[index].1.hlc;
    assert!([hlc(0), written[0].1.hlc, written[1].1.hlc, hlc(1)].is_sorted());
}

#[test]
fn what_is_above_the_limit_is_cut_and_stays_in_order() {
    let bench = Bench::new();
    let appender = bench.appender.clone().with_limits(1_000, 4_000);
    // The same document again and again: all in one slice, and the order matters.
    let mutations: Vec<_> = (0..50).map(|length| insert(1, 100 + length)).collect();
    let large = Round { mutations, ..round(1, 0) };
    append(&bench, &appender, std::slice::from_ref(&large)).unwrap();
    let rounds = bench.rounds();
    let (_, commit, mutations) = &rounds[0];
    assert!(commit.parts.len() > 5, "{} parts", commit.parts.len());
    assert_eq!(*mutations, large.mutations);
}

#[test]
fn one_mutation_may_be_large_but_not_too_large() {
    let bench = Bench::new();
    let appender = bench.appender.clone().with_limits(1_000, 4_000);
    let of = |padding| Round { mutations: vec![insert(1, padding)], ..round(1, 0) };
    append(&bench, &appender, &[of(3_000)]).unwrap();
    let error = append(&bench, &appender, &[round(2, 1), of(5_000)]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4_000, .. }), "{error:?}");
    assert_eq!(bench.rounds().len(), 1, "nothing of the transaction is there");
}

#[test]
fn an_empty_round_has_a_transaction_id() {
    let bench = Bench::new();
    let txns = append(&bench, &bench.appender, &[round(1, 0)]).unwrap();
    assert_eq!(bench.rounds()[0].0, txns[0]);
}
