//! Conditions on a document, in a normal form: nested ANDs and ORs are one list, the values of an
//! IN are sorted. Equal meaning in different words often gives equal predicates, and the text of a
//! predicate reads back as the same predicate.

use std::cmp::Ordering;

use super::error::{QueryError, QueryErrorCode};
use super::order::{exact_int, total_cmp};
use super::path::FieldPath;
use super::pattern::Pattern;
use super::{MAX_FILTER_BYTES, eval, text};
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
    root: Node,
}

impl Predicate {
    pub(super) fn new(root: Node) -> Result<Self, QueryError> {
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

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// Whether the condition holds. Unknown is no.
    pub fn matches(&self, document: &Value) -> bool {
        eval::holds(&self.root, document) == Some(true)
    }

    /// The ids that a matching document can have, sorted, if the condition pins `_id` by `=` or
    /// IN, alone or in an AND. Documents with these ids still have to be tested.
    pub fn key(&self) -> Option<Vec<DocumentKey>> {
        self.root.keys()
    }
}

/// One condition. [`Node::all`], [`Node::any`] and [`Node::is_in`] keep the normal form.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// `true`, `false` or `NULL`.
    Constant(Option<bool>),
    /// A field that is itself true or false.
    Truth(FieldPath),
    /// A comparison.
    Compare(Comparison, Operand, Operand),
    /// `IS NULL`: unknown if missing.
    IsNull(Operand),
    /// `IS MISSING`: never unknown.
    IsMissing(Operand),
    /// `IN (..)`; sorted by the total order, no two values equal.
    In(Operand, Vec<Value>),
    /// `BETWEEN`, both ends included.
    Between(Operand, Operand, Operand),
    /// `LIKE`.
    Like(Operand, Pattern),
    /// `NOT`.
    Not(Box<Node>),
    /// Two or more, none of them an `And`.
    And(Vec<Node>),
    /// Two or more, none of them an `Or`.
    Or(Vec<Node>),
}

/// What a comparison compares.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Path(FieldPath),
    Literal(Value),
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether operands in this order satisfy it.
    pub(super) fn accepts(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

impl Node {
    /// The AND of some conditions, at least one.
    pub(super) fn all(nodes: Vec<Node>) -> Node {
        let mut flat = Vec::with_capacity(nodes.len());
        for node in nodes {
            match node {
                Node::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        single(flat).unwrap_or_else(Node::And)
    }

    /// The OR of some conditions, at least one.
    pub(super) fn any(nodes: Vec<Node>) -> Node {
        let mut flat = Vec::with_capacity(nodes.len());
        for node in nodes {
            match node {
                Node::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        single(flat).unwrap_or_else(Node::Or)
    }

    /// Membership in a list. Sorted, it is searched in logarithmic time.
    pub(super) fn is_in(operand: Operand, mut values: Vec<Value>) -> Node {
        values.sort_by(total_cmp);
        values.dedup_by(|left, right| total_cmp(left, right).is_eq());
        Node::In(operand, values)
    }

    fn keys(&self) -> Option<Vec<DocumentKey>> {
        let pinned = match self {
            Node::Compare(Comparison::Equal, Operand::Path(path), Operand::Literal(value))
            | Node::Compare(Comparison::Equal, Operand::Literal(value), Operand::Path(path)) => {
                (path, std::slice::from_ref(value))
            }
            Node::In(Operand::Path(path), values) => (path, values.as_slice()),
            Node::And(nodes) => {
                return nodes.iter().filter_map(Node::keys).reduce(|mut common, keys| {
                    common.retain(|key| keys.binary_search(key).is_ok());
                    common
                });
            }
            _ => return None,
        };
        let (path, values) = pinned;
        if path.steps() != ["_id"] {
            return None;
        }
        // A value that no id can equal selects nothing, so it adds no key.
        let mut keys: Vec<_> = values.iter().filter_map(key_equal_to).collect();
        keys.sort();
        Some(keys)
    }
}

/// The vector back unless it holds exactly one node.
fn single(mut nodes: Vec<Node>) -> Result<Node, Vec<Node>> {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => Ok(only),
        Some(last) => {
            nodes.push(last);
            Err(nodes)
        }
        None => Err(nodes),
    }
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
