//! How the documents of a query are found: by their ids, by an index, or by looking at all of their
//! collection. Whichever it is, they are the same.

use std::cmp::Reverse;
use std::fmt;

use anabranch_core::ids::{AppId, DocumentKey, TxnId};
use anabranch_core::query::{IndexPaths, Lookup, Restrictions, Select};

use crate::storage::{Catalog, Index, IndexNumber, IndexState};

/// Where documents are looked for.
#[derive(Debug)]
pub(super) enum Access {
    /// The condition says which they are, at most.
    Ids(Vec<DocumentKey>),
    /// They are where an index has them.
    Index(IndexNumber, Lookup),
    /// Any of the collection may be one.
    Scan,
}

/// What was chosen, to tell of it.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// `ids`, `index` or `scan`: names that never change.
    pub(super) name: &'static str,
    /// Why this way.
    pub(super) why: String,
    /// The index, if one was chosen.
    pub(super) index: Option<String>,
    /// Its number, if the node has made it by itself.
    pub(super) automatic: Option<IndexNumber>,
    /// The index that would have found them; none if there is one already, even if it cannot yet.
    pub(super) would_serve: Option<IndexPaths>,
}

impl Chosen {
    fn new(name: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Chosen { name, why, index: None, automatic: None, would_serve: None }
    }

    /// What was chosen was not possible, or not worth it.
    pub(super) fn fall_back(&mut self, why: &str) {
        let index = self.index.take().unwrap_or_default();
        *self = Chosen::new("scan", format!("{index} was begun with, but {why}"));
    }
}

/// Chooses the best way to find what a SELECT asks for in a snapshot.
pub(super) fn choose(
    app: AppId,
    select: &Select,
    at: TxnId,
    indexes: &Catalog,
) -> (Access, Chosen) {
    let Some(condition) = select.condition() else {
        return (Access::Scan, Chosen::new("scan", "there is no condition"));
    };
    if let Some(keys) = condition.key() {
        let why = format!("the condition gives {}", Count(keys.len(), "id"));
        return (Access::Ids(keys), Chosen::new("ids", why));
    }
    let restrictions = Restrictions::of_condition(&condition);
    let indexes = indexes.of(app, &select.collection);
    let mut best: Option<(&Index, Lookup)> = None;
    let mut unfit = Vec::new();
    let mut is_foreseen = false;
    for index in indexes {
        let Some(lookup) = index.over.paths.lookup(&restrictions) else {
            let first = &index.over.paths.paths()[0];
            let why = format!("the condition gives no value or range for {first}");
            unfit.push(format!("{}: {why}", shown(index)));
            continue;
        };
        is_foreseen = true;
        if !index.serves(at) {
            unfit.push(format!("{}: {}", shown(index), not_yet(&index.state, at)));
        } else if best.as_ref().is_none_or(|best| rank(index, &lookup) > rank(best.0, &best.1)) {
            best = Some((index, lookup));
        }
    }
    if let Some((index, lookup)) = best {
        let mut chosen = Chosen::new("index", served(index, &lookup));
        chosen.index = Some(shown(index));
        chosen.automatic = index.name.is_none().then_some(index.number);
        return (Access::Index(index.number, lookup), chosen);
    }
    let mut chosen = match unfit.is_empty() {
        true => Chosen::new("scan", "the collection has no index"),
        false => Chosen::new("scan", format!("no index serves; {}", unfit.join("; "))),
    };
    if !is_foreseen {
        chosen.would_serve = IndexPaths::serving(&restrictions);
    }
    (Access::Scan, chosen)
}

/// Of those that narrow it down as much, the one with fewer fields is better: its entries are shorter.
fn rank(index: &Index, lookup: &Lookup) -> ((usize, bool), Reverse<(usize, IndexNumber)>) {
    (lookup.rank(), Reverse((index.over.paths.paths().len(), index.number)))
}

/// How an index serves a condition.
fn served(index: &Index, lookup: &Lookup) -> String {
    let mut paths = index.over.paths.paths().iter();
    let pinned: Vec<_> = paths.by_ref().take(lookup.pinned).map(ToString::to_string).collect();
    let bounded = paths.next().filter(|_| lookup.is_bounded);
    let mut said = Vec::new();
    if !pinned.is_empty() {
        said.push(format!("values for {}", pinned.join(", ")));
    }
    said.extend(bounded.map(|path| format!("a range for {path}")));
    let spans = Count(lookup.spans.len(), "place");
    format!("the condition gives {}: {spans} of the index", said.join(" and "))
}

/// Why an index is of no use for a snapshot.
fn not_yet(state: &IndexState, at: TxnId) -> String {
    match state {
        IndexState::Building { documents, .. } => {
            format!("it is being built, {} so far", Count(*documents, "document"))
        }
        IndexState::Built { from } => {
            let from = from.map_or(0, |from| from.0);
            format!("it serves reads at {from} and later, not at {at}")
        }
    }
}

/// An index as it is shown.
fn shown(index: &Index) -> String {
    let name = index.name.as_ref().map_or("automatic", |name| name.as_str());
    format!("{name} ({})", index.over.paths)
}

/// How many of something.
struct Count<N>(N, &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, noun) = self;
        let plural = if *count == N::from(1) { "" } else { "s" };
        write!(f, "{count} {noun}{plural}")
    }
}
