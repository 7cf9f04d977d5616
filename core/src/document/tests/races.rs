//! Races of delete, update and insert between clusters, against a model that knows every write.
//!
//! Every insert brings the same fields, so a document that is seen without one of them would be a
//! husk: what is left of a document that was deleted, or part of one, while others wrote it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CLUSTERS: u8 = 3;
const FIELDS: [&str; 3] = ["a", "b", "c"];

/// What a cluster does.
#[derive(Clone, Debug)]
enum Act {
    Insert([i64; 3], OnConflict),
    /// Assigns some of the fields, at once.
    Update(BTreeMap<usize, i64>),
    Delete,
    /// Takes in all that another cluster knows.
    Hear(u8),
    /// Another cluster, whose filter the document left, has this one forget it.
    Evict(u8),
}

/// A race: who does what, while its clock shows how many milliseconds.
type Race = Vec<(u8, u64, Act)>;

fn races(with_evictions: bool) -> impl Strategy<Value = Race> {
    let policies =
        prop::sample::select(vec![OnConflict::Fail, OnConflict::DoNothing, OnConflict::DoUpdate]);
    let act = prop_oneof![
        3 => (prop::array::uniform3(0_i64..3), policies).prop_map(|(v, on)| Act::Insert(v, on)),
        4 => prop::collection::btree_map(0..FIELDS.len(), 0_i64..3, 1..4).prop_map(Act::Update),
        3 => Just(Act::Delete),
        3 => (0..CLUSTERS).prop_map(Act::Hear),
        u32::from(with_evictions) => (0..CLUSTERS).prop_map(Act::Evict),
    ];
    prop::collection::vec((0..CLUSTERS, 0_u64..40, act), 0..40)
}

fn mutation(act: &Act) -> Option<Mutation> {
    Some(match act {
        Act::Insert(values, on_conflict) => {
            let fields = FIELDS.iter().zip(values);
            let fields = fields.map(|(name, value)| ((*name).to_owned(), Value::Int(*value)));
            Mutation::Insert { fields: fields.collect(), on_conflict: *on_conflict }
        }
        Act::Update(values) => {
            let set = values.iter().map(|(field, value)| (path(FIELDS[*field]), (*value).into()));
            Mutation::Update { set: set.collect(), unset: vec![], increment: vec![] }
        }
        Act::Delete => Mutation::Delete,
        Act::Hear(_) | Act::Evict(_) => return None,
    })
}

/// Every write that had an effect, anywhere.
#[derive(Default)]
struct Model {
    /// By stamp: whether it was a delete.
    writes: BTreeMap<Stamp, bool>,
    /// By field and stamp: the value.
    values: [BTreeMap<Stamp, Value>; 3],
    generation: Option<Stamp>,
}

impl Model {
    fn wrote(&mut self, before: &Document, after: &Document, is_delete: bool) {
        let stamp = after.last_write().expect("something was written");
        self.writes.insert(stamp, is_delete);
        self.generation = self.generation.max(after.generation);
        let is_new = after.generation != before.generation;
        let (old, new) = (before.hidden_value(), after.hidden_value());
        for (name, values) in FIELDS.iter().zip(&mut self.values) {
            // An equal value is no write, except in a new generation, where all is new.
            if let Some(value) = new.get(&[name])
                && (is_new || old.get(&[name]) != Some(value))
            {
                values.insert(stamp, value.clone());
            }
        }
    }

    /// What everybody sees who heard of everything.
    fn seen(&self) -> Option<Value> {
        let (_, is_delete) = self.writes.last_key_value()?;
        let fields = FIELDS.iter().zip(&self.values).map(|(name, values)| {
            let (stamp, value) = values.last_key_value().expect("every insert writes each field");
            assert!(Some(*stamp) >= self.generation, "a generation begins with all fields");
            ((*name).to_owned(), value.clone())
        });
        (!is_delete).then(|| fields.collect())
    }
}

fn is_husk(document: &Document) -> bool {
    let Some(value) = document.value() else { return false };
    FIELDS.iter().any(|name| value.get(&[name]).is_none())
}

/// Runs a race, in which nobody may ever see a husk.
fn run_race(race: &Race) -> Result<(Vec<Document>, Model), TestCaseError> {
    let mut clusters = vec![Document::default(); usize::from(CLUSTERS)];
    let mut model = Model::default();
    for (sequence, (at, millis, act)) in (0..).zip(race) {
        let (place, commit) = (usize::from(*at), commit(*at, *millis, sequence));
        let before = clusters[place].clone();
        match act {
            Act::Hear(from) => {
                let state = clusters[usize::from(*from)].clone();
                clusters[place].merge(&state);
            }
            Act::Evict(from) => {
                let evict = Mutation::Evict(clusters[usize::from(*from)].clone());
                if clusters[place].apply(&evict, commit).0 == Effect::Evicted {
                    clusters[place] = Document::default();
                }
            }
            write => {
                let mutation = mutation(write).expect("it is a write");
                let (effect, notes) = clusters[place].apply(&mutation, commit);
                prop_assert!(notes.is_empty());
                if effect == Effect::Changed {
                    model.wrote(&before, &clusters[place], matches!(write, Act::Delete));
                } else {
                    prop_assert_eq!(&clusters[place], &before);
                }
            }
        }
        prop_assert!(!is_husk(&clusters[place]), "{:?}", clusters[place].value());
    }
    Ok((clusters, model))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The last write decides whether the document is there, and each field has the last value
    /// that was written to it in the last generation.
    #[test]
    fn the_last_write_decides_and_brings_all_fields(race in races(false)) {
        let (clusters, model) = run_race(&race)?;
        for first in &clusters {
            let all = clusters.iter().fold(first.clone(), |all, next| merged(&all, next));
            prop_assert_eq!(all.value(), model.seen());
        }
    }

    /// Who forgot a document knows less than others, but nothing in part.
    #[test]
    fn evictions_leave_no_husks(race in races(true)) {
        let (clusters, _) = run_race(&race)?;
        for first in &clusters {
            let all = clusters.iter().fold(first.clone(), |all, next| merged(&all, next));
            prop_assert!(!is_husk(&all), "{:?}", all.value());
        }
    }
}
