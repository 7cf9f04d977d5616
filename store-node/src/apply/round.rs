//! What a round does: the pure heart of the store node.
//!
//! [`apply`] turns a round into the versions and change events to be written. Time and identity
//! come from the commit record, so every replica computes the same (ST-2). Several mutations of
//! one document in one round are one version and one event.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use anabranch_core::Value;
use anabranch_core::document::{Commit as DocumentCommit, Document, Effect, Mutation, Stamp};
use anabranch_core::ids::{ActorId, AppId, Collection, DocumentId, DocumentKey, TxnId};
use anabranch_core::keyspace::{Position, Slice, SliceCount};
use anabranch_core::query::OnConflict;
use anabranch_schemas::records::{ChangeRef, Commit, DocumentMutation, Operation};
use anabranch_schemas::state;
use bytes::Bytes;

use super::assembler::Round;
use super::images::{Difference, difference};
use crate::error::Error;
use crate::storage::IndexedChange;

/// Where documents come from.
pub(crate) trait Documents {
    /// The newest state of a document; `None` if it was never here or was forgotten.
    fn newest(&mut self, id: &[u8]) -> Result<Option<Document>, Error>;
}

/// The new version of a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewVersion {
    pub(crate) id: Bytes,
    /// The encoded state; `None` if the document is to be forgotten.
    pub(crate) state: Option<Bytes>,
}

/// What is to be written for a round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) versions: Vec<NewVersion>,
    pub(crate) changes: Vec<IndexedChange>,
    /// Canonical ids of documents that an insert found there.
    pub(crate) conflicts: Vec<Bytes>,
    /// Mutations that did nothing since they stand in a slice that is not their document's.
    pub(crate) misplaced: u64,
}

/// Applies a round.
pub(crate) fn apply(
    round: Round,
    actor: ActorId,
    slices: SliceCount,
    documents: &mut impl Documents,
) -> Result<Effects, Error> {
    let Round { txn, commit, parts, lost: _ } = round;
    let at = DocumentCommit { hlc: commit.hlc, actor, sequence: txn.0 };
    let count = parts.iter().map(|(_, part)| part.mutations.len()).sum();
    let mut effects = Effects::default();
    let mut touched: Vec<Touched> = Vec::with_capacity(count);
    let mut known: HashMap<Bytes, usize> = HashMap::with_capacity(count);
    for (slice, part) in parts {
        for mutation in part.mutations {
            let DocumentMutation { collection, key, mutation } = mutation;
            let id = document_id(commit.app, &collection, &key);
            if slices.slice_of(Position::of(&id)) != slice {
                effects.misplaced += 1;
                continue;
            }
            let new = touched.len();
            let index = match known.entry(id.clone()) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => *entry.insert(new),
            };
            if index == new {
                let before = documents.newest(&id)?;
                touched.push(Touched::new(id, slice, collection, key, before));
            }
            if touched[index].mutate(mutation, at) == Effect::Conflict {
                effects.conflicts.push(touched[index].id.clone());
            }
        }
    }
    for document in touched {
        document.finish(txn, &commit, at, &mut effects);
    }
    Ok(effects)
}

/// The canonical bytes of a document's id.
fn document_id(app: AppId, collection: &Collection, key: &DocumentKey) -> Bytes {
    let mut id = DocumentId::collection_prefix(app, collection);
    id.extend_from_slice(key.as_str().as_bytes());
    id.into()
}

/// A document that the round touches.
struct Touched {
    id: Bytes,
    slice: Slice,
    collection: Collection,
    key: DocumentKey,
    /// As it was before the round, if it was here.
    before: Option<Document>,
    /// What was inserted where there was nothing, if nothing else has happened since. Most of what
    /// is loaded is like that: no document is made of it.
    inserted: Option<BTreeMap<String, Value>>,
    /// As it is, if anything else was tried.
    now: Option<Document>,
    fate: Fate,
}

/// What has become of a document so far.
enum Fate {
    Unchanged,
    Changed,
    /// Forgotten; what it was last.
    Evicted(Document),
}

impl Touched {
    fn new(
        id: Bytes,
        slice: Slice,
        collection: Collection,
        key: DocumentKey,
        before: Option<Document>,
    ) -> Self {
        let (inserted, now, fate) = (None, None, Fate::Unchanged);
        Touched { id, slice, collection, key, before, inserted, now, fate }
    }

    fn mutate(&mut self, mutation: Mutation, at: DocumentCommit) -> Effect {
        let is_new = self.before.is_none() && self.inserted.is_none() && self.now.is_none();
        let mutation = match mutation {
            Mutation::Insert { fields: Value::Object(fields), .. } if is_new => {
                self.inserted = Some(fields);
                self.fate = Fate::Changed;
                return Effect::Changed;
            }
            mutation => mutation,
        };
        let inserted = self.inserted.take();
        let now = self.now.get_or_insert_with(|| match inserted {
            Some(fields) => inserted_document(fields, at),
            None => self.before.clone().unwrap_or_default(),
        });
        let (effect, notes) = now.apply_owned(mutation, at);
        for note in notes {
            // The client's mistake, found too late to tell him: a recorded no-op.
            tracing::debug!(txn = at.sequence, path = %note.path, "an increment was refused");
        }
        match effect {
            Effect::Unchanged | Effect::Conflict => {}
            Effect::Changed => self.fate = Fate::Changed,
            Effect::Evicted => self.fate = Fate::Evicted(std::mem::take(now)),
        }
        effect
    }

    fn finish(mut self, txn: TxnId, commit: &Commit, at: DocumentCommit, effects: &mut Effects) {
        if let Some(fields) = self.inserted.take() {
            let stamp = Stamp { hlc: at.hlc, actor: at.actor, sequence: at.sequence };
            let outcome = Written {
                operation: Operation::Insert,
                existed: false,
                before: "{}",
                added: &fields.keys().map(String::as_str).collect::<Vec<_>>(),
                state: state::encode_inserted(&fields, stamp),
            };
            return self.emit(txn, commit, outcome, effects);
        }
        let (last, evicted) = match std::mem::replace(&mut self.fate, Fate::Unchanged) {
            Fate::Unchanged => return,
            Fate::Changed => (self.now.take().unwrap_or_default(), false),
            // It came and went within the round: nobody is to know.
            Fate::Evicted(_) if self.before.is_none() => return,
            Fate::Evicted(last) => (last, true),
        };
        let existed = self.before.as_ref().is_some_and(Document::is_visible);
        let exists = !evicted && last.is_visible();
        let operation = match (existed, exists) {
            _ if evicted => Operation::Evict,
            (false, true) => Operation::Insert,
            (true, false) => Operation::Delete,
            (true, true) | (false, false) => Operation::Update,
        };
        let before = self.before.take().filter(|_| existed);
        let Difference { before, added } =
            difference(before.as_ref(), Some(&last).filter(|_| exists));
        let (before, state) = (before.to_json(), state::encode(&last));
        let outcome = Written { operation, existed, before: &before, added: &added, state };
        self.emit(txn, commit, outcome, effects);
    }

    fn emit(self, txn: TxnId, commit: &Commit, written: Written<'_>, effects: &mut Effects) {
        let Touched { id, slice, collection, key, .. } = self;
        let Written { operation, existed, before, added, state } = written;
        let change = ChangeRef {
            txn,
            app: commit.app,
            collection: collection.as_str(),
            key: key.as_str(),
            origin: commit.origin,
            origin_txn: commit.origin_txn.unwrap_or(txn),
            hlc: commit.hlc,
            operation,
            existed,
            before,
            added,
            state: &state,
        };
        let event = change.encode();
        let state = (operation != Operation::Evict).then_some(state);
        effects.versions.push(NewVersion { id: id.clone(), state });
        effects.changes.push(IndexedChange { slice, id, event });
    }
}

/// What is written for a document.
struct Written<'a> {
    operation: Operation,
    existed: bool,
    before: &'a str,
    added: &'a [&'a str],
    state: Bytes,
}

fn inserted_document(fields: BTreeMap<String, Value>, at: DocumentCommit) -> Document {
    let mut document = Document::default();
    let fields = Value::Object(fields);
    document.apply_owned(Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate }, at);
    document
}
