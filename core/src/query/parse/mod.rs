//! From text to statements.
//!
//! The words come from `sqlparser`, whose tokenizer reads them in a dialect of ours and
//! whose parser is the cursor over them. The grammar on top of it is ours: `sqlparser`'s own
//! expressions are trees as deep as a chain of operators is long, which overflow the stack when
//! they are dropped, and they give meaning to words such as `interval` that are ordinary fields.

mod arguments;
mod calls;
mod cursor;
mod dialect;
mod expression;
mod indexes;
mod literal;
mod select;
mod statements;
mod term;

use self::arguments::{Arguments, Mentions};
use self::cursor::Cursor;
pub(super) use self::cursor::shorten;
use super::error::QueryError;
use super::predicate::Predicate;
use super::statement::{Args, Statement};
use super::{MAX_FILTER_BYTES, MAX_RULE_BYTES, MAX_STATEMENT_BYTES};

/// Reads one statement and puts the arguments in place. Arguments that it does not name are
/// ignored.
pub fn parse(statement: &str, args: &Args) -> Result<Statement, QueryError> {
    let mut cursor = Cursor::new(statement, Arguments::Shared(args), MAX_STATEMENT_BYTES)?;
    cursor.statement()
}

/// Like [`parse`], but takes documents that an INSERT names once out of the arguments, which
/// leaves NULL there: they may be large, and copying them is most of the work.
pub fn parse_taking(statement: &str, args: &mut Args) -> Result<Taken, QueryError> {
    let mut cursor = Cursor::new(statement, Arguments::Own(args), MAX_STATEMENT_BYTES)?;
    Ok(Taken { statement: cursor.statement()?, mentions: cursor.into_mentions() })
}

/// What [`parse_taking`] has read.
#[derive(Debug)]
pub struct Taken {
    /// The statement, with the arguments in place.
    pub statement: Statement,
    mentions: Mentions,
}

impl Taken {
    /// Whether the statement names an argument: what only looks like one counts, too.
    pub fn names(&self, argument: &str) -> bool {
        self.mentions.have(argument)
    }
}

/// A rule with the claims of somebody in place.
pub(super) struct BoundRule {
    pub(super) condition: Result<Predicate, QueryError>,
    /// It names claims that are not there: NULL is in their places.
    pub(super) lacks_claims: bool,
}

/// Reads a rule: a condition alone, whose arguments are claims.
pub(super) fn bind_rule(rule: &str, claims: &Args) -> Result<BoundRule, QueryError> {
    let args = Arguments::Claims { given: claims, lacks: false };
    let mut cursor = Cursor::new(rule, args, MAX_RULE_BYTES)?;
    let condition = cursor.whole_condition("AND, OR or the end of the rule");
    Ok(BoundRule { condition, lacks_claims: cursor.lacks_claims() })
}

/// Reads a condition alone, as it stands after WHERE. It takes no arguments.
pub fn parse_filter(predicate: &str) -> Result<Predicate, QueryError> {
    let mut cursor = Cursor::new(predicate, Arguments::None, MAX_FILTER_BYTES)?;
    cursor.whole_condition("AND, OR or the end of the filter")
}
