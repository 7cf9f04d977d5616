//! INSERT. Whether ids are free the store nodes decide.
//!
//! An id that is inserted twice is refused with ON ID CONFLICT FAIL, where the second could only be a
//! conflict; else the documents apply in the order given: with DO NOTHING the first stays and
//! the others are not even sent, with DO UPDATE the later one's fields win.

use std::collections::HashSet;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::{Mutation, WARN_BYTES};
use anabranch_core::ids::DocumentKey;
use anabranch_core::query::{Insert, OnConflict, Statement};
use anabranch_schemas::records::DocumentMutation;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::plan::{Plan, Planning};
use super::{Asked, Executor, Request};
use crate::access::Readable;
use crate::document::{DocumentName, NewDocument};
use crate::error::{BULK, Code, Refusal};
use crate::idempotency::RequestName;
use crate::store::At;

/// Of so many documents at most it is looked at how large they are.
const FEW: usize = 16;
/// At so many at once: each may be large.
const AT_ONCE: usize = 4;
/// How long that may take.
const LOOK_PATIENCE: Duration = Duration::from_millis(200);

impl Planning<'_> {
    pub(super) fn insert(&mut self, asked: &Asked, insert: Insert) -> Result<(), Refusal> {
        let Insert { collection, documents, on_conflict } = insert;
        let is_update = matches!(on_conflict, OnConflict::DoUpdate | OnConflict::DoUpdateLocalDiff);
        if asked.unchanged_since.is_some() && !is_update {
            return Err(pointless());
        }
        let too_large = |refusal: Refusal| match refusal.code() {
            Code::TooManyDocuments | Code::RoundTooLarge => refusal.with_hint(BULK),
            _ => refusal,
        };
        self.check_round(documents.len()).map_err(too_large)?;
        for document in documents {
            let index = self.plan.given;
            self.plan.given += 1;
            let draw = || drawn_key(&self.run.name, index);
            self.plan.merges |= is_update && document.get(&["_id"]).is_some();
            let document = NewDocument::new(document, "_id", draw, &mut self.plan.warnings)?;
            let NewDocument { key, fields, bytes } = document;
            let name = DocumentName { collection: collection.clone(), key: key.clone() };
            let is_first = self.inserted.insert(name);
            match on_conflict {
                OnConflict::Fail if !is_first => return Err(duplicate(&key)),
                OnConflict::DoNothing if !is_first => continue,
                _ => {}
            }
            let insert = Mutation::Insert { fields, on_conflict };
            let mutation = DocumentMutation::new(collection.clone(), key, insert);
            self.add(mutation, bytes, asked).map_err(too_large)?;
        }
        Ok(())
    }
}

impl Executor {
    /// Whether documents may become too large with what is there already, so that the store nodes are to be
    /// asked once they are written. Of a few, into which little is merged, it is looked at how large they
    /// are instead, which takes less time: only another write that the store node has not applied yet can
    /// make a small one so large.
    pub(super) async fn may_outgrow(&self, request: &Request, plan: &Plan) -> bool {
        let Plan { mutations, bytes, may_outgrow, merges, .. } = plan;
        if *may_outgrow || !*merges {
            return *may_outgrow;
        }
        if mutations.len() > FEW || *bytes > WARN_BYTES {
            return true;
        }
        let ids: Vec<_> = mutations.iter().map(|mutation| mutation.id(request.app)).collect();
        let (readable, at) = (Readable::ALL, At::Newest(request.at_least));
        let deadline = request.deadline.min(Instant::now() + LOOK_PATIENCE);
        for ids in ids.chunks(AT_ONCE) {
            let mut looks = FuturesUnordered::new();
            for id in ids {
                looks.push(self.store.get(id, &readable, at, deadline));
            }
            while let Some(found) = looks.next().await {
                match found.map(|found| found.document) {
                    Ok(None) => {}
                    Ok(Some((text, _))) if text.len() + bytes <= WARN_BYTES => {}
                    Ok(Some(_)) | Err(_) => return true,
                }
            }
        }
        false
    }
}

/// The id of a document that brings none, by its place among those of a request.
fn drawn_key(name: &RequestName, index: u64) -> Result<DocumentKey, Refusal> {
    DocumentKey::from_value(&Value::String(name.document(index)))
        .map_err(|error| Refusal::of_id(&error))
}

/// The documents of a request that only inserts, as they are at each repeat under a key; `None` if
/// it does something else.
pub(super) fn names(
    statements: &[Statement],
    name: &RequestName,
) -> Result<Option<Vec<DocumentName>>, Refusal> {
    let (mut names, mut seen, mut given) = (Vec::new(), HashSet::new(), 0);
    for statement in statements {
        let Statement::Insert(Insert { collection, documents, .. }) = statement else {
            return Ok(None);
        };
        for document in documents {
            let key = match document.get(&["_id"]) {
                Some(id) => DocumentKey::from_value(id).map_err(|error| Refusal::of_id(&error))?,
                None => drawn_key(name, given)?,
            };
            given += 1;
            let name = DocumentName { collection: collection.clone(), key };
            if seen.insert(name.clone()) {
                names.push(name);
            }
        }
    }
    Ok(Some(names))
}

fn duplicate(key: &DocumentKey) -> Refusal {
    Refusal::new(Code::DuplicateId, format!("the _id {key} is inserted twice"))
}

fn pointless() -> Refusal {
    let message = "an INSERT with ON ID CONFLICT FAIL or DO NOTHING writes only what is not there: \
                   it cannot be unchanged since a transaction";
    Refusal::new(Code::InvalidRequest, message)
        .with_hint("say ON ID CONFLICT DO UPDATE, or leave out the condition")
}
