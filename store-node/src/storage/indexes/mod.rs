//! Indexes: which this store has, and what is in them.
//!
//! An index is this store's own matter: it decides how fast its documents are found and never which.
//! So replicas may have different ones, and one that is lost is built anew.
//!
//! From the transaction on after which it is begun, every change is written to an index in the batch
//! that writes the change (ST-1). What was there before comes page by page, in batches that also say
//! how far the building has come. Once the last page is written, whatever is seen at that transaction or
//! later can be found by it. A crash at any point leaves the index as it was after some batch, as
//! everything else.
//!
//! A document that has another value from some transaction on is marked as gone from where it was
//! before; reads of what was before that find it there until nobody can read that any more. The marks
//! say where a document may be, not where it is: it is read as of the snapshot, and the whole condition
//! tested on it.

mod entries;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anabranch_core::ids::{AppId, Collection, TxnId};
use anabranch_core::query::{IndexName, IndexOver};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::engine::{Family, Scope};
use super::{Storage, keys};
use crate::error::Error;

pub(super) use self::entries::is_gone_before;
pub(crate) use self::entries::{Moved, Place};

/// The version of what is stored of an index.
const VERSION: u8 = 1;

/// An index of a store. No number is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct IndexNumber(pub(crate) u32);

/// An index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) number: IndexNumber,
    pub(crate) over: IndexOver,
    /// As it was declared; none if the node has made it by itself.
    pub(crate) name: Option<IndexName>,
    pub(crate) state: IndexState,
}

/// How far an index is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IndexState {
    /// What was there when it was begun is being added.
    Building {
        /// All documents up to this one are in it: its canonical `_id`.
        after: Option<String>,
        /// How many were looked at.
        documents: u64,
    },
    /// All that is seen at this transaction or later is found by it; `None`: at any.
    Built { from: Option<TxnId> },
}

impl Index {
    /// One that nothing is in yet.
    pub(crate) fn begun(number: IndexNumber, over: IndexOver, name: Option<IndexName>) -> Self {
        let state = IndexState::Building { after: None, documents: 0 };
        Index { number, over, name, state }
    }

    /// Whether everything that is seen at a transaction is found by it.
    pub(crate) fn serves(&self, at: TxnId) -> bool {
        match &self.state {
            IndexState::Building { .. } => false,
            IndexState::Built { from } => from.is_none_or(|from| from <= at),
        }
    }

    pub(crate) fn is_building(&self) -> bool {
        matches!(self.state, IndexState::Building { .. })
    }
}

/// All indexes of a store at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    by_app: HashMap<AppId, HashMap<Collection, Arc<Vec<Index>>>>,
    numbers: BTreeSet<IndexNumber>,
    /// Changes with which indexes there are, and not with how far they are.
    shape: u64,
}

impl Catalog {
    /// Those of a collection.
    pub(crate) fn of(&self, app: AppId, collection: &Collection) -> &[Index] {
        let of_collection = self.by_app.get(&app).and_then(|of_app| of_app.get(collection));
        of_collection.map_or(&[], |indexes| indexes.as_slice())
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Index> {
        self.by_app.values().flat_map(HashMap::values).flat_map(|indexes| indexes.iter())
    }

    /// The one over this.
    pub(crate) fn over(&self, over: &IndexOver) -> Option<&Index> {
        self.of(over.app, &over.collection).iter().find(|index| index.over == *over)
    }

    /// Whether an index is still there.
    pub(crate) fn has(&self, number: IndexNumber) -> bool {
        self.numbers.contains(&number)
    }

    /// Another one whenever an index comes, goes or gets another name.
    pub(crate) fn shape(&self) -> u64 {
        self.shape
    }

    /// The same with an index, in place of the one with its number.
    pub(crate) fn with(&self, index: Index) -> Self {
        let mut catalog = self.clone();
        let of_app = catalog.by_app.entry(index.over.app).or_default();
        let indexes = of_app.entry(index.over.collection.clone()).or_default();
        let indexes = Arc::make_mut(indexes);
        match indexes.iter_mut().find(|other| other.number == index.number) {
            Some(other) => {
                catalog.shape += u64::from(other.name != index.name);
                *other = index;
            }
            None => {
                catalog.shape += 1;
                catalog.numbers.insert(index.number);
                indexes.push(index);
            }
        }
        catalog
    }

    /// The same without an index.
    pub(crate) fn without(&self, number: IndexNumber) -> Self {
        let mut catalog = self.clone();
        if catalog.numbers.remove(&number) {
            catalog.shape += 1;
            catalog.by_app.retain(|_, of_app| {
                of_app.retain(|_, indexes| {
                    if indexes.iter().any(|index| index.number == number) {
                        Arc::make_mut(indexes).retain(|index| index.number != number);
                    }
                    !indexes.is_empty()
                });
                !of_app.is_empty()
            });
        }
        catalog
    }

    /// None, which is another shape.
    pub(crate) fn emptied(&self) -> Self {
        Catalog { shape: self.shape + 1, ..Catalog::default() }
    }
}

impl Storage {
    /// The indexes as they are now.
    pub(crate) fn indexes(&self) -> Arc<Catalog> {
        Arc::clone(&self.indexes.read())
    }

    /// From now on these are the indexes.
    pub(crate) fn set_indexes(&self, catalog: Catalog) {
        *self.indexes.write() = Arc::new(catalog);
    }

    /// The indexes that are stored.
    pub(super) fn load_indexes(&self) -> Result<Catalog, Error> {
        let (from, to) = keys::indexes();
        let mut stored = self.engine.cursor(Family::Default, Scope::Within(from..to));
        stored.seek_to_first();
        let mut catalog = Catalog::default();
        while let Some((_, value)) = stored.item() {
            let json = value.strip_prefix(&[VERSION]);
            let index = json.and_then(|json| serde_json::from_slice(json).ok());
            let broken = || Error::CorruptStore("an index does not decode".to_owned());
            catalog = catalog.with(index.ok_or_else(broken)?);
            stored.next();
        }
        stored.status().map(|()| catalog).map_err(|error| self.failed("read", error))
    }

    /// The number that the next index has.
    pub(crate) fn next_index(&self) -> Result<IndexNumber, Error> {
        let stored = self.read_once(keys::NEXT_INDEX)?;
        let number = stored
            .as_deref()
            .map_or(Some(0), |stored| stored.try_into().ok().map(u32::from_be_bytes));
        let broken = || Error::CorruptStore("the number of indexes does not decode".to_owned());
        number.map(IndexNumber).ok_or_else(broken)
    }
}

impl Batch<'_> {
    /// An index as it is from now on.
    pub(crate) fn put_index(&mut self, index: &Index) {
        let mut value = vec![VERSION];
        serde_json::to_writer(&mut value, index).expect("an index always encodes");
        self.writes.put(Family::Default, keys::index_key(index.number.0), value);
    }

    /// A number is taken.
    pub(crate) fn take_index_number(&mut self, number: IndexNumber) {
        let next = number.0.checked_add(1).expect("nobody makes four billion indexes");
        self.writes.put(Family::Default, keys::NEXT_INDEX, next.to_be_bytes());
    }

    /// An index is given up, with all that is in it.
    pub(crate) fn drop_index(&mut self, number: IndexNumber) {
        self.writes.delete(Family::Default, keys::index_key(number.0));
        let range = entries::all_of(number);
        self.writes.delete_range(Family::Indexes, &range.start, &range.end);
    }
}
