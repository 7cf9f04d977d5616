//! What changed between two images of a document, by top-level field.

use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::{Document, Field, Fields};

/// The fields that differ.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    /// Those that were there, as they were: an object.
    pub(super) before: Value,
    /// Those that were not.
    pub(super) added: Vec<String>,
}

/// Compares what a reader saw with what he sees; `None` where he sees no document.
pub(super) fn difference(before: Option<&Document>, after: Option<&Document>) -> Difference {
    let none = Fields::new();
    let old = before.map_or(&none, |document| &document.fields);
    let new = after.map_or(&none, |document| &document.fields);
    let mut changed = BTreeMap::new();
    for (name, field) in old {
        let now = new.get(name);
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
        .iter()
        .filter(|(name, field)| field.is_present() && was_missing(name))
        .map(|(name, _)| name.clone())
        .collect();
    Difference { before: Value::Object(changed), added }
}
