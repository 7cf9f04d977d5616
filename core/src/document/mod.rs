//! The document: a state-based CRDT with the operations that change it.
//!
//! [`Document::apply`] turns one mutation of the log into state, [`Document::merge`] joins the
//! states of two clusters. Both are pure: time and identity come from the commit record, so every
//! replica computes the same state (ST-2) and clusters that saw the same writes agree (BR-1).
//!
//! A document keeps its fields when it is deleted, hidden: a concurrent update with a later stamp
//! brings the whole of it back, never a husk. An insert over a deleted document begins a new
//! generation, whose stamp is a floor for every field: what is older stays hidden for ever. What
//! was deleted long ago loses its fields ([`Document::expire`]).

mod field;
mod mutation;
mod stamp;
#[cfg(test)]
mod tests;

use crate::hlc::Hlc;
use crate::ids::ActorId;
use crate::value::Value;

pub use field::{Counter, Field, Fields, IncrementRefused, Register, Share, ShareId};
pub use mutation::{Commit, Effect, Mutation, Note};
pub use stamp::{Stamp, VersionVector};

/// The deepest nesting of a document, in objects and arrays.
pub const MAX_DEPTH: usize = 64;
/// A document above this many bytes of JSON draws a warning.
pub const WARN_BYTES: usize = 256 * 1024;
/// A document above this many bytes of JSON is refused.
pub const MAX_BYTES: usize = 5 * 1024 * 1024;

/// The state of one document. Public fields, since it is taken apart to be stored; it is kept
/// normalised by the methods here, and a stored state is only ever what they made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// What this state includes.
    pub versions: VersionVector,
    /// The last change that was not a delete; `None` only in an empty state and in one that
    /// [`Document::expire`] has left.
    pub updated: Option<Stamp>,
    /// The last delete.
    pub deleted: Option<Stamp>,
    /// When the document was last inserted over a deleted one: the floor of every field.
    pub generation: Option<Stamp>,
    /// The fields, `_id` not among them.
    pub fields: Fields,
}

impl Document {
    /// Whether a reader sees it.
    pub fn is_visible(&self) -> bool {
        self.updated > self.deleted
    }

    /// The fields a reader sees, without `_id`; `None` if the document is not there.
    pub fn value(&self) -> Option<Value> {
        self.is_visible().then(|| self.hidden_value())
    }

    /// The fields as they are, or as they were when the document was deleted.
    pub fn hidden_value(&self) -> Value {
        field::value(&self.fields)
    }

    /// The latest stamp in it.
    pub fn last_write(&self) -> Option<Stamp> {
        self.updated.max(self.deleted)
    }

    /// When it was deleted, if what it was is still here.
    pub fn tombstone(&self) -> Option<Hlc> {
        self.updated.filter(|_| !self.is_visible())?;
        self.deleted.map(|deleted| deleted.hlc)
    }

    /// Drops what a document still hides that was deleted before a time. Who deleted it stays, and
    /// when: nothing that is older brings it back, here or elsewhere, and an insert hides what it
    /// was from those who still have that. Whether anything was dropped.
    pub fn expire(&mut self, before: Hlc) -> bool {
        let is_due = self.tombstone().is_some_and(|deleted| deleted < before);
        if is_due {
            self.drop_hidden();
        }
        is_due
    }

    fn drop_hidden(&mut self) {
        self.updated = None;
        self.fields.clear();
    }

    /// Whether it was deleted and has expired.
    pub fn is_expired(&self) -> bool {
        self.updated.is_none() && self.deleted.is_some()
    }

    /// Joins two states of the same document. Whether anything changed.
    pub fn merge(&mut self, other: &Document) -> bool {
        self.join(other, None)
    }

    /// Joins a state from elsewhere; if this document is that of an actor, it is `here`, which
    /// learns of its own increments only when it had forgotten them. Whoever forgot a document and
    /// then wrote it counts the writes that it forgot among its versions: so what has no newer ones may
    /// have more all the same, unless it is what has expired here.
    fn join(&mut self, other: &Document, here: Option<ActorId>) -> bool {
        let is_covered = self.versions.covers(&other.versions);
        if is_covered && (self.is_expired() || *self == *other) {
            return false;
        }
        let before = is_covered.then(|| self.clone());
        self.versions.merge(&other.versions);
        self.updated = self.updated.max(other.updated);
        self.deleted = self.deleted.max(other.deleted);
        self.generation = self.generation.max(other.generation);
        field::merge(&mut self.fields, &other.fields, here);
        field::normalise(&mut self.fields, self.generation);
        before.is_none_or(|before| before != *self)
    }
}
