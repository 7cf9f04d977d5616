//! The query language: statements and conditions, parsed, and conditions evaluated.
//!
//! ```text
//! INSERT INTO c DOCUMENTS (:d), ({'_id': 1}) [ON ID CONFLICT policy]
//! SELECT * | path [AS name], .. FROM c [WHERE condition] [LIMIT n]
//! UPDATE c [SET path = value, ..] [UNSET path, ..] [APPLY path INCREMENT BY n, ..] WHERE condition
//! DELETE FROM c WHERE condition
//! policy: FAIL | DO NOTHING | DO UPDATE | DO UPDATE_LOCAL_DIFF
//! ```
//!
//! A condition is made of `= == != <> < <= > >=`, `IS [NOT] NULL`, `IS [NOT] MISSING`, `[NOT] IN`,
//! `[NOT] BETWEEN`, `[NOT] LIKE`, `AND`, `OR`, `NOT` and parentheses over dotted paths, literals
//! and `:arguments`. One evaluator, [`Predicate::matches`], serves reads and replication filters.
//!
//! **Meaning.** NULL and MISSING differ. A comparison with either is unknown, and so is one
//! between values of different types; `x IS NULL` is unknown where `x` is missing, `IS MISSING`
//! never is. A condition that is unknown does not match. Numbers compare exactly, whether they are
//! held as integers or as doubles; strings compare by code point; arrays and objects as in
//! [`total_cmp`].
//!
//! **Text.** Names go bare, in backticks or in double quotes; strings in single quotes, without
//! escapes except the doubled quote. Inside `{}` and `[]` double quotes mean a string, as in JSON.
//! `x IN (:list)` takes an argument that is an array as the list.
//!
//! **Bounds.** Length and nesting of the text are limited, chains of AND and OR are lists and not
//! trees: no text can exhaust the stack.

mod aggregate;
mod error;
mod eval;
mod expr;
mod function;
mod key;
mod order;
mod parse;
mod path;
mod pattern;
mod predicate;
mod select;
mod statement;
#[cfg(test)]
mod tests;
mod text;

pub use error::{Location, QueryError, QueryErrorCode};
pub use order::total_cmp;
pub use parse::{parse, parse_filter, parse_taking};
pub use path::FieldPath;
pub use predicate::Predicate;
pub use select::{Group, Groups, Select, SortedRow, SortedRows};
pub use statement::{Args, Delete, Insert, OnConflict, Statement, Update};

/// The longest statement, in bytes; large values belong into arguments.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024;
/// The longest condition with its arguments in place, and the longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 1024 * 1024;
/// How much memory the copies of arguments that a statement names more than once may take, about,
/// in bytes. Without it a short statement could multiply a large argument by thousands.
pub const MAX_COPIED_BYTES: usize = 16 * 1024 * 1024;
/// How deep parentheses, literals, arguments and paths may nest: as deep as documents.
pub const MAX_DEPTH: usize = 64;
