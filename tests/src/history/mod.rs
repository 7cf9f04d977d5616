//! What clients did and saw, and whether a causally consistent database may have answered so.
//!
//! A workload records a [`History`]: what each session wrote and read, when, with which token, and
//! what the replies said. [`check`] compares it with what the acknowledged rounds add up to. It is
//! pure and knows nothing of how the history came about, so that real processes and simulated ones
//! are judged alike.
//!
//! What it takes for granted: each value that is written is written once, so a value tells which
//! round it is of; a field is a register or a counter for good; increments differ, so what a counter
//! lacks tells which round it lacks; and what became of each write is known in the end, with the
//! documents that it found.

mod check;
mod folded;
mod reads;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use check::check;
pub use violation::{Kind, Violation};

/// A transaction id, as replies name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txn(pub u64);

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment, in nanoseconds of a monotonic clock that all sessions share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// A document of one app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Document {
    /// Its collection.
    pub collection: String,
    /// Its `_id`.
    pub id: String,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.id)
    }
}

/// What sessions did, each one thing after the other; and what was read in the end, when nothing
/// was under way any more.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By session, in the order in which it did them.
    pub sessions: Vec<Vec<Operation>>,
    /// Together they cover every document.
    pub end: Vec<Read>,
}

/// Something that a session did.
#[derive(Clone, Debug)]
pub struct Operation {
    /// When it was sent for the first time.
    pub began: Moment,
    /// When the reply was there.
    pub ended: Moment,
    /// What it sent as the last transaction that it has seen.
    pub token: Option<Txn>,
    /// What it did.
    pub action: Action,
}

/// What a session can do.
#[derive(Clone, Debug)]
pub enum Action {
    /// A round, repeated under its name until its outcome was known.
    Write(Write),
    /// A read.
    Read(Read),
    /// It took over what another session had seen, without asking the database.
    Take {
        /// The other session.
        from: usize,
        /// The last transaction that the other one had seen.
        token: Txn,
    },
}

/// A round.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its `Idempotency-Key`.
    pub name: String,
    /// What it did to which fields, each once, and to which documents as a whole, which comes first.
    pub changes: Vec<Change>,
    /// As which transaction it was acknowledged; `None` if it is known not to be there.
    pub outcome: Option<Txn>,
}

/// What a round did to a field or a document.
#[derive(Clone, Debug)]
pub struct Change {
    /// The document.
    pub document: Document,
    /// The field; empty for the document as a whole.
    pub field: String,
    /// What became of it.
    pub effect: Effect,
}

impl Change {
    /// Of a document as a whole.
    pub fn whole(document: Document, effect: Effect) -> Self {
        Change { document, field: String::new(), effect }
    }
}

/// What becomes of a field or a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The document is there. If it was deleted it has nothing of what it had before.
    Insert,
    /// The document is no longer there. If a field of it is written it is back, with all that it
    /// had; whoever inserts it begins anew.
    Delete,
    /// A register has this value, which no other round sets.
    Set(String),
    /// A counter counts up by so much.
    Add(i64),
}

/// A read of one snapshot.
#[derive(Clone, Debug)]
pub struct Read {
    /// What was asked for.
    pub scope: Scope,
    /// The last transaction that it includes, as the reply says; `None` before the first.
    pub snapshot: Option<Txn>,
    /// Who answered, if that is known.
    pub server: Option<Server>,
    /// What was there.
    pub seen: BTreeMap<Document, Seen>,
}

/// What a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// These documents.
    Documents(BTreeSet<Document>),
    /// All documents of a collection.
    Collection(String),
}

impl Scope {
    /// Whether it has this document.
    pub fn contains(&self, document: &Document) -> bool {
        match self {
            Scope::Documents(documents) => documents.contains(document),
            Scope::Collection(collection) => document.collection == *collection,
        }
    }
}

/// A server that answers clients, from its start to its end: what it remembers ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Which one it is.
    pub number: usize,
    /// How often it was started before.
    pub life: u64,
}

/// A document as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The transaction that wrote it last, if the reply says so.
    pub version: Option<Txn>,
    /// Its fields, without the `_id`.
    pub fields: BTreeMap<String, Value>,
}

/// What stands in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a register.
    Text(String),
    /// Of a counter.
    Number(i64),
    /// What no round can have written, as JSON.
    Other(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "'{text}'"),
            Value::Number(number) => number.fmt(f),
            Value::Other(json) => json.fmt(f),
        }
    }
}

impl History {
    /// All that sessions did, each with its session.
    pub fn operations(&self) -> impl Iterator<Item = (usize, &Operation)> {
        let sessions = self.sessions.iter().enumerate();
        sessions.flat_map(|(session, all)| all.iter().map(move |operation| (session, operation)))
    }

    /// All rounds.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.operations().filter_map(|(_, operation)| match &operation.action {
            Action::Write(write) => Some(write),
            _ => None,
        })
    }

    /// All reads of sessions.
    pub fn reads(&self) -> impl Iterator<Item = &Read> {
        self.operations().filter_map(|(_, operation)| match &operation.action {
            Action::Read(read) => Some(read),
            _ => None,
        })
    }
}
