//! What is wrong with a statement: a stable code, what was found and expected, and a hint.

use std::fmt;

use crate::ErrorKind;

/// A place in a statement, from 1; columns count characters. What stands behind another is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// The sort of a [`QueryError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryErrorCode {
    /// The text does not follow the grammar.
    SyntaxError,
    /// The grammar is known but not part of this version.
    Unsupported,
    /// The statement names an argument that the request lacks.
    UnknownArgument,
    /// An argument's or literal's type or value does not fit its place.
    InvalidArgument,
    /// A collection's name cannot be used.
    InvalidCollection,
    /// An index cannot have this name, or be over these fields.
    InvalidIndex,
    /// An UPDATE or DELETE lacks its WHERE.
    MissingWhere,
    /// An UPDATE would change `_id`.
    ImmutableId,
    /// An UPDATE changes the same field twice, or a field and one inside it.
    ConflictingPaths,
    /// Two columns of a SELECT or two keys of an object have the same name.
    DuplicateName,
    /// The text, a condition with its arguments, or a list is too long, or what is computed of
    /// constants is too much.
    TooLong,
    /// The text or an argument nests too deeply.
    TooDeep,
}

impl QueryErrorCode {
    /// The code as clients see it; it never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            QueryErrorCode::SyntaxError => "syntax_error",
            QueryErrorCode::Unsupported => "unsupported",
            QueryErrorCode::UnknownArgument => "unknown_argument",
            QueryErrorCode::InvalidArgument => "invalid_argument",
            QueryErrorCode::InvalidCollection => "invalid_collection",
            QueryErrorCode::InvalidIndex => "invalid_index",
            QueryErrorCode::MissingWhere => "missing_where",
            QueryErrorCode::ImmutableId => "immutable_id",
            QueryErrorCode::ConflictingPaths => "conflicting_paths",
            QueryErrorCode::DuplicateName => "duplicate_name",
            QueryErrorCode::TooLong => "too_long",
            QueryErrorCode::TooDeep => "too_deep",
        }
    }
}

/// A statement or condition that cannot be run, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct QueryError {
    code: QueryErrorCode,
    message: String,
    location: Option<Location>,
    hint: Option<String>,
}

impl QueryError {
    pub(super) fn new(code: QueryErrorCode, message: impl Into<String>) -> Self {
        QueryError { code, message: message.into(), location: None, hint: None }
    }

    pub(super) fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The stable code, such as `syntax_error`.
    pub fn code(&self) -> &'static str {
        self.code.as_str()
    }

    /// The stable code, to match on.
    pub fn error_code(&self) -> QueryErrorCode {
        self.code
    }

    /// The message without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where in the text: of everything but what is wrong with the text as a whole.
    pub fn location(&self) -> Option<Location> {
        self.location
    }

    /// What to do about it, if there is more to say than the message does.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Always `Invalid`: the same text with the same arguments fails again.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.location {
            Some(Location { line, column }) => write!(f, " at line {line}, column {column}"),
            None => Ok(()),
        }
    }
}
