//! Constants, arguments, arrays and objects.

use std::collections::BTreeSet;

use sqlparser::tokenizer::{Token, Word};

use super::super::MAX_DEPTH;
use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::expr::Expr;
use super::cursor::{Cursor, shorten, syntax_error};
use super::term::{Given, Term};
use crate::Value;

impl Cursor<'_> {
    /// Reads a value that does not depend on a document.
    pub(super) fn value(&mut self) -> Result<Given, QueryError> {
        let had_fields = std::mem::replace(&mut self.has_fields, false);
        let term = self.operation();
        self.has_fields = had_fields;
        let Term { expr, location, argument } = term?;
        let constant = expr.constant(&self.budget).flatten();
        if self.budget.is_spent() {
            let message = "what the statement computes of constants is too much";
            return Err(QueryError::new(QueryErrorCode::TooLong, message)
                .at(location)
                .with_hint("compute it before, and give it as an argument"));
        }
        match constant {
            Some(value) => Ok(Given { value, location, argument }),
            None => {
                let found = shorten(&expr.to_string());
                let message = format!("expected a value, found '{found}', which is missing");
                Err(QueryError::new(QueryErrorCode::InvalidArgument, message).at(location))
            }
        }
    }

    /// Reads a number, a string, an argument, an array or an object.
    pub(super) fn literal(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        if self.take(&Token::Colon) {
            return self.given_argument(location);
        }
        let expr = match self.peek() {
            Token::LBracket => self.inside_literal(Self::array)?,
            Token::LBrace => self.inside_literal(Self::object)?,
            Token::Number(..) => Expr::Literal(self.number("")?),
            Token::SingleQuotedString(_) => match self.advance() {
                Token::SingleQuotedString(text) => Expr::Literal(Value::String(text)),
                _ => return Err(self.expected("a value")),
            },
            Token::Word(Word { quote_style: Some('"'), .. }) => {
                let text = self.json_string().map_err(|error| error.at(location))?;
                Expr::Literal(Value::String(text))
            }
            _ => return Err(self.expected("a value")),
        };
        self.checked(Term::new(expr, location))
    }

    /// Reads `true`, `false` or `null`, if one stands here.
    pub(super) fn constant(&mut self) -> Result<Option<Value>, QueryError> {
        if self.at_keyword("missing") {
            let hint = "test for a missing field with IS MISSING";
            return Err(self.expected("a value").with_hint(hint));
        }
        let constants =
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)];
        let found = constants.into_iter().find(|(word, _)| self.take_keyword(word));
        Ok(found.map(|(_, value)| value))
    }

    fn given_argument(&mut self, location: Location) -> Result<Term, QueryError> {
        let (name, value) = self.argument(false)?;
        let term = Term { expr: Expr::Literal(value), location, argument: Some(name) };
        self.checked(term)
    }

    /// Refuses a constant that nests, with the literal that it stands in, deeper than documents may, or
    /// that is one too many of those that were computed.
    pub(super) fn computed(&mut self, term: Term) -> Result<Term, QueryError> {
        if let Expr::Literal(value) = &term.expr {
            self.charge(value).map_err(|error| error.at(term.location))?;
        }
        self.checked(term)
    }

    /// Refuses a constant that nests, with the literal that it stands in, deeper than documents may.
    pub(super) fn checked(&self, term: Term) -> Result<Term, QueryError> {
        match &term.expr {
            Expr::Literal(value) => {
                let outside = if self.is_inside_literal() { self.depth } else { 0 };
                check_depth(value, outside).map_err(|error| error.at(term.location))?;
                Ok(term)
            }
            _ => Ok(term),
        }
    }

    /// Reads a number, from its digits.
    pub(super) fn number(&mut self, sign: &str) -> Result<Value, QueryError> {
        let location = self.location();
        match self.advance() {
            Token::Number(digits, false) => {
                number(&format!("{sign}{digits}")).map_err(|error| error.at(location))
            }
            Token::Number(digits, true) => {
                Err(syntax_error(format!("expected a number, found '{digits}L'")).at(location))
            }
            _ => Err(self.expected("a number")),
        }
    }

    fn array(&mut self) -> Result<Expr, QueryError> {
        self.expect(&Token::LBracket)?;
        let mut items = Vec::new();
        if !self.take(&Token::RBracket) {
            items = self.list(Self::expression)?;
            if !self.take(&Token::RBracket) {
                return Err(self.expected("',' or ']'"));
            }
        }
        Ok(Expr::Array(items.into_iter().map(|item| item.expr).collect()).folded())
    }

    fn object(&mut self) -> Result<Expr, QueryError> {
        self.expect(&Token::LBrace)?;
        let (mut fields, mut names) = (Vec::new(), BTreeSet::new());
        while !self.take(&Token::RBrace) {
            if !fields.is_empty() && !self.take(&Token::Comma) {
                return Err(self.expected("',' or '}'"));
            }
            let location = self.location();
            let name = self.key()?;
            let field = match self.peek() {
                Token::Colon => {
                    self.advance();
                    self.expression()?
                }
                // `{'key'::argument}`: the two colons come as one token.
                Token::DoubleColon => {
                    let location = self.location();
                    self.advance();
                    self.given_argument(location)?
                }
                _ => return Err(self.expected("':'")),
            };
            if !names.insert(name.clone()) {
                let message = format!("the object has the key '{}' twice", shorten(&name));
                return Err(QueryError::new(QueryErrorCode::DuplicateName, message).at(location));
            }
            fields.push((name, field.expr));
        }
        // In the order in which an object that is constant would have them.
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(Expr::Object(fields).folded())
    }

    fn key(&mut self) -> Result<String, QueryError> {
        let location = self.location();
        match self.peek() {
            Token::SingleQuotedString(_) => match self.advance() {
                Token::SingleQuotedString(key) => Ok(key),
                _ => Err(self.expected("a key")),
            },
            Token::Word(Word { quote_style: Some('"'), .. }) => {
                self.json_string().map_err(|error| error.at(location))
            }
            Token::Word(_) => self.any_word("a key"),
            _ => Err(self.expected("a key")),
        }
    }

    /// A double-quoted string inside a literal. JSON would read escapes where this language has
    /// none: refusing them is better than storing something else than was meant.
    fn json_string(&mut self) -> Result<String, QueryError> {
        let text = self.any_word("a string")?;
        if text.contains('\\') {
            let message = "backslash escapes are not supported in strings";
            return Err(QueryError::new(QueryErrorCode::Unsupported, message)
                .with_hint("use single quotes, where '\\' stands for itself, or an argument"));
        }
        Ok(text)
    }

    /// A name where a value has to be.
    pub(super) fn found_field(&self) -> QueryError {
        let error = self.expected("a literal or an argument");
        match self.peek() {
            Token::Word(Word { value, quote_style: Some('"'), .. }) => {
                error.with_hint(format!("a string has single quotes: '{}'", shorten(value)))
            }
            _ if error.hint().is_some() => error,
            _ => QueryError::new(QueryErrorCode::Unsupported, error.message())
                .at(self.location())
                .with_hint(
                    "expressions over fields are not supported here; a string has single quotes, \
                     an argument is written ':name'",
                ),
        }
    }
}

/// A number as JSON reads it: digits alone are an integer, which must fit.
fn number(text: &str) -> Result<Value, QueryError> {
    let invalid = |message: String| QueryError::new(QueryErrorCode::InvalidArgument, message);
    if text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Value::Int).map_err(|_| {
            invalid(format!("integer {} does not fit 64 bits with a sign", shorten(text)))
                .with_hint("write it as a string, or with a fraction if it may be rounded")
        });
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(Value::Float(float)),
        _ => Err(invalid(format!("number {} is too large", shorten(text)))),
    }
}

/// Refuses values that nest deeper than documents may, so many levels down.
pub(super) fn check_depth(value: &Value, outside: usize) -> Result<(), QueryError> {
    if outside + value.depth() <= MAX_DEPTH {
        return Ok(());
    }
    let message = format!("the value nests deeper than {MAX_DEPTH} levels");
    Err(QueryError::new(QueryErrorCode::TooDeep, message))
}
