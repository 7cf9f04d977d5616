//! SELECT: what it makes of documents, of groups of them, and in which order.
//!
//! Store nodes filter, and make of the documents that match what crosses the network: rows, rows with
//! what they are sorted by ([`SortedRows`]), or groups with what was accumulated over them
//! ([`Groups`]). Whoever merges what they made does so with the same two.

mod clauses;
mod groups;
mod sorted;

pub(super) use self::clauses::{Clauses, Direction, Item, Part};
pub use self::groups::{Group, Groups, TooLarge};
pub use self::sorted::{SortedRow, SortedRows, place};
use super::aggregate::Aggregate;
use super::budget::Meter;
use super::eval::Scope;
use super::expr::Expr;
use super::key;
use super::predicate::Predicate;
use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::Value;
use crate::ids::Collection;

/// `SELECT [DISTINCT] items FROM collection [WHERE] [GROUP BY] [HAVING] [ORDER BY] [LIMIT] [OFFSET]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// Where to read.
    pub collection: Collection,
    /// Which documents; all, if there is none.
    pub filter: Option<Predicate>,
    /// Which documents there are for whoever asks; all, if there is none.
    readable: Option<Predicate>,
    /// At most how many rows.
    pub limit: Option<u64>,
    /// How many rows to leave out before.
    pub offset: u64,
    columns: Columns,
    /// If rows are groups of documents.
    grouping: Option<Grouping>,
    order: Vec<(Expr, Direction)>,
}

/// What a row has.
#[derive(Clone, Debug, PartialEq)]
struct Columns {
    /// Whether the document's own fields are among it.
    has_document: bool,
    /// By name; no name stands twice. They take the place of fields of the document.
    computed: Vec<(String, Expr)>,
}

/// How documents become groups. Keys and aggregates are the slots of what is computed of a group.
#[derive(Clone, Debug, PartialEq)]
struct Grouping {
    /// What the documents of a group have in common; if nothing, there is one group.
    keys: Vec<Expr>,
    aggregates: Vec<Aggregate>,
    having: Option<Expr>,
    /// Whether rows that are equal come once.
    is_distinct: bool,
}

impl Select {
    /// Whether rows are groups of documents: then [`Groups`] makes them.
    pub fn is_grouped(&self) -> bool {
        self.grouping.is_some()
    }

    /// Whether something else than the document's id decides the order of rows: then
    /// [`SortedRows`] has it.
    pub fn is_sorted(&self) -> bool {
        !self.order.is_empty()
    }

    /// Reads as if there were no other documents than those of which this holds.
    pub fn restrict(&mut self, readable: Predicate) {
        self.readable = Some(match self.readable.take() {
            Some(before) => before.and(&readable),
            None => readable,
        });
    }

    /// What holds of every document that matches; `None` if all do.
    pub fn condition(&self) -> Option<Cow<'_, Predicate>> {
        match (&self.readable, &self.filter) {
            (Some(readable), Some(filter)) => Some(Cow::Owned(readable.and(filter))),
            (one, other) => one.as_ref().or(other.as_ref()).map(Cow::Borrowed),
        }
    }

    /// Whether a document matches. Of one that whoever asks may not read nothing else is looked at: how
    /// long that takes would tell of it.
    pub fn matches(&self, document: &Value, meter: &Meter) -> bool {
        self.conditions().all(|condition| condition.matches_by(document, meter))
    }

    /// The top-level fields of documents on which it depends whether they match; `None` if all do.
    pub fn decided_by(&self) -> Option<BTreeSet<&str>> {
        self.conditions().map(Predicate::fields).reduce(|mut all, more| {
            all.extend(more);
            all
        })
    }

    fn conditions(&self) -> impl Iterator<Item = &Predicate> {
        self.readable.iter().chain(&self.filter)
    }

    /// How many rows whoever merges may need of each part at most.
    pub fn needed(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_add(self.offset))
    }

    /// How many expressions are evaluated for a document at most: about what it costs.
    pub fn cost(&self) -> usize {
        self.conditions().map(Predicate::root).chain(self.of_documents()).map(Expr::size).sum()
    }

    /// The top-level fields of documents that are needed once they match; `None` if all are.
    pub fn fields(&self) -> Option<BTreeSet<&str>> {
        let all = self.grouping.is_none()
            && (self.columns.has_document || self.columns.computed.is_empty());
        if all {
            return None;
        }
        let mut fields = BTreeSet::new();
        self.of_documents().for_each(|expr| expr.fields(&mut fields));
        Some(fields)
    }

    /// What is evaluated for a document that matches.
    fn of_documents(&self) -> impl Iterator<Item = &Expr> {
        let columns = self.columns.computed.iter().map(|(_, column)| column);
        let order = self.order.iter().map(|(expr, _)| expr);
        let keys = self.grouping.iter().flat_map(|grouping| &grouping.keys);
        let aggregates = self.grouping.iter().flat_map(|grouping| &grouping.aggregates);
        let operands = aggregates.filter_map(|aggregate| aggregate.operand.as_ref());
        columns.chain(order).chain(keys).chain(operands)
    }

    /// The row that a document becomes. Columns that are missing are left out.
    pub fn row(&self, document: &Value, meter: &Meter) -> Value {
        meter.measure(|budget| self.columns.row(&Scope::of(document, budget)))
    }

    /// Where the row of a document stands among those of others, unless rows are groups.
    pub fn place(&self, document: &Value, id: &str, meter: &Meter) -> Vec<u8> {
        place(&self.sort_key(document, meter), id)
    }

    /// What a document is sorted by.
    pub fn sort_key(&self, document: &Value, meter: &Meter) -> Vec<u8> {
        meter.measure(|budget| sort_key(&self.order, &Scope::of(document, budget)))
    }
}

impl Columns {
    fn row(&self, scope: &Scope<'_>) -> Value {
        if self.computed.is_empty() {
            return scope.document.clone();
        }
        let mut fields = match scope.document {
            Value::Object(fields) if self.has_document => fields.clone(),
            _ => Default::default(),
        };
        for (name, column) in &self.computed {
            match column.value(scope) {
                Some(value) => {
                    let value = scope.budget.own(value).unwrap_or_default();
                    fields.insert(name.clone(), value)
                }
                None => fields.remove(name),
            };
        }
        Value::Object(fields)
    }
}

fn sort_key(order: &[(Expr, Direction)], scope: &Scope<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (expr, direction) in order {
        let start = bytes.len();
        encode(expr, scope, &mut bytes);
        if *direction == Direction::Descending {
            bytes[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    bytes
}

/// Appends what rows are sorted or grouped by. It is a copy: beyond what may be made for a row it
/// is NULL.
fn encode(expr: &Expr, scope: &Scope<'_>, bytes: &mut Vec<u8>) {
    let value = expr.value(scope).map(|value| scope.budget.admit(value).unwrap_or_default());
    key::encode(value.as_deref(), bytes);
}
