//! Expressions, by descent: OR, AND, NOT, comparison, operators, sign, steps into a value.

use sqlparser::tokenizer::{Token, Word};

use super::super::MAX_DEPTH;
use super::super::error::{QueryError, QueryErrorCode};
use super::super::expr::{Comparison, Expr, Operator, Precedence, Step};
use super::super::path::FieldPath;
use super::super::pattern::Pattern;
use super::super::predicate::Predicate;
use super::cursor::Cursor;
use super::term::Term;
use crate::Value;

impl Cursor<'_> {
    /// Reads a condition.
    pub(super) fn predicate(&mut self) -> Result<Predicate, QueryError> {
        let location = self.location();
        let condition = self.expression()?.into_condition()?;
        Predicate::new(condition).map_err(|error| error.at(location))
    }

    /// Reads a condition that is all there is.
    pub(super) fn whole_condition(&mut self, end: &str) -> Result<Predicate, QueryError> {
        let predicate = self.predicate()?;
        self.expect_end(end)?;
        Ok(predicate)
    }

    /// Reads an expression.
    pub(super) fn expression(&mut self) -> Result<Term, QueryError> {
        self.junction("OR", Self::all, Expr::any)
    }

    fn all(&mut self) -> Result<Term, QueryError> {
        self.junction("AND", Self::negation, Expr::all)
    }

    /// One term, or several conditions with a word between them.
    fn junction(
        &mut self,
        word: &str,
        read: fn(&mut Self) -> Result<Term, QueryError>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Term, QueryError> {
        let location = self.location();
        let first = read(self)?;
        if !self.at_keyword(word) {
            return Ok(first);
        }
        let mut conditions = vec![first.into_condition()?];
        while self.take_keyword(word) {
            conditions.push(read(self)?.into_condition()?);
        }
        Ok(Term::new(join(conditions), location))
    }

    fn negation(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        if !self.take_keyword("NOT") {
            return self.comparison();
        }
        let inner = self.nested(Self::negation)?.into_condition()?;
        Ok(Term::new(Expr::Not(Box::new(inner)), location))
    }

    fn comparison(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        let left = self.operation()?;
        if let Some(comparison) = comparison(self.peek()) {
            self.advance();
            let right = self.operation()?.expr;
            let pair = Box::new([left.expr, right]);
            return Ok(Term::new(Expr::Compare(comparison, pair), location));
        }
        if self.take_keyword("IS") {
            let negated = self.take_keyword("NOT");
            let left = Box::new(left.expr);
            let test = if self.take_keyword("NULL") {
                Expr::IsNull(left)
            } else if self.take_keyword("MISSING") {
                Expr::IsMissing(left)
            } else {
                let expected = if negated { "NULL or MISSING" } else { "NOT, NULL or MISSING" };
                return Err(self.expected(expected));
            };
            return Ok(Term::new(negate_if(negated, test), location));
        }
        let negated =
            ["IN", "BETWEEN", "LIKE"].into_iter().any(|test| self.at_keywords("NOT", test))
                && self.take_keyword("NOT");
        let test = if self.take_keyword("IN") {
            self.membership(left.expr)?
        } else if self.take_keyword("BETWEEN") {
            let low = self.operation()?.expr;
            self.expect_keyword("AND")?;
            Expr::Between(Box::new([left.expr, low, self.operation()?.expr]))
        } else if self.take_keyword("LIKE") {
            Expr::Like(Box::new(left.expr), self.pattern()?)
        } else {
            return Ok(left);
        };
        Ok(Term::new(negate_if(negated, test), location))
    }

    /// What follows IN: values in parentheses, or an array. What stands in parentheses alone is the
    /// list itself if it is an array, unless it is written out: nobody writes IN to compare with a
    /// single array.
    fn membership(&mut self, operand: Expr) -> Result<Expr, QueryError> {
        if !self.take(&Token::LParen) {
            if !self.at_operand() {
                return Err(self.expected("'(', an array or an argument"));
            }
            // As deep as the parentheses that its text may have.
            let array = self.nested(Self::operation)?;
            return match array.expr {
                Expr::Literal(Value::Array(values)) => Ok(Expr::is_in(operand, values)),
                Expr::Literal(_) => Err(array.unfit("an array")),
                array => Ok(Expr::InArray(Box::new([operand, array]))),
            };
        }
        if self.take(&Token::RParen) {
            return Ok(Expr::is_in(operand, Vec::new()));
        }
        let mut members = self.list(|cursor| cursor.nested(Self::expression))?;
        if !self.take(&Token::RParen) {
            return Err(self.expected("',' or ')'"));
        }
        if let [member] = members.as_mut_slice() {
            match &mut member.expr {
                Expr::Literal(Value::Array(list)) if member.argument.is_some() => {
                    return Ok(Expr::is_in(operand, std::mem::take(list)));
                }
                Expr::Literal(_) => {}
                array => {
                    let array = std::mem::replace(array, Expr::Literal(Value::Null));
                    return Ok(Expr::InArray(Box::new([operand, array])));
                }
            }
        }
        let members = members.into_iter().map(|member| member.expr).collect();
        Ok(match Expr::Array(members).folded() {
            Expr::Literal(Value::Array(values)) => Expr::is_in(operand, values),
            array => Expr::InArray(Box::new([operand, array])),
        })
    }

    fn pattern(&mut self) -> Result<Pattern, QueryError> {
        let pattern = self.operation()?;
        match &pattern.expr {
            Expr::Literal(Value::String(text)) => {
                Pattern::new(text).map_err(|error| error.at(pattern.location))
            }
            Expr::Literal(_) => Err(pattern.unfit("a string")),
            _ => {
                let error = pattern.unfit("a string that is known before");
                Err(QueryError::new(QueryErrorCode::Unsupported, error.message())
                    .at(pattern.location)
                    .with_hint(
                        "look into fields with contains(..), starts_with(..) or ends_with(..)",
                    ))
            }
        }
    }

    /// Reads what operators make of values.
    pub(super) fn operation(&mut self) -> Result<Term, QueryError> {
        self.operators(Precedence::Sum)
    }

    /// Operators that bind at least so tightly.
    fn operators(&mut self, at_least: Precedence) -> Result<Term, QueryError> {
        let mut left = self.signed()?;
        while let Some(operator) = operator(self.peek())
            && operator.precedence() >= at_least
        {
            self.advance();
            let right = self.operators(operator.precedence().tighter())?.expr;
            let location = left.location;
            let made = Expr::operation(left.expr, operator, right);
            left = self.computed(Term::new(made, location))?;
        }
        Ok(left)
    }

    fn signed(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        if !self.take(&Token::Minus) {
            return self.stepped();
        }
        if let Token::Number(..) = self.peek() {
            return self.number("-").map(|number| Term::new(Expr::Literal(number), location));
        }
        if !self.at_operand() {
            return Err(self.expected("a number after '-'"));
        }
        let inner = self.nested(Self::signed)?.expr;
        Ok(Term::new(Expr::Negate(Box::new(inner)).folded(), location))
    }

    /// A value, and steps into it.
    fn stepped(&mut self) -> Result<Term, QueryError> {
        let base = self.primary()?;
        let mut steps = Vec::new();
        loop {
            if self.take(&Token::Period) {
                steps.push(Step::Field(self.any_word("a field after '.'")?));
            } else if self.take(&Token::LBracket) {
                let step = self.nested(Self::value)?;
                steps.push(match &step.value {
                    Value::Int(index) => Step::Element(*index),
                    Value::String(name) => Step::Field(name.clone()),
                    _ => return Err(step.unfit("the place of an element, or a field's name")),
                });
                if !self.take(&Token::RBracket) {
                    return Err(self.expected("']'"));
                }
            } else {
                break;
            }
            if base.expr.steps() + steps.len() > MAX_DEPTH {
                let message = format!("a path has more than {MAX_DEPTH} steps");
                return Err(QueryError::new(QueryErrorCode::TooDeep, message).at(self.location()));
            }
        }
        if steps.is_empty() {
            return Ok(base);
        }
        self.checked(Term::new(Expr::access(base.expr, steps), base.location))
    }

    /// Whether a value may begin here.
    fn at_operand(&self) -> bool {
        matches!(
            self.peek(),
            Token::LParen
                | Token::Word(_)
                | Token::Colon
                | Token::LBracket
                | Token::LBrace
                | Token::SingleQuotedString(_)
                | Token::Number(..)
                | Token::Minus
        )
    }

    fn primary(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        if let Some(constant) = self.constant()? {
            return Ok(Term::new(Expr::Literal(constant), location));
        }
        match self.peek() {
            Token::LParen => {
                self.advance();
                let inner = self.nested(Self::expression)?;
                if !self.take(&Token::RParen) {
                    return Err(self.expected("')'"));
                }
                Ok(inner)
            }
            Token::Word(Word { quote_style: None, .. }) if self.at_keyword("CASE") => {
                self.advance();
                let case = self.nested(Self::case)?;
                Ok(Term::new(case, location))
            }
            Token::Word(Word { quote_style: None, .. }) if self.at_call() => self.call(),
            Token::Word(Word { quote_style: Some('"'), .. }) if self.is_inside_literal() => {
                self.literal()
            }
            Token::Word(_) if self.has_fields => {
                self.path().map(|path| Term::new(Expr::Path(path), location))
            }
            Token::Word(_) => Err(self.found_field()),
            Token::Colon
            | Token::LBracket
            | Token::LBrace
            | Token::SingleQuotedString(_)
            | Token::Number(..) => self.literal(),
            _ if self.has_fields => Err(self.expected("a condition or a value")),
            _ => Err(self.expected("a value")),
        }
    }

    /// Reads the path of a field.
    pub(super) fn path(&mut self) -> Result<FieldPath, QueryError> {
        let location = self.location();
        let mut steps = vec![self.name("a field")?];
        while self.take(&Token::Period) {
            steps.push(self.any_word("a field after '.'")?);
        }
        match self.peek() {
            Token::Number(text, _) if text.starts_with('.') => Err(self
                .expected("a field after '.'")
                .with_hint(format!("a name that starts with a digit is quoted: `{}`", &text[1..]))),
            _ => FieldPath::new(steps).map_err(|error| error.at(location)),
        }
    }
}

fn negate_if(negated: bool, test: Expr) -> Expr {
    if negated { Expr::Not(Box::new(test)) } else { test }
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

fn operator(token: &Token) -> Option<Operator> {
    Some(match token {
        Token::Plus => Operator::Add,
        Token::Minus => Operator::Subtract,
        Token::Mul => Operator::Multiply,
        Token::Div => Operator::Divide,
        Token::Mod => Operator::Remainder,
        Token::StringConcat => Operator::Concatenate,
        _ => return None,
    })
}
