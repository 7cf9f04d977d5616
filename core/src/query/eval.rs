//! Three-valued evaluation: `None` is unknown.
//!
//! Recursion follows the nesting of the condition, which the parser bounds, and of literals and
//! documents, which are bounded too.

use std::cmp::Ordering;

use super::order::{compare, total_cmp, type_rank};
use super::predicate::{Comparison, Node, Operand};
use crate::Value;

/// Whether a condition holds for a document.
pub(super) fn holds(node: &Node, document: &Value) -> Option<bool> {
    match node {
        Node::Constant(constant) => *constant,
        Node::Truth(path) => match document.get(path.steps()) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        },
        Node::Compare(comparison, left, right) => {
            let order = order(left.of(document), right.of(document))?;
            Some(comparison.accepts(order))
        }
        Node::IsNull(operand) => operand.of(document).map(|value| *value == Value::Null),
        Node::IsMissing(operand) => Some(operand.of(document).is_none()),
        Node::In(operand, values) => is_in(operand.of(document), values),
        Node::Between(operand, low, high) => {
            let value = operand.of(document);
            let accepts = |comparison: Comparison, bound: &Operand| {
                order(value, bound.of(document)).map(|order| comparison.accepts(order))
            };
            let above = accepts(Comparison::GreaterOrEqual, low);
            let below = accepts(Comparison::LessOrEqual, high);
            all([above, below].into_iter())
        }
        Node::Like(operand, pattern) => match operand.of(document) {
            Some(Value::String(text)) => Some(pattern.matches(text)),
            _ => None,
        },
        Node::Not(inner) => holds(inner, document).map(|holds| !holds),
        Node::And(nodes) => all(nodes.iter().map(|node| holds(node, document))),
        Node::Or(nodes) => {
            let negated = nodes.iter().map(|node| holds(node, document).map(|holds| !holds));
            all(negated).map(|none_holds| !none_holds)
        }
    }
}

impl Operand {
    /// The operand's value in a document; `None` is MISSING.
    fn of<'a>(&'a self, document: &'a Value) -> Option<&'a Value> {
        match self {
            Operand::Path(path) => document.get(path.steps()),
            Operand::Literal(value) => Some(value),
        }
    }
}

fn order(left: Option<&Value>, right: Option<&Value>) -> Option<Ordering> {
    compare(left?, right?)
}

/// False as soon as one is false, else unknown if one is unknown, else true.
fn all(mut parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    parts
        .try_fold(Some(true), |all, part| match part {
            Some(false) => None,
            Some(true) => Some(all),
            None => Some(None),
        })
        .unwrap_or(Some(false))
}

/// The OR of `value = v` over sorted values: they are all comparable with the value exactly when
/// the first and the last are.
fn is_in(value: Option<&Value>, values: &[Value]) -> Option<bool> {
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return Some(false);
    };
    let value = value.filter(|value| **value != Value::Null)?;
    if values.binary_search_by(|candidate| total_cmp(candidate, value)).is_ok() {
        return Some(true);
    }
    let rank = type_rank(value);
    (type_rank(first) == rank && type_rank(last) == rank).then_some(false)
}
