//! Conditions, by descent: OR, AND, NOT, comparison, operand.

use sqlparser::tokenizer::{Token, Word};

use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::path::FieldPath;
use super::super::pattern::Pattern;
use super::super::predicate::{Comparison, Node, Operand, Predicate};
use super::cursor::{Cursor, syntax_error};
use super::literal::Given;
use crate::Value;

/// Something that may turn out to be compared or to be a condition: `(a)` can be either.
enum Term {
    Path(FieldPath),
    Value(Given),
    Condition(Node, Location),
}

impl Term {
    fn into_operand(self) -> Result<Operand, QueryError> {
        match self {
            Term::Path(path) => Ok(Operand::Path(path)),
            Term::Value(given) => Ok(Operand::Literal(given.value)),
            Term::Condition(_, location) => Err(syntax_error(
                "expected a field, a literal or an argument to compare, found a condition",
            )
            .at(location)),
        }
    }

    fn into_condition(self) -> Result<Node, QueryError> {
        match self {
            Term::Path(path) => Ok(Node::Truth(path)),
            Term::Value(given) => match given.value {
                Value::Bool(constant) => Ok(Node::Constant(Some(constant))),
                Value::Null => Ok(Node::Constant(None)),
                _ => Err(given.unfit("a condition")),
            },
            Term::Condition(node, _) => Ok(node),
        }
    }
}

impl Cursor<'_> {
    /// Reads a condition.
    pub(super) fn predicate(&mut self) -> Result<Predicate, QueryError> {
        Predicate::new(self.any()?.into_condition()?)
    }

    fn any(&mut self) -> Result<Term, QueryError> {
        self.chain("OR", Self::all, Node::any)
    }

    fn all(&mut self) -> Result<Term, QueryError> {
        self.chain("AND", Self::negation, Node::all)
    }

    /// One term, or several with a word between them.
    fn chain(
        &mut self,
        word: &str,
        read: fn(&mut Self) -> Result<Term, QueryError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Term, QueryError> {
        let location = self.location();
        let first = read(self)?;
        if !self.at_keyword(word) {
            return Ok(first);
        }
        let mut nodes = vec![first.into_condition()?];
        while self.take_keyword(word) {
            nodes.push(read(self)?.into_condition()?);
        }
        Ok(Term::Condition(join(nodes), location))
    }

    fn negation(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        if !self.take_keyword("NOT") {
            return self.comparison();
        }
        let inner = self.nested(Self::negation)?.into_condition()?;
        Ok(Term::Condition(Node::Not(Box::new(inner)), location))
    }

    fn comparison(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        let left = self.term()?;
        if let Some(comparison) = comparison(self.peek()) {
            self.advance();
            let left = left.into_operand()?;
            let right = self.term()?.into_operand()?;
            return Ok(Term::Condition(Node::Compare(comparison, left, right), location));
        }
        if self.take_keyword("IS") {
            let negated = self.take_keyword("NOT");
            let left = left.into_operand()?;
            let test = if self.take_keyword("NULL") {
                Node::IsNull(left)
            } else if self.take_keyword("MISSING") {
                Node::IsMissing(left)
            } else {
                let expected = if negated { "NULL or MISSING" } else { "NOT, NULL or MISSING" };
                return Err(self.expected(expected));
            };
            return Ok(Term::Condition(negate_if(negated, test), location));
        }
        let negated =
            ["IN", "BETWEEN", "LIKE"].into_iter().any(|test| self.at_keywords("NOT", test))
                && self.take_keyword("NOT");
        let test = if self.take_keyword("IN") {
            Node::is_in(left.into_operand()?, self.members()?)
        } else if self.take_keyword("BETWEEN") {
            let left = left.into_operand()?;
            let low = self.term()?.into_operand()?;
            self.expect_keyword("AND")?;
            Node::Between(left, low, self.term()?.into_operand()?)
        } else if self.take_keyword("LIKE") {
            Node::Like(left.into_operand()?, self.pattern()?)
        } else {
            return Ok(left);
        };
        Ok(Term::Condition(negate_if(negated, test), location))
    }

    /// What follows IN: values in parentheses, or an array. One argument in parentheses that is
    /// an array is the list itself: nobody writes IN to compare with a single array.
    fn members(&mut self) -> Result<Vec<Value>, QueryError> {
        if matches!(self.peek(), Token::Colon | Token::LBracket) {
            let given = self.value()?;
            return match given.value {
                Value::Array(values) => Ok(values),
                _ => Err(given.unfit("an array")),
            };
        }
        if !self.take(&Token::LParen) {
            return Err(self.expected("'(', an array or an argument"));
        }
        if self.take(&Token::RParen) {
            return Ok(Vec::new());
        }
        let mut members = self.list(Self::value)?;
        if !self.take(&Token::RParen) {
            return Err(self.expected("',' or ')'"));
        }
        if let [Given { value: Value::Array(list), argument: Some(_), .. }] = members.as_mut_slice()
        {
            return Ok(std::mem::take(list));
        }
        Ok(members.into_iter().map(|member| member.value).collect())
    }

    fn pattern(&mut self) -> Result<Pattern, QueryError> {
        let given = self.value()?;
        match &given.value {
            Value::String(text) => Pattern::new(text).map_err(|error| error.at(given.location)),
            _ => Err(given.unfit("a string")),
        }
    }

    fn term(&mut self) -> Result<Term, QueryError> {
        match self.peek() {
            Token::LParen => {
                self.advance();
                let inner = self.nested(Self::any)?;
                if !self.take(&Token::RParen) {
                    return Err(self.expected("')'"));
                }
                Ok(inner)
            }
            Token::Word(Word { value, quote_style: None, .. })
                if ["true", "false", "null", "missing"]
                    .iter()
                    .any(|constant| constant.eq_ignore_ascii_case(value)) =>
            {
                self.value().map(Term::Value)
            }
            Token::Word(_) => self.path().map(Term::Path),
            Token::Colon
            | Token::LBracket
            | Token::LBrace
            | Token::SingleQuotedString(_)
            | Token::Number(..)
            | Token::Minus => self.value().map(Term::Value),
            _ => Err(self.expected("a condition or a value")),
        }
    }

    /// Reads the path of a field.
    pub(super) fn path(&mut self) -> Result<FieldPath, QueryError> {
        let location = self.location();
        let mut steps = vec![self.name("a field")?];
        if *self.peek() == Token::LParen {
            let message = format!("functions are not supported: '{}'", steps[0]);
            return Err(QueryError::new(QueryErrorCode::Unsupported, message).at(location));
        }
        while self.take(&Token::Period) {
            steps.push(self.any_word("a field after '.'")?);
        }
        match self.peek() {
            Token::Number(text, _) if text.starts_with('.') => Err(self
                .expected("a field after '.'")
                .with_hint(format!("a name that starts with a digit is quoted: `{}`", &text[1..]))),
            Token::LBracket => Err(self.expected("the end of the path")),
            _ => FieldPath::new(steps).map_err(|error| error.at(location)),
        }
    }
}

fn negate_if(negated: bool, node: Node) -> Node {
    if negated { Node::Not(Box::new(node)) } else { node }
}

fn comparison(token: &Token) -> Option<Comparison> {
    Some(match token {
        Token::Eq | Token::DoubleEq => Comparison::Equal,
        Token::Neq => Comparison::NotEqual,
        Token::Lt => Comparison::Less,
        Token::LtEq => Comparison::LessOrEqual,
        Token::Gt => Comparison::Greater,
        Token::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
