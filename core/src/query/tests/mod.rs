//! Tests of the query language.

mod budget;
mod conditions;
mod errors;
mod functions;
mod groups;
mod indexes;
mod order;
mod properties;
mod rules;
mod statements;

use super::{Args, Predicate, QueryError, Statement, parse, parse_filter};
use crate::Value;

fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

/// Arguments from the text of a JSON object.
fn args(text: &str) -> Args {
    json(text).as_object().unwrap().clone()
}

/// Parses a statement that is right.
fn run(statement: &str, arguments: &str) -> Statement {
    parse(statement, &args(arguments)).unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// Parses a statement that is wrong.
fn fail(statement: &str, arguments: &str) -> QueryError {
    parse(statement, &args(arguments)).expect_err(statement)
}

fn filter(text: &str) -> Predicate {
    parse_filter(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
