//! The SELECT that finds what an UPDATE or DELETE changes.

use anabranch_core::ids::Collection;
use anabranch_core::query::{self, Args, MAX_STATEMENT_BYTES, Predicate, Statement};

use crate::error::{Code, Refusal};

/// How many places of a statement are tried as its WHERE.
const MAX_TRIES: usize = 64;

/// The text of `SELECT columns FROM collection WHERE filter`, and the arguments that it needs, if
/// any.
///
/// With its arguments in place a condition may be longer than a statement; then the condition is
/// taken from the statement as it was written.
pub(super) fn text<'a>(
    columns: &str,
    collection: &Collection,
    filter: &Predicate,
    statement: &str,
    args: &'a Args,
) -> Result<(String, Option<&'a Args>), Refusal> {
    let head = format!("SELECT {columns} FROM `{collection}` WHERE ");
    let condition = filter.to_string();
    if head.len() + condition.len() <= MAX_STATEMENT_BYTES {
        let text = format!("{head}{condition}");
        // To change other documents than those that were meant would be worst of all.
        if selects(&text, filter, &Args::new()) {
            return Ok((text, None));
        }
    }
    // Lower case in ASCII keeps the places of all bytes.
    let lower = statement.to_ascii_lowercase();
    lower
        .match_indices("where")
        .take(MAX_TRIES)
        .map(|(at, word)| format!("{head}{}", &statement[at + word.len()..]))
        .find(|candidate| selects(candidate, filter, args))
        .map(|text| (text, Some(args)))
        .ok_or_else(|| {
            let message = "the condition is too long with its arguments in place";
            Refusal::new(Code::TooLong, message)
                .with_hint("change the documents in several statements")
        })
}

/// Whether a text is a SELECT with this very condition: a `where` within a string never is.
fn selects(text: &str, filter: &Predicate, args: &Args) -> bool {
    match query::parse(text, args) {
        Ok(Statement::Select(select)) => select.filter.as_ref() == Some(filter),
        _ => false,
    }
}
