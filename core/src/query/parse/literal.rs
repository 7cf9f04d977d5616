//! Values: literals and arguments.

use std::collections::BTreeMap;

use sqlparser::tokenizer::{Token, Word};

use super::super::MAX_DEPTH;
use super::super::error::{Location, QueryError, QueryErrorCode};
use super::cursor::{Cursor, shorten, syntax_error};
use crate::Value;

/// A value and where it came from.
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) location: Location,
    /// The argument's name, if it is one.
    pub(super) argument: Option<String>,
}

impl Given {
    /// The error that a value of another type, or another one of this type, belongs here.
    pub(super) fn unfit(&self, expected: &str) -> QueryError {
        let found = match (&self.argument, &self.value) {
            (Some(name), value) => format!("argument ':{name}', which is {}", describe(value)),
            (None, value) => describe(value),
        };
        let message = format!("expected {expected}, found {found}");
        QueryError::new(QueryErrorCode::InvalidArgument, message).at(self.location)
    }
}

impl Cursor<'_> {
    /// Reads a literal or an argument.
    pub(super) fn value(&mut self) -> Result<Given, QueryError> {
        let location = self.location();
        if self.take(&Token::Colon) {
            let (name, value) = self.argument(false)?;
            check_depth(&value).map_err(|error| error.at(location))?;
            return Ok(Given { value, location, argument: Some(name) });
        }
        // The nesting of a literal counts from itself, as that of an argument does.
        let outside = std::mem::take(&mut self.depth);
        let value = self.literal(false);
        self.depth = outside;
        Ok(Given { value: value?, location, argument: None })
    }

    fn literal(&mut self, inside_literal: bool) -> Result<Value, QueryError> {
        let location = self.location();
        match self.peek() {
            Token::LBracket => self.nested(Self::array),
            Token::LBrace => self.nested(Self::object),
            Token::SingleQuotedString(_) | Token::Number(..) => self.scalar(""),
            Token::Minus => {
                self.advance();
                match self.peek() {
                    Token::Number(..) => self.scalar("-"),
                    _ => Err(self.expected("a number after '-'")),
                }
            }
            Token::Word(Word { value, quote_style: None, .. }) => {
                let constant = match value.to_ascii_lowercase().as_str() {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    "null" => Value::Null,
                    "missing" => {
                        return Err(self
                            .expected("a value")
                            .with_hint("test for a missing field with IS MISSING"));
                    }
                    _ => return Err(self.found_field()),
                };
                self.advance();
                Ok(constant)
            }
            Token::Word(Word { quote_style: Some('"'), .. }) if inside_literal => {
                self.json_string().map(Value::String).map_err(|error| error.at(location))
            }
            Token::Word(_) => Err(self.found_field()),
            _ => Err(self.expected("a value")),
        }
    }

    fn scalar(&mut self, sign: &str) -> Result<Value, QueryError> {
        let location = self.location();
        match self.advance() {
            Token::SingleQuotedString(text) => Ok(Value::String(text)),
            Token::Number(digits, false) => {
                number(&format!("{sign}{digits}")).map_err(|error| error.at(location))
            }
            Token::Number(digits, true) => {
                Err(syntax_error(format!("expected a number, found '{digits}L'")).at(location))
            }
            _ => Err(self.expected("a value")),
        }
    }

    /// A value inside an array or object: any, and arguments too.
    fn element(&mut self) -> Result<Value, QueryError> {
        if self.take(&Token::Colon) { self.argument_inside() } else { self.literal(true) }
    }

    /// An argument inside a literal nests as deep as both together.
    fn argument_inside(&mut self) -> Result<Value, QueryError> {
        let location = self.location();
        let (_, value) = self.argument(false)?;
        if self.depth + value.depth() > MAX_DEPTH {
            return Err(too_deep().at(location));
        }
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, QueryError> {
        self.expect(&Token::LBracket)?;
        if self.take(&Token::RBracket) {
            return Ok(Value::Array(Vec::new()));
        }
        let items = self.list(Self::element)?;
        if !self.take(&Token::RBracket) {
            return Err(self.expected("',' or ']'"));
        }
        Ok(Value::Array(items))
    }

    fn object(&mut self) -> Result<Value, QueryError> {
        self.expect(&Token::LBrace)?;
        let mut fields = BTreeMap::new();
        if self.take(&Token::RBrace) {
            return Ok(Value::Object(fields));
        }
        loop {
            let location = self.location();
            let key = self.key()?;
            let value = match self.peek() {
                Token::Colon => {
                    self.advance();
                    self.element()?
                }
                // `{'key'::argument}`: the two colons come as one token.
                Token::DoubleColon => {
                    self.advance();
                    self.argument_inside()?
                }
                _ => return Err(self.expected("':'")),
            };
            if fields.contains_key(&key) {
                let message = format!("the object has the key '{}' twice", shorten(&key));
                return Err(QueryError::new(QueryErrorCode::DuplicateName, message).at(location));
            }
            fields.insert(key, value);
            if self.take(&Token::RBrace) {
                return Ok(Value::Object(fields));
            }
            if !self.take(&Token::Comma) {
                return Err(self.expected("',' or '}'"));
            }
        }
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
    fn found_field(&self) -> QueryError {
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

/// Refuses values that nest deeper than documents may.
pub(super) fn check_depth(value: &Value) -> Result<(), QueryError> {
    if value.depth() > MAX_DEPTH { Err(too_deep()) } else { Ok(()) }
}

fn too_deep() -> QueryError {
    let message = format!("the value nests deeper than {MAX_DEPTH} levels");
    QueryError::new(QueryErrorCode::TooDeep, message)
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
