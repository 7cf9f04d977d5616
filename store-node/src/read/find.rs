//! The documents that match the condition of a query, one page after the other.
//!
//! Rows without an order of their own come in the order of `_id`, so that those of several nodes can be
//! merged: the entries of one value of an index are in that order, what else an index gives is sorted
//! first. If that is too much, or the index is given up meanwhile, the collection is looked at instead.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::vec::IntoIter;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{IndexOver, IndexPaths, Lookup, Select, Span};

use super::access::Access;
use super::page::Used;
use super::{Found, decode_id, find, with_id};
use crate::error::Error;
use crate::metrics;
use crate::storage::{Catalog, IndexNumber, Place, Storage, decode_state};
use crate::wishes::Wishes;

/// Whether to go on after a document.
pub(super) type Visit = Result<ControlFlow<()>, Error>;

/// How many bytes of ids are taken from an index to be sorted: about half a million.
const MAX_SORTED_BYTES: usize = 32 << 20;
/// About what an id takes beside its text.
const ID_BYTES: usize = 24;
/// How many entries of an index are read at once.
const ENTRIES_AT_ONCE: usize = 500;

/// The documents that match.
#[derive(Debug)]
pub(super) struct Find {
    app: AppId,
    pub(super) select: Arc<Select>,
    at: TxnId,
    left: Left,
    access: &'static str,
    pub(super) examined: u64,
    pub(super) matched: u64,
    wishes: Arc<Wishes>,
}

/// What is left to be looked at.
#[derive(Debug)]
enum Left {
    /// These.
    Keys(IntoIter<DocumentKey>),
    /// What has one value in an index, behind a place there.
    Point { index: IndexNumber, point: Span, after: Option<Place> },
    /// What is in an index is still being collected.
    Spans(Spans),
    /// The collection after this document.
    Collection(Option<DocumentKey>),
}

/// What is collected from an index.
#[derive(Debug)]
struct Spans {
    index: IndexNumber,
    /// Those that are left, the next one last.
    spans: Vec<Span>,
    /// Where in the next one.
    after: Option<Place>,
    found: Vec<DocumentKey>,
    bytes: usize,
    /// Only what is behind this is wanted.
    behind: Option<DocumentKey>,
}

impl Find {
    /// Those behind `behind`, if it is given.
    pub(super) fn new(
        app: AppId,
        select: Arc<Select>,
        behind: Option<DocumentKey>,
        at: TxnId,
        indexes: &Catalog,
        wishes: Arc<Wishes>,
    ) -> Self {
        let access = Access::choose(app, &select, at, indexes);
        let name = access.name();
        let left = match access {
            Access::Ids(mut keys) => {
                keys.retain(|key| behind.as_ref().is_none_or(|behind| key > behind));
                Left::Keys(keys.into_iter())
            }
            Access::Index(index, lookup) => Left::of_index(index.number, lookup, behind),
            Access::Scan => Left::Collection(behind),
        };
        Find { app, select, at, left, access: name, examined: 0, matched: 0, wishes }
    }

    /// Gives documents that match to `take`, until that breaks off or as much was looked at as fits
    /// one page. Whether there are no more.
    pub(super) fn next(
        &mut self,
        storage: &Storage,
        used: &mut Used,
        mut take: impl FnMut(&mut Used, &DocumentId, Value) -> Visit,
    ) -> Result<bool, Error> {
        if let Left::Spans(spans) = &mut self.left {
            match spans.collect(self.at, storage, used)? {
                Some(left) => self.left = left,
                None => return Ok(false),
            }
        }
        let Find { app, select, at, left, examined, matched, .. } = self;
        let cost = select.cost();
        let mut look = |used: &mut Used, found: Option<Found>, id: &DocumentId| -> Visit {
            used.documents += 1;
            used.evaluated += cost;
            *examined += 1;
            let filter = select.filter.as_ref();
            let flow = match found {
                Some(Found { value, bytes, .. }) => {
                    used.looked_bytes += bytes;
                    if filter.is_none_or(|filter| filter.matches(&value)) {
                        *matched += 1;
                        take(used, id, value)?
                    } else {
                        ControlFlow::Continue(())
                    }
                }
                None => ControlFlow::Continue(()),
            };
            Ok(if used.is_full() { ControlFlow::Break(()) } else { flow })
        };
        let id = |key| DocumentId { app: *app, collection: select.collection.clone(), key };
        match left {
            Left::Keys(keys) => {
                for key in keys.by_ref() {
                    let id = id(key);
                    if look(used, find(storage, &id, *at)?, &id)?.is_break() {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Left::Point { index, point, after } => {
                let (number, before) = (*index, after.clone());
                let mut entries = Vec::new();
                let mut is_over = true;
                let is_there =
                    storage.entries_of(number, point, before.as_ref(), *at, |entry| {
                        used.passed += 1;
                        entries.extend(entry);
                        is_over = entries.len() < ENTRIES_AT_ONCE && !used.is_full();
                        Ok(if is_over { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                    })?;
                if !is_there {
                    self.left = Left::Collection(before.and_then(|place| place.document()));
                    return Ok(false);
                }
                for (place, key) in entries {
                    let id = id(key);
                    let flow = look(used, find(storage, &id, *at)?, &id)?;
                    *after = Some(place);
                    if flow.is_break() {
                        return Ok(false);
                    }
                }
                Ok(is_over)
            }
            Left::Collection(after) => {
                let prefix = DocumentId::collection_prefix(*app, &select.collection);
                let start = after.take().map(|key| id(key).to_bytes());
                storage.documents(&prefix, start.as_deref(), *at, |encoded, txn, state| {
                    let id = decode_id(encoded)?;
                    let value = decode_state(state)?.value();
                    let bytes = state.len();
                    let found = value.map(|value| Found { value: with_id(value, &id), txn, bytes });
                    if found.is_none() {
                        used.looked_bytes += bytes;
                    }
                    let flow = look(used, found, &id)?;
                    if flow.is_break() {
                        *after = Some(id.key);
                    }
                    Ok(flow)
                })?;
                Ok(after.is_none())
            }
            Left::Spans(_) => unreachable!("they were collected"),
        }
    }
}

impl Left {
    fn of_index(index: IndexNumber, lookup: Lookup, behind: Option<DocumentKey>) -> Self {
        let Lookup { mut spans, .. } = lookup;
        match &spans[..] {
            [Span::Point(values)] => {
                let after = behind.map(|key| Place::new(index, values, &key));
                Left::Point { index, point: spans.remove(0), after }
            }
            _ => {
                spans.reverse();
                let found = Vec::new();
                Left::Spans(Spans { index, spans, after: None, found, bytes: 0, behind })
            }
        }
    }
}

impl Spans {
    /// Collects more, up to a page's worth. If that was all: what is to be looked at.
    fn collect(
        &mut self,
        at: TxnId,
        storage: &Storage,
        used: &mut Used,
    ) -> Result<Option<Left>, Error> {
        let Spans { index, spans, after, found, bytes, behind } = self;
        while let Some(span) = spans.last() {
            let mut last = None;
            let is_there = storage.entries_of(*index, span, after.as_ref(), at, |entry| {
                used.passed += 1;
                if let Some((place, key)) = entry {
                    let is_wanted = behind.as_ref().is_none_or(|behind| key > *behind);
                    if is_wanted {
                        *bytes += ID_BYTES + key.as_str().len();
                        found.push(key);
                    }
                    if used.is_full() || *bytes > MAX_SORTED_BYTES {
                        last = Some(place);
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if !is_there || *bytes > MAX_SORTED_BYTES {
                return Ok(Some(Left::Collection(behind.take())));
            }
            *after = last;
            if after.is_some() {
                return Ok(None);
            }
            spans.pop();
        }
        // One that had another value lately may be in two places.
        found.sort_unstable();
        found.dedup();
        Ok(Some(Left::Keys(std::mem::take(found).into_iter())))
    }
}

impl Drop for Find {
    /// Tells what was looked at, also if nobody wanted the rest.
    fn drop(&mut self) {
        metrics::record_examined(self.access, self.examined);
        let serving = self.select.filter.as_ref().filter(|_| self.access == "scan");
        if let Some(paths) = serving.and_then(IndexPaths::serving) {
            let over =
                IndexOver { app: self.app, collection: self.select.collection.clone(), paths };
            self.wishes.missed(&over, self.examined, self.matched);
        }
    }
}
