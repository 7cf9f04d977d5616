//! Rounds of callers who may not do everything.

use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::query::OnConflict;
use proptest::prelude::*;

use super::round::{World, insert, set};
use super::support::{TestRound, id, json, slices};
use crate::apply::round::Effects;
use crate::storage::Reason;

/// Readable and writable: what is theirs, and writable as long as it is open.
const OWN: [&str; 2] = ["store = 1", "store = 1 AND open"];

fn restricted(world: &World, mutations: Vec<(i64, Mutation)>) -> TestRound {
    TestRound { restriction: Some(OWN), ..TestRound::new(world.next_id(), mutations) }
}

fn store(number: i64, open: bool) -> Mutation {
    insert(&format!(r#"{{"store":{number},"open":{open}}}"#), OnConflict::DoUpdate)
}

/// One that is theirs, one that they may only read, one that they do not see, and one that is not there.
const MINE: i64 = 1;
const CLOSED: i64 = 2;
const HIDDEN: i64 = 3;
const ABSENT: i64 = 4;

fn world() -> World {
    let mut world = World::default();
    world.apply(vec![(MINE, store(1, true)), (CLOSED, store(1, false)), (HIDDEN, store(2, true))]);
    world
}

/// What becomes of a mutation of each of them, alone: `w`ritten, `l`eft alone, `f`orbidden, or a
/// conflict that names who wrote it (`C`) or not (`c`).
fn becomes(mutation: &Mutation, since: Option<u64>) -> String {
    let one = |number| {
        let mut world = world();
        let round = restricted(&world, vec![(number, mutation.clone())]);
        let unchanged_since = since.map(anabranch_core::ids::TxnId);
        let effects = world.apply_round(&TestRound { unchanged_since, ..round });
        told(&effects)
    };
    [MINE, CLOSED, HIDDEN, ABSENT].into_iter().map(one).collect()
}

fn told(effects: &Effects) -> char {
    match (&effects.conflicts[..], effects.kept.len(), effects.documents) {
        ([], 0, 1) => 'w',
        ([], 1, 0) => 'l',
        ([], 0, 0) => '-',
        ([conflict], 0, 0) => match (conflict.reason, conflict.winner) {
            (Reason::Forbidden, _) => 'f',
            (_, Some(_)) => 'C',
            (_, None) => 'c',
        },
        _ => panic!("{effects:?}"),
    }
}

#[test]
fn what_is_not_there_for_a_caller_is_left_alone_and_what_is_not_theirs_to_write_refused() {
    let given = |policy| insert(r#"{"store":1,"open":true,"n":1}"#, policy);
    for (mutation, since, expected) in [
        (set("n", 1), None, "wfll"),
        (Mutation::Delete, None, "wfll"),
        (Mutation::Forget, None, "wfll"),
        (given(OnConflict::DoUpdate), None, "wffw"),
        (given(OnConflict::DoUpdateLocalDiff), None, "wffw"),
        (given(OnConflict::DoNothing), None, "lllw"),
        // Who wrote a document is told to those who may read it.
        (given(OnConflict::Fail), None, "CCcw"),
        (set("n", 1), Some(0), "wfcc"),
        (given(OnConflict::DoUpdate), Some(0), "wfcc"),
    ] {
        assert_eq!(becomes(&mutation, since), expected, "{mutation:?} {since:?}");
    }
}

#[test]
fn what_a_document_becomes_has_to_be_allowed_too() {
    let elsewhere = |policy| insert(r#"{"store":2,"open":true}"#, policy);
    for (mutation, expected) in [
        (set("store", 2), "ffll"),
        (elsewhere(OnConflict::DoUpdate), "ffff"),
        (elsewhere(OnConflict::Fail), "CCcf"),
        (insert("{}", OnConflict::DoUpdate), "-fff"),
    ] {
        assert_eq!(becomes(&mutation, None), expected, "{mutation:?}");
    }
    // All of a round's mutations together count.
    let mut world = world();
    let back = vec![(MINE, set("store", 2)), (MINE, set("store", 1)), (MINE, set("n", 1))];
    let round = restricted(&world, back);
    assert_eq!(world.apply_round(&round).documents, 1);
    // Somebody who has not heard of the delete can bring back what it hides.
    for last in [Mutation::Delete, Mutation::Forget] {
        let round = restricted(&world, vec![(MINE, set("store", 2)), (MINE, last)]);
        assert_eq!(told(&world.apply_round(&round)), 'f');
    }
    let afresh = vec![(MINE, Mutation::Delete), (MINE, store(2, true))];
    let round = restricted(&world, afresh);
    assert_eq!(told(&world.apply_round(&round)), 'f');
}

#[test]
fn what_was_deleted_meanwhile_is_not_brought_back_by_those_who_may_not_do_everything() {
    let mut world = world();
    world.apply(vec![(MINE, Mutation::Delete)]);
    let round = restricted(&world, vec![(MINE, set("n", 1))]);
    assert_eq!(told(&world.apply_round(&round)), 'l');
    // Who deleted it is not told either: it may have been hidden then.
    let since = TestRound {
        unchanged_since: Some(anabranch_core::ids::TxnId(0)),
        ..restricted(&world, vec![(MINE, set("n", 1))])
    };
    assert_eq!(told(&world.apply_round(&since)), 'c');
    let fail = insert(r#"{"store":1,"open":true}"#, OnConflict::Fail);
    let round = restricted(&world, vec![(MINE, fail)]);
    assert_eq!(told(&world.apply_round(&round)), 'w');
}

#[test]
fn an_atomic_round_with_something_that_is_forbidden_does_nothing() {
    let slice = |number: &i64| slices().slice_of(id(*number).position());
    let other = (10..).find(|number| slice(number) == slice(&CLOSED)).unwrap();
    let mut world = world();
    let round = restricted(&world, vec![(other, store(1, true)), (CLOSED, set("n", 1))]);
    let effects = world.apply_round(&TestRound { atomic: true, ..round });
    assert_eq!(told(&effects), 'f');
}

fn arbitrary_mutation() -> impl Strategy<Value = Mutation> {
    let fields = (1_i64..3, any::<bool>(), 0_i64..3);
    let policy = prop::sample::select(vec![
        OnConflict::Fail,
        OnConflict::DoNothing,
        OnConflict::DoUpdate,
        OnConflict::DoUpdateLocalDiff,
    ]);
    prop_oneof![
        4 => (fields, policy).prop_map(|((store, open, n), policy)| {
            insert(&format!(r#"{{"store":{store},"open":{open},"n":{n}}}"#), policy)
        }),
        2 => (0_i64..3).prop_map(|n| set("n", n)),
        1 => (1_i64..3).prop_map(|store| set("store", store)),
        1 => Just(Mutation::Update {
            set: vec![],
            unset: vec![],
            increment: vec![(super::support::path("n"), 1)],
        }),
        1 => Just(Mutation::Delete),
        1 => Just(Mutation::Forget),
    ]
}

/// A round: whether somebody else writes it who may do everything, and what it asks.
type Asked = (bool, Vec<(i64, Mutation)>);

fn arbitrary_rounds() -> impl Strategy<Value = Vec<Asked>> {
    let mutations = prop::collection::vec((0_i64..4, arbitrary_mutation()), 1..4);
    prop::collection::vec((any::<bool>(), mutations), 1..12)
}

/// The documents that the caller sees.
fn seen(world: &World) -> BTreeMap<i64, Value> {
    let found = (0..4).filter_map(|number| {
        let value = world.value(number)?;
        (value.get(&["store"]) == Some(&Value::Int(1))).then_some((number, value))
    });
    found.collect()
}

proptest! {
    /// Whatever others write that a caller does not see, to the caller nothing is different; and
    /// what they do not see nothing of theirs changes.
    #[test]
    fn hidden_documents_make_no_difference_and_stay_as_they_are(rounds in arbitrary_rounds()) {
        let (mut with, mut without) = (World::default(), World::default());
        // Those that are hidden in the one world and not there in the other.
        let mut hidden = std::collections::BTreeSet::new();
        for (is_others, mutations) in rounds {
            if is_others {
                with.apply(mutations);
                hidden = (0..4).filter(|number| {
                    with.value(*number).is_some_and(|value| value.get(&["store"]) != Some(&Value::Int(1)))
                }).collect();
                without = World::default();
                let visible = seen(&with).into_iter();
                let visible = visible.map(|(number, value)| {
                    (number, insert(&value.to_json(), OnConflict::DoUpdate))
                });
                without.apply(visible.collect());
                continue;
            }
            // That an id is taken is all that there is to be known of a hidden document.
            let mutations: Vec<_> = mutations.into_iter().filter(|(number, mutation)| {
                !hidden.contains(number) || !matches!(mutation, Mutation::Insert { .. })
            }).collect();
            let before: Vec<_> = hidden.iter().map(|number| with.value(*number)).collect();
            let one = with.apply_round(&restricted(&with, mutations.clone()));
            let other = without.apply_round(&restricted(&without, mutations));
            let ids = |effects: &Effects| -> Vec<_> {
                effects.conflicts.iter().map(|conflict| (conflict.id.clone(), conflict.reason)).collect()
            };
            prop_assert_eq!(ids(&one), ids(&other));
            prop_assert_eq!(&one.kept, &other.kept);
            prop_assert_eq!(seen(&with), seen(&without));
            let after: Vec<_> = hidden.iter().map(|number| with.value(*number)).collect();
            prop_assert_eq!(before, after);
        }
    }
}

#[test]
fn a_rule_that_names_the_id_sees_it() {
    let mut world = World::default();
    let round = TestRound {
        restriction: Some(["_id = 1", "_id = 1"]),
        ..TestRound::new(
            0,
            vec![(1, insert("{}", OnConflict::Fail)), (2, insert("{}", OnConflict::Fail))],
        )
    };
    let effects = world.apply_round(&round);
    assert_eq!((effects.documents, effects.conflicts.len()), (1, 1));
    assert_eq!(world.value(1), Some(json("{}")));
}
