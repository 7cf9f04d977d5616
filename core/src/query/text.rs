//! The text of conditions and values, in the grammar that the parser reads.

use std::fmt::{self, Display, Write};

use super::predicate::{Node, Operand, Predicate};
use crate::Value;

impl Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_node(f, self.root())
    }
}

/// How long a condition's text is, in bytes.
pub(super) fn length(node: &Node) -> usize {
    struct Counter(usize);

    impl Write for Counter {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }

    let mut counter = Counter(0);
    write_node(&mut counter, node).expect("counting does not fail");
    counter.0
}

fn write_node(out: &mut impl Write, node: &Node) -> fmt::Result {
    match node {
        Node::Constant(Some(constant)) => write!(out, "{constant}"),
        Node::Constant(None) => out.write_str("NULL"),
        Node::Truth(path) => write!(out, "{path}"),
        Node::Compare(comparison, left, right) => {
            write_operand(out, left)?;
            write!(out, " {} ", comparison.as_str())?;
            write_operand(out, right)
        }
        Node::Not(inner) => match inner.as_ref() {
            Node::And(_) | Node::Or(_) => {
                out.write_str("NOT (")?;
                write_node(out, inner)?;
                out.write_str(")")
            }
            Node::IsNull(_)
            | Node::IsMissing(_)
            | Node::In(..)
            | Node::Between(..)
            | Node::Like(..) => write_test(out, inner, "NOT "),
            Node::Constant(_) | Node::Truth(_) | Node::Compare(..) | Node::Not(_) => {
                out.write_str("NOT ")?;
                write_node(out, inner)
            }
        },
        Node::And(nodes) => write_list(out, nodes, " AND ", |out, node| match node {
            Node::Or(_) => {
                out.write_str("(")?;
                write_node(out, node)?;
                out.write_str(")")
            }
            _ => write_node(out, node),
        }),
        Node::Or(nodes) => write_list(out, nodes, " OR ", write_node),
        Node::IsNull(_)
        | Node::IsMissing(_)
        | Node::In(..)
        | Node::Between(..)
        | Node::Like(..) => write_test(out, node, ""),
    }
}

/// The tests that are negated by a word inside them.
fn write_test(out: &mut impl Write, node: &Node, not: &str) -> fmt::Result {
    match node {
        Node::IsNull(operand) => {
            write_operand(out, operand)?;
            write!(out, " IS {not}NULL")
        }
        Node::IsMissing(operand) => {
            write_operand(out, operand)?;
            write!(out, " IS {not}MISSING")
        }
        Node::In(operand, values) => {
            write_operand(out, operand)?;
            write!(out, " {not}IN (")?;
            write_list(out, values, ", ", write_value)?;
            out.write_str(")")
        }
        Node::Between(operand, low, high) => {
            write_operand(out, operand)?;
            write!(out, " {not}BETWEEN ")?;
            write_operand(out, low)?;
            out.write_str(" AND ")?;
            write_operand(out, high)
        }
        Node::Like(operand, pattern) => {
            write_operand(out, operand)?;
            write!(out, " {not}LIKE ")?;
            write_string(out, pattern.text())
        }
        _ => write_node(out, node),
    }
}

fn write_operand(out: &mut impl Write, operand: &Operand) -> fmt::Result {
    match operand {
        Operand::Path(path) => write!(out, "{path}"),
        Operand::Literal(value) => write_value(out, value),
    }
}

fn write_value(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value {
        Value::Null => out.write_str("NULL"),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.write_str("[")?;
            write_list(out, items, ", ", write_value)?;
            out.write_str("]")
        }
        Value::Object(fields) => {
            out.write_str("{")?;
            write_list(out, fields, ", ", |out, (key, value)| {
                write_string(out, key)?;
                out.write_str(": ")?;
                write_value(out, value)
            })?;
            out.write_str("}")
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => write!(out, "{value}"),
    }
}

fn write_string(out: &mut impl Write, text: &str) -> fmt::Result {
    write!(out, "'{}'", text.replace('\'', "''"))
}

fn write_list<W: Write, I: IntoIterator>(
    out: &mut W,
    items: I,
    separator: &str,
    mut write_item: impl FnMut(&mut W, I::Item) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.write_str(separator)?;
        }
        write_item(out, item)?;
    }
    Ok(())
}
