//! How the documents of a query are found: by their ids, by an index, or by looking at all of their
//! collection. Whichever it is, they are the same.

use std::fmt;

use anabranch_core::ids::{AppId, DocumentKey, TxnId};
use anabranch_core::query::{Lookup, Predicate, Select};

use crate::storage::{Catalog, Index, IndexState};

/// How documents are found.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// The condition says which they are, at most.
    Ids(Vec<DocumentKey>),
    /// They are where an index has them.
    Index(Index, Lookup),
    /// Any of the collection may be one.
    Scan,
}

impl Access {
    /// The best way at a snapshot.
    pub(super) fn choose(app: AppId, select: &Select, at: TxnId, indexes: &Catalog) -> Self {
        let Some(filter) = &select.filter else { return Access::Scan };
        if let Some(keys) = filter.key() {
            return Access::Ids(keys);
        }
        let indexes = indexes.of(app, &select.collection).iter();
        let lookups = indexes.filter(|index| index.serves(at)).filter_map(|index| {
            let lookup = index.over.paths.lookup(filter)?;
            Some((index, lookup))
        });
        // Of those that narrow it down as much, the one with fewer fields, whose entries are shorter.
        let best = lookups.max_by_key(|(index, lookup)| {
            let fields = index.over.paths.paths().len();
            (lookup.rank(), std::cmp::Reverse((fields, index.number)))
        });
        match best {
            Some((index, lookup)) => Access::Index(index.clone(), lookup),
            None => Access::Scan,
        }
    }

    /// Its name, which never changes.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Access::Ids(_) => "ids",
            Access::Index(..) => "index",
            Access::Scan => "scan",
        }
    }
}

/// Why documents are found in this way.
pub(super) fn why(access: &Access, select: &Select, at: TxnId, indexes: &[Index]) -> String {
    match (access, &select.filter) {
        (Access::Ids(keys), _) => format!("the condition gives {}", Count(keys.len(), "id")),
        (Access::Index(index, lookup), _) => {
            let mut paths = index.over.paths.paths().iter();
            let pinned: Vec<_> =
                paths.by_ref().take(lookup.pinned).map(ToString::to_string).collect();
            let bounded = paths.next().filter(|_| lookup.is_bounded);
            let mut said = Vec::new();
            if !pinned.is_empty() {
                said.push(format!("values for {}", pinned.join(", ")));
            }
            said.extend(bounded.map(|path| format!("a range for {path}")));
            let spans = Count(lookup.spans.len(), "place");
            format!("the condition gives {}: {spans} of the index", said.join(" and "))
        }
        (Access::Scan, None) => "there is no condition".to_owned(),
        (Access::Scan, Some(_)) if indexes.is_empty() => "the collection has no index".to_owned(),
        (Access::Scan, Some(filter)) => {
            let unfit = |index: &Index| format!("{}: {}", shown(index), unfit(index, filter, at));
            let unfit: Vec<_> = indexes.iter().map(unfit).collect();
            format!("no index serves; {}", unfit.join("; "))
        }
    }
}

/// Why an index is of no use.
fn unfit(index: &Index, filter: &Predicate, at: TxnId) -> String {
    if index.over.paths.lookup(filter).is_none() {
        let first = &index.over.paths.paths()[0];
        return format!("the condition gives no value or range for {first}");
    }
    match &index.state {
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
pub(super) fn shown(index: &Index) -> String {
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
