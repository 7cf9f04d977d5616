//! Statements, as the parser leaves them: arguments bound, names checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::path::FieldPath;
use super::predicate::Predicate;
use super::select::Select;
use crate::Value;
use crate::ids::Collection;

/// A statement, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// Reads documents.
    Select(Select),
    /// Adds documents.
    Insert(Insert),
    /// Changes fields of documents.
    Update(Update),
    /// Deletes documents.
    Delete(Delete),
    /// Forgets documents in this cluster.
    Evict(Evict),
}

impl Statement {
    /// The collection it reads or writes.
    pub fn collection(&self) -> &Collection {
        match self {
            Statement::Select(select) => &select.collection,
            Statement::Insert(insert) => &insert.collection,
            Statement::Update(update) => &update.collection,
            Statement::Delete(delete) => &delete.collection,
            Statement::Evict(evict) => &evict.collection,
        }
    }

    /// `select`, `insert`, `update`, `delete` or `evict`.
    pub fn kind(&self) -> &'static str {
        match self {
            Statement::Select(_) => "select",
            Statement::Insert(_) => "insert",
            Statement::Update(_) => "update",
            Statement::Delete(_) => "delete",
            Statement::Evict(_) => "evict",
        }
    }
}

/// `INSERT INTO collection DOCUMENTS (..), (..) [ON ID CONFLICT ..]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// Where to write.
    pub collection: Collection,
    /// The documents, objects all, in the order given. `_id` may be absent.
    pub documents: Vec<Value>,
    /// What to do about ids that are taken.
    pub on_conflict: OnConflict,
}

/// What an INSERT does with a document whose id is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The whole statement fails; nothing is written.
    #[default]
    Fail,
    /// The document that is there stays as it is.
    DoNothing,
    /// The fields given replace those that are there.
    DoUpdate,
    /// Like `DoUpdate`, but only fields whose value differs are written.
    DoUpdateLocalDiff,
}

/// `UPDATE collection [SET ..] [UNSET ..] [APPLY .. INCREMENT BY ..] WHERE filter`.
///
/// At least one field changes; no field is named twice or lies inside another; none is `_id`.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Where to write.
    pub collection: Collection,
    /// Fields to assign.
    pub set: Vec<(FieldPath, Value)>,
    /// Fields to remove.
    pub unset: Vec<FieldPath>,
    /// Fields to add to.
    pub increment: Vec<(FieldPath, i64)>,
    /// Which documents.
    pub filter: Predicate,
}

/// `DELETE FROM collection WHERE filter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// Where to delete.
    pub collection: Collection,
    /// Which documents.
    pub filter: Predicate,
}

/// `EVICT FROM collection WHERE filter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Evict {
    /// Where to forget.
    pub collection: Collection,
    /// Which documents.
    pub filter: Predicate,
}

/// Values for the `:names` in a statement, by name without the colon.
pub type Args = BTreeMap<String, Value>;
