//! How a document moves in the indexes of its collection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::Document;
use anabranch_core::ids::DocumentKey;
use anabranch_core::query::FieldPath;

use crate::storage::{Index, Moved};

/// A document as readers see it.
#[derive(Clone, Copy)]
pub(crate) enum Image<'a> {
    /// They see none.
    Nothing,
    /// One that is visible.
    Document(&'a Document),
    /// The fields of one.
    Fields(&'a BTreeMap<String, Value>),
}

impl<'a> Image<'a> {
    /// Of a document that may not be there, or be deleted.
    pub(crate) fn of(document: Option<&'a Document>) -> Self {
        match document.filter(|document| document.is_visible()) {
            Some(document) => Image::Document(document),
            None => Image::Nothing,
        }
    }

    /// Its entry in an index, if it has one.
    pub(crate) fn entry(self, index: &Index, key: &DocumentKey) -> Option<Vec<u8>> {
        if matches!(self, Image::Nothing) {
            return None;
        }
        index.over.paths.entry(|path| self.value(path, key))
    }

    fn value(self, path: &FieldPath, key: &DocumentKey) -> Option<Cow<'a, Value>> {
        let (first, inside) = path.steps().split_first()?;
        match self {
            Image::Nothing => None,
            _ if first == "_id" => key.to_value().get(inside).cloned().map(Cow::Owned),
            Image::Document(document) => {
                document.fields.get(first)?.value_within(inside).map(Cow::Owned)
            }
            Image::Fields(fields) => fields.get(first)?.get(inside).map(Cow::Borrowed),
        }
    }

    /// Whether it is known at once that two have the same value in a field.
    fn agrees(self, other: Self, path: &FieldPath) -> bool {
        let first = &path.steps()[0];
        match (self, other) {
            (Image::Document(one), Image::Document(other)) => {
                one.fields.get(first) == other.fields.get(first)
            }
            _ => false,
        }
    }
}

/// How a document moves that was one and is another.
pub(super) fn moves(
    indexes: &[Index],
    key: &DocumentKey,
    [before, after]: [Image<'_>; 2],
) -> Vec<Moved> {
    let moved = |index: &Index| {
        if index.over.paths.paths().iter().all(|path| before.agrees(after, path)) {
            return None;
        }
        let (from, to) = (before.entry(index, key), after.entry(index, key));
        (from != to).then_some(Moved { index: index.number, from, to })
    };
    indexes.iter().filter_map(moved).collect()
}
