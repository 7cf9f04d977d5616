//! What was read, where it stood, and what is wrong with it there.

use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::expr::Expr;
use super::super::select::Part;
use super::cursor::shorten;
use crate::Value;

/// An expression and where it came from.
pub(super) struct Term {
    pub(super) expr: Expr,
    pub(super) location: Location,
    /// The argument's name, if it is one.
    pub(super) argument: Option<String>,
}

/// A value that does not depend on a document.
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) location: Location,
    /// The argument's name, if it is one.
    pub(super) argument: Option<String>,
}

impl Term {
    pub(super) fn new(expr: Expr, location: Location) -> Self {
        Term { expr, location, argument: None }
    }

    /// What can be true or false.
    pub(super) fn into_condition(self) -> Result<Expr, QueryError> {
        if self.expr.may_be_condition() { Ok(self.expr) } else { Err(self.unfit("a condition")) }
    }

    /// What a clause is made of.
    pub(super) fn into_part(self) -> Part {
        Part { expr: self.expr, location: self.location }
    }

    /// The error that something else belongs here.
    pub(super) fn unfit(&self, expected: &str) -> QueryError {
        let found = match &self.expr {
            Expr::Literal(value) => describe_given(self.argument.as_deref(), value),
            expr => format!("'{}'", shorten(&expr.to_string())),
        };
        invalid(expected, &found).at(self.location)
    }
}

impl Given {
    /// The error that a value of another type, or another one of this type, belongs here.
    pub(super) fn unfit(&self, expected: &str) -> QueryError {
        let found = describe_given(self.argument.as_deref(), &self.value);
        invalid(expected, &found).at(self.location)
    }
}

fn invalid(expected: &str, found: &str) -> QueryError {
    let message = format!("expected {expected}, found {found}");
    QueryError::new(QueryErrorCode::InvalidArgument, message)
}

fn describe_given(argument: Option<&str>, value: &Value) -> String {
    match argument {
        Some(name) => format!("argument ':{name}', which is {}", describe(value)),
        None => describe(value),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) => value.to_json(),
        Value::Int(_) | Value::Float(_) => format!("the number {value}"),
        Value::String(text) => format!("the string '{}'", shorten(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
