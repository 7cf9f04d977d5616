//! What of a document is there for whoever asks, and what may be made of it.
//!
//! Ingest servers look at permissions too, but at documents as they were when they looked. What is
//! decided here is decided in the order of the log, the same on every replica (ST-2).

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::document::{Document, Mutation};
use anabranch_core::ids::DocumentKey;
use anabranch_core::query::OnConflict;
use anabranch_runtime::planted;
use anabranch_schemas::records::Restriction;

/// What a round may do with a document.
pub(super) struct Permit {
    /// None if it may do anything.
    restriction: Option<Arc<Restriction>>,
    standing: Standing,
}

/// What a document was, before the round, to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Free to be read and changed.
    Free,
    /// Not to be changed.
    ReadOnly,
    /// There, but not for whoever asks.
    Hidden,
    /// Not there.
    Absent,
}

/// What becomes of a mutation that may not be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barred {
    /// Nothing, as if the document were not there.
    Left,
    /// It is refused.
    Forbidden,
}

impl Standing {
    /// Of a document that is there.
    fn of(document: &Document, key: &DocumentKey, restriction: &Restriction) -> Self {
        let Some(value) = document.value() else { return Standing::Absent };
        let value = key.add_to(value);
        match (restriction.readable.matches(&value), restriction.writable.matches(&value)) {
            (false, _) => Standing::Hidden,
            (true, false) => Standing::ReadOnly,
            (true, true) => Standing::Free,
        }
    }
}

impl Permit {
    /// For a document that was this before the round.
    pub(super) fn new(
        restriction: Option<Arc<Restriction>>,
        before: Option<&Document>,
        key: &DocumentKey,
    ) -> Self {
        let restriction = restriction.filter(|_| !planted!(WritesWhatIsForbidden));
        let before = before.filter(|before| before.is_visible());
        let standing = match (&restriction, before) {
            (_, None) => Standing::Absent,
            (None, Some(_)) => Standing::Free,
            (Some(restriction), Some(before)) => Standing::of(before, key, restriction),
        };
        Permit { restriction, standing }
    }

    /// Whether the document was there before the round, for whoever asks.
    pub(super) fn is_seen(&self) -> bool {
        matches!(self.standing, Standing::Free | Standing::ReadOnly)
    }

    /// Whether it may be told who wrote the document last.
    pub(super) fn tells_writer(&self) -> bool {
        self.restriction.is_none() || self.is_seen()
    }

    /// What becomes of a mutation that may not be tried; `exists` if the document is there by now.
    pub(super) fn bars(&self, mutation: &Mutation, exists: bool) -> Option<Barred> {
        self.restriction.as_ref()?;
        let is_insert = match mutation {
            // It writes nothing over what is there.
            Mutation::Insert { on_conflict: OnConflict::Fail | OnConflict::DoNothing, .. } => {
                return None;
            }
            Mutation::Insert { .. } => true,
            _ => false,
        };
        match self.standing {
            Standing::Free => None,
            Standing::Absent if is_insert || exists => None,
            Standing::Absent => Some(Barred::Left),
            Standing::Hidden if !is_insert => Some(Barred::Left),
            Standing::Hidden | Standing::ReadOnly => Some(Barred::Forbidden),
        }
    }

    /// Whether the document may become this. What is deleted counts as it was when it was: somebody else
    /// may bring it back.
    pub(super) fn allows(&self, after: &Document, key: &DocumentKey) -> bool {
        let Some(restriction) = &self.restriction else { return true };
        restriction.writable.matches(&key.add_to(after.hidden_value()))
    }

    /// Whether a document with these fields may be inserted.
    pub(super) fn allows_fields(
        &self,
        fields: &mut BTreeMap<String, Value>,
        key: &DocumentKey,
    ) -> bool {
        let Some(restriction) = &self.restriction else { return true };
        let value = key.add_to(Value::Object(std::mem::take(fields)));
        let allows = restriction.writable.matches(&value);
        if let Value::Object(given) = value {
            *fields = given;
            fields.remove("_id");
        }
        allows
    }
}
