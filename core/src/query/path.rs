//! Where a field lies inside a document, and how names are written.

use std::fmt;

use super::MAX_DEPTH;
use super::error::{QueryError, QueryErrorCode};

/// Words that stand for themselves only in quotes. Some belong to clauses that are still to come,
/// so that statements of today keep their meaning.
const RESERVED: [&str; 35] = [
    "AND", "APPLY", "AS", "BETWEEN", "BY", "CASE", "DELETE", "DISTINCT", "ELSE", "END", "EXISTS",
    "FALSE", "FROM", "GROUP", "HAVING", "IN", "INSERT", "IS", "JOIN", "LIKE", "LIMIT", "MISSING",
    "NOT", "NULL", "OFFSET", "OR", "ORDER", "SELECT", "SET", "THEN", "TRUE", "UNSET", "UPDATE",
    "WHEN", "WHERE",
];

/// Whether a word without quotes is part of the grammar and not a name.
pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(word))
}

/// The steps from the top of a document to a field, at least one. Its text is dotted, with names
/// in backticks where they need them, and reads back as the same path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// From its steps: at least one, and no more than documents can nest.
    pub fn new(steps: Vec<String>) -> Result<Self, QueryError> {
        if steps.is_empty() {
            Err(QueryError::new(QueryErrorCode::SyntaxError, "a field path has no steps"))
        } else if steps.len() > MAX_DEPTH {
            Err(QueryError::new(
                QueryErrorCode::TooDeep,
                format!("a field path has {} steps; the limit is {MAX_DEPTH}", steps.len()),
            ))
        } else {
            Ok(FieldPath(steps))
        }
    }

    /// The path of what lies inside. It may be longer than a path that is written.
    pub(super) fn within(mut self, names: impl Iterator<Item = String>) -> Self {
        self.0.extend(names);
        self
    }

    /// The steps, never empty.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// The last step: the field's own name.
    pub fn name(&self) -> &str {
        self.0.last().expect("a path has at least one step")
    }

    /// Whether this is `_id`, or lies inside it.
    pub fn is_within_id(&self) -> bool {
        self.0.first().is_some_and(|first| first == "_id")
    }

    /// Whether `other` is this field, or lies inside it.
    pub fn contains(&self, other: &FieldPath) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write_name(f, step)?;
        }
        Ok(())
    }
}

/// Writes a name, in backticks if it needs them.
pub(super) fn write_name(out: &mut impl fmt::Write, name: &str) -> fmt::Result {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|next| next.is_ascii_alphanumeric() || next == '_')
        && !is_reserved(name);
    if plain { out.write_str(name) } else { write!(out, "`{}`", name.replace('`', "``")) }
}
