//! The query language: statements and conditions, parsed, and expressions evaluated. It is described
//! for users in `docs/query.md`.
//!
//! ```text
//! INSERT INTO c DOCUMENTS (:d), ({'_id': 1}) [ON ID CONFLICT policy]
//! SELECT [DISTINCT] * | expression [AS name], .. FROM c [WHERE condition] [GROUP BY expression, ..]
//!     [HAVING condition] [ORDER BY expression [ASC | DESC], ..] [LIMIT n] [OFFSET n]
//! UPDATE c [SET path = value, ..] [UNSET path, ..] [APPLY path INCREMENT BY n, ..] WHERE condition
//! DELETE FROM c WHERE condition
//! EVICT FROM c WHERE condition
//! CREATE INDEX [IF NOT EXISTS] name ON c (path, ..)
//! DROP INDEX [IF EXISTS] name ON c
//! EXPLAIN select | update | delete | evict
//! EXPLAIN ANALYZE select
//! policy: FAIL | DO NOTHING | DO UPDATE | DO UPDATE_LOCAL_DIFF
//! ```
//!
//! One evaluator serves all: a condition ([`Predicate`]), what a [`Select`] makes of documents, and
//! what it accumulates over them ([`Groups`]). Everything is a pure function of documents.
//!
//! **Meaning.** NULL and MISSING differ. A comparison with either is unknown, and so is one
//! between values of different types; `x IS NULL` is unknown where `x` is missing, `IS MISSING`
//! never is. A condition that is unknown does not match. Operators and functions of what is MISSING
//! are MISSING, of what does not fit them NULL. Numbers compare exactly, whether they are
//! held as integers or as doubles; strings compare by code point; arrays and objects as in
//! [`total_cmp`].
//!
//! **Text.** Names go bare, in backticks or in double quotes; strings in single quotes, without
//! escapes except the doubled quote. Inside `{}` and `[]` double quotes mean a string, as in JSON.
//! `x IN (:list)` takes an argument that is an array as the list.
//!
//! **Bounds.** Length and nesting of the text are limited; chains of AND, OR and operators are lists
//! and not trees: no text can exhaust the stack. What constants and columns multiply to is counted when
//! a statement is parsed, what a row makes and how much work it is when it is evaluated.

mod aggregate;
mod budget;
mod error;
mod eval;
mod expr;
mod function;
mod index;
mod key;
mod order;
mod parse;
mod path;
mod pattern;
mod predicate;
mod rule;
mod select;
mod statement;
#[cfg(test)]
mod tests;
mod text;

pub use budget::Meter;
pub use error::{Location, QueryError, QueryErrorCode};
pub use index::{IndexName, IndexOver, IndexPaths, Lookup, Restrictions, Span};
pub use order::total_cmp;
pub use parse::{Taken, parse, parse_filter, parse_taking};
pub use path::FieldPath;
pub use predicate::Predicate;
pub use rule::{Allowed, Rule};
pub use select::{Group, Groups, Select, SortedRow, SortedRows, TooLarge, place};
pub use statement::{
    Args, CreateIndex, Delete, DropIndex, Evict, Explain, Insert, OnConflict, Statement, Update,
};

/// The longest statement, in bytes; large values belong into arguments.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024;
/// The longest condition with its arguments in place, and the longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 1024 * 1024;
/// The longest rule, without and with the claims in place, in bytes: it stands in the log with what is
/// written under it.
pub const MAX_RULE_BYTES: usize = 16 * 1024;
/// How much memory the copies of arguments that a statement names more than once may take, about,
/// in bytes. Without it a short statement could multiply a large argument by thousands.
pub const MAX_COPIED_BYTES: usize = 16 * 1024 * 1024;
/// How deep parentheses, literals, arguments and paths may nest: as deep as documents.
pub const MAX_DEPTH: usize = 64;
