//! Documents as clients send them: their ids and their limits.

use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::document::{MAX_BYTES, MAX_DEPTH, WARN_BYTES};
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, TxnId};
use anabranch_schemas::records::DocumentMutation;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Code, Refusal};

/// How many warnings a reply has at most.
const MAX_WARNINGS: usize = 100;

/// A document that was taken although something about it is not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Warning {
    /// A stable code: `large_document`, `unused_argument`, `effect_unknown`, `ids_unknown`, `index_exists`,
    /// `index_not_found` or `more_warnings`.
    #[schema(example = "large_document")]
    code: &'static str,
    /// What is not well.
    message: String,
}

impl Warning {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Warning { code, message: message.into() }
    }

    /// That no store node has told which documents of these transactions have become too large.
    pub(crate) fn effect_unknown(first: TxnId, last: TxnId) -> Self {
        let those = match first == last {
            true => format!("transaction {first} is"),
            false => format!("transactions {first} to {last} are"),
        };
        let message = format!(
            "{those} written, but no store node has told yet whether documents were left as they were, \
             which happens where one would become larger than {MAX_BYTES} bytes: read them with \
             transaction {last}"
        );
        Warning::new("effect_unknown", message)
    }
}

/// The warnings of one request; the list is bounded, the count is not.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    first: Vec<Warning>,
    more: u64,
}

impl Warnings {
    pub(crate) fn push(&mut self, warning: Warning) {
        if self.first.len() < MAX_WARNINGS {
            self.first.push(warning);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn extend(&mut self, other: Warnings) {
        self.more += other.more;
        other.first.into_iter().for_each(|warning| self.push(warning));
    }

    /// As they are sent.
    pub(crate) fn into_list(mut self) -> Vec<Warning> {
        if self.more > 0 {
            let message = format!("{} more warnings are not listed", self.more);
            self.first.push(Warning::new("more_warnings", message));
        }
        self.first
    }
}

/// A document of an app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DocumentName {
    pub(crate) collection: Collection,
    pub(crate) key: DocumentKey,
}

impl DocumentName {
    /// The one that a mutation is about.
    pub(crate) fn of(mutation: &DocumentMutation) -> Self {
        let DocumentMutation { collection, key, .. } = mutation;
        DocumentName { collection: collection.clone(), key: key.clone() }
    }

    /// The document's full id.
    pub(crate) fn id(&self, app: AppId) -> DocumentId {
        DocumentId { app, collection: self.collection.clone(), key: self.key.clone() }
    }
}

/// A document to be written.
#[derive(Debug)]
pub(crate) struct NewDocument {
    pub(crate) key: DocumentKey,
    /// The fields, without `_id`.
    pub(crate) fields: Value,
    /// How long both are as JSON.
    pub(crate) bytes: usize,
}

impl NewDocument {
    /// Takes the id from the field `id_field`, or else from `draw`, and checks the limits.
    pub(crate) fn new(
        document: Value,
        id_field: &str,
        draw: impl FnOnce() -> Result<DocumentKey, Refusal>,
        warnings: &mut Warnings,
    ) -> Result<Self, Refusal> {
        if document.depth() > MAX_DEPTH {
            return Err(too_deep(document.depth()));
        }
        let Value::Object(mut fields) = document else {
            let message = format!("a document is an object, not of type {}", document.type_name());
            return Err(Refusal::new(Code::InvalidDocument, message));
        };
        let own = fields.remove("_id");
        // A field that serves as the id stays in the document under its own name, too.
        let id = if id_field == "_id" { own } else { named_id(own, &fields, id_field)? };
        let key = match id {
            Some(value) => {
                DocumentKey::from_value(&value).map_err(|error| Refusal::of_id(&error))?
            }
            None => draw()?,
        };
        let fields = Value::Object(fields);
        let bytes = fields.json_len() + key.as_str().len();
        check_size(&key, bytes, warnings)?;
        Ok(NewDocument { key, fields, bytes })
    }
}

/// The id in a field other than `_id`, which must not say something else.
fn named_id(
    own: Option<Value>,
    fields: &BTreeMap<String, Value>,
    id_field: &str,
) -> Result<Option<Value>, Refusal> {
    let Some(named) = fields.get(id_field) else {
        let message = format!("the document lacks the field '{id_field}', which is to be its id");
        return Err(Refusal::new(Code::MissingId, message));
    };
    match own {
        Some(own) if own != *named => Err(Refusal::new(
            Code::InvalidId,
            format!("the document has the _id {own}, but {named} in '{id_field}'"),
        )),
        _ => Ok(Some(named.clone())),
    }
}

/// Refuses a document of `bytes` that is too large and warns of one that soon will be.
pub(crate) fn check_size(
    key: &DocumentKey,
    bytes: usize,
    warnings: &mut Warnings,
) -> Result<(), Refusal> {
    if bytes > MAX_BYTES {
        let message = format!("document {key} has {bytes} bytes; the limit is {MAX_BYTES}");
        return Err(Refusal::new(Code::DocumentTooLarge, message));
    }
    if bytes > WARN_BYTES {
        let message = format!(
            "document {key} has {bytes} bytes; above {WARN_BYTES} writes and replication get slow"
        );
        warnings.push(Warning::new("large_document", message));
    }
    Ok(())
}

/// The refusal of a document that nests too deeply.
pub(crate) fn too_deep(depth: usize) -> Refusal {
    let message = format!("the document nests {depth} levels deep; the limit is {MAX_DEPTH}");
    Refusal::new(Code::TooDeep, message)
}
