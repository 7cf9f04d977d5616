//! Indexes: what stands in one for a document, and where in one a condition finds its documents.
//!
//! An index is over one or more fields. Its entries are the values of these fields as bytes whose
//! order is the order of the values, so the documents that a condition on the first of them selects
//! lie together. What is found that way is only where documents may be: the whole condition is
//! tested on each. So long values can be cut, and entries be left of values that a document no longer
//! has.
//!
//! A document without the first field has no entry: no condition that an index serves is true of
//! it. What an index cannot serve, `IS MISSING` for one, is found by going through all documents.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{QueryError, QueryErrorCode};
use super::expr::{Comparison, Expr};
use super::key;
use super::path::FieldPath;
use super::predicate::Predicate;
use crate::Value;
use crate::ids::{AppId, Collection};

/// How many fields an index has at most.
const MAX_PATHS: usize = 4;
/// How many bytes of values an entry has at most; what is longer is cut.
const MAX_ENTRY_BYTES: usize = 1024;
/// How many spans of an index a condition is looked up in at most: an IN may name many values.
const MAX_SPANS: usize = 1_000;
/// How long a name is at most.
const MAX_NAME_BYTES: usize = 64;

/// The name of an index, of its collection: letters, digits, `_` and `-`, a letter or `_` first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexName(String);

impl IndexName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IndexName {
    type Err = QueryError;

    fn from_str(name: &str) -> Result<Self, QueryError> {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
        let is_name = name.len() <= MAX_NAME_BYTES
            && name.as_bytes().first().is_some_and(is_first)
            && name.bytes().all(is_inside);
        if is_name {
            return Ok(IndexName(name.to_owned()));
        }
        let message = format!(
            "an index has a name of 1 to {MAX_NAME_BYTES} letters, digits, '_' and '-' that begins \
             with a letter or '_'"
        );
        Err(QueryError::new(QueryErrorCode::InvalidIndex, message))
    }
}

impl TryFrom<String> for IndexName {
    type Error = QueryError;

    fn try_from(name: String) -> Result<Self, QueryError> {
        name.parse()
    }
}

impl From<IndexName> for String {
    fn from(name: IndexName) -> Self {
        name.0
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields that an index is over, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<String>>", into = "Vec<Vec<String>>")]
pub struct IndexPaths(Vec<FieldPath>);

/// What an index is over: no two of one cluster are over the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexOver {
    /// Whose documents.
    pub app: AppId,
    /// Of which collection.
    pub collection: Collection,
    /// By which of their fields.
    pub paths: IndexPaths,
}

/// Where in an index the documents lie of which a condition may be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Apart from each other, in order.
    pub spans: Vec<Span>,
    /// How many fields, the first ones, have to have given values.
    pub pinned: usize,
    /// Whether the field behind these has to be in a range.
    pub is_bounded: bool,
}

/// A part of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// The entries of these values, of all fields.
    Point(Vec<u8>),
    /// The entries from one on and below another.
    Range(Range<Vec<u8>>),
}

impl IndexPaths {
    /// Of these fields.
    ///
    /// # Errors
    /// If there are none or too many, if one stands twice, or if one is `_id`, by which documents
    /// are found anyway.
    pub fn new(paths: Vec<FieldPath>) -> Result<Self, QueryError> {
        let refuse = |message: String| Err(QueryError::new(QueryErrorCode::InvalidIndex, message));
        if paths.is_empty() || paths.len() > MAX_PATHS {
            return refuse(format!(
                "an index is over 1 to {MAX_PATHS} fields, not {}",
                paths.len()
            ));
        }
        if paths.iter().any(|path| path.steps() == ["_id"]) {
            return refuse("documents are found by '_id' without an index".to_owned());
        }
        let twice = paths.iter().enumerate().find(|(number, path)| paths[..*number].contains(path));
        if let Some((_, path)) = twice {
            return refuse(format!("the index names '{path}' twice"));
        }
        Ok(IndexPaths(paths))
    }

    /// The fields.
    pub fn paths(&self) -> &[FieldPath] {
        &self.0
    }

    /// The entry of a document whose values `value` gives; `None` if it has none.
    pub fn entry<'a>(
        &self,
        mut value: impl FnMut(&FieldPath) -> Option<Cow<'a, Value>>,
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(32);
        for (number, path) in self.0.iter().enumerate() {
            let value = value(path);
            if number == 0 && value.is_none() {
                return None;
            }
            match value.as_deref() {
                // The rest would be cut.
                Some(Value::String(text)) if text.len() > MAX_ENTRY_BYTES => {
                    let start = &text[..text.ceil_char_boundary(MAX_ENTRY_BYTES)];
                    key::encode(Some(&Value::from(start)), &mut bytes);
                }
                value => key::encode(value, &mut bytes),
            }
        }
        bytes.truncate(MAX_ENTRY_BYTES);
        Some(bytes)
    }

    /// Where the documents lie that are restricted in this way; `None` if that says nothing of the
    /// first field.
    pub fn lookup(&self, restrictions: &Restrictions<'_>) -> Option<Lookup> {
        let mut prefixes = vec![Vec::new()];
        let mut pinned = 0;
        let mut range = None;
        for path in &self.0 {
            match restrictions.of(path) {
                Some(Restriction::Values(values))
                    if prefixes.len().saturating_mul(values.len()) <= MAX_SPANS =>
                {
                    prefixes = prefixes
                        .iter()
                        .flat_map(|prefix| values.iter().map(|value| joined(prefix, value)))
                        .collect();
                    // What differs only behind where it is cut is the same.
                    prefixes.dedup();
                    pinned += 1;
                }
                Some(Restriction::Range(of_next)) => {
                    range = Some(of_next);
                    break;
                }
                Some(Restriction::Values(_)) | None => break,
            }
        }
        if pinned == 0 && range.is_none() {
            return None;
        }
        let is_whole = pinned == self.0.len();
        let span = |prefix: Vec<u8>| match range {
            // What is cut is all that stands in an entry.
            _ if is_whole || prefix.len() >= MAX_ENTRY_BYTES => Span::Point(prefix),
            Some(Range { start, end }) => Span::range(joined(&prefix, start), joined(&prefix, end)),
            None => {
                let end = key::after(&prefix);
                Span::Range(prefix..end)
            }
        };
        let spans = prefixes.into_iter().map(span).collect();
        Some(Lookup { spans, pinned, is_bounded: range.is_some() })
    }

    /// The fields of an index that would serve what is restricted in this way: those that have
    /// given values, or one that has a range. `None` if none would.
    pub fn serving(restrictions: &Restrictions<'_>) -> Option<IndexPaths> {
        let all = || restrictions.0.iter().filter(|(path, _)| path.steps() != ["_id"]);
        let is_pinned = |restriction: &Restriction| match restriction {
            Restriction::Values(values) => values.len() <= MAX_SPANS,
            Restriction::Range(_) => false,
        };
        let is_bounded = |restriction: &Restriction| matches!(restriction, Restriction::Range(_));
        let pinned = all().filter(|(_, restriction)| is_pinned(restriction));
        let mut paths: Vec<_> = pinned.map(|(path, _)| (*path).clone()).take(MAX_PATHS).collect();
        if paths.is_empty() {
            let bounded = all().find(|(_, restriction)| is_bounded(restriction));
            paths.extend(bounded.map(|(path, _)| (*path).clone()));
        }
        IndexPaths::new(paths).ok()
    }
}

/// Values behind those before them, cut.
fn joined(before: &[u8], more: &[u8]) -> Vec<u8> {
    let room = MAX_ENTRY_BYTES.saturating_sub(before.len());
    [before, &more[..more.len().min(room)]].concat()
}

impl TryFrom<Vec<Vec<String>>> for IndexPaths {
    type Error = QueryError;

    fn try_from(paths: Vec<Vec<String>>) -> Result<Self, QueryError> {
        let paths = paths.into_iter().map(FieldPath::new).collect::<Result<_, _>>()?;
        IndexPaths::new(paths)
    }
}

impl From<IndexPaths> for Vec<Vec<String>> {
    fn from(paths: IndexPaths) -> Self {
        paths.0.into_iter().map(|path| path.steps().to_vec()).collect()
    }
}

impl fmt::Display for IndexPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, path) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            path.fmt(f)?;
        }
        Ok(())
    }
}

impl Lookup {
    /// How much it narrows things down: the more, the greater.
    pub fn rank(&self) -> (usize, bool) {
        (self.pinned, self.is_bounded)
    }
}

impl Span {
    /// Entries are cut, so what is cut of the end may be just above one.
    fn range(start: Vec<u8>, end: Vec<u8>) -> Self {
        let is_cut = end.len() >= MAX_ENTRY_BYTES;
        let end = if is_cut { key::after(&end) } else { end };
        Span::Range(start..end)
    }
}

/// What a condition says of the fields of which it says something that an index serves.
#[derive(Debug)]
pub struct Restrictions<'a>(BTreeMap<&'a FieldPath, Restriction>);

impl<'a> Restrictions<'a> {
    /// Of a condition.
    pub fn of_condition(condition: &'a Predicate) -> Self {
        let parts = match condition.root() {
            Expr::And(parts) => parts.as_slice(),
            other => std::slice::from_ref(other),
        };
        let mut all: BTreeMap<&FieldPath, Restriction> = BTreeMap::new();
        for (path, restriction) in parts.iter().filter_map(restriction) {
            let restriction = match all.remove(path) {
                Some(other) => other.both(restriction),
                None => restriction,
            };
            all.insert(path, restriction);
        }
        Restrictions(all)
    }

    fn of(&self, path: &FieldPath) -> Option<&Restriction> {
        self.0.get(path)
    }
}

/// What a condition says of one field.
#[derive(Debug)]
enum Restriction {
    /// It has one of these values, sorted.
    Values(Vec<Vec<u8>>),
    /// Its value is in this range.
    Range(Range<Vec<u8>>),
}

impl Restriction {
    fn both(self, other: Restriction) -> Restriction {
        match (self, other) {
            (Restriction::Values(mut values), Restriction::Values(others)) => {
                values.retain(|value| others.binary_search(value).is_ok());
                Restriction::Values(values)
            }
            (Restriction::Values(mut values), Restriction::Range(range))
            | (Restriction::Range(range), Restriction::Values(mut values)) => {
                values.retain(|value| range.contains(value));
                Restriction::Values(values)
            }
            (Restriction::Range(one), Restriction::Range(other)) => {
                Restriction::within(one.start.max(other.start)..one.end.min(other.end))
            }
        }
    }

    /// No value is in a range that ends before it begins.
    fn within(range: Range<Vec<u8>>) -> Restriction {
        if range.is_empty() { Restriction::Values(Vec::new()) } else { Restriction::Range(range) }
    }

    fn value(value: &Value) -> Restriction {
        Restriction::Values(vec![encoded(value)])
    }
}

/// Of which field a condition says what, if it says something of one that an index serves.
fn restriction(condition: &Expr) -> Option<(&FieldPath, Restriction)> {
    let (field, restriction) = match condition {
        Expr::Compare(comparison, pair) => match &**pair {
            [field, Expr::Literal(value)] => (field, compared(*comparison, value)?),
            [Expr::Literal(value), field] => (field, compared(comparison.mirrored(), value)?),
            _ => return None,
        },
        Expr::InList(field, values) => {
            let values = values.iter().filter(|value| **value != Value::Null);
            (&**field, Restriction::Values(values.map(encoded).collect()))
        }
        Expr::Between(three) => match &**three {
            [field, Expr::Literal(low), Expr::Literal(high)] => {
                let above = compared(Comparison::GreaterOrEqual, low)?;
                (field, above.both(compared(Comparison::LessOrEqual, high)?))
            }
            _ => return None,
        },
        Expr::Like(field, pattern) => {
            let prefix = pattern.literal_prefix();
            if prefix.is_empty() {
                return None;
            }
            (&**field, Restriction::within(key::strings_beginning_with(&prefix)))
        }
        Expr::IsNull(field) => (&**field, Restriction::value(&Value::Null)),
        Expr::Not(field) => (&**field, Restriction::value(&Value::Bool(false))),
        field => (field, Restriction::value(&Value::Bool(true))),
    };
    match field {
        Expr::Path(path) => Some((path, restriction)),
        _ => None,
    }
}

/// The values that compare so with this one: all of its type. Nothing does with NULL.
fn compared(comparison: Comparison, value: &Value) -> Option<Restriction> {
    if *value == Value::Null {
        return Some(Restriction::Values(Vec::new()));
    }
    let (bound, of_type) = (encoded(value), key::of_type(value));
    Some(match comparison {
        Comparison::Equal => Restriction::Values(vec![bound]),
        Comparison::NotEqual => return None,
        Comparison::Less => Restriction::within(of_type.start..bound),
        Comparison::LessOrEqual => Restriction::within(of_type.start..key::after(&bound)),
        Comparison::Greater => Restriction::within(key::after(&bound)..of_type.end),
        Comparison::GreaterOrEqual => Restriction::within(bound..of_type.end),
    })
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    key::encode(Some(value), &mut bytes);
    bytes
}
