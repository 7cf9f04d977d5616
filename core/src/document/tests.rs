//! Laws of merging, convergence of histories, and the races of insert, update and delete.

mod counting;
mod races;

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::field::Sort;
use super::*;
use crate::hlc::Hlc;
use crate::ids::ActorId;
use crate::query::{FieldPath, OnConflict};

fn actor(number: u8) -> ActorId {
    ActorId(Uuid::from_u128(u128::from(number) + 1))
}

fn commit(actor_number: u8, millis: u64, sequence: u64) -> Commit {
    Commit { hlc: Hlc::from_millis(millis), actor: actor(actor_number), sequence }
}

fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

fn path(dotted: &str) -> FieldPath {
    FieldPath::new(dotted.split('.').map(str::to_owned).collect()).unwrap()
}

fn insert(text: &str) -> Mutation {
    Mutation::Insert { fields: json(text), on_conflict: OnConflict::DoUpdate }
}

fn set(dotted: &str, value: &str) -> Mutation {
    Mutation::Update { set: vec![(path(dotted), json(value))], unset: vec![], increment: vec![] }
}

fn unset(dotted: &str) -> Mutation {
    Mutation::Update { set: vec![], unset: vec![path(dotted)], increment: vec![] }
}

fn increment(dotted: &str, by: i64) -> Mutation {
    Mutation::Update { set: vec![], unset: vec![], increment: vec![(path(dotted), by)] }
}

fn seen(document: &Document) -> String {
    document.value().map_or("none".to_owned(), |value| value.to_json())
}

/// Applies mutations one after the other in one cluster, a millisecond apart.
fn history(mutations: &[Mutation]) -> Document {
    let mut document = Document::default();
    for (index, mutation) in mutations.iter().enumerate() {
        document.apply(mutation, commit(0, 100 + index as u64, index as u64));
    }
    document
}

fn merged(a: &Document, b: &Document) -> Document {
    let mut joined = a.clone();
    joined.merge(b);
    joined
}

#[test]
fn operations_give_what_a_reader_expects() {
    let cases: &[(&[Mutation], &str)] = &[
        (&[insert(r#"{"a":1,"b":{"c":2}}"#)], r#"{"a":1,"b":{"c":2}}"#),
        (&[insert(r#"{"a":1}"#), insert(r#"{"b":2}"#)], r#"{"a":1,"b":2}"#),
        (&[insert(r#"{"b":{"c":2}}"#), set("b", r#"{"d":3}"#)], r#"{"b":{"c":2,"d":3}}"#),
        (&[insert(r#"{"b":{"c":2}}"#), set("b", "[1,2]"), set("b.d", "3")], r#"{"b":{"d":3}}"#),
        (&[insert(r#"{"b":{"c":2}}"#), unset("b.c")], r#"{"b":{}}"#),
        (&[insert(r#"{"b":{"c":2}}"#), unset("b"), set("b.d", "1")], r#"{"b":{"d":1}}"#),
        (&[insert(r#"{"n":5}"#), increment("n", 2), increment("n", -9)], r#"{"n":-2}"#),
        (
            &[insert(r#"{"n":5}"#), increment("n", 2), set("n", "1"), increment("n", 1)],
            r#"{"n":2}"#,
        ),
        (&[insert("{}"), increment("deep.n", 3)], r#"{"deep":{"n":3}}"#),
        (&[insert(r#"{"n":0.5}"#), increment("n", 1)], r#"{"n":1.5}"#),
        (&[insert(r#"{"s":"x"}"#), increment("s", 1)], r#"{"s":"x"}"#),
        (&[insert(r#"{"s":"x"}"#), increment("s.n", 1), unset("s.n")], r#"{"s":"x"}"#),
        (&[insert(r#"{"a":1}"#), Mutation::Delete], "none"),
        (&[set("a", "1")], "none"),
        (&[insert(r#"{"n":1}"#), set("n.x", "2")], r#"{"n":{"x":2}}"#),
    ];
    for (mutations, expected) in cases {
        assert_eq!(seen(&history(mutations)), *expected, "{mutations:?}");
    }
}

/// A document that was deleted and has lost its fields, and one that has not.
fn expired_and_not() -> [Document; 2] {
    let whole = history(&[insert(r#"{"a":1,"m":{"x":1}}"#), Mutation::Delete]);
    let deleted = whole.tombstone().unwrap();
    let mut expired = whole.clone();
    assert!(!expired.expire(deleted), "only what was deleted before");
    assert!(expired.expire(Hlc(deleted.0 + 1)) && !expired.expire(Hlc(u64::MAX)));
    assert_eq!((expired.tombstone(), expired.fields.len()), (None, 0));
    [expired, whole]
}

#[test]
fn what_has_expired_comes_back_only_as_something_new() {
    for late in [set("a", "2"), increment("n", 1), unset("a"), Mutation::Delete] {
        let [mut expired, _] = expired_and_not();
        assert_eq!(expired.apply(&late, commit(0, 900, 90)).0, Effect::Unchanged, "{late:?}");
    }
    // What it hid stays hidden also where it is still there.
    let [mut expired, whole] = expired_and_not();
    expired.apply(&insert(r#"{"b":2}"#), commit(0, 900, 90));
    for joined in [merged(&whole, &expired), merged(&expired, &whole)] {
        assert_eq!((seen(&joined), &joined), (r#"{"b":2}"#.to_owned(), &expired));
    }
}

#[test]
fn what_has_expired_hears_of_what_others_write() {
    let [expired, whole] = expired_and_not();
    assert_eq!(merged(&expired, &whole), expired, "it knows all of that");
    // What was written elsewhere before the delete does not bring it back, what came later does.
    for (millis, expected) in [(50, "none"), (900, r#"{"a":1,"b":3,"m":{"x":1}}"#)] {
        let mut other = history(&[insert(r#"{"a":1,"m":{"x":1}}"#)]);
        other.apply(&set("b", "3"), commit(1, millis, 1));
        assert_eq!(seen(&merged(&expired, &other)), expected);
        assert_eq!(seen(&merged(&other, &expired)), expected);
    }
}

/// One cluster has dropped what another one still hides, and a third one, which had not known all
/// of it, brings the document back.
#[test]
fn what_comes_back_after_it_has_expired_is_the_same_everywhere() {
    let first = history(&[insert(r#"{"a":1,"n":1}"#)]);
    let mut away = first.clone();
    let mut whole = first;
    whole.apply(&set("c", "5"), commit(0, 200, 20));
    whole.apply(&increment("n", 3), commit(0, 201, 21));
    whole.apply(&Mutation::Delete, commit(0, 202, 22));
    away.apply(&set("b", "2"), commit(2, 900, 1));
    away.apply(&increment("n", 1), commit(2, 901, 2));
    let mut expired = whole.clone();
    assert!(expired.expire(Hlc(u64::MAX)));
    let hear = |here: &mut Document, state: &Document, actor, sequence| {
        here.apply(&Mutation::Merge(state.clone()), commit(actor, 950, sequence)).0
    };
    // The one that still has it hears of the write first, or of what became of it.
    for late in [false, true] {
        let (mut one, mut other, mut third) = (expired.clone(), whole.clone(), away.clone());
        if late {
            hear(&mut other, &away, 1, 30);
            assert_eq!(seen(&other), r#"{"a":1,"b":2,"c":5,"n":5}"#);
        }
        assert_eq!(hear(&mut one, &away, 0, 31), Effect::Changed);
        assert_eq!(hear(&mut one, &away, 0, 32), Effect::Unchanged);
        hear(&mut other, &one, 1, 33);
        hear(&mut third, &one, 2, 34);
        hear(&mut one, &other, 0, 35);
        for document in [&one, &other, &third] {
            assert_eq!((seen(document).as_str(), document), (r#"{"a":1,"b":2,"n":2}"#, &one));
        }
    }
    // Two that have both dropped it.
    let (mut one, mut other) = (expired.clone(), expired);
    hear(&mut one, &away, 0, 31);
    hear(&mut other, &away, 1, 32);
    let before = one.clone();
    hear(&mut one, &other, 0, 33);
    hear(&mut other, &before, 1, 34);
    assert_eq!((seen(&one).as_str(), &one), (r#"{"a":1,"b":2,"n":2}"#, &other));
}

/// What comes first is older than the delete, and does not bring it back; what comes then does.
#[test]
fn what_comes_back_in_two_steps_after_it_has_expired_is_the_same_everywhere() {
    let first = history(&[insert(r#"{"a":1}"#)]);
    let mut away = first.clone();
    let mut whole = first;
    whole.apply(&increment("n", 3), commit(0, 200, 20));
    whole.apply(&Mutation::Delete, commit(0, 500, 21));
    away.apply(&set("b", "2"), commit(1, 300, 1));
    let older = away.clone();
    away.apply(&set("c", "3"), commit(1, 900, 2));
    let mut expired = whole.clone();
    assert!(expired.expire(Hlc(u64::MAX)));
    let hear = |here: &mut Document, state: &Document, actor, sequence| {
        here.apply(&Mutation::Merge(state.clone()), commit(actor, 950, sequence));
    };
    let (mut one, mut other) = (expired, whole);
    for (sequence, state) in [(30, &older), (31, &away)] {
        hear(&mut one, state, 0, sequence);
        hear(&mut other, state, 2, sequence);
    }
    assert_eq!(seen(&other), r#"{"a":1,"b":2,"c":3,"n":3}"#);
    let before = one.clone();
    hear(&mut one, &other, 0, 40);
    hear(&mut other, &before, 2, 41);
    assert_eq!((seen(&one).as_str(), &one), (r#"{"a":1,"b":2,"c":3}"#, &other));
}

/// Who brought it back goes on writing: with what was heard later than it was written nothing of that
/// is undone, nor is a delete.
#[test]
fn what_is_written_after_what_brought_it_back_stays() {
    let [expired, _] = expired_and_not();
    let hear = |here: &mut Document, state: &Document, actor, sequence| {
        here.apply(&Mutation::Merge(state.clone()), commit(actor, 5_000, sequence));
    };
    let mut away = history(&[insert(r#"{"a":1,"m":{"x":1}}"#)]);
    away.apply(&set("b", "1"), commit(1, 900, 1));
    let first = away.clone();
    away.apply(&set("a", "2"), commit(1, 1_000, 2));
    let second = away.clone();
    away.apply(&Mutation::Delete, commit(1, 1_100, 3));
    let mut here = expired;
    for (sequence, (state, expected)) in [
        (&first, r#"{"a":1,"b":1,"m":{"x":1}}"#),
        (&second, r#"{"a":2,"b":1,"m":{"x":1}}"#),
        (&away, "none"),
    ]
    .into_iter()
    .enumerate()
    {
        hear(&mut here, state, 0, 30 + sequence as u64);
        assert_eq!(seen(&here), expected);
    }
    for state in [first, second, away] {
        let mut there = state;
        hear(&mut there, &here, 1, 40);
        assert_eq!(there, here);
    }
}

/// What happens to one of three clusters.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Writes(u8),
    Expires,
    Hears(usize),
}

fn happenings() -> impl Strategy<Value = Vec<(usize, u64, Happening)>> {
    let happening = prop_oneof![
        4 => (0_u8..8).prop_map(Happening::Writes),
        1 => Just(Happening::Expires),
        3 => (0_usize..3).prop_map(Happening::Hears),
    ];
    proptest::collection::vec((0_usize..3, 0_u64..3, happening), 1..40)
}

/// Three clusters, and how much each has written.
#[derive(Clone, Default)]
struct Three {
    documents: [Document; 3],
    sequences: [u64; 3],
}

impl Three {
    fn happens(&mut self, at: usize, millis: u64, happening: Happening) {
        self.sequences[at] += 1;
        let commit = commit(u8::try_from(at).unwrap(), millis, self.sequences[at]);
        let mutation = match happening {
            Happening::Expires => {
                self.documents[at].expire(Hlc(u64::MAX));
                return;
            }
            Happening::Hears(from) => Mutation::Merge(self.documents[from].clone()),
            Happening::Writes(0) => Mutation::Delete,
            Happening::Writes(1) => Mutation::Delete,
            Happening::Writes(2) => insert(r#"{"a":1,"m":{"x":1}}"#),
            Happening::Writes(3) => set("a", &at.to_string()),
            Happening::Writes(4) => set("m", r#"{"y":2}"#),
            Happening::Writes(5) => increment("n", 1),
            Happening::Writes(6) => increment("m", 2),
            Happening::Writes(_) => unset("a"),
        };
        self.documents[at].apply(&mutation, commit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..Default::default() })]

    /// Whatever expires where and is brought back by whom, clusters that have heard of the same see
    /// the same, and come to that.
    #[test]
    fn clusters_that_have_dropped_what_others_have_not_agree(happenings in happenings()) {
        let mut three = Three::default();
        for (at, millis, happening) in happenings {
            three.happens(at, millis, happening);
        }
        for _ in 0..12 {
            for (at, from) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                three.happens(at, 0, Happening::Hears(from));
            }
        }
        let [one, two, three] = &three.documents;
        for other in [two, three] {
            prop_assert_eq!(&one.versions, &other.versions);
            prop_assert_eq!(one.value(), other.value(), "{:?} and {:?}", one, other);
        }
    }
}

/// A generation that began before the delete does not hide all that was dropped.
#[test]
fn another_generation_from_before_the_delete_brings_it_back_the_same_everywhere() {
    let gone = history(&[insert(r#"{"a":1}"#), Mutation::Delete]);
    let (mut whole, mut away) = (gone.clone(), gone);
    whole.apply(&insert(r#"{"b":1}"#), commit(0, 200, 20));
    away.apply(&insert(r#"{"c":1}"#), commit(1, 300, 1));
    whole.apply(&set("b", "2"), commit(0, 400, 21));
    whole.apply(&Mutation::Delete, commit(0, 500, 22));
    away.apply(&set("c", "2"), commit(1, 900, 2));
    let mut expired = whole.clone();
    assert!(expired.expire(Hlc(u64::MAX)));
    let hear = |here: &mut Document, state: &Document, actor, sequence| {
        here.apply(&Mutation::Merge(state.clone()), commit(actor, 950, sequence));
    };
    let mut other = away.clone();
    hear(&mut other, &whole, 1, 30);
    assert_eq!(seen(&other), r#"{"b":2,"c":2}"#);
    hear(&mut expired, &away, 0, 31);
    hear(&mut other, &expired, 1, 32);
    assert_eq!((seen(&expired).as_str(), &expired), (r#"{"c":2}"#, &other));
}

/// Who inserted it again, and deleted that, has all of it: nothing of it was dropped here.
#[test]
fn a_new_generation_of_what_has_expired_is_kept_until_it_expires_itself() {
    let [mut expired, _] = expired_and_not();
    let mut other = expired.clone();
    other.apply(&insert(r#"{"b":2}"#), commit(1, 900, 1));
    let visible = other.clone();
    other.apply(&Mutation::Delete, commit(1, 901, 2));
    let mut shown = expired.clone();
    shown.apply(&Mutation::Merge(visible.clone()), commit(0, 950, 30));
    assert_eq!(shown, visible, "nothing is written for it");
    expired.apply(&Mutation::Merge(other.clone()), commit(0, 950, 30));
    assert_eq!((expired.tombstone(), &expired), (other.tombstone(), &other));
}

#[test]
fn equal_writes_change_nothing() {
    let before = history(&[insert(r#"{"a":1,"m":{"x":[1]},"n":3}"#), increment("n", 4)]);
    let same = [
        insert(r#"{"a":1,"m":{"x":[1]}}"#),
        set("m", r#"{"x":[1]}"#),
        set("m", "{}"),
        set("n", "7"),
        increment("n", 0),
        unset("missing.deep"),
    ];
    for mutation in same {
        let mut document = before.clone();
        let (effect, notes) = document.apply(&mutation, commit(1, 900, 50));
        assert_eq!((effect, notes.len()), (Effect::Unchanged, 0), "{mutation:?}");
        assert_eq!(document, before, "{mutation:?}");
    }
}

#[test]
fn insert_follows_its_policy() {
    let there = history(&[insert(r#"{"a":1}"#)]);
    let try_insert = |on_conflict| {
        let mut document = there.clone();
        let mutation = Mutation::Insert { fields: json(r#"{"a":2}"#), on_conflict };
        let effect = document.apply(&mutation, commit(0, 500, 9)).0;
        (effect, seen(&document))
    };
    let one = r#"{"a":1}"#.to_owned();
    assert_eq!(try_insert(OnConflict::Fail), (Effect::Conflict, one.clone()));
    assert_eq!(try_insert(OnConflict::DoNothing), (Effect::Conflict, one));
    let two = (Effect::Changed, r#"{"a":2}"#.to_owned());
    assert_eq!(try_insert(OnConflict::DoUpdate), two);
    assert_eq!(try_insert(OnConflict::DoUpdateLocalDiff), two);
}

#[test]
fn an_increment_that_makes_no_sense_is_noted_and_left_out() {
    let mut document = history(&[insert(r#"{"s":"x"}"#)]);
    let (effect, notes) = document.apply(&increment("s", 1), commit(0, 500, 9));
    assert_eq!(effect, Effect::Unchanged);
    assert_eq!(notes, vec![Note { path: path("s"), refused: IncrementRefused::NotANumber }]);
    document.apply(&set("n", "1"), commit(0, 501, 10));
    document.apply(&increment("n", i64::MIN), commit(0, 502, 11));
    document.apply(&increment("n", i64::MIN), commit(0, 503, 12));
    let (_, notes) = document.apply(&increment("n", i64::MIN), commit(0, 504, 13));
    assert_eq!(notes, vec![Note { path: path("n"), refused: IncrementRefused::Overflow }]);
}

#[test]
fn the_log_decides_inside_a_cluster_however_clocks_differ() {
    let mut document = Document::default();
    document.apply(&insert(r#"{"a":1}"#), commit(0, 5_000, 1));
    document.apply(&set("a", "2"), commit(0, 1_000, 2));
    assert_eq!(seen(&document), r#"{"a":2}"#);
    document.apply(&Mutation::Delete, commit(0, 10, 3));
    assert_eq!(seen(&document), "none");
    document.apply(&insert(r#"{"b":1}"#), commit(0, 1, 4));
    assert_eq!(seen(&document), r#"{"b":1}"#, "an older generation came back");
}

#[test]
fn a_concurrent_update_brings_the_whole_document_back_and_never_a_husk() {
    let start = history(&[insert(r#"{"a":1,"b":2}"#)]);
    let mut deleted = start.clone();
    deleted.apply(&Mutation::Delete, commit(1, 500, 1));
    let mut updated = start.clone();
    updated.apply(&set("a", "9"), commit(2, 600, 1));
    assert_eq!(seen(&merged(&deleted, &updated)), r#"{"a":9,"b":2}"#);
    let mut earlier = start;
    earlier.apply(&set("a", "9"), commit(2, 400, 1));
    assert_eq!(seen(&merged(&deleted, &earlier)), "none");
}

#[test]
fn a_new_generation_hides_older_fields_for_ever() {
    let start = history(&[insert(r#"{"old":1}"#)]);
    let mut again = start.clone();
    again.apply(&Mutation::Delete, commit(1, 500, 1));
    again.apply(&insert(r#"{"new":1}"#), commit(1, 600, 2));
    let mut elsewhere = start;
    elsewhere.apply(&set("old", "2"), commit(2, 550, 1));
    elsewhere.apply(&set("late", "2"), commit(2, 700, 2));
    assert_eq!(seen(&merged(&again, &elsewhere)), r#"{"late":2,"new":1}"#);
}

#[test]
fn counters_of_two_clusters_add_up() {
    let start = history(&[insert(r#"{"n":10}"#)]);
    let (mut east, mut west) = (start.clone(), start);
    for round in 0..5 {
        east.apply(&increment("n", 1), commit(1, 500 + round, round));
        west.apply(&increment("n", -2), commit(2, 500 + round, round));
    }
    let joined = merged(&east, &west);
    assert_eq!(seen(&joined), r#"{"n":5}"#);
    assert_eq!(joined, merged(&west, &east));
}

#[test]
fn a_later_write_below_an_object_wins_over_a_concurrent_scalar() {
    let start = history(&[insert(r#"{"m":{"x":1,"y":1}}"#)]);
    let (mut scalar, mut below) = (start.clone(), start);
    scalar.apply(&set("m", "7"), commit(1, 500, 1));
    below.apply(&set("m.x", "2"), commit(2, 600, 1));
    assert_eq!(seen(&merged(&scalar, &below)), r#"{"m":{"x":2}}"#);
}

#[test]
fn what_is_there_is_forgotten_and_what_is_deleted_is_not() {
    let mut document = history(&[insert(r#"{"a":1}"#), set("a", "2")]);
    assert_eq!(document.apply(&Mutation::Forget, commit(1, 900, 1)).0, Effect::Evicted);
    document.apply(&Mutation::Delete, commit(1, 900, 2));
    let deleted = document.clone();
    for mut gone in [document, Document::default()] {
        assert_eq!(gone.apply(&Mutation::Forget, commit(1, 900, 3)).0, Effect::Unchanged);
        assert!(gone == deleted || gone == Document::default());
    }
}

#[test]
fn eviction_forgets_only_what_its_sender_knows() {
    let sent = history(&[insert(r#"{"a":1}"#), set("a", "2")]);
    let mut same = sent.clone();
    assert_eq!(same.apply(&Mutation::Evict(sent.clone()), commit(1, 900, 1)).0, Effect::Evicted);
    let mut newer = sent.clone();
    newer.apply(&set("mine", "1"), commit(1, 800, 1));
    // The sender's versions without the fields they stand for, of a state that is not all known.
    let mut bare = Document { versions: sent.versions.clone(), ..Document::default() };
    bare.versions.include(actor(3), 7);
    let kept = newer.clone();
    assert_eq!(newer.apply(&Mutation::Evict(bare), commit(1, 900, 2)).0, Effect::Unchanged);
    assert_eq!(newer, kept, "a version whose fields are missing was taken in");
    assert_eq!(newer.apply(&Mutation::Evict(sent.clone()), commit(1, 900, 2)).0, Effect::Unchanged);
    assert_eq!(seen(&newer), r#"{"a":2,"mine":1}"#);
    let mut nothing = Document::default();
    assert_eq!(nothing.apply(&Mutation::Evict(sent), commit(1, 900, 3)).0, Effect::Unchanged);
}

const CLUSTERS: u8 = 3;

/// A step of a history over several clusters.
#[derive(Clone, Debug)]
enum Step {
    /// A cluster writes, its clock showing this many milliseconds.
    Write(u8, u64, Mutation),
    /// The first cluster sends its state, as it is now, to the second; it arrives later, perhaps
    /// twice.
    Send(u8, u8),
    /// The message at this place of those under way arrives and stays under way.
    Arrive(usize),
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Int(1)),
        Just(Value::Int(2)),
        Just(Value::Null),
        Just(Value::from("x")),
        Just(json("[1]")),
        Just(json("{}")),
        Just(json(r#"{"x":1}"#)),
        Just(json(r#"{"x":{"y":2}}"#)),
    ]
}

fn paths() -> impl Strategy<Value = FieldPath> {
    prop::sample::select(vec!["a", "b", "a.x", "a.x.y", "b.x"]).prop_map(path)
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let objects = prop::collection::btree_map("[ab]", values(), 0..3).prop_map(Value::Object);
    prop_oneof![
        3 => (objects, prop::sample::select(vec![
            OnConflict::Fail,
            OnConflict::DoNothing,
            OnConflict::DoUpdate,
        ]))
            .prop_map(|(fields, on_conflict)| Mutation::Insert { fields, on_conflict }),
        4 => (paths(), values()).prop_map(|(path, value)| Mutation::Update {
            set: vec![(path, value)],
            unset: vec![],
            increment: vec![],
        }),
        1 => paths().prop_map(|path| Mutation::Update {
            set: vec![],
            unset: vec![path],
            increment: vec![],
        }),
        3 => (paths(), -3_i64..4).prop_map(|(path, by)| Mutation::Update {
            set: vec![],
            unset: vec![],
            increment: vec![(path, by)],
        }),
        1 => Just(Mutation::Delete),
    ]
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..CLUSTERS, 0_u64..50, mutations()).prop_map(|(c, t, m)| Step::Write(c, t, m)),
        2 => (0..CLUSTERS, 0..CLUSTERS).prop_map(|(from, to)| Step::Send(from, to)),
        2 => any::<usize>().prop_map(Step::Arrive),
    ];
    prop::collection::vec(step, 0..most)
}

/// Runs a history: the state of each cluster, and every state that was ever sent.
fn run(steps: &[Step]) -> (Vec<Document>, Vec<(u8, Document)>) {
    let mut clusters = vec![Document::default(); usize::from(CLUSTERS)];
    let mut sequences = BTreeMap::<u8, u64>::new();
    let mut under_way: Vec<(u8, Document)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(at, millis, mutation) => {
                let sequence = sequences.entry(*at).or_default();
                clusters[usize::from(*at)].apply(mutation, commit(*at, *millis, *sequence));
                *sequence += 1;
            }
            Step::Send(from, to) => under_way.push((*to, clusters[usize::from(*from)].clone())),
            Step::Arrive(place) if !under_way.is_empty() => {
                let (to, state) = under_way[place % under_way.len()].clone();
                let sequence = sequences.entry(to).or_default();
                let arrived = Mutation::Merge(state);
                clusters[usize::from(to)].apply(&arrived, commit(to, 0, *sequence));
                *sequence += 1;
            }
            Step::Arrive(_) => {}
        }
    }
    (clusters, under_way)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn merge_is_commutative_associative_and_idempotent(steps in steps(40)) {
        let (states, _) = run(&steps);
        let [a, b, c] = &states[..] else { unreachable!("three clusters") };
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        prop_assert_eq!(&merged(a, a), a);
        prop_assert_eq!(merged(&merged(a, b), b), merged(a, b));
    }

    #[test]
    fn clusters_that_heard_all_agree(steps in steps(60), order in any::<usize>()) {
        let (mut clusters, mut late) = run(&steps);
        for (index, state) in clusters.clone().into_iter().enumerate() {
            let others = (0..CLUSTERS).filter(|other| usize::from(*other) != index);
            late.extend(others.map(|other| (other, state.clone())));
        }
        // Late and repeated messages in an order that depends on the seed.
        let count = late.len();
        for index in 0..count {
            let place = (index.wrapping_mul(order | 1).wrapping_add(order >> 7)) % count;
            let (to, state) = &late[place];
            clusters[usize::from(*to)].merge(state);
        }
        for (to, state) in &late {
            clusters[usize::from(*to)].merge(state);
        }
        prop_assert_eq!(&clusters[0], &clusters[1]);
        prop_assert_eq!(&clusters[1], &clusters[2]);
    }

    #[test]
    fn a_write_that_could_have_seen_another_wins(steps in steps(40), value in values()) {
        let (states, _) = run(&steps);
        let mut document = merged(&states[0], &states[1]);
        // A clock far behind must not let an older write win.
        let fields = [("a".to_owned(), value.clone())].into_iter().collect();
        let on_conflict = OnConflict::DoUpdate;
        document.apply(&Mutation::Insert { fields, on_conflict }, commit(2, 0, 1_000));
        for older in &states[..2] {
            let joined = merged(&document, older);
            let seen = joined.value().expect("it was just inserted");
            let expected_inside = |value: &Value, found: Option<&Value>| match value {
                Value::Object(entries) => entries.iter().all(|(name, inner)| {
                    found.and_then(|f| f.get(std::slice::from_ref(name))) == Some(inner)
                        || matches!(inner, Value::Object(_))
                }),
                scalar => found == Some(scalar),
            };
            prop_assert!(expected_inside(&value, seen.get(&["a"])), "{seen}");
        }
    }

    #[test]
    fn taking_a_mutation_apart_does_what_copying_it_does(
        mutations in prop::collection::vec(mutations(), 0..8),
    ) {
        let (mut copied, mut taken) = (Document::default(), Document::default());
        for (sequence, mutation) in (0..).zip(mutations) {
            let at = commit(0, 100, sequence);
            let expected = copied.apply(&mutation, at);
            prop_assert_eq!(taken.apply_owned(mutation, at), expected);
            prop_assert_eq!(&taken, &copied);
            prop_assert!(presence_agrees(&taken.fields));
        }
    }
}

fn presence_agrees(fields: &Fields) -> bool {
    fields.values().all(|field| {
        let value = field.value();
        let sort = match &value {
            None => Sort::Missing,
            Some(Value::Object(_)) => Sort::Object,
            Some(Value::Int(_) | Value::Float(_)) => Sort::Number,
            Some(_) => Sort::Other,
        };
        let shows = |other: &Value| {
            matches!(other, Value::Object(_))
                || field.shows(other) == (value.as_ref() == Some(other))
        };
        field.is_present() == value.is_some()
            && field.sort() == sort
            && value.iter().all(shows)
            && [Value::Null, Value::Int(1), Value::from("x"), json("[1]")].iter().all(shows)
            && presence_agrees(&field.fields)
    })
}
