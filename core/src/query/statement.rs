//! Statements, as the parser leaves them: arguments bound, names checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::index::{IndexName, IndexPaths};
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
    /// Declares an index.
    CreateIndex(CreateIndex),
    /// Gives an index up.
    DropIndex(DropIndex),
    /// Tells how documents are found.
    Explain(Explain),
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
            Statement::CreateIndex(create) => &create.collection,
            Statement::DropIndex(drop) => &drop.collection,
            Statement::Explain(explain) => explain.statement.collection(),
        }
    }

    /// `select`, `insert`, `update`, `delete`, `evict`, `create_index`, `drop_index` or `explain`.
    pub fn kind(&self) -> &'static str {
        match self {
            Statement::Select(_) => "select",
            Statement::Insert(_) => "insert",
            Statement::Update(_) => "update",
            Statement::Delete(_) => "delete",
            Statement::Evict(_) => "evict",
            Statement::CreateIndex(_) => "create_index",
            Statement::DropIndex(_) => "drop_index",
            Statement::Explain(_) => "explain",
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
    /// The document that is there stays as it is, and the statement is told to have failed. The
    /// others are written all the same, unless all of them are decided as a whole.
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

/// `CREATE INDEX [IF NOT EXISTS] name ON collection (path, ..)`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// What it is called in its collection.
    pub name: IndexName,
    /// The collection whose documents are in it.
    pub collection: Collection,
    /// What it is over.
    pub paths: IndexPaths,
    /// Whether one of this name that is there already is good enough.
    pub if_not_exists: bool,
}

/// `DROP INDEX [IF EXISTS] name ON collection`.
#[derive(Clone, Debug, PartialEq)]
pub struct DropIndex {
    /// Which.
    pub name: IndexName,
    /// Of which collection.
    pub collection: Collection,
    /// Whether there need not be one.
    pub if_exists: bool,
}

/// `EXPLAIN [ANALYZE] statement`.
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// Whether the statement is run, to tell what it took: a SELECT.
    pub analyze: bool,
    /// A SELECT, UPDATE, DELETE or EVICT.
    pub statement: Box<Statement>,
}

/// Values for the `:names` in a statement, by name without the colon.
pub type Args = BTreeMap<String, Value>;
