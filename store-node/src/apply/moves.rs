//! How a document moves in the indexes of its collection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::{Document, Field};
use anabranch_core::ids::DocumentKey;

use crate::storage::{Index, Moved};

/// A document as readers see it.
#[derive(Clone, Copy)]
pub(super) enum Image<'a> {
    /// They see none.
    Nothing,
    /// One that is visible.
    Document(&'a Document),
    /// The fields of one.
    Fields(&'a BTreeMap<String, Value>),
}

impl<'a> Image<'a> {
    /// Of a document that may not be there, or be deleted.
    pub(super) fn of(document: Option<&'a Document>) -> Self {
        match document.filter(|document| document.is_visible()) {
            Some(document) => Image::Document(document),
            None => Image::Nothing,
        }
    }

    /// Its entry in an index, if it has one.
    pub(super) fn entry(self, index: &Index, key: &DocumentKey) -> Option<Vec<u8>> {
        index.over.paths.entry(|name| match self {
            Image::Nothing => None,
            _ if name == "_id" => Some(Cow::Owned(key.to_value())),
            Image::Document(document) => {
                document.fields.get(name).and_then(Field::value).map(Cow::Owned)
            }
            Image::Fields(fields) => fields.get(name).map(Cow::Borrowed),
        })
    }
}

/// How a document moves that was one and is another.
pub(super) fn moves(
    indexes: &[Index],
    key: &DocumentKey,
    before: Image<'_>,
    after: Image<'_>,
) -> Vec<Moved> {
    let moved = |index: &Index| {
        let (from, to) = (before.entry(index, key), after.entry(index, key));
        (from != to).then_some(Moved { index: index.number, from, to })
    };
    indexes.iter().filter_map(moved).collect()
}
