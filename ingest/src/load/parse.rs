//! From JSON texts to the mutations of one round.

use std::collections::HashSet;

use anabranch_core::Value;
use anabranch_core::document::{MAX_BYTES, Mutation};
use anabranch_core::ids::{Collection, DocumentKey};
use anabranch_core::query::OnConflict;
use anabranch_schemas::records::DocumentMutation;
use serde::Serialize;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::split::Element;
use crate::document::{NewDocument, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::{Digest, RequestName};

/// Why a document, or a run of them, was not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LineError {
    /// The line, or the place in the array, from 1.
    #[schema(example = 17)]
    pub(crate) line: u64,
    /// The stable code.
    #[schema(value_type = String, example = "invalid_json")]
    pub(crate) code: &'static str,
    /// What is wrong.
    pub(crate) message: String,
}

impl LineError {
    pub(super) fn new(line: u64, refusal: &Refusal) -> Self {
        let message = refusal.message().to_owned();
        LineError { line, code: refusal.code().as_str(), message }
    }
}

/// What the documents of one load have in common.
pub(super) struct Shape {
    pub(super) collection: Collection,
    pub(super) id_field: String,
    pub(super) name: RequestName,
}

/// The documents of one round.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) mutations: Vec<DocumentMutation>,
    /// Hashes of their ids.
    pub(super) hashes: HashSet<u64>,
    /// Some bring ids, and so may be merged into others.
    pub(super) merges: bool,
    /// Of what is written, if the load has a key.
    pub(super) digest: Vec<u8>,
    pub(super) errors: Vec<LineError>,
    pub(super) warnings: Warnings,
}

impl Shape {
    /// Parses the documents of one round; those that cannot be used become errors.
    pub(super) fn parse(&self, elements: &[Element]) -> Parsed {
        let mut parsed = Parsed::default();
        let mut digest = Digest::default().with(b"load").with(self.collection.as_str().as_bytes());
        for element in elements {
            match self.document(element, &mut parsed) {
                Ok(document) => {
                    if self.name.has_key() {
                        digest.add(document.key.as_str().as_bytes());
                        digest.add(document.fields.to_json().as_bytes());
                    }
                    parsed.hashes.insert(xxh3_64(document.key.as_str().as_bytes()));
                    parsed.mutations.push(self.mutation(document));
                }
                Err(refusal) => parsed.errors.push(LineError::new(element.number, &refusal)),
            }
        }
        if self.name.has_key() {
            parsed.digest = digest.finish();
        }
        parsed
    }

    fn document(&self, element: &Element, parsed: &mut Parsed) -> Result<NewDocument, Refusal> {
        let Some(text) = &element.text else {
            let message = format!("the document is larger than {MAX_BYTES} bytes");
            return Err(Refusal::new(Code::DocumentTooLarge, message));
        };
        let value = Value::from_json(text).map_err(|error| Refusal::of_json(&error))?;
        parsed.merges |= value.get(&[self.id_field.as_str()]).is_some();
        let draw = || {
            let id = Value::String(self.name.document(element.number));
            DocumentKey::from_value(&id).map_err(|error| Refusal::of_id(&error))
        };
        NewDocument::new(value, &self.id_field, draw, &mut parsed.warnings)
    }

    fn mutation(&self, document: NewDocument) -> DocumentMutation {
        let NewDocument { key, fields, .. } = document;
        let insert = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
        DocumentMutation::new(self.collection.clone(), key, insert)
    }
}
