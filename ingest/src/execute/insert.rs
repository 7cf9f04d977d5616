//! INSERT. Whether ids are free the store nodes decide.
//!
//! An id that is inserted twice is refused with ON ID CONFLICT FAIL, where the second could only be a
//! conflict; else the documents apply in the order given: with DO NOTHING the first stays and
//! the others are not even sent, with DO UPDATE the later one's fields win.

use std::collections::HashSet;

use anabranch_core::Value;
use anabranch_core::document::{Mutation, WARN_BYTES};
use anabranch_core::ids::DocumentKey;
use anabranch_core::query::{Insert, OnConflict, Statement};
use anabranch_schemas::records::DocumentMutation;

use super::Asked;
use super::plan::Planning;
use crate::document::{DocumentName, NewDocument};
use crate::error::{Code, Refusal};
use crate::idempotency::RequestName;

/// Documents of so many bytes together are asked for what became of them.
const MAY_OUTGROW_BYTES: usize = WARN_BYTES;
/// What to do about an INSERT that is too large.
const BULK: &str = "send many documents to the bulk endpoint, \
                    POST /apps/{app}/api/v1/collections/{collection}/documents";

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
        self.plan.may_outgrow |= self.plan.bytes >= MAY_OUTGROW_BYTES;
        Ok(())
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
