//! Groups of documents, and the rows that they become.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::aggregate::{Accumulator, Aggregate};
use super::super::budget::Meter;
use super::super::eval::Scope;
use super::super::expr::Expr;
use super::super::key;
use super::{Grouping, Select, SortedRow, SortedRows, encode, sort_key};
use crate::Value;

/// What was accumulated over the documents of each group.
#[derive(Debug)]
pub struct Groups {
    select: Arc<Select>,
    groups: BTreeMap<Vec<u8>, Vec<Accumulator>>,
    bytes: usize,
}

/// About what a group takes beside its key, in bytes.
const GROUP_BYTES: usize = 64;

/// How many steps the rows may take that all groups become: seconds.
const MAX_STEPS: usize = 1 << 30;

/// The rows that groups become take too much memory, or too much work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows take too much memory, or too much work")]
pub struct TooLarge;

/// A group on its way to whoever merges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What its documents have in common; groups come in this order.
    pub key: Vec<u8>,
    /// What was accumulated over them, as JSON.
    pub state: String,
}

impl Groups {
    /// None yet, of a statement whose rows are groups ([`Select::is_grouped`]).
    pub fn new(select: Arc<Select>) -> Self {
        Groups { select, groups: BTreeMap::new(), bytes: 0 }
    }

    /// How much memory they take, in bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts a document in.
    pub fn add(&mut self, document: &Value, meter: &Meter) {
        let Some(Grouping { keys, aggregates, .. }) = &self.select.grouping else { return };
        meter.measure(|budget| {
            let scope = Scope::of(document, budget);
            let mut bytes = Vec::new();
            for expr in keys {
                encode(expr, &scope, &mut bytes);
            }
            let accumulators = group(&mut self.groups, &mut self.bytes, aggregates, bytes);
            for (accumulator, aggregate) in accumulators.iter_mut().zip(aggregates) {
                self.bytes += accumulator.add(aggregate, &scope);
            }
        });
    }

    /// Counts in a group that others have made. `None` if that is none of this statement's.
    pub fn merge(&mut self, merged: &Group) -> Option<()> {
        let Ok(Value::Array(states)) = Value::from_json(merged.state.as_bytes()) else {
            return None;
        };
        let aggregates = &self.select.grouping.as_ref()?.aggregates;
        if states.len() != aggregates.len() {
            return None;
        }
        let accumulators = group(&mut self.groups, &mut self.bytes, aggregates, merged.key.clone());
        for (accumulator, state) in accumulators.iter_mut().zip(states) {
            self.bytes += accumulator.merge(state)?;
        }
        Some(())
    }

    /// The groups, for whoever merges them, in order of their keys.
    pub fn into_groups(self) -> impl Iterator<Item = Group> {
        self.groups.into_iter().map(|(key, accumulators)| {
            let states = accumulators.iter().map(Accumulator::state).collect();
            Group { key, state: Value::Array(states).to_json() }
        })
    }

    /// The rows that the groups become, as JSON, of so many bytes together at most.
    pub fn into_rows(mut self, most: usize) -> Result<Vec<String>, TooLarge> {
        let Select { columns, order, limit, offset, grouping, .. } = &*self.select;
        let Some(grouping) = grouping else { return Ok(Vec::new()) };
        let mut bytes = 0_usize;
        // Without keys there is one group, also of nothing.
        if grouping.keys.is_empty() {
            group(&mut self.groups, &mut self.bytes, &grouping.aggregates, Vec::new());
        }
        let mut rows = SortedRows::new(self.select.needed());
        let mut seen = BTreeSet::new();
        let meter = Meter::of(MAX_STEPS);
        for (key, accumulators) in self.groups {
            if meter.is_over() {
                break;
            }
            let mut slots = Vec::with_capacity(grouping.keys.len() + accumulators.len());
            let mut rest = key.as_slice();
            while let Some(value) = key::decode(&mut rest) {
                slots.push(value);
            }
            slots.extend(accumulators.iter().map(|accumulator| Some(accumulator.result())));
            let row = meter.measure(|budget| {
                let scope = Scope { slots: &slots, ..Scope::of_nothing(budget) };
                let is_wanted = |having: &Expr| having.truth(&scope) == Some(true);
                grouping.having.as_ref().is_none_or(is_wanted).then(|| columns.row(&scope))
            });
            let Some(row) = row else { continue };
            if grouping.is_distinct {
                let mut encoded = Vec::new();
                key::encode(Some(&row), &mut encoded);
                bytes += encoded.len();
                if !seen.insert(encoded) {
                    continue;
                }
            }
            // As of a document, what it is sorted by does not depend on what the row is made of.
            let sorted_by = meter.measure(|budget| {
                sort_key(order, &Scope { slots: &slots, ..Scope::of_nothing(budget) })
            });
            let row = SortedRow { key: sorted_by, id: key, row: row.to_json() };
            bytes += row.key.len() + row.row.len();
            if let Some(row) = rows.add(row) {
                bytes -= row.key.len() + row.row.len();
            }
            if bytes > most {
                return Err(TooLarge);
            }
        }
        if meter.is_over() {
            return Err(TooLarge);
        }
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let rows = rows.into_sorted().skip(count(*offset)).map(|row| row.row);
        Ok(rows.take(limit.map_or(usize::MAX, count)).collect())
    }
}

/// The group of a key, which is made if there is none.
fn group<'g>(
    groups: &'g mut BTreeMap<Vec<u8>, Vec<Accumulator>>,
    bytes: &mut usize,
    aggregates: &[Aggregate],
    key: Vec<u8>,
) -> &'g mut Vec<Accumulator> {
    match groups.entry(key) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            *bytes += entry.key().len() + GROUP_BYTES + aggregates.len() * size_of::<Accumulator>();
            entry.insert(aggregates.iter().map(Accumulator::new).collect())
        }
    }
}
