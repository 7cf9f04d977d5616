//! Which indexes this node is to have: those that are declared, and those that it makes by itself
//! since queries keep looking at documents in vain that an index would spare them.
//!
//! It says one step after the other that leads there. Pure, but for who says what is declared and what
//! was looked at.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::ids::AppId;
use anabranch_core::query::{IndexName, IndexOver};
use anabranch_journal::metadata::DeclaredIndexes;
use parking_lot::Mutex;

use crate::storage::{Catalog, Index, IndexNumber};

/// An index is made once so many documents were looked at in vain which it would have spared, by so
/// many queries: what is asked once in a while is not worth keeping an index up to date.
const IN_VAIN_DOCUMENTS: u64 = 1_000_000;
const IN_VAIN_QUERIES: u64 = 10;
/// A query looks at documents in vain if it does not want so many of those that it looks at: one of
/// these.
const WANTED_SHARE: u64 = 10;
/// No app has more of these indexes than one of so many parts of what the node may make.
const APP_SHARE: usize = 2;
/// Of how many indexes that are not there it is remembered what they would have spared.
const MISSED_AT_MOST: usize = 1_000;
/// Of how many of these for one app: nothing of others is forgotten for its ever new fields.
const MISSED_OF_APP: usize = 100;

/// What is wished for.
#[derive(Debug)]
pub(crate) struct Wishes {
    state: Mutex<State>,
    /// How often it has changed.
    changes: AtomicU64,
    /// How many indexes the node may make by itself.
    automatic_at_most: usize,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it is known.
    declared: Option<DeclaredIndexes>,
    missed: BTreeMap<IndexOver, Missed>,
    /// Those of them that are worth it.
    automatic: Vec<IndexOver>,
    /// How many queries each index served that the node has made by itself, since it last made one.
    served: HashMap<IndexNumber, u64>,
    /// As of which change, and with which indexes, there was nothing left to do.
    done: Option<(u64, u64)>,
}

/// What an index would have spared.
#[derive(Clone, Copy, Debug, Default)]
struct Missed {
    documents: u64,
    queries: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An index over this is begun; under a name if it was declared.
    Begin(IndexOver, Option<IndexName>),
    /// An index has another name, or none.
    Rename(Index),
    /// An index is given up.
    Drop(IndexNumber),
    /// More is added to one that is being built.
    Fill(Index),
}

impl Wishes {
    /// None yet. The node may make so many indexes by itself.
    pub(crate) fn new(automatic_at_most: usize) -> Self {
        Wishes { state: Mutex::default(), changes: AtomicU64::new(0), automatic_at_most }
    }

    /// What is declared now.
    pub(crate) fn declare(&self, declared: DeclaredIndexes) {
        self.state.lock().declared = Some(declared);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A query has looked at so many documents, and wanted so many of these, which an index over this
    /// would have found.
    pub(crate) fn missed(&self, over: &IndexOver, looked_at: u64, wanted: u64) {
        let is_in_vain = wanted.saturating_mul(WANTED_SHARE) <= looked_at;
        if !is_in_vain || looked_at == wanted || !self.makes_indexes() {
            return;
        }
        let mut state = self.state.lock();
        if !state.missed.contains_key(over) {
            state.make_room(over.app);
        }
        let missed = state.missed.entry(over.clone()).or_default();
        missed.documents += looked_at - wanted;
        missed.queries += 1;
        if missed.documents >= IN_VAIN_DOCUMENTS && missed.queries >= IN_VAIN_QUERIES {
            state.missed.remove(over);
            if !state.automatic.contains(over) {
                state.automatic.push(over.clone());
                self.changes.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// An index has served a query.
    pub(crate) fn served(&self, index: IndexNumber) {
        *self.state.lock().served.entry(index).or_default() += 1;
    }

    /// Whether the node makes indexes by itself.
    pub(crate) fn makes_indexes(&self) -> bool {
        self.automatic_at_most > 0
    }

    /// What to do next, if these are the indexes; `None` if they are as they are wished for.
    pub(crate) fn step(&self, catalog: &Catalog) -> Option<Step> {
        let changes = self.changes.load(Ordering::Acquire);
        let mut state = self.state.lock();
        if state.done != Some((changes, catalog.shape())) {
            let step = self.towards(&mut state, catalog);
            if step.is_some() {
                return step;
            }
            state.done = Some((changes, catalog.shape()));
        }
        // Those that were begun first: as few as possible are of no use yet.
        let building = catalog.all().filter(|index| index.is_building());
        building.min_by_key(|index| index.number).cloned().map(Step::Fill)
    }

    fn towards(&self, state: &mut State, catalog: &Catalog) -> Option<Step> {
        if let Some(DeclaredIndexes { indexes: declared, unreadable }) = &state.declared {
            for index in catalog.all() {
                match (declared.get(&index.over), &index.name) {
                    (None, Some(_)) => {
                        let over = &index.over;
                        // It may be one of those that cannot be read.
                        if !unreadable.contains(&(over.app, over.collection.clone())) {
                            return Some(Step::Drop(index.number));
                        }
                    }
                    (Some(name), is_named) if is_named.as_ref() != Some(name) => {
                        let name = Some(name.clone());
                        return Some(Step::Rename(Index { name, ..index.clone() }));
                    }
                    _ => {}
                }
            }
            let missing = declared.iter().find(|(over, _)| catalog.over(over).is_none());
            if let Some((over, name)) = missing {
                return Some(Step::Begin(over.clone(), Some(name.clone())));
            }
        }
        let automatic: Vec<_> = catalog.all().filter(|index| index.name.is_none()).collect();
        let at_most = self.automatic_at_most;
        if automatic.len() > at_most {
            let newest = automatic.iter().max_by_key(|index| index.number)?;
            return Some(Step::Drop(newest.number));
        }
        while let Some(over) = state.automatic.pop() {
            if catalog.over(&over).is_some() {
                continue;
            }
            let is_of_app = |index: &&&Index| index.over.app == over.app;
            let of_app: Vec<_> = automatic.iter().filter(is_of_app).copied().collect();
            let has_its_share = of_app.len() >= (at_most / APP_SHARE).max(1);
            if !has_its_share && automatic.len() < at_most {
                state.served.clear();
                return Some(Step::Begin(over, None));
            }
            // In the place of one that is hardly of use.
            let served = |index: &&&Index| state.served.get(&index.number).copied().unwrap_or(0);
            let rivals = if has_its_share { &of_app } else { &automatic };
            let Some(least) = rivals.iter().min_by_key(served) else { continue };
            if served(&least) < IN_VAIN_QUERIES {
                let number = least.number;
                state.automatic.push(over);
                return Some(Step::Drop(number));
            }
        }
        None
    }
}

impl State {
    /// Makes room for one more index of an app that would have spared something. What is furthest
    /// from being worth it is forgotten: of the app if that has its share, else of the one that has
    /// most.
    fn make_room(&mut self, app: AppId) {
        let of_app = self.missed.keys().filter(|over| over.app == app).count();
        let crowding = if of_app >= MISSED_OF_APP {
            Some(app)
        } else if self.missed.len() >= MISSED_AT_MOST {
            self.app_with_most()
        } else {
            None
        };
        let of_it = self.missed.iter().filter(|(over, _)| Some(over.app) == crowding);
        let least = of_it.min_by_key(|(_, missed)| missed.worth()).map(|(over, _)| over.clone());
        if let Some(over) = least {
            self.missed.remove(&over);
        }
    }

    fn app_with_most(&self) -> Option<AppId> {
        let mut counts: BTreeMap<AppId, usize> = BTreeMap::new();
        for over in self.missed.keys() {
            *counts.entry(over.app).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(app, _)| app)
    }
}

impl Missed {
    /// How near it is to being worth an index, in documents: many queries that look at few are as
    /// far from that as few that look at many.
    fn worth(&self) -> u64 {
        self.documents.min(self.queries.saturating_mul(IN_VAIN_DOCUMENTS / IN_VAIN_QUERIES))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::{AppId, TxnId};
    use anabranch_core::query::{FieldPath, IndexPaths};
    use uuid::Uuid;

    use super::*;
    use crate::storage::IndexState;

    fn over(name: &str) -> IndexOver {
        over_in(7, name)
    }

    fn over_in(app: u128, name: &str) -> IndexOver {
        let path = FieldPath::new(vec![name.to_owned()]).unwrap();
        let paths = IndexPaths::new(vec![path]).unwrap();
        IndexOver { app: AppId(Uuid::from_u128(app)), collection: "c".parse().unwrap(), paths }
    }

    fn declared(names: &[(&str, &str)]) -> DeclaredIndexes {
        let entries = names.iter().map(|(field, name)| (over(field), name.parse().unwrap()));
        DeclaredIndexes { indexes: entries.collect(), ..DeclaredIndexes::default() }
    }

    /// Does what is said until nothing is left; what was done, by what it is over.
    fn follow(wishes: &Wishes, catalog: &mut Catalog) -> Vec<String> {
        let mut done = Vec::new();
        let mut next = catalog.all().map(|index| index.number.0 + 1).max().unwrap_or(0);
        while let Some(step) = wishes.step(catalog) {
            done.push(match step {
                Step::Begin(over, name) => {
                    let text = format!("begin {}", over.paths);
                    *catalog = catalog.with(Index::begun(IndexNumber(next), over, name));
                    next += 1;
                    text
                }
                Step::Rename(index) => {
                    let text = format!("rename {} {:?}", index.over.paths, index.name);
                    *catalog = catalog.with(index);
                    text
                }
                Step::Drop(number) => {
                    let dropped = catalog.all().find(|index| index.number == number).unwrap();
                    let text = format!("drop {}", dropped.over.paths);
                    *catalog = catalog.without(number);
                    text
                }
                Step::Fill(mut index) => {
                    let text = format!("fill {}", index.over.paths);
                    index.state = IndexState::Built { from: Some(TxnId(3)) };
                    *catalog = catalog.with(index);
                    text
                }
            });
        }
        done
    }

    fn miss_often(wishes: &Wishes, over: &IndexOver) {
        (0..IN_VAIN_QUERIES)
            .for_each(|_| wishes.missed(over, IN_VAIN_DOCUMENTS / IN_VAIN_QUERIES + 1, 1));
    }

    #[test]
    fn what_is_declared_is_made_and_what_no_longer_is_is_given_up() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        assert!(follow(&wishes, &mut catalog).is_empty(), "nothing is known yet");
        wishes.declare(declared(&[("a", "one"), ("b", "two")]));
        assert_eq!(follow(&wishes, &mut catalog), ["begin a", "begin b", "fill a", "fill b"]);
        wishes.declare(declared(&[("a", "other")]));
        let done = follow(&wishes, &mut catalog);
        assert_eq!(done.len(), 2);
        assert!(done.contains(&"drop b".to_owned()), "{done:?}");
        assert!(follow(&wishes, &mut catalog).is_empty());
        assert_eq!(catalog.all().next().unwrap().name.as_ref().unwrap().as_str(), "other");
    }

    #[test]
    fn what_was_left_unfinished_goes_on_before_anything_is_known() {
        let (wishes, catalog) = (Wishes::new(4), Catalog::default());
        let mut catalog = catalog.with(Index::begun(IndexNumber(5), over("a"), None));
        assert_eq!(follow(&wishes, &mut catalog), ["fill a"]);
    }

    #[test]
    fn what_cannot_be_read_is_not_given_up() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        let mut all = declared(&[("a", "one"), ("b", "two")]);
        all.indexes.insert(over_in(8, "a"), "other".parse().unwrap());
        wishes.declare(all);
        follow(&wishes, &mut catalog);
        let IndexOver { app, collection, .. } = over("a");
        let unreadable = [(app, collection)].into();
        wishes.declare(DeclaredIndexes { unreadable, ..declared(&[("c", "three")]) });
        let done = follow(&wishes, &mut catalog);
        assert_eq!(done, ["drop a", "begin c", "fill c"], "of another app");
        assert_eq!(catalog.all().filter(|index| index.over.app == app).count(), 3);
    }

    #[test]
    fn an_index_is_made_for_what_is_often_looked_for_in_vain_up_to_a_number() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        wishes.missed(&over("a"), 100 * IN_VAIN_DOCUMENTS, 1);
        assert!(follow(&wishes, &mut catalog).is_empty(), "it was one query");
        (0..100 * IN_VAIN_QUERIES).for_each(|_| wishes.missed(&over("b"), 100, 50));
        (0..100 * IN_VAIN_QUERIES).for_each(|_| wishes.missed(&over("b"), 0, 0));
        assert!(follow(&wishes, &mut catalog).is_empty(), "it found what it looked at");
        for field in ["c", "d", "e", "f"] {
            miss_often(&wishes, &over(field));
            follow(&wishes, &mut catalog);
        }
        let made = |catalog: &Catalog| {
            let mut made: Vec<_> =
                catalog.all().map(|index| index.over.paths.to_string()).collect();
            made.sort();
            made.join(" ")
        };
        assert_eq!(made(&catalog), "e f", "an app has its share, of what it asked for last");
        for field in ["h", "i"] {
            miss_often(&wishes, &over_in(8, field));
            follow(&wishes, &mut catalog);
        }
        assert_eq!(made(&catalog), "e f h i");
        let number = |catalog: &Catalog, field: &str| {
            catalog.all().find(|index| index.over.paths.to_string() == field).unwrap().number
        };
        for (field, times) in [("e", 1), ("f", IN_VAIN_QUERIES), ("h", 2), ("i", 3)] {
            (0..times).for_each(|_| wishes.served(number(&catalog, field)));
        }
        miss_often(&wishes, &over_in(9, "j"));
        let done = follow(&wishes, &mut catalog);
        assert_eq!(done, ["drop e", "begin j", "fill j"], "in place of what was hardly used");
        for field in ["f", "h", "i", "j"] {
            (0..IN_VAIN_QUERIES).for_each(|_| wishes.served(number(&catalog, field)));
        }
        miss_often(&wishes, &over_in(9, "k"));
        assert!(follow(&wishes, &mut catalog).is_empty(), "all are of use");
        wishes.declare(declared(&[("f", "mine")]));
        let done = follow(&wishes, &mut catalog);
        assert!(done.len() == 1 && done[0].starts_with("rename f"), "{done:?}");
        miss_often(&wishes, &over_in(9, "k"));
        assert_eq!(follow(&wishes, &mut catalog), ["begin k", "fill k"], "one is declared now");
        assert_eq!(follow(&Wishes::new(3), &mut catalog), ["drop k"]);
        let none = Wishes::new(0);
        miss_often(&none, &over("a"));
        assert_eq!(follow(&none, &mut catalog).len(), 3);
        assert_eq!(made(&catalog), "f", "what is declared stays");
    }

    #[test]
    fn an_app_that_asks_for_ever_new_fields_is_in_no_other_ones_way() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        for query in 0..IN_VAIN_QUERIES {
            for field in 0..MISSED_AT_MOST {
                wishes.missed(&over(&format!("{query}-{field}")), 2 * IN_VAIN_DOCUMENTS, 1);
            }
            assert_eq!(wishes.state.lock().missed.len(), MISSED_OF_APP + usize::from(query > 0));
            wishes.missed(&over_in(8, "a"), IN_VAIN_DOCUMENTS, 1);
        }
        assert_eq!(follow(&wishes, &mut catalog), ["begin a", "fill a"]);
    }

    #[test]
    fn of_what_an_app_asks_for_that_is_forgotten_which_is_the_least_worth() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        let miss_a = |times| (0..times).for_each(|_| wishes.missed(&over("a"), 200_000, 1));
        miss_a(IN_VAIN_QUERIES - 1);
        for field in 0..MISSED_AT_MOST {
            let [small, once] = ["small", "once"].map(|name| over(&format!("{name}-{field}")));
            (0..IN_VAIN_QUERIES).for_each(|_| wishes.missed(&small, 1_000, 1));
            wishes.missed(&once, 100 * IN_VAIN_DOCUMENTS, 1);
        }
        miss_a(1);
        assert_eq!(follow(&wishes, &mut catalog), ["begin a", "fill a"]);
    }

    #[test]
    fn of_many_apps_the_one_that_asks_for_most_makes_room() {
        let (wishes, mut catalog) = (Wishes::new(4), Catalog::default());
        for app in 100..130 {
            wishes.missed(&over_in(app, "a"), IN_VAIN_DOCUMENTS, 1);
        }
        for (app, field) in (10..30).flat_map(|app| (0..200).map(move |field| (app, field))) {
            wishes.missed(&over_in(app, &field.to_string()), 2 * IN_VAIN_DOCUMENTS, 1);
        }
        assert_eq!(wishes.state.lock().missed.len(), MISSED_AT_MOST);
        (1..IN_VAIN_QUERIES).for_each(|_| wishes.missed(&over_in(100, "a"), IN_VAIN_DOCUMENTS, 1));
        assert_eq!(follow(&wishes, &mut catalog), ["begin a", "fill a"]);
    }
}
