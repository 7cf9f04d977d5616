//! The rows of a live query, in order, and how they change. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{Code, Refusal};

/// How many rows a live query has at most, and how large they are together in bytes: they are kept in
/// memory as long as somebody follows them.
const MAX_ROWS: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;
/// About what a row takes beside its texts.
const ROW_BYTES: usize = 192;

/// The canonical JSON of a document's `_id`.
pub(super) type Id = Arc<str>;
/// A row as JSON.
pub(super) type Item = Arc<str>;
/// Where a row stands among others, as bytes that compare as rows do.
pub(super) type Place = Vec<u8>;

/// The rows of a query.
#[derive(Debug, Default)]
pub(super) struct RowSet {
    rows: BTreeMap<Place, Row>,
    /// Where the row of each document stands; of rows of groups nothing.
    places: HashMap<Id, Place>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// Empty if the row is of more than one document.
    id: Id,
    item: Item,
}

/// A document, and its row if it has one now.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) id: Id,
    pub(super) row: Option<(Place, Item)>,
}

/// What became of the row of a document. Removals come first, then rows in order: each is put behind one
/// that is in its place already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowChange {
    /// It is there no more.
    Removed(Id),
    /// It is this one.
    Set {
        /// Whose it is.
        id: Id,
        /// The row.
        item: Item,
        /// Whose row it stands behind; `None` if it is the first.
        after: Option<Id>,
    },
}

impl RowSet {
    /// Puts a row where it stands. An empty id is of a row that is no document's.
    pub(super) fn insert(&mut self, id: Id, place: Place, item: Item) {
        self.bytes += size(&place, &id, &item);
        if !id.is_empty() {
            self.places.insert(Arc::clone(&id), place.clone());
        }
        self.rows.insert(place, Row { id, item });
    }

    fn remove(&mut self, id: &str) {
        let Some(place) = self.places.remove(id) else { return };
        if let Some(Row { id, item }) = self.rows.remove(&place) {
            self.bytes -= size(&place, &id, &item);
        }
    }

    /// Whether a document's row is another one than it was.
    pub(super) fn differs(&self, made: &Made) -> bool {
        let Made { id, row } = made;
        match (self.places.get(id), row) {
            (None, None) => false,
            (Some(was), Some((place, item))) => was != place || self.rows[was].item != *item,
            (None, Some(_)) | (Some(_), None) => true,
        }
    }

    /// Takes the rows that documents have now. What that changed.
    pub(super) fn apply(&mut self, made: impl IntoIterator<Item = Made>) -> Vec<RowChange> {
        let (mut removed, mut set) = (Vec::new(), BTreeSet::new());
        for made in made {
            if !self.differs(&made) {
                continue;
            }
            let Made { id, row } = made;
            self.remove(&id);
            match row {
                None => removed.push(id),
                Some((place, item)) => {
                    set.insert(place.clone());
                    self.insert(id, place, item);
                }
            }
        }
        self.changes(removed, &set)
    }

    /// How the rows differ from what they were `before`, unless they are of groups.
    pub(super) fn since(&self, before: &RowSet) -> Vec<RowChange> {
        let is_gone = |id: &&Id| !self.places.contains_key(*id);
        let removed = before.places.keys().filter(is_gone).cloned().collect();
        let is_same = |(place, row): &(&Place, &Row)| before.rows.get(*place) == Some(*row);
        let other = self.rows.iter().filter(|row| !is_same(row));
        self.changes(removed, &other.map(|(place, _)| place.clone()).collect())
    }

    /// That rows were removed, and that these are as they are now.
    fn changes(&self, removed: Vec<Id>, set: &BTreeSet<Place>) -> Vec<RowChange> {
        let mut removed: Vec<_> =
            removed.into_iter().filter(|id| !self.places.contains_key(id)).collect();
        removed.sort_unstable();
        removed.dedup();
        let set = set.iter().filter_map(|place| {
            let Row { id, item } = self.rows.get(place)?.clone();
            Some(RowChange::Set { id, item, after: self.before(place) })
        });
        removed.into_iter().map(RowChange::Removed).chain(set).collect()
    }

    /// Whose row stands before a place.
    fn before(&self, place: &Place) -> Option<Id> {
        let before = (Bound::Unbounded, Bound::Excluded(place));
        let (_, row) = self.rows.range::<Place, _>(before).next_back()?;
        Some(Arc::clone(&row.id))
    }

    /// Whether the same rows are in it.
    pub(super) fn is_same_as(&self, other: &RowSet) -> bool {
        self.rows == other.rows
    }

    /// The rows, in order.
    pub(super) fn items(&self) -> impl ExactSizeIterator<Item = &Item> {
        self.rows.values().map(|row| &row.item)
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Refuses more than a live query may have.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let message = if self.rows.len() > MAX_ROWS {
            format!("the result of a live query has at most {MAX_ROWS} rows")
        } else if self.bytes > MAX_BYTES {
            format!("the result of a live query has at most {MAX_BYTES} bytes")
        } else {
            return Ok(());
        };
        let refusal = Refusal::new(Code::QueryTooLarge, message);
        Err(refusal.with_hint(
            "narrow the WHERE, select fewer fields, or add a LIMIT; a change stream tells of \
             everything in a collection",
        ))
    }
}

fn size(place: &Place, id: &Id, item: &Item) -> usize {
    // Ids and places stand twice.
    2 * (place.len() + id.len()) + item.len() + ROW_BYTES
}
