//! Each anomaly is planted in a history that is right, and found as what it is.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{COLLECTIONS, Shape, World, see};
use crate::history::{
    Action, Change, Document, Effect, History, Kind, Moment, Operation, Read, Scope, Seen, Server,
    Txn, Value, Violation, Write, check,
};

fn world() -> World {
    World::run(11, &Shape::default())
}

/// What a history with an anomaly is found to violate. Without it, nothing.
fn kinds(history: &History) -> BTreeSet<Kind> {
    check(history).into_iter().map(|violation: Violation| violation.kind).collect()
}

fn reads(history: &mut History) -> impl Iterator<Item = &mut Read> {
    history.sessions.iter_mut().flatten().filter_map(|operation| match &mut operation.action {
        Action::Read(read) => Some(read),
        _ => None,
    })
}

fn seen_by(operation: &Operation) -> Option<Txn> {
    match &operation.action {
        Action::Write(write) => write.outcome,
        Action::Read(read) => read.snapshot,
        Action::Take { token, .. } => Some(*token),
    }
}

/// Lets a read with a token that comes right after an operation be at a snapshot just before what
/// that operation had seen, and see what is there. The operation is one that `which` wants.
fn set_back(world: &World, which: impl Fn(&Operation) -> bool) -> History {
    let mut history = world.history();
    for operations in &mut history.sessions {
        for index in 1..operations.len() {
            let (before, rest) = operations.split_at_mut(index);
            let (last, operation) = (&before[index - 1], &mut rest[0]);
            let is_newest = before.iter().all(|other| seen_by(other) <= seen_by(last));
            let is_only = before.iter().filter(|other| seen_by(other) == seen_by(last)).count() < 2;
            let Action::Read(read) = &mut operation.action else { continue };
            let usable = which(last) && is_newest && is_only && operation.token == seen_by(last);
            if let (Some(Txn(seen)), true) = (operation.token, usable) {
                read.snapshot = Some(Txn(seen - 1));
                read.seen = see(&world.log, &read.scope, read.snapshot);
                return history;
            }
        }
    }
    panic!("no read comes right after one of these");
}

#[test]
fn the_history_that_is_meddled_with_is_right() {
    assert!(check(&world().history()).is_empty());
}

#[test]
fn a_stale_read() {
    let world = world();
    let mut history = world.history();
    let stale = reads(&mut history).find_map(|read| {
        let before = see(&world.log, &read.scope, Some(Txn(read.snapshot?.0 / 2)));
        let is_stale = before != read.seen && before.len() == read.seen.len();
        is_stale.then_some((read, before))
    });
    let (read, before) = stale.expect("a read that sees what was not there before");
    read.seen = before;
    assert!(kinds(&history).contains(&Kind::Snapshot));
}

/// A round that is seen in two documents by one read, and one of them.
fn seen_wide(history: &mut History) -> (String, Document) {
    let wide = reads(history).find_map(|read| {
        let tags = read.seen.iter().filter_map(|(document, seen)| {
            let Value::Text(tag) = seen.fields.get("tag")? else { return None };
            Some((tag.clone(), document.clone()))
        });
        let tags: Vec<_> = tags.collect();
        let is_twice = |tag: &String| tags.iter().filter(|(other, _)| other == tag).count() > 1;
        tags.iter().find(|(tag, _)| is_twice(tag)).cloned()
    });
    wide.expect("a read sees a round twice")
}

#[test]
fn a_torn_round() {
    let world = world();
    let (name, document) = seen_wide(&mut world.history());
    let history = world.reading(|log| {
        let round = log.iter_mut().find(|(_, round)| round.name == name).expect("it is there");
        round.1.changes.retain(|change| change.document != document);
    });
    assert!(kinds(&history).contains(&Kind::Torn), "{:#?}", check(&history));
}

#[test]
fn a_torn_round_that_only_a_counter_shows() {
    let world = world();
    let is_both = |(_, round): &&(Txn, Write)| {
        let [first, second, ..] = &round.changes[..] else { return false };
        let kinds = (&first.effect, &second.effect);
        first.document == second.document && matches!(kinds, (Effect::Set(_), Effect::Add(_)))
    };
    let last = world.log.iter().rev().find(is_both).expect("there is one").0;
    let history = world.reading(|log| {
        let round = log.iter_mut().find(|(txn, _)| *txn == last).expect("it is there");
        round.1.changes.remove(1);
    });
    assert!(kinds(&history).contains(&Kind::Torn), "{:#?}", check(&history));
}

#[test]
fn a_lost_acknowledged_write() {
    let world = world();
    // The last one that wrote a register: nothing hides it.
    let sets = |(_, round): &(Txn, Write)| {
        round.changes.iter().any(|change| matches!(change.effect, Effect::Set(_)))
    };
    let last = world.log.iter().rposition(sets).expect("there is one");
    let history = world.reading(|log| drop(log.remove(last)));
    assert!(kinds(&history).contains(&Kind::Lost));
}

#[test]
fn a_write_that_the_end_is_before() {
    let mut history = world().history();
    history.end[0].snapshot = Some(Txn(1));
    history.end.pop();
    let lost = check(&history).into_iter().filter(|found| found.kind == Kind::Lost);
    assert!(lost.count() > 1, "too old a snapshot, and a collection that was not read");
}

#[test]
fn a_doubled_increment() {
    let world = world();
    let counts = |(_, round): &(Txn, Write)| {
        round.changes.iter().all(|change| matches!(change.effect, Effect::Add(_)))
    };
    let index = world.log.iter().position(counts).expect("there is one");
    let history = world.reading(|log| {
        let (Txn(txn), round) = log[index].clone();
        log.push((Txn(txn + 1), round));
    });
    let found = check(&history);
    let doubled = found.iter().find(|violation| violation.evidence.contains("there twice"));
    assert_eq!(doubled.map(|violation| violation.kind), Some(Kind::Count), "{found:#?}");
}

/// What a history is found to violate whose readers knew nothing of such a change of a whole document,
/// the last one that matters in the end.
fn without_last(effect: &Effect) -> BTreeSet<Kind> {
    let world = world();
    let seen = end_of(&world.log);
    for (index, (_, round)) in world.log.iter().enumerate().rev() {
        for (place, change) in round.changes.iter().enumerate() {
            let mut log = world.log.clone();
            log[index].1.changes.remove(place);
            if change.effect == *effect && end_of(&log) != seen {
                return kinds(&world.reading(|log| drop(log[index].1.changes.remove(place))));
            }
        }
    }
    panic!("no {effect:?} matters in the end");
}

/// What is there in the end.
fn end_of(log: &[(Txn, Write)]) -> Vec<BTreeMap<Document, Seen>> {
    let last = log.last().map(|(txn, _)| *txn);
    let read = |collection: &str| see(log, &Scope::Collection(collection.to_owned()), last);
    COLLECTIONS.map(read).into()
}

#[test]
fn a_document_that_is_there_although_it_was_deleted() {
    assert!(without_last(&Effect::Delete).contains(&Kind::Lost));
}

#[test]
fn a_document_that_was_inserted_again_and_has_what_it_had_before() {
    let found = without_last(&Effect::Insert);
    assert!(found.contains(&Kind::Lost) || found.contains(&Kind::Count), "{found:?}");
}

#[test]
fn what_nobody_wrote() {
    for value in [Value::Text("x".to_owned()), Value::Other("[]".to_owned())] {
        let mut history = world().history();
        let tag = reads(&mut history)
            .flat_map(|read| read.seen.values_mut())
            .find_map(|seen| seen.fields.get_mut("tag"));
        *tag.expect("one is there") = value;
        assert_eq!(kinds(&history), [Kind::Invented].into());
    }
}

#[test]
fn what_is_known_not_to_be_there() {
    let world = world();
    let mut absent = world.done.iter().flatten().filter_map(|operation| match &operation.action {
        Action::Write(write) if write.outcome.is_none() => Some(write.clone()),
        _ => None,
    });
    let sets = |change: &Change| matches!(change.effect, Effect::Set(_));
    let absent = absent.find(|write| write.changes.iter().any(sets)).expect("there is one");
    let end = world.log.last().expect("there is one").0;
    let history = world.reading(|log| log.push((end, absent)));
    assert!(kinds(&history).contains(&Kind::Invented));
}

#[test]
fn a_version_of_another_transaction() {
    let mut history = world().history();
    let seen = reads(&mut history).flat_map(|read| read.seen.values_mut()).last();
    seen.expect("one is there").version = Some(Txn(1_000_000));
    assert_eq!(kinds(&history), [Kind::Snapshot].into());
}

#[test]
fn own_writes_that_are_not_read() {
    let history = set_back(&world(), |last| matches!(last.action, Action::Write(_)));
    assert_eq!(kinds(&history), [Kind::ReadYourWrites].into());
}

#[test]
fn a_read_that_goes_back() {
    let history = set_back(&world(), |last| matches!(last.action, Action::Read(_)));
    assert_eq!(kinds(&history), [Kind::Monotonic].into());
}

#[test]
fn a_session_that_does_not_see_what_it_was_told_of() {
    let history = set_back(&world(), |last| matches!(last.action, Action::Take { .. }));
    assert_eq!(kinds(&history), [Kind::Causal].into());
}

/// Where an acknowledged round is among the operations of its session.
fn last_round(world: &World, which: impl Fn(&Operation) -> bool) -> (usize, usize) {
    let all = world.done.iter().enumerate().flat_map(|(session, operations)| {
        operations.iter().enumerate().map(move |(index, operation)| ((session, index), operation))
    });
    let rounds = all.filter(|(_, operation)| {
        let is_round = matches!(&operation.action, Action::Write(write) if write.outcome.is_some());
        is_round && which(operation)
    });
    rounds.max_by_key(|(_, operation)| operation.began).expect("there is one").0
}

/// A round gets another transaction id, which all replicas and clients go by.
fn moved(mut world: World, (session, index): (usize, usize), to: Txn) -> History {
    let Action::Write(write) = &mut world.done[session][index].action else { panic!("a round") };
    let from = write.outcome.replace(to);
    world.reading(|log| {
        let entry = log.iter_mut().find(|(txn, _)| Some(*txn) == from).expect("it is there");
        entry.0 = to;
        entry.1.outcome = Some(to);
    })
}

#[test]
fn a_round_that_is_before_what_it_knew() {
    let world = world();
    let (session, index) = last_round(&world, |operation| operation.token.is_some());
    let Txn(token) = world.done[session][index].token.expect("it has one");
    // Ids are not dense.
    let history = moved(world, (session, index), Txn(token - 1));
    assert!(kinds(&history).contains(&Kind::Causal));
}

#[test]
fn a_round_that_is_before_what_was_acknowledged_when_it_began() {
    let world = world();
    let last = last_round(&world, |operation| operation.token.is_none());
    let found = kinds(&moved(world, last, Txn(2)));
    assert!(found.contains(&Kind::RealTime) && !found.contains(&Kind::Causal), "{found:?}");
}

#[test]
fn two_rounds_of_one_transaction() {
    let mut history = world().history();
    let mut outcomes =
        history.sessions.iter_mut().flatten().filter_map(|operation| match &mut operation.action {
            Action::Write(write) if write.outcome.is_some() => Some(&mut write.outcome),
            _ => None,
        });
    let (first, second) = (outcomes.next().expect("one"), outcomes.next().expect("another"));
    *second = *first;
    assert!(kinds(&history).contains(&Kind::SameTransaction));
}

#[test]
fn a_stable_timestamp_that_goes_back() {
    let world = world();
    let mut history = world.history();
    // Two sessions read one after the other, by a server that nobody else asks.
    let server = Some(Server { number: 99, life: 0 });
    let end = history.operations().map(|(_, operation)| operation.ended).max().expect("an end");
    for (session, txn) in [(0, world.log.len() / 2), (1, world.log.len() / 3)] {
        let snapshot = Some(world.log[txn].0);
        let scope = Scope::Collection("red".to_owned());
        let seen = see(&world.log, &scope, snapshot);
        let at = Moment(end.0 + 10 * session as u64);
        let read = Action::Read(Read { scope, snapshot, server, seen });
        let operation = Operation { began: at, ended: at, token: None, action: read };
        history.sessions[session].push(operation);
    }
    assert_eq!(kinds(&history), [Kind::Stable].into());
}
