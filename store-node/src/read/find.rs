//! The documents that match the condition of a query, one page after the other.
//!
//! Rows without an order of their own come in the order of `_id`, so that those of several nodes can be
//! merged: the entries of one value of an index are in that order, what else an index gives is sorted
//! first. If that is too much, or the index is given up meanwhile, the collection is looked at instead.
//!
//! A document is read as far as its condition needs it, and only if that holds as far as what is made of
//! it does.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::vec::IntoIter;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{IndexOver, Lookup, Select, Span};

use super::access::{Access, Chosen, choose};
use super::decode_id;
use super::page::Used;
use crate::error::Error;
use crate::metrics;
use crate::storage::{Catalog, IndexNumber, Place, Storage, decode_some};
use crate::wishes::Wishes;

/// Whether to go on after a document.
pub(super) type Visit = Result<ControlFlow<()>, Error>;

/// Takes a document that matches.
pub(super) trait Take: FnMut(&mut Used, &DocumentKey, Value) -> Visit {}

impl<F: FnMut(&mut Used, &DocumentKey, Value) -> Visit> Take for F {}

/// How many bytes of ids are taken from an index to be sorted: about half a million, in tests 57.
const MAX_SORTED_BYTES: usize = if cfg!(test) { 1_500 } else { 32 << 20 };
/// About what an id takes beside its text.
const ID_BYTES: usize = 24;
/// How many ids are taken from an index to be sorted for each row that is needed at most, and beside
/// them: else a scan that ends early is faster.
const SORTED_PER_ROW: u64 = 20;
const SORTED_BESIDE: u64 = if cfg!(test) { 4 } else { 50_000 };

/// The documents that match.
#[derive(Debug)]
pub(super) struct Find {
    pub(super) select: Arc<Select>,
    pub(super) counts: Counts,
    app: AppId,
    at: TxnId,
    left: Left,
    /// How they are found, once that was chosen.
    pub(super) chosen: Option<Chosen>,
    wishes: Arc<Wishes>,
    /// The index that would have found them.
    missed: Option<IndexOver>,
}

/// How many documents were looked at, and of these how many matched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) examined: u64,
    pub(super) matched: u64,
}

/// What is left to be looked at.
#[derive(Debug)]
enum Left {
    /// What is behind this, in a way that is still to be chosen.
    Unchosen(Option<DocumentKey>),
    /// These.
    Keys(IntoIter<DocumentKey>),
    /// What has one value in an index, behind a place there.
    Point(Point),
    /// What is in an index is still being collected.
    Spans(Spans),
    /// The collection after this document.
    Collection(Option<DocumentKey>),
}

/// What has one value in an index.
#[derive(Debug)]
struct Point {
    index: IndexNumber,
    point: Span,
    after: Option<Place>,
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
    /// So many are worth it.
    at_most: u64,
    /// Only what is behind this is wanted.
    behind: Option<DocumentKey>,
}

/// How a document is looked at.
struct Look<'a> {
    storage: &'a Storage,
    app: AppId,
    at: TxnId,
    select: &'a Select,
    /// The fields that decide whether it matches; `None` if any does.
    decide: Option<BTreeSet<&'a str>>,
    /// Those that are needed then; `None` for all.
    needed: Option<BTreeSet<&'a str>>,
    cost: usize,
    counts: &'a mut Counts,
}

/// The key of a document, which is not read before it is needed.
#[derive(Clone, Copy)]
enum Key<'a> {
    Known(&'a DocumentKey),
    /// In the whole id.
    Encoded(&'a [u8]),
}

impl Find {
    /// Those behind `behind`, if it is given.
    pub(super) fn new(
        app: AppId,
        select: Arc<Select>,
        behind: Option<DocumentKey>,
        at: TxnId,
        wishes: Arc<Wishes>,
    ) -> Self {
        let (left, counts) = (Left::Unchosen(behind), Counts::default());
        Find { select, counts, app, at, left, chosen: None, wishes, missed: None }
    }

    /// Chooses how they are found, if that was not chosen yet. Takes a moment if the condition is long.
    pub(super) fn choose(&mut self, indexes: &Catalog) -> &Chosen {
        if let Left::Unchosen(behind) = &mut self.left {
            let behind = behind.take();
            let (access, chosen) = choose(self.app, &self.select, self.at, indexes);
            self.missed = chosen.would_serve.clone().map(|paths| IndexOver {
                app: self.app,
                collection: self.select.collection.clone(),
                paths,
            });
            self.left = Left::of(access, behind, at_most(&self.select));
            self.chosen = Some(chosen);
        }
        self.chosen.as_ref().expect("it was chosen")
    }

    /// Whether it is known where they are, and not only that they are somewhere in the collection.
    pub(super) fn is_narrow(&mut self, storage: &Storage) -> bool {
        self.choose(&storage.indexes());
        matches!(self.left, Left::Keys(_) | Left::Point(_))
    }

    /// What was looked at does not count: all of it is looked at again.
    pub(super) fn say_nothing(&mut self) {
        self.chosen = None;
    }

    /// Gives documents that match to `take`, until that breaks off or as much was looked at as fits
    /// one page. Whether there are no more.
    pub(super) fn next(
        &mut self,
        storage: &Storage,
        used: &mut Used,
        take: impl Take,
    ) -> Result<bool, Error> {
        if matches!(self.left, Left::Unchosen(_)) {
            self.choose(&storage.indexes());
        }
        if let Left::Spans(spans) = &mut self.left {
            match spans.collect(self.at, storage, used)? {
                Collected::More => return Ok(false),
                Collected::All(keys) => self.left = Left::Keys(keys.into_iter()),
                Collected::Scan(why) => self.scan(why),
            }
        }
        let select = Arc::clone(&self.select);
        let mut look = Look {
            storage,
            app: self.app,
            at: self.at,
            select: &select,
            decide: select.decided_by(),
            needed: select.fields(),
            cost: select.cost(),
            counts: &mut self.counts,
        };
        match &mut self.left {
            Left::Keys(keys) => look.at_all(keys, used, take),
            Left::Collection(after) => look.at_collection(after, used, take),
            Left::Point(point) => match point.next(&mut look, used, take)? {
                Some(is_over) => Ok(is_over),
                None => {
                    self.scan("the index was given up meanwhile");
                    Ok(false)
                }
            },
            Left::Unchosen(_) | Left::Spans(_) => unreachable!("it was chosen, and collected"),
        }
    }

    /// Goes on with all documents of the collection.
    fn scan(&mut self, why: &str) {
        let after = match &mut self.left {
            Left::Point(point) => point.after.take().and_then(|place| place.document()),
            Left::Spans(spans) => spans.behind.take(),
            _ => None,
        };
        self.left = Left::Collection(after);
        if let Some(chosen) = &mut self.chosen {
            chosen.fall_back(why);
        }
    }
}

/// How many ids are worth taking from an index to be sorted.
fn at_most(select: &Select) -> u64 {
    let is_streamed = !select.is_grouped() && !select.is_sorted();
    let needed = select.needed().filter(|_| is_streamed);
    let worth = |rows: u64| rows.saturating_mul(SORTED_PER_ROW).saturating_add(SORTED_BESIDE);
    needed.map_or(u64::MAX, worth)
}

impl Left {
    fn of(access: Access, behind: Option<DocumentKey>, at_most: u64) -> Self {
        match access {
            Access::Ids(mut keys) => {
                keys.retain(|key| behind.as_ref().is_none_or(|behind| key > behind));
                Left::Keys(keys.into_iter())
            }
            Access::Index(index, Lookup { mut spans, .. }) => match &spans[..] {
                [Span::Point(values)] => {
                    let after = behind.map(|key| Place::new(index, values, &key));
                    Left::Point(Point { index, point: spans.remove(0), after })
                }
                _ => {
                    spans.reverse();
                    let (after, found, bytes) = (None, Vec::new(), 0);
                    Left::Spans(Spans { index, spans, after, found, bytes, at_most, behind })
                }
            },
            Access::Scan => Left::Collection(behind),
        }
    }
}

impl Look<'_> {
    /// Looks at these documents. Whether those were all.
    fn at_all(
        &mut self,
        keys: &mut IntoIter<DocumentKey>,
        used: &mut Used,
        mut take: impl Take,
    ) -> Result<bool, Error> {
        for key in keys.by_ref() {
            if self.at_one(&key, used, &mut take)?.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks at the documents of the collection behind `after`. Whether those were all.
    fn at_collection(
        &mut self,
        after: &mut Option<DocumentKey>,
        used: &mut Used,
        mut take: impl Take,
    ) -> Result<bool, Error> {
        let prefix = DocumentId::collection_prefix(self.app, &self.select.collection);
        let start = after.take().map(|key| [&prefix[..], key.as_str().as_bytes()].concat());
        let (storage, at) = (self.storage, self.at);
        storage.documents(&prefix, start.as_deref(), at, |id, _, state| {
            let flow = self.at_state(Key::Encoded(id), state, used, &mut take)?;
            if flow.is_break() {
                *after = Some(decode_id(id)?.key);
            }
            Ok(flow)
        })?;
        Ok(after.is_none())
    }

    /// Looks at a document, which may not be there.
    fn at_one(&mut self, key: &DocumentKey, used: &mut Used, take: &mut impl Take) -> Visit {
        let mut id = DocumentId::collection_prefix(self.app, &self.select.collection);
        id.extend_from_slice(key.as_str().as_bytes());
        let (storage, at) = (self.storage, self.at);
        let found = storage
            .document(&id, at, |_, state| self.at_state(Key::Known(key), state, used, take))?;
        Ok(found.unwrap_or_else(|| {
            used.documents += 1;
            self.counts.examined += 1;
            used.flow()
        }))
    }

    /// Looks at a document of which this is the state.
    fn at_state(
        &mut self,
        key: Key<'_>,
        state: &[u8],
        used: &mut Used,
        take: &mut impl Take,
    ) -> Visit {
        used.documents += 1;
        used.evaluated += self.cost;
        used.looked_bytes += state.len();
        self.counts.examined += 1;
        if let Some(decide) = &self.decide {
            match key.read(state, |name| decide.contains(name))? {
                Some(part) if self.select.matches(&part, &used.meter) => {}
                _ => return Ok(used.flow()),
            }
        }
        let needs = |name: &str| self.needed.as_ref().is_none_or(|needed| needed.contains(name));
        let Some(document) = key.read(state, needs)? else { return Ok(used.flow()) };
        self.counts.matched += 1;
        let taken = take(used, &*key.get()?, document)?;
        Ok(if taken.is_break() { taken } else { used.flow() })
    }
}

impl Key<'_> {
    fn get(&self) -> Result<Cow<'_, DocumentKey>, Error> {
        match self {
            Key::Known(key) => Ok(Cow::Borrowed(key)),
            Key::Encoded(id) => decode_id(id).map(|id| Cow::Owned(id.key)),
        }
    }

    /// The document with those of its fields that are wanted, if it is there.
    fn read(&self, state: &[u8], wants: impl Fn(&str) -> bool) -> Result<Option<Value>, Error> {
        let Some(value) = decode_some(state, &wants)?.value() else { return Ok(None) };
        if !wants("_id") {
            return Ok(Some(value));
        }
        Ok(Some(self.get()?.add_to(value)))
    }
}

impl Point {
    /// Looks at what is next. Whether that was all; `None` if the index is gone.
    fn next(
        &mut self,
        look: &mut Look<'_>,
        used: &mut Used,
        mut take: impl Take,
    ) -> Result<Option<bool>, Error> {
        let Point { index, point, after } = self;
        let (storage, at, before) = (look.storage, look.at, after.clone());
        let mut is_over = true;
        let is_there = storage.entries_of(*index, point, before.as_ref(), at, |entry, key| {
            used.passed += 1;
            let flow = match key {
                Some(key) => look.at_one(&key, used, &mut take)?,
                None => used.flow(),
            };
            if flow.is_break() {
                *after = Some(Place::at(entry));
                is_over = false;
            }
            Ok(flow)
        })?;
        Ok(is_there.then_some(is_over))
    }
}

/// How far the ids of an index are collected.
enum Collected {
    /// There is more.
    More,
    /// These are all.
    All(Vec<DocumentKey>),
    /// It is not worth it, or not possible any more.
    Scan(&'static str),
}

impl Spans {
    /// Collects more, up to a page's worth.
    fn collect(
        &mut self,
        at: TxnId,
        storage: &Storage,
        used: &mut Used,
    ) -> Result<Collected, Error> {
        let Spans { index, spans, after, found, bytes, at_most, behind } = self;
        while let Some(span) = spans.last() {
            let (mut last, mut is_too_much, before) = (None, false, after.take());
            let is_there =
                storage.entries_of(*index, span, before.as_ref(), at, |entry, key| {
                    used.passed += 1;
                    let is_wanted =
                        |key: &DocumentKey| behind.as_ref().is_none_or(|behind| key > behind);
                    if let Some(key) = key.filter(is_wanted) {
                        *bytes += ID_BYTES + key.as_str().len();
                        found.push(key);
                    }
                    is_too_much = *bytes > MAX_SORTED_BYTES || found.len() as u64 > *at_most;
                    if used.is_full() || is_too_much {
                        last = Some(Place::at(entry));
                        return Ok(ControlFlow::Break(()));
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            if !is_there {
                return Ok(Collected::Scan("the index was given up meanwhile"));
            }
            if is_too_much {
                return Ok(Collected::Scan("the index has too many of them"));
            }
            *after = last;
            if after.is_some() {
                return Ok(Collected::More);
            }
            spans.pop();
        }
        // One that had another value lately may be in two places.
        found.sort_unstable();
        found.dedup();
        Ok(Collected::All(std::mem::take(found)))
    }
}

impl Drop for Find {
    /// Tells what was looked at, also if nobody wanted the rest.
    fn drop(&mut self) {
        let Some(chosen) = &self.chosen else { return };
        let Counts { examined, matched } = self.counts;
        metrics::record_examined(chosen.name, examined);
        if let Some(index) = chosen.automatic {
            self.wishes.served(index);
        }
        if let Some(over) = &self.missed {
            self.wishes.missed(over, examined, matched);
        }
    }
}
