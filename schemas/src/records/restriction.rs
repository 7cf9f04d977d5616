//! How far what a round asks is allowed to whoever asks it.

use std::fmt;

use anabranch_core::ids::Collection;
use anabranch_core::query::{Predicate, parse_filter};
use serde::{Deserialize, Deserializer};

use crate::datum::put_text;

/// What is allowed with the documents of a collection. It is looked at where the round is applied: who
/// looked before may have seen another document.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Restriction {
    /// Of the round's app.
    pub collection: Collection,
    /// A document of which this does not hold is, for the round, not there.
    #[serde(deserialize_with = "condition")]
    pub readable: Predicate,
    /// Holds of whatever is changed or deleted, and of what comes of it.
    #[serde(deserialize_with = "condition")]
    pub writable: Predicate,
}

impl Restriction {
    /// Appends it as Avro has it.
    pub(super) fn put_datum(&self, to: &mut Vec<u8>) {
        let Restriction { collection, readable, writable } = self;
        put_text(collection.as_str(), to);
        put_text(&readable.to_string(), to);
        put_text(&writable.to_string(), to);
    }
}

impl fmt::Debug for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Restriction { collection, readable, writable } = self;
        f.debug_struct("Restriction")
            .field("collection", collection)
            .field("readable", &readable.to_string())
            .field("writable", &writable.to_string())
            .finish()
    }
}

fn condition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Predicate, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_filter(&text).map_err(serde::de::Error::custom)
}
