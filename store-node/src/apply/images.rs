//! What changed between two images of a document, by top-level field.

use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::{Document, Field, Fields};

/// The fields that differ.
#[derive(Debug, PartialEq)]
pub(super) struct Difference<'a> {
    /// Those that were there, as they were: an object.
    pub(super) before: Value,
    /// Those that were not.
    pub(super) added: Vec<&'a str>,
}

/// Compares what a reader saw with what he sees; `None` where he sees no document.
pub(super) fn difference<'a>(
    before: Option<&Document>,
    after: Option<&'a Document>,
) -> Difference<'a> {
    let none = Fields::new();
    let old = before.map_or(&none, |document| &document.fields);
    let new = after.map(|document| &document.fields);
    let mut changed = BTreeMap::new();
    for (name, field) in old {
        let now = new.and_then(|new| new.get(name));
        // Equal states have equal values; computing those costs more.
        if now == Some(field) {
            continue;
        }
        let Some(value) = field.value() else { continue };
        if now.and_then(Field::value).as_ref() != Some(&value) {
            changed.insert(name.clone(), value);
        }
    }
    let was_missing = |name: &str| !old.get(name).is_some_and(Field::is_present);
    let added = new
        .into_iter()
        .flatten()
        .filter(|(name, field)| field.is_present() && was_missing(name))
        .map(|(name, _)| name.as_str())
        .collect();
    Difference { before: Value::Object(changed), added }
}
