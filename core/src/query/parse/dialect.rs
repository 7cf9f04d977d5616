//! How text falls into words.

use sqlparser::dialect::Dialect;

/// Our dialect: bare names of letters, digits and `_`; backticks and double quotes around others;
/// strings in single quotes without backslash escapes; nested comments.
#[derive(Debug)]
pub(super) struct AnabranchDialect;

impl Dialect for AnabranchDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_'
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`' || ch == '"'
    }

    fn supports_string_literal_backslash_escape(&self) -> bool {
        false
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }
}
