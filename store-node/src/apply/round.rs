//! What a round does: the pure heart of the store node.
//!
//! [`apply`] turns a round into the versions and change events to be written. Time and identity
//! come from the commit record, so every replica computes the same (ST-2). Several mutations of
//! one document in one round are one version and one event; a document is finished and handed over
//! with its last mutation, so that a round over very many holds few of them at a time.
//!
//! Conditions and what is allowed ([`permit`](super::permit)) are decided here, document by document.
//! Only an atomic round is decided as a whole: it is tried before anything of it is written. It is in
//! one slice, and who has one document of a slice has all.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::document::{Commit as DocumentCommit, Document, Stamp};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, TxnId};
use anabranch_core::keyspace::{Position, Slice};
use anabranch_runtime::planted;
use anabranch_schemas::records::{ChangeRef, Commit, DocumentMutation, Restriction, RoundPart};
use anabranch_schemas::state::InsertedStates;
use bytes::Bytes;

use super::assembler::Round;
use super::touched::{Finished, Touched};
use crate::error::Error;
use crate::log::Log;
use crate::storage::{Catalog, Conflict, Moved, STATE_PREFIX};

/// Where documents come from and go to.
pub(crate) trait Documents {
    /// The newest version of a document.
    fn newest(&mut self, id: &[u8]) -> Result<Newest, Error>;

    /// Takes the new version of a document.
    fn put(&mut self, new: NewVersion<'_>);
}

/// The newest version of a document.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// Who wrote it; `None` if it was never here.
    pub(crate) version: Option<TxnId>,
    /// Its state; `None` if it was never here or was forgotten.
    pub(crate) document: Option<Document>,
}

/// The new version of a document, and the event that tells of it.
#[derive(Debug)]
pub(crate) struct NewVersion<'a> {
    pub(crate) slice: Slice,
    pub(crate) id: Bytes,
    /// The state in its stored form; `None` if the document is to be forgotten.
    pub(crate) stored: Option<Bytes>,
    /// When it was deleted, if it is a tombstone ([`Document::tombstone`]).
    pub(crate) tombstone: Option<Hlc>,
    /// How it moves in indexes.
    pub(crate) moves: Vec<Moved>,
    pub(crate) event: ChangeRef<'a>,
}

/// What a round did, besides its versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// How many versions it wrote.
    pub(crate) documents: u64,
    /// Documents of which a condition did not hold.
    pub(crate) conflicts: Vec<Conflict>,
    /// Canonical ids of documents that were left alone, which is no failure: an insert found them there
    /// which was to do nothing then, or they are not there for whoever asked.
    pub(crate) kept: Vec<Bytes>,
    /// Canonical ids of documents that stayed as they were: they would have become too large.
    pub(crate) too_large: Vec<Bytes>,
    /// Mutations that did nothing since they stand where they cannot: in a slice that is not their
    /// document's, or in an atomic round of several slices.
    pub(crate) misplaced: u64,
}

impl Effects {
    /// Whether something of what was asked cannot be done.
    fn has_refused(&self) -> bool {
        !self.conflicts.is_empty() || !self.too_large.is_empty() || self.misplaced > 0
    }
}

/// What a document needs of the commit record, and the indexes that there are.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) txn: TxnId,
    pub(super) commit: &'a Commit,
    /// None while it is only tried what the round does.
    pub(super) indexes: Option<&'a Catalog>,
}

/// Applies a round, also to these indexes.
pub(crate) fn apply(
    round: Round,
    log: &Log,
    indexes: &Catalog,
    documents: &mut impl Documents,
) -> Result<Effects, Error> {
    let Round { txn, commit, parts, .. } = round;
    let actor = log.actor();
    let stamp = DocumentCommit { hlc: commit.hlc, actor, sequence: txn.0 };
    let mut effects = Effects::default();
    let placed = place(parts, &commit, log, &mut effects);
    let states =
        InsertedStates::new(STATE_PREFIX, Stamp { hlc: commit.hlc, actor, sequence: txn.0 });
    let at = At { txn, commit: &commit, indexes: None };
    let mut applying = Applying { at, stamp, states, is_trial: false, effects, documents };
    if commit.atomic && placed.len() > 1 && !planted!(AppliesPartOfAtomic) {
        applying.is_trial = true;
        applying.run(Open::new(&placed), placed.iter().cloned())?;
        applying.is_trial = false;
        if applying.effects.has_refused() {
            return Ok(applying.effects);
        }
    }
    applying.at.indexes = Some(indexes);
    let open = Open::new(&placed);
    applying.run(open, placed.into_iter())?;
    Ok(applying.effects)
}

/// A round that is being applied.
struct Applying<'a, D> {
    at: At<'a>,
    stamp: DocumentCommit,
    states: InsertedStates,
    /// It is only tried whether all can be done: nothing is written.
    is_trial: bool,
    effects: Effects,
    documents: &'a mut D,
}

impl<D: Documents> Applying<'_, D> {
    fn run(&mut self, mut open: Open, placed: impl Iterator<Item = Placed>) -> Result<(), Error> {
        for Placed { id, slice, mutation, restriction, .. } in placed {
            let DocumentMutation { collection, key, unchanged_since, mutation } = mutation;
            let mut touched = match open.take(&id) {
                Some(touched) => touched,
                None => {
                    let newest = self.documents.newest(&id)?;
                    Touched::new(id, slice, collection, key, newest, restriction)
                }
            };
            touched.mutate(mutation, unchanged_since, self.stamp);
            if let Some(touched) = open.keep(touched) {
                self.finish(touched);
            }
        }
        Ok(())
    }

    /// Takes a document of which nothing more is asked.
    fn finish(&mut self, touched: Touched) {
        let Applying { at, states, is_trial, effects, documents, .. } = self;
        touched.finish(*at, states, |finished| match finished {
            Finished::Conflict(conflict) => effects.conflicts.push(conflict),
            Finished::TooLarge(id) => effects.too_large.push(id),
            Finished::Unchanged | Finished::Kept(_) | Finished::Changed(_) if *is_trial => {}
            Finished::Unchanged => {}
            Finished::Kept(id) => effects.kept.push(id),
            Finished::Changed(new) => {
                effects.documents += 1;
                documents.put(new);
            }
        });
    }
}

/// Gives the mutations of a round that are where they belong, in order.
fn place(
    parts: Vec<(Slice, RoundPart)>,
    commit: &Commit,
    log: &Log,
    effects: &mut Effects,
) -> Vec<Placed> {
    let is_cut =
        commit.atomic && commit.parts.iter().any(|part| part.slice != commit.parts[0].slice);
    let mut placed = Vec::with_capacity(parts.iter().map(|(_, part)| part.mutations.len()).sum());
    for (slice, part) in parts {
        let restrictions: Vec<_> = part.restrictions.into_iter().map(Arc::new).collect();
        for mutation in part.mutations {
            let id = document_id(commit.app, &mutation.collection, &mutation.key);
            let position = Position::of(&id);
            if log.slices().slice_of(position) == slice && !is_cut {
                let mut of_its_collection = restrictions.iter();
                let restriction = of_its_collection
                    .find(|restriction| restriction.collection == mutation.collection)
                    .cloned();
                placed.push(Placed { id, position, slice, mutation, restriction });
            } else {
                effects.misplaced += 1;
            }
        }
    }
    placed
}

/// A mutation of a document that this node owns.
#[derive(Clone)]
struct Placed {
    id: Bytes,
    position: Position,
    slice: Slice,
    mutation: DocumentMutation,
    restriction: Option<Arc<Restriction>>,
}

/// Documents that more mutations of the round follow for.
struct Open {
    /// By id: how many follow, and the document once it was touched. Empty if each document has
    /// one mutation, as in most rounds.
    waiting: HashMap<Bytes, (usize, Option<Touched>)>,
}

impl Open {
    fn new(placed: &[Placed]) -> Self {
        let mut positions: Vec<_> = placed.iter().map(|placed| placed.position).collect();
        positions.sort_unstable();
        // The same document has the same position; another one hardly ever has.
        let pairs = positions.windows(2).filter(|pair| pair[0] == pair[1]);
        let repeated: Vec<Position> = pairs.map(|pair| pair[0]).collect();
        let mut waiting: HashMap<Bytes, (usize, Option<Touched>)> = HashMap::new();
        for Placed { id, position, .. } in placed {
            if repeated.binary_search(position).is_ok() {
                waiting.entry(id.clone()).or_default().0 += 1;
            }
        }
        Open { waiting }
    }

    /// The document, if it was touched before.
    fn take(&mut self, id: &Bytes) -> Option<Touched> {
        self.waiting.get_mut(id).and_then(|(_, touched)| touched.take())
    }

    /// Keeps a document for its next mutation; gives it back if there is none.
    fn keep(&mut self, touched: Touched) -> Option<Touched> {
        let Some((left, kept)) = self.waiting.get_mut(&touched.id) else { return Some(touched) };
        *left -= 1;
        if *left > 0 {
            *kept = Some(touched);
            return None;
        }
        self.waiting.remove(&touched.id);
        Some(touched)
    }
}

/// The canonical bytes of a document's id.
fn document_id(app: AppId, collection: &Collection, key: &DocumentKey) -> Bytes {
    let mut id = DocumentId::collection_prefix(app, collection);
    id.extend_from_slice(key.as_str().as_bytes());
    id.into()
}
