//! Indexes: what stands in one for a document, and where in one a condition finds its documents.
//!
//! An index is over one or more fields. Its entries are the values of these fields as bytes whose
//! order is the order of the values, so the documents that a condition on the first of them selects
//! lie together. What is found that way is only where documents may be: the whole condition is
//! tested on each. So long values can be cut, and entries be left of values that a document no longer has.
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
    /// If there are none or too many, if one stands twice, or if one is `_id`, by which documents are
    /// found anyway.
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

    /// The entry of a document, whose top-level fields `field` gives, `_id` among them; `None` if it
    /// has none.
    pub fn entry<'a>(
        &self,
        mut field: impl FnMut(&str) -> Option<Cow<'a, Value>>,
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(32);
        for (number, path) in self.0.iter().enumerate() {
            let (first, inside) = path.steps().split_first().expect("a path has a step");
            let top = field(first);
            let value = top.as_deref().and_then(|top| top.get(inside));
            if number == 0 && value.is_none() {
                return None;
            }
            key::encode(value, &mut bytes);
        }
        bytes.truncate(MAX_ENTRY_BYTES);
        Some(bytes)
    }

    /// Where the documents lie of which a condition may be true; `None` if it says nothing of the
    /// first field that helps.
    pub fn lookup(&self, condition: &Predicate) -> Option<Lookup> {
        let mut restrictions = restrictions(condition);
        let mut prefixes = vec![Vec::new()];
        let mut pinned = 0;
        for path in &self.0 {
            match restrictions.remove(path) {
                Some(Restriction::Values(values))
                    if prefixes.len().saturating_mul(values.len()) <= MAX_SPANS =>
                {
                    let with = |prefix: &Vec<u8>| {
                        let prefix = prefix.clone();
                        values.clone().into_iter().map(move |value| [&prefix[..], &value].concat())
                    };
                    prefixes = prefixes.iter().flat_map(with).collect();
                    pinned += 1;
                }
                Some(Restriction::Range(Range { start, end })) => {
                    let range = |prefix: Vec<u8>| {
                        Span::range([&prefix[..], &start].concat(), [&prefix[..], &end].concat())
                    };
                    let spans = prefixes.into_iter().map(range).collect();
                    return Some(Lookup { spans, pinned, is_bounded: true });
                }
                Some(Restriction::Values(_)) | None if pinned == 0 => return None,
                Some(Restriction::Values(_)) | None => {
                    let spans = prefixes.into_iter().map(Span::beginning_with).collect();
                    return Some(Lookup { spans, pinned, is_bounded: false });
                }
            }
        }
        let spans = prefixes.into_iter().map(Span::point).collect();
        Some(Lookup { spans, pinned, is_bounded: false })
    }

    /// The fields of an index that would serve a condition: those that it gives values, or the one that
    /// it gives a range. `None` if none would.
    pub fn serving(condition: &Predicate) -> Option<IndexPaths> {
        let restrictions = restrictions(condition);
        let is_pinned = |restriction: &Restriction| matches!(restriction, Restriction::Values(_));
        let pinned = restrictions.iter().filter(|(_, restriction)| is_pinned(restriction));
        let mut paths: Vec<_> = pinned.map(|(path, _)| (*path).clone()).take(MAX_PATHS).collect();
        if paths.is_empty() {
            paths.extend(restrictions.keys().next().map(|path| (*path).clone()));
        }
        IndexPaths::new(paths).ok()
    }
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
    fn point(mut values: Vec<u8>) -> Self {
        values.truncate(MAX_ENTRY_BYTES);
        Span::Point(values)
    }

    fn beginning_with(values: Vec<u8>) -> Self {
        let end = key::after(&values);
        Span::range(values, end)
    }

    /// Entries are cut, so what is cut of the end may be just above one.
    fn range(mut start: Vec<u8>, mut end: Vec<u8>) -> Self {
        start.truncate(MAX_ENTRY_BYTES);
        if end.len() > MAX_ENTRY_BYTES {
            end.truncate(MAX_ENTRY_BYTES);
            end = key::after(&end);
        }
        Span::Range(start..end)
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

/// What a condition says of fields that an index serves.
fn restrictions(condition: &Predicate) -> BTreeMap<&FieldPath, Restriction> {
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
    all
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
