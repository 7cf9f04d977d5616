//! What is computed over a group of documents.
//!
//! Each store node accumulates over its own documents; what it has is merged with what others have.
//! The result depends neither on the order nor on who saw which document: sums are exact and are
//! rounded once, and of equal values that are written differently the same one is taken.

mod sum;

use std::cmp::Ordering;
use std::collections::BTreeSet;

pub(super) use self::sum::Sum;
use super::eval::Scope;
use super::expr::Expr;
use super::key;
use super::order::total_cmp;
use crate::Value;

/// `COUNT(*)`, `SUM([DISTINCT] operand)` and so on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aggregate {
    pub(super) function: AggregateFunction,
    /// Whether each value counts once.
    pub(super) is_distinct: bool,
    /// What is computed of each document; without it the documents count.
    pub(super) operand: Option<Expr>,
}

/// A function over a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateFunction {
    /// How many are neither MISSING nor NULL.
    Count,
    /// The sum of the numbers; NULL without any.
    Sum,
    /// Their mean, a double; NULL without any.
    Avg,
    /// The least but for NULL, by the total order across types; NULL without any.
    Min,
    /// The greatest.
    Max,
}

impl AggregateFunction {
    const ALL: [AggregateFunction; 5] = [
        AggregateFunction::Count,
        AggregateFunction::Sum,
        AggregateFunction::Avg,
        AggregateFunction::Min,
        AggregateFunction::Max,
    ];

    /// The function of a name, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.as_str().eq_ignore_ascii_case(name))
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            AggregateFunction::Count => "COUNT",
            AggregateFunction::Sum => "SUM",
            AggregateFunction::Avg => "AVG",
            AggregateFunction::Min => "MIN",
            AggregateFunction::Max => "MAX",
        }
    }
}

/// What an aggregate has seen so far.
#[derive(Clone, Debug)]
pub(super) struct Accumulator {
    function: AggregateFunction,
    seen: Seen,
}

#[derive(Clone, Debug)]
enum Seen {
    /// How many.
    Count(i64),
    Sum(Sum),
    /// The least or the greatest.
    Extreme(Option<Value>),
    /// The values, each once, as keys.
    Distinct(BTreeSet<Vec<u8>>),
}

impl Accumulator {
    pub(super) fn new(aggregate: &Aggregate) -> Self {
        let function = aggregate.function;
        let seen = match function {
            AggregateFunction::Min | AggregateFunction::Max => Seen::Extreme(None),
            _ if aggregate.is_distinct => Seen::Distinct(BTreeSet::new()),
            AggregateFunction::Count => Seen::Count(0),
            AggregateFunction::Sum | AggregateFunction::Avg => Seen::Sum(Sum::default()),
        };
        Accumulator { function, seen }
    }

    /// Counts a document in. How many bytes more that keeps, about.
    pub(super) fn add(&mut self, aggregate: &Aggregate, scope: &Scope<'_>) -> usize {
        let Some(operand) = &aggregate.operand else {
            if let Seen::Count(count) = &mut self.seen {
                *count += 1;
            }
            return 0;
        };
        // Whether a value is kept depends on what was seen before, but what it costs must not.
        let may_keep = matches!(self.seen, Seen::Extreme(_) | Seen::Distinct(_));
        let value = operand.value(scope);
        let value = if may_keep { value.and_then(|it| scope.budget.admit(it)) } else { value };
        match value.as_deref() {
            None | Some(Value::Null) => 0,
            Some(value) => self.see(value),
        }
    }

    fn see(&mut self, value: &Value) -> usize {
        let function = self.function;
        match &mut self.seen {
            Seen::Count(count) => *count += 1,
            Seen::Sum(sum) => return sum.add(value),
            Seen::Extreme(extreme) => {
                if extreme.as_ref().is_none_or(|extreme| is_better(function, value, extreme)) {
                    let before = extreme.replace(value.clone());
                    return value.json_len().saturating_sub(before.map_or(0, |it| it.json_len()));
                }
            }
            Seen::Distinct(values) => {
                let mut bytes = Vec::new();
                key::encode(Some(value), &mut bytes);
                let length = bytes.len();
                if values.insert(bytes) {
                    return length + size_of::<Vec<u8>>();
                }
            }
        }
        0
    }

    /// The result.
    pub(super) fn result(&self) -> Value {
        match &self.seen {
            Seen::Count(count) => Value::Int(*count),
            Seen::Sum(sum) => self.of_sum(sum),
            Seen::Extreme(extreme) => extreme.clone().unwrap_or_default(),
            Seen::Distinct(values) if self.function == AggregateFunction::Count => {
                i64::try_from(values.len()).map_or(Value::Null, Value::Int)
            }
            Seen::Distinct(values) => {
                let mut sum = Sum::default();
                distinct(values).for_each(|value| {
                    sum.add(&value);
                });
                self.of_sum(&sum)
            }
        }
    }

    fn of_sum(&self, sum: &Sum) -> Value {
        if self.function == AggregateFunction::Avg { sum.mean() } else { sum.total() }
    }

    /// What it has seen, for whoever merges it.
    pub(super) fn state(&self) -> Value {
        match &self.seen {
            Seen::Count(count) => Value::Int(*count),
            Seen::Sum(sum) => sum.state(),
            Seen::Extreme(extreme) => Value::Array(extreme.iter().cloned().collect()),
            Seen::Distinct(values) => Value::Array(distinct(values).collect()),
        }
    }

    /// Counts in what another one has seen; `None` if that is not the state of one like it. How many
    /// bytes more that keeps, about.
    pub(super) fn merge(&mut self, state: Value) -> Option<usize> {
        match (&mut self.seen, state) {
            (Seen::Count(count), Value::Int(more)) => *count = count.checked_add(more)?,
            (Seen::Sum(sum), state) => return sum.merge(&state),
            (Seen::Extreme(_) | Seen::Distinct(_), Value::Array(values)) => {
                return Some(values.iter().map(|value| self.see(value)).sum());
            }
            _ => return None,
        }
        Some(0)
    }
}

fn distinct(values: &BTreeSet<Vec<u8>>) -> impl Iterator<Item = Value> {
    values.iter().filter_map(|bytes| key::decode(&mut bytes.as_slice()).flatten())
}

/// Whether a value goes before the one that is the least or the greatest so far. Of values that are
/// equal, such as 1 and 1.0 or 0.0 and -0.0, it is the same one whichever comes first.
fn is_better(function: AggregateFunction, value: &Value, extreme: &Value) -> bool {
    let order = total_cmp(value, extreme);
    match function {
        _ if order == Ordering::Equal => value.to_json() < extreme.to_json(),
        AggregateFunction::Max => order == Ordering::Greater,
        _ => order == Ordering::Less,
    }
}
