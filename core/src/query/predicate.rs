//! Conditions on a document.

use std::collections::BTreeSet;

use super::budget::{Budget, Meter};
use super::error::{QueryError, QueryErrorCode};
use super::eval::Scope;
use super::expr::{Comparison, Expr};
use super::order::exact_int;
use super::{MAX_FILTER_BYTES, text};
use crate::Value;
use crate::ids::DocumentKey;

/// A condition on a document, with three-valued logic: it holds, does not, or is unknown, which
/// is what a comparison with NULL, with a missing field or between different types is.
///
/// It is a pure function of the document. Its text ([`std::fmt::Display`]) has its arguments
/// inlined and is never longer than [`MAX_FILTER_BYTES`], so that
/// [`parse_filter`](super::parse_filter) always reads it back.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {
    root: Expr,
}

impl Predicate {
    pub(super) fn new(root: Expr) -> Result<Self, QueryError> {
        let bytes = text::length(&root);
        if bytes > MAX_FILTER_BYTES {
            return Err(QueryError::new(
                QueryErrorCode::TooLong,
                format!(
                    "the condition is {bytes} bytes long with its arguments in place; \
                     the limit is {MAX_FILTER_BYTES}"
                ),
            ));
        }
        Ok(Predicate { root })
    }

    /// One that holds of every document, or of none.
    pub(super) fn always(holds: bool) -> Self {
        Predicate { root: Expr::Literal(Value::Bool(holds)) }
    }

    /// Whether it holds, if that is the same of every document.
    pub(super) fn constant(&self) -> Option<bool> {
        self.root.constant(&Budget::new()).map(|value| value == Some(Value::Bool(true)))
    }

    /// The condition that both hold. Its text may be too long to be read back.
    pub(super) fn and(&self, other: &Predicate) -> Self {
        Predicate { root: Expr::all(vec![self.root.clone(), other.root.clone()]) }
    }

    pub(super) fn root(&self) -> &Expr {
        &self.root
    }

    /// Whether the condition holds. Unknown is no, and so is what would be too much work.
    pub fn matches(&self, document: &Value) -> bool {
        self.matches_by(document, &Meter::new())
    }

    pub(super) fn matches_by(&self, document: &Value, meter: &Meter) -> bool {
        meter.measure(|budget| self.root.truth(&Scope::of(document, budget)) == Some(true))
    }

    /// The top-level fields on which it depends.
    pub fn fields(&self) -> BTreeSet<&str> {
        let mut fields = BTreeSet::new();
        self.root.fields(&mut fields);
        fields
    }

    /// The ids that a matching document can have, sorted, if the condition pins `_id` by `=` or
    /// IN, alone or in an AND. Documents with these ids still have to be tested.
    pub fn key(&self) -> Option<Vec<DocumentKey>> {
        keys(&self.root)
    }
}

/// The ids that a condition pins, sorted.
fn keys(condition: &Expr) -> Option<Vec<DocumentKey>> {
    let (pinned, values) = match condition {
        Expr::Compare(Comparison::Equal, pair) => match &**pair {
            [Expr::Path(path), Expr::Literal(value)] | [Expr::Literal(value), Expr::Path(path)] => {
                (path, std::slice::from_ref(value))
            }
            _ => return None,
        },
        Expr::InList(operand, values) => match &**operand {
            Expr::Path(path) => (path, values.as_slice()),
            _ => return None,
        },
        Expr::And(parts) => {
            return parts.iter().filter_map(keys).reduce(|mut common, keys| {
                common.retain(|key| keys.binary_search(key).is_ok());
                common
            });
        }
        _ => return None,
    };
    if pinned.steps() != ["_id"] {
        return None;
    }
    // A value that no id can equal selects nothing, so it adds no key.
    let mut keys: Vec<_> = values.iter().filter_map(key_equal_to).collect();
    keys.sort();
    Some(keys)
}

/// The one id that compares equal to a value: ids hold no doubles, but `_id = 1.0` is true of 1.
fn key_equal_to(value: &Value) -> Option<DocumentKey> {
    DocumentKey::from_value(&with_exact_ints(value)).ok()
}

fn with_exact_ints(value: &Value) -> Value {
    match value {
        Value::Float(float) => exact_int(*float).map_or(Value::Float(*float), Value::Int),
        Value::Array(items) => Value::Array(items.iter().map(with_exact_ints).collect()),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), with_exact_ints(value)))
            .collect::<Value>(),
        other => other.clone(),
    }
}
