//! A place in the text, and errors about what is found there.

use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location as TokenLocation, Token, Tokenizer, Word};

use super::super::MAX_DEPTH;
use super::super::budget::Budget;
use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::path::is_reserved;
use super::arguments::{Arguments, Mentions};
use super::calls::Aggregates;
use super::dialect::AnabranchDialect;
use crate::Value;

/// What is read next, the arguments, and how deep in parentheses or brackets it is.
pub(super) struct Cursor<'a> {
    parser: Parser<'static>,
    args: Arguments<'a>,
    mentions: Mentions,
    /// What may be computed of constants: one for the text, as evaluating has one for a document.
    pub(super) budget: Budget,
    end: Location,
    /// How deep it is nested: within the outermost literal around it, or if there is none at all.
    pub(super) depth: usize,
    is_inside_literal: bool,
    /// Whether there is a document whose fields can be named.
    pub(super) has_fields: bool,
    pub(super) aggregates: Aggregates,
}

/// Words of SQL that this language does not have here; they deserve a better error than others.
const UNSUPPORTED: [&str; 11] = [
    "ALTER",
    "CAST",
    "DISTINCT",
    "ESCAPE",
    "EXISTS",
    "JOIN",
    "RETURNING",
    "SELECT",
    "UNION",
    "VALUES",
    "WITH",
];

impl<'a> Cursor<'a> {
    pub(super) fn new(
        text: &'a str,
        args: Arguments<'a>,
        limit: usize,
    ) -> Result<Self, QueryError> {
        if text.len() > limit {
            // Of all of the text: no part of it is too long.
            let message = format!("the text is {} bytes long; the limit is {limit}", text.len());
            let error = QueryError::new(QueryErrorCode::TooLong, message);
            return Err(match args {
                Arguments::None => error,
                _ => error.with_hint("give large values as arguments"),
            });
        }
        let tokens =
            Tokenizer::new(&AnabranchDialect, text).tokenize_with_location().map_err(|error| {
                let message = error.message.trim_end_matches('.').to_lowercase();
                let found = syntax_error(message).at(location_of(error.location));
                if error.message.contains("character '_'") {
                    return found.with_hint("behind ']' or ')' such a field is quoted: .`_id`");
                }
                found
            })?;
        let end = tokens.last().map_or(TokenLocation::new(1, 1), |last| last.span.end);
        let mentions = Mentions::new(&tokens);
        Ok(Cursor {
            parser: Parser::new(&AnabranchDialect).with_tokens_with_locations(tokens),
            args,
            mentions,
            budget: Budget::new(),
            end: location_of(end),
            depth: 0,
            is_inside_literal: false,
            has_fields: true,
            aggregates: Aggregates::Elsewhere,
        })
    }

    /// The next token; `Token::EOF` at the end.
    pub(super) fn peek(&self) -> &Token {
        &self.parser.peek_token_ref().token
    }

    /// The token after the next.
    pub(super) fn peek_second(&self) -> &Token {
        &self.parser.peek_nth_token_ref(1).token
    }

    /// Where the next token starts.
    pub(super) fn location(&self) -> Location {
        match self.parser.peek_token_ref() {
            token if token.token == Token::EOF => self.end,
            token => location_of(token.span.start),
        }
    }

    /// Moves past the next token and returns it.
    pub(super) fn advance(&mut self) -> Token {
        self.parser.next_token().token
    }

    /// Moves past the next token if it is this one.
    pub(super) fn take(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    /// Moves past the next token, which must be this one.
    pub(super) fn expect(&mut self, token: &Token) -> Result<(), QueryError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&format!("'{token}'"))) }
    }

    /// The text must end here, after at most one semicolon.
    pub(super) fn expect_end(&mut self, expected: &str) -> Result<(), QueryError> {
        if self.take(&Token::SemiColon) && *self.peek() != Token::EOF {
            let error = self.expected("the end after ';'");
            return Err(syntax_error(error.message())
                .at(self.location())
                .with_hint("send one statement at a time"));
        }
        if *self.peek() == Token::EOF { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// Whether the next token is this word, bare and in any case.
    pub(super) fn at_keyword(&self, keyword: &str) -> bool {
        is_keyword(self.peek(), keyword)
    }

    /// Whether the next two tokens are these words.
    pub(super) fn at_keywords(&self, first: &str, second: &str) -> bool {
        self.at_keyword(first) && is_keyword(self.peek_second(), second)
    }

    /// Moves past the next token if it is this word.
    pub(super) fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.at_keyword(keyword);
        if found {
            self.parser.advance_token();
        }
        found
    }

    /// Moves past the next token, which must be this word.
    pub(super) fn expect_keyword(&mut self, keyword: &str) -> Result<(), QueryError> {
        if self.take_keyword(keyword) { Ok(()) } else { Err(self.expected(keyword)) }
    }

    /// Reads a name: a word that is not reserved, or anything in backticks or double quotes.
    pub(super) fn name(&mut self, expected: &str) -> Result<String, QueryError> {
        match self.peek() {
            Token::Word(Word { value, quote_style: None, .. }) if is_reserved(value) => {
                let error = self.expected(expected);
                if error.error_code() == QueryErrorCode::Unsupported {
                    return Err(error);
                }
                let hint = format!("a name that is a word of the language is quoted: `{value}`");
                Err(syntax_error(error.message()).at(self.location()).with_hint(hint))
            }
            Token::Word(_) => self.any_word(expected),
            Token::SingleQuotedString(text) => {
                let hint = format!("names are written bare or in backticks: `{}`", shorten(text));
                Err(self.expected(expected).with_hint(hint))
            }
            _ => Err(self.expected(expected)),
        }
    }

    /// Reads a word, reserved or not.
    pub(super) fn any_word(&mut self, expected: &str) -> Result<String, QueryError> {
        match self.peek() {
            Token::Word(_) => match self.advance() {
                Token::Word(word) => Ok(word.value),
                _ => Err(self.expected(expected)),
            },
            Token::Number(..) => Err(self
                .expected(expected)
                .with_hint("a name that starts with a digit is quoted, such as `2nd`")),
            _ => Err(self.expected(expected)),
        }
    }

    /// Reads one or more, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, QueryError>,
    ) -> Result<Vec<T>, QueryError> {
        let mut items = vec![read(self)?];
        while self.take(&Token::Comma) {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Reads something, and tells where it begins.
    pub(super) fn placed<T>(
        &mut self,
        read: fn(&mut Self) -> Result<T, QueryError>,
    ) -> Result<(Location, T), QueryError> {
        let location = self.location();
        read(self).map(|read| (location, read))
    }

    /// Reads something one level deeper, if that is not too deep.
    pub(super) fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.depth == MAX_DEPTH {
            let message = format!("the text nests deeper than {MAX_DEPTH} levels");
            return Err(QueryError::new(QueryErrorCode::TooDeep, message).at(self.location()));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Whether it is within an array or object that is written out.
    pub(super) fn is_inside_literal(&self) -> bool {
        self.is_inside_literal
    }

    /// Reads an array or object. The nesting of the outermost one counts from itself, as that of an
    /// argument does.
    pub(super) fn inside_literal<T>(
        &mut self,
        read: fn(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.is_inside_literal {
            return self.nested(read);
        }
        let outside = std::mem::take(&mut self.depth);
        self.is_inside_literal = true;
        let result = self.nested(read);
        self.is_inside_literal = false;
        self.depth = outside;
        result
    }

    /// Reads `name` right after a colon and returns it with its value. Where `may_take`, the value
    /// may be gone from the arguments.
    pub(super) fn argument(&mut self, may_take: bool) -> Result<(String, Value), QueryError> {
        let location = self.location();
        let adjacent = {
            let previous = self.parser.get_current_token().span.end;
            previous == self.parser.peek_token_ref().span.start
        };
        let name = match self.peek() {
            Token::Word(Word { value, quote_style: None, .. }) if adjacent => value.clone(),
            _ => {
                return Err(self
                    .expected("an argument's name right after ':'")
                    .with_hint("an argument is written ':name'"));
            }
        };
        self.parser.advance_token();
        if !self.args.have(&name) {
            return Err(self.missing_argument(&name).at(location));
        }
        let value = self.args.value(&name, may_take, &mut self.mentions);
        value.map(|value| (name, value)).map_err(|error| error.at(location))
    }

    /// Which arguments the text names.
    pub(super) fn into_mentions(self) -> Mentions {
        self.mentions
    }

    /// Whether it has read the name of a claim that is not there.
    pub(super) fn lacks_claims(&self) -> bool {
        matches!(self.args, Arguments::Claims { lacks: true, .. })
    }

    /// Counts what is computed of constants like copies of arguments.
    pub(super) fn charge(&mut self, computed: &Value) -> Result<(), QueryError> {
        self.mentions.charge(computed)
    }

    fn missing_argument(&self, name: &str) -> QueryError {
        let error =
            QueryError::new(QueryErrorCode::UnknownArgument, format!("missing argument ':{name}'"));
        let Some(args) = self.args.all() else {
            return error.with_hint("a filter has no arguments: write the value into it");
        };
        if args.contains_key(&format!(":{name}")) {
            return error
                .with_hint(format!("arguments are named without the colon: give it as '{name}'"));
        }
        let unused: Vec<_> = args
            .keys()
            .filter(|given| !self.mentions.have(given))
            .take(3)
            .map(|given| format!("'{}'", shorten(given)))
            .collect();
        if unused.is_empty() {
            error.with_hint(format!("give a value for '{name}' with the statement"))
        } else {
            let unused = unused.join(", ");
            error.with_hint(format!("given, but not used by the statement: {unused}"))
        }
    }

    /// The error that something else was expected here.
    pub(super) fn expected(&self, expected: &str) -> QueryError {
        let found = self.peek();
        let message = format!("expected {expected}, found {}", describe(found));
        let (code, hint) = match found {
            Token::Word(Word { value, quote_style: None, .. })
                if UNSUPPORTED.iter().any(|word| word.eq_ignore_ascii_case(value)) =>
            {
                let hint = format!("{} is not supported here", value.to_uppercase());
                (QueryErrorCode::Unsupported, Some(hint))
            }
            Token::Placeholder(_) | Token::AtSign => {
                let hint = "an argument is written ':name'";
                (QueryErrorCode::SyntaxError, Some(hint.to_owned()))
            }
            _ => (QueryErrorCode::SyntaxError, None),
        };
        let error = QueryError::new(code, message).at(self.location());
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// An error in the grammar.
pub(super) fn syntax_error(message: impl Into<String>) -> QueryError {
    QueryError::new(QueryErrorCode::SyntaxError, message)
}

/// The start of a text, for messages.
pub(in super::super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_keyword(token: &Token, keyword: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. })
        if value.eq_ignore_ascii_case(keyword))
}

fn describe(token: &Token) -> String {
    match token {
        Token::EOF => "the end".to_owned(),
        Token::SingleQuotedString(text) => format!("the string '{}'", shorten(text)),
        Token::Number(text, _) => format!("the number {}", shorten(text)),
        other => format!("'{}'", shorten(&other.to_string())),
    }
}

fn location_of(location: TokenLocation) -> Location {
    Location { line: location.line, column: location.column }
}
