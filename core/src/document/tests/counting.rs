//! Counters of documents that are forgotten and made again.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const EAST: u8 = 0;
const WEST: u8 = 1;

/// A cluster's document, and the states that are on their way to it.
#[derive(Default)]
struct Cluster {
    document: Document,
    coming: VecDeque<Document>,
}

/// Two clusters that hear of each other's changes in order.
#[derive(Default)]
struct Pair {
    clusters: [Cluster; 2],
    sequence: u64,
}

impl Pair {
    fn apply(&mut self, at: u8, mutation: &Mutation) -> Effect {
        self.sequence += 1;
        let commit = commit(at, 1, self.sequence);
        self.clusters[usize::from(at)].document.apply(mutation, commit).0
    }

    /// Writes to a document that is made if it is not there.
    fn write(&mut self, at: u8, mutation: &Mutation) {
        let on_conflict = OnConflict::DoNothing;
        self.apply(at, &Mutation::Insert { fields: json("{}"), on_conflict });
        self.apply(at, mutation);
        let state = self.clusters[usize::from(at)].document.clone();
        self.clusters[usize::from(1 - at)].coming.push_back(state);
    }

    fn count(&mut self, at: u8, by: i64) {
        self.write(at, &increment("n", by));
    }

    fn forget(&mut self, at: u8) {
        self.clusters[usize::from(at)].document = Document::default();
    }

    /// Whether something was on its way.
    fn hear(&mut self, at: u8) -> bool {
        let state = self.clusters[usize::from(at)].coming.pop_front();
        state.is_some_and(|state| {
            self.apply(at, &Mutation::Merge(state));
            true
        })
    }

    fn hear_all(&mut self) {
        while self.hear(EAST) || self.hear(WEST) {}
    }

    fn seen(&self, at: u8) -> String {
        seen(&self.clusters[usize::from(at)].document)
    }

    fn shares(&self, at: u8) -> usize {
        let field = &self.clusters[usize::from(at)].document.fields["n"];
        field.counter.as_ref().unwrap().shares.len()
    }
}

#[test]
fn what_is_counted_after_an_eviction_adds_to_what_others_remember() {
    let mut pair = Pair::default();
    (0..5).for_each(|_| pair.count(EAST, 1));
    pair.hear_all();
    pair.forget(EAST);
    pair.count(EAST, 1);
    pair.count(EAST, 1);
    pair.hear_all();
    assert_eq!((pair.seen(WEST).as_str(), pair.shares(WEST)), (r#"{"n":7}"#, 2));
    assert_eq!(pair.seen(EAST), r#"{"n":2}"#, "nobody sends back what it wrote itself");
    pair.count(WEST, 1);
    pair.hear_all();
    assert_eq!([pair.seen(EAST), pair.seen(WEST)], [r#"{"n":8}"#; 2]);
}

#[test]
fn who_hears_of_a_part_of_what_it_forgot_counts_on_beside_it() {
    let mut pair = Pair::default();
    pair.count(EAST, 1);
    pair.hear(WEST);
    pair.count(WEST, 10);
    // The other one hears of this only after it has sent what it had.
    pair.count(EAST, 1);
    pair.forget(EAST);
    pair.hear(EAST);
    assert_eq!(pair.seen(EAST), r#"{"n":11}"#);
    pair.count(EAST, 1);
    pair.count(EAST, 1);
    pair.hear_all();
    assert_eq!((pair.seen(WEST).as_str(), pair.shares(WEST)), (r#"{"n":14}"#, 3));
}

/// What a cluster wrote anew has a version above those that it forgot. With an older state from elsewhere
/// it then has all versions, and not all that was counted.
#[test]
fn what_was_forgotten_comes_back_although_no_version_is_new() {
    let mut pair = Pair::default();
    pair.count(WEST, 2);
    pair.hear_all();
    let older = pair.clusters[usize::from(WEST)].document.clone();
    pair.count(EAST, -1);
    pair.hear_all();
    pair.forget(EAST);
    pair.write(EAST, &set("x", "0"));
    pair.apply(EAST, &Mutation::Merge(older));
    pair.hear_all();
    let [east, west] = pair.clusters.each_ref().map(|cluster| cluster.document.clone());
    assert!(east.versions.covers(&west.versions) && seen(&east) == r#"{"n":2,"x":0}"#);
    assert_eq!(pair.apply(EAST, &Mutation::Merge(west.clone())), Effect::Changed);
    assert_eq!([pair.seen(EAST), pair.seen(WEST)], [r#"{"n":1,"x":0}"#; 2]);
    assert_eq!(pair.apply(EAST, &Mutation::Merge(west)), Effect::Unchanged);
}

#[test]
fn an_assignment_begins_the_count_anew_whoever_forgot_it() {
    let mut pair = Pair::default();
    pair.count(EAST, 5);
    pair.hear_all();
    pair.forget(EAST);
    pair.write(EAST, &set("n", "100"));
    pair.count(EAST, 1);
    pair.hear_all();
    assert_eq!((pair.seen(WEST).as_str(), pair.shares(WEST)), (r#"{"n":101}"#, 1));
}

#[derive(Clone, Debug)]
enum Act {
    Count(u8, i64),
    Hear(u8),
    /// Only one of them forgets, so that there is somebody who knows all.
    EastForgets,
}

fn acts(forgetting: u32) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (EAST..=WEST, -3_i64..4).prop_map(|(at, by)| Act::Count(at, by)),
        3 => (EAST..=WEST).prop_map(Act::Hear),
        forgetting => Just(Act::EastForgets),
    ];
    prop::collection::vec(act, 0..40)
}

fn run(acts: &[Act]) -> (Pair, i64) {
    let (mut pair, mut total) = (Pair::default(), 0);
    for act in acts {
        match act {
            Act::Count(at, by) => {
                pair.count(*at, *by);
                total += by;
            }
            Act::Hear(at) => {
                pair.hear(*at);
            }
            Act::EastForgets => pair.forget(EAST),
        }
    }
    // Who forgot hears of all again with the next change.
    pair.hear_all();
    pair.count(WEST, 1);
    pair.hear_all();
    (pair, total + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_increment_is_lost_by_forgetting(acts in acts(2)) {
        let (pair, total) = run(&acts);
        let expected = format!(r#"{{"n":{total}}}"#);
        prop_assert_eq!([pair.seen(EAST), pair.seen(WEST)], [expected.clone(), expected]);
    }

    #[test]
    fn who_never_forgets_has_one_share(acts in acts(0)) {
        let (pair, _) = run(&acts);
        prop_assert!(pair.shares(EAST) <= 2, "{} shares of two clusters", pair.shares(EAST));
        prop_assert_eq!(&pair.clusters[0].document, &pair.clusters[1].document);
    }
}
