//! Mutations: what a round asks of one document, and what became of it.

use super::field::{self, Write};
use super::{Document, IncrementRefused, Stamp};
use crate::hlc::Hlc;
use crate::ids::ActorId;
use crate::query::{FieldPath, OnConflict};
use crate::value::Value;

/// A change of one document, as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Mutation {
    /// Inserts a document or, as `on_conflict` says, updates the one that is there.
    Insert {
        /// The fields, an object without `_id`.
        fields: Value,
        /// What to do if the document is there.
        on_conflict: OnConflict,
    },
    /// Changes fields. Of a document that never existed: nothing.
    Update {
        /// Fields to assign; objects are merged by key.
        set: Vec<(FieldPath, Value)>,
        /// Fields to remove.
        unset: Vec<FieldPath>,
        /// Fields to add to.
        increment: Vec<(FieldPath, i64)>,
    },
    /// Deletes the document.
    Delete,
    /// Forgets the document here if it is there, without a tombstone: other clusters keep it, and
    /// this one takes it again from whoever sends it.
    Forget,
    /// Joins a state that another cluster sent.
    Merge(Document),
    /// Forgets the document here, without a tombstone, if everything this cluster knows of it is
    /// covered by the versions of the given state. Its fields do not matter and may be missing.
    Evict(Document),
}

impl Mutation {
    /// Whether to find the document there is a failure, and not only a reason to leave it.
    pub fn fails_on_conflict(&self) -> bool {
        matches!(self, Mutation::Insert { on_conflict: OnConflict::Fail, .. })
    }
}

/// Where in which log a mutation stands: from its commit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Time of the round.
    pub hlc: Hlc,
    /// The cluster whose log it is.
    pub actor: ActorId,
    /// The round's transaction id.
    pub sequence: u64,
}

/// What a mutation did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: equal values, or nothing there to change.
    Unchanged,
    /// Nothing: an insert that does not update found the document there.
    Conflict,
    /// The state changed.
    Changed,
    /// The state is to be forgotten.
    Evicted,
}

/// A part of a mutation that could not be applied and was left out, the same on every replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The field.
    pub path: FieldPath,
    /// Why.
    pub refused: IncrementRefused,
}

impl Document {
    /// Applies one mutation. Parts that make no sense are left out and noted.
    pub fn apply(&mut self, mutation: &Mutation, commit: Commit) -> (Effect, Vec<Note>) {
        let mut notes = Vec::new();
        let effect = match mutation {
            Mutation::Insert { fields, on_conflict } => self.insert(fields, *on_conflict, commit),
            Mutation::Update { set, unset, increment } if self.updated.is_some() => {
                let sets = set.iter().map(|(path, value)| (path, Write::Set(value)));
                let unsets = unset.iter().map(|path| (path, Write::Unset));
                let increments = increment.iter().map(|(path, by)| (path, Write::Increment(*by)));
                self.write(sets.chain(unsets).chain(increments), commit, &mut notes)
            }
            Mutation::Update { .. } => Effect::Unchanged,
            Mutation::Delete => self.delete(commit),
            // What is deleted stays: whoever forgets that could be sent it anew.
            Mutation::Forget if self.is_visible() => Effect::Evicted,
            Mutation::Forget => Effect::Unchanged,
            Mutation::Merge(state) => changed(self.hear(state, commit)),
            Mutation::Evict(state)
                if self.updated.is_some() && state.versions.covers(&self.versions) =>
            {
                Effect::Evicted
            }
            // Nothing is here to forget, or something that the sender does not know. Its state is
            // not merged: it may come without the fields that its versions stand for.
            Mutation::Evict(_) => Effect::Unchanged,
        };
        (effect, notes)
    }

    /// Like [`Document::apply`], without copying what a new document is made of.
    pub fn apply_owned(&mut self, mutation: Mutation, commit: Commit) -> (Effect, Vec<Note>) {
        match mutation {
            Mutation::Insert { fields: Value::Object(fields), .. }
                if self.last_write().is_none() =>
            {
                let stamp = self.stamp(commit);
                self.fields = field::new(fields, stamp);
                self.include(stamp);
                (Effect::Changed, Vec::new())
            }
            mutation => self.apply(&mutation, commit),
        }
    }

    fn insert(&mut self, fields: &Value, on_conflict: OnConflict, commit: Commit) -> Effect {
        let visible = self.is_visible();
        match on_conflict {
            // Either way nothing is written, and who inserted is told so.
            OnConflict::Fail | OnConflict::DoNothing if visible => return Effect::Conflict,
            _ => {}
        }
        let stamp = self.stamp(commit);
        if self.deleted.is_some() && !visible {
            self.generation = Some(stamp);
            self.fields.clear();
        }
        let mut changed = !visible;
        for (name, value) in fields.as_object().into_iter().flatten() {
            let path = std::slice::from_ref(name);
            let write =
                field::write(&mut self.fields, path, Write::Set(value), self.generation, stamp);
            changed |= write.expect("only increments are refused");
        }
        if !changed {
            return Effect::Unchanged;
        }
        self.include(stamp);
        Effect::Changed
    }

    fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = (&'a FieldPath, Write<'a>)>,
        commit: Commit,
        notes: &mut Vec<Note>,
    ) -> Effect {
        let stamp = self.stamp(commit);
        let mut changed = false;
        for (path, write) in writes {
            match field::write(&mut self.fields, path.steps(), write, self.generation, stamp) {
                Ok(one) => changed |= one,
                Err(refused) => notes.push(Note { path: path.clone(), refused }),
            }
        }
        if !changed {
            return Effect::Unchanged;
        }
        // Of a deleted document this brings the whole back: the stamp is above the delete's.
        self.include(stamp);
        Effect::Changed
    }

    fn delete(&mut self, commit: Commit) -> Effect {
        if !self.is_visible() {
            return Effect::Unchanged;
        }
        let stamp = self.stamp(commit);
        self.deleted = Some(stamp);
        self.versions.include(stamp.actor, stamp.sequence);
        Effect::Changed
    }

    /// Joins a state that another cluster sent.
    ///
    /// If one of the two has expired, it knows of writes without having what they wrote, and so will
    /// the joined one. If that is hidden it has expired as well. Else somebody had not heard of the
    /// delete, and brings the document back: then it begins a new generation, since other clusters may
    /// still have what was dropped here, and would see it beside this for ever. That generation
    /// stands at the delete itself, as in every cluster that does the same: whatever was written since
    /// stays as it is, and what is older counts as written then. Of a generation from then or later
    /// nothing was dropped.
    fn hear(&mut self, state: &Document, commit: Commit) -> bool {
        let expired = [&*self, state].into_iter().filter(|one| one.is_expired());
        let expired = expired.filter_map(|one| one.deleted).max();
        if !self.join(state, Some(commit.actor)) {
            return false;
        }
        let Some(deleted) = expired.filter(|deleted| self.generation < Some(*deleted)) else {
            return true;
        };
        if self.is_visible() {
            field::renew(&mut self.fields, deleted);
            self.generation = Some(deleted);
            self.versions.include(commit.actor, commit.sequence);
        } else {
            self.drop_hidden();
        }
        true
    }

    /// The stamp of a write at `commit`: above every stamp that is already here.
    fn stamp(&self, commit: Commit) -> Stamp {
        Stamp { hlc: commit.hlc, actor: commit.actor, sequence: commit.sequence }
            .raised_above(self.last_write())
    }

    fn include(&mut self, stamp: Stamp) {
        self.updated = Some(stamp);
        self.versions.include(stamp.actor, stamp.sequence);
    }
}

fn changed(changed: bool) -> Effect {
    if changed { Effect::Changed } else { Effect::Unchanged }
}
