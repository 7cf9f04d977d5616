//! INSERT.
//!
//! `ON ID CONFLICT FAIL` looks for the ids first, so that a conflict writes nothing. Documents that
//! come into being after that look are found by the store node, in the order of the log.
//!
//! An id that stands twice in one INSERT is refused with FAIL, where the second could only be a
//! conflict; else the documents apply in the order given: with DO NOTHING the first stays and the
//! others are not even sent, with DO UPDATE the later one's fields win.

use std::collections::HashSet;

use anabranch_core::Value;
use anabranch_core::document::{Mutation, WARN_BYTES};
use anabranch_core::ids::{Collection, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{Args, Insert, OnConflict};
use anabranch_schemas::records::DocumentMutation;

use super::{Executor, Plan, Request};
use crate::document::NewDocument;
use crate::error::{Code, Refusal};
use crate::idempotency::RequestName;

/// How many ids an error lists.
const MAX_LISTED: usize = 10;
/// Documents of so many bytes together are asked for what became of them.
const MAY_OUTGROW_BYTES: usize = WARN_BYTES;
/// How many bytes of ids are looked up at once; a condition is limited to 1 MiB.
const LOOKUP_BYTES: usize = 256 * 1024;
/// What to do about an INSERT that is too large.
const BULK: &str = "send many documents to the bulk endpoint, \
                    POST /apps/{app}/api/v1/collections/{collection}/documents";

impl Executor {
    pub(super) async fn plan_insert(
        &self,
        request: &Request,
        insert: Insert,
        name: &RequestName,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
        let Insert { collection, documents, on_conflict } = insert;
        let check_round = |documents, bytes| {
            self.check_round(documents, bytes).map_err(|refusal| refusal.with_hint(BULK))
        };
        check_round(documents.len(), 0)?;
        let mut plan = Plan::default();
        let mut given = Vec::new();
        let mut total = 0;
        for (index, document) in documents.into_iter().enumerate() {
            let is_given = document.get(&["_id"]).is_some();
            let draw = || drawn_key(name, index as u64);
            let document = NewDocument::new(document, "_id", draw, &mut plan.warnings)?;
            total += document.bytes + collection.as_str().len();
            check_round(index + 1, total)?;
            let NewDocument { key, fields, .. } = document;
            // With the other policies nobody asks for them.
            if is_given && may_conflict(on_conflict) {
                given.push(key.clone());
            }
            let mutation = Mutation::Insert { fields, on_conflict };
            plan.mutations.push(DocumentMutation { collection: collection.clone(), key, mutation });
        }
        if on_conflict == OnConflict::Fail {
            refuse_duplicates(&given)?;
            self.refuse_conflicts(request, &collection, &given, read).await?;
        }
        if on_conflict == OnConflict::DoNothing {
            let mut seen = HashSet::with_capacity(plan.mutations.len());
            plan.mutations.retain(|mutation| seen.insert(mutation.key.clone()));
        }
        plan.may_conflict = !given.is_empty();
        plan.may_outgrow = total >= MAY_OUTGROW_BYTES;
        Ok(plan)
    }

    /// Looks for documents that have one of these ids.
    async fn refuse_conflicts(
        &self,
        request: &Request,
        collection: &Collection,
        keys: &[DocumentKey],
        read: &mut Option<TxnId>,
    ) -> Result<(), Refusal> {
        let Request { app, at_least, deadline, .. } = request;
        if let [key] = keys {
            let (app, collection) = (*app, collection.clone());
            let id = DocumentId { app, collection, key: key.clone() };
            let found = self.store.get(&id, *at_least, *deadline).await?;
            *read = found.txn;
            return if found.document.is_some() { Err(conflict(keys)) } else { Ok(()) };
        }
        for keys in chunks(keys) {
            let ids = keys.iter().map(DocumentKey::to_value).collect();
            let args = Args::from([("ids".to_owned(), Value::Array(ids))]);
            let limit = MAX_LISTED + 1;
            let text = format!("SELECT _id FROM `{collection}` WHERE _id IN (:ids) LIMIT {limit}");
            let mut rows = self.store.query(*app, &text, &args, *at_least, *deadline).await?;
            *read = rows.txn;
            let mut taken = Vec::new();
            while let Some(items) = rows.next(*deadline).await? {
                for item in items {
                    taken.push(super::change::key(&item)?);
                }
            }
            if !taken.is_empty() {
                return Err(conflict(&taken));
            }
        }
        Ok(())
    }
}

/// The id of a document that brings none.
pub(super) fn drawn_key(name: &RequestName, index: u64) -> Result<DocumentKey, Refusal> {
    DocumentKey::from_value(&Value::String(name.document(index)))
        .map_err(|error| Refusal::of_id(&error))
}

/// The ids of an INSERT's documents, as they are at each repeat under a key.
pub(super) fn keys(insert: &Insert, name: &RequestName) -> Result<Vec<DocumentKey>, Refusal> {
    let documents = insert.documents.iter().enumerate();
    let mut keys = documents
        .map(|(index, document)| match document.get(&["_id"]) {
            Some(id) => DocumentKey::from_value(id).map_err(|error| Refusal::of_id(&error)),
            None => drawn_key(name, index as u64),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if insert.on_conflict == OnConflict::DoNothing {
        let mut seen = HashSet::with_capacity(keys.len());
        keys.retain(|key| seen.insert(key.clone()));
    }
    Ok(keys)
}

/// Whether the store node may find a document there and leave it as it is.
fn may_conflict(on_conflict: OnConflict) -> bool {
    match on_conflict {
        OnConflict::Fail | OnConflict::DoNothing => true,
        OnConflict::DoUpdate | OnConflict::DoUpdateLocalDiff => false,
    }
}

/// The refusal of an INSERT that found documents there.
pub(super) fn conflict(keys: &[DocumentKey]) -> Refusal {
    let message = match keys {
        [key] => format!("a document with the _id {key} is there already"),
        keys => format!("documents with these ids are there already: {}", list(keys)),
    };
    Refusal::new(Code::IdConflict, message)
}

fn refuse_duplicates(keys: &[DocumentKey]) -> Result<(), Refusal> {
    let mut seen = HashSet::with_capacity(keys.len());
    match keys.iter().find(|key| !seen.insert(*key)) {
        Some(key) => Err(Refusal::new(
            Code::DuplicateId,
            format!("the _id {key} stands twice in the statement"),
        )),
        None => Ok(()),
    }
}

pub(super) fn list(keys: &[DocumentKey]) -> String {
    let mut text =
        keys.iter().take(MAX_LISTED).map(DocumentKey::as_str).collect::<Vec<_>>().join(", ");
    if keys.len() > MAX_LISTED {
        text.push_str(" and others");
    }
    text
}

/// Runs of keys that are not longer together than can be looked up at once.
fn chunks(keys: &[DocumentKey]) -> impl Iterator<Item = &[DocumentKey]> {
    let mut rest = keys;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|key| {
            bytes += key.as_str().len() + 2;
            bytes <= LOOKUP_BYTES
        });
        let (chunk, after) = rest.split_at(fitting.count());
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}
