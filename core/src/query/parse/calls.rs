//! CASE, functions and aggregates.

use sqlparser::tokenizer::{Token, Word};

use super::super::aggregate::{Aggregate, AggregateFunction};
use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::expr::{Case, Expr};
use super::super::function::Function;
use super::super::path::is_reserved;
use super::cursor::{Cursor, shorten};
use super::term::Term;

/// Whether aggregates may stand where the cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregates {
    /// Among the columns of a SELECT, in its HAVING and its ORDER BY.
    Allowed,
    /// Within another one.
    Inside,
    Elsewhere,
}

impl Cursor<'_> {
    /// Whether a name with a parenthesis right behind stands here.
    pub(super) fn at_call(&self) -> bool {
        matches!(self.peek(), Token::Word(Word { value, quote_style: None, .. })
            if !is_reserved(value))
            && *self.peek_second() == Token::LParen
    }

    /// Reads `name(..)`.
    pub(super) fn call(&mut self) -> Result<Term, QueryError> {
        let location = self.location();
        let name = self.any_word("a function")?;
        self.expect(&Token::LParen)?;
        if let Some(function) = AggregateFunction::named(&name) {
            let aggregate = self.nested(|cursor| cursor.aggregate(function, location))?;
            return Ok(Term::new(Expr::Aggregate(Box::new(aggregate)), location));
        }
        let Some(function) = Function::named(&name) else {
            return Err(unknown_function(&name).at(location));
        };
        let arguments = if self.take(&Token::RParen) {
            Vec::new()
        } else {
            let arguments = self.list(|cursor| cursor.nested(Self::expression))?;
            if !self.take(&Token::RParen) {
                return Err(self.expected("',' or ')'"));
            }
            arguments.into_iter().map(|argument| argument.expr).collect()
        };
        if !function.arity.contains(&arguments.len()) {
            let message = format!(
                "{} takes ({}), found {} arguments",
                function.name,
                function.arguments,
                arguments.len()
            );
            return Err(QueryError::new(QueryErrorCode::InvalidArgument, message).at(location));
        }
        self.computed(Term::new(Expr::Call(function, arguments).folded(), location))
    }

    /// Reads what stands in the parentheses of an aggregate.
    fn aggregate(
        &mut self,
        function: AggregateFunction,
        location: Location,
    ) -> Result<Aggregate, QueryError> {
        if self.aggregates != Aggregates::Allowed {
            let name = function.as_str();
            let message = match self.aggregates {
                Aggregates::Inside => format!("{name} cannot stand within another aggregate"),
                _ => format!("{name} cannot stand here"),
            };
            return Err(QueryError::new(QueryErrorCode::SyntaxError, message).at(location).with_hint(
                "aggregates stand among the columns of a SELECT, in its HAVING and in its ORDER BY",
            ));
        }
        if function == AggregateFunction::Count && self.take(&Token::Mul) {
            self.expect(&Token::RParen)?;
            return Ok(Aggregate { function, is_distinct: false, operand: None });
        }
        let is_distinct = self.take_keyword("DISTINCT");
        self.aggregates = Aggregates::Inside;
        let operand = self.expression();
        self.aggregates = Aggregates::Allowed;
        let operand = Some(operand?.expr);
        if !self.take(&Token::RParen) {
            return Err(self.expected("')'"));
        }
        Ok(Aggregate { function, is_distinct, operand })
    }

    /// Reads a CASE up to its END.
    pub(super) fn case(&mut self) -> Result<Expr, QueryError> {
        let operand = if self.at_keyword("WHEN") { None } else { Some(self.expression()?.expr) };
        let mut arms = Vec::new();
        while self.take_keyword("WHEN") {
            let when = self.expression()?;
            let when = if operand.is_some() { when.expr } else { when.into_condition()? };
            self.expect_keyword("THEN")?;
            arms.push((when, self.expression()?.expr));
        }
        if arms.is_empty() {
            return Err(self.expected("WHEN"));
        }
        let otherwise =
            if self.take_keyword("ELSE") { Some(self.expression()?.expr) } else { None };
        if !self.take_keyword("END") {
            let expected = if otherwise.is_some() { "END" } else { "WHEN, ELSE or END" };
            return Err(self.expected(expected));
        }
        Ok(Expr::Case(Box::new(Case { operand, arms, otherwise })))
    }
}

fn unknown_function(name: &str) -> QueryError {
    let message = format!("there is no function '{}'", shorten(name));
    let error = QueryError::new(QueryErrorCode::Unsupported, message);
    // Likeness takes long to tell of long names.
    let wanted = shorten(name).to_ascii_lowercase();
    let nearest = Function::names().max_by(|left, right| {
        strsim::jaro_winkler(left, &wanted).total_cmp(&strsim::jaro_winkler(right, &wanted))
    });
    match nearest.filter(|nearest| strsim::jaro_winkler(nearest, &wanted) > 0.8) {
        Some(nearest) => error.with_hint(format!("is '{nearest}' meant?")),
        None => error.with_hint("a field of that name is written without '('"),
    }
}
