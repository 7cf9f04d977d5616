//! SELECT.

use sqlparser::tokenizer::Token;

use super::super::error::QueryError;
use super::super::select::{Clauses, Direction, Item, Part, Select};
use super::calls::Aggregates;
use super::cursor::Cursor;
use super::term::Term;

/// The clauses that may follow a collection's name, in order.
const CLAUSES: [&str; 6] = ["WHERE", "GROUP BY", "HAVING", "ORDER BY", "LIMIT", "OFFSET"];

impl Cursor<'_> {
    pub(super) fn select(&mut self) -> Result<Select, QueryError> {
        let is_distinct = self.take_keyword("DISTINCT");
        let items = self.with_aggregates(|cursor| cursor.list(Self::item))?;
        if !self.take_keyword("FROM") {
            let expected = match items.last() {
                Some(Item::Column { name: None, .. }) => "',', AS or FROM",
                _ => "',' or FROM",
            };
            return Err(self.expected(expected));
        }
        let collection = self.collection()?;
        let mut clauses = Clauses { is_distinct, items, ..Clauses::default() };
        // What may still follow, and what would go on with the clause that was read last.
        let (mut next, mut more) = (0, "");
        if self.take_keyword("WHERE") {
            clauses.filter = Some(self.predicate()?);
            (next, more) = (1, "AND, OR, ");
        }
        if self.take_keyword("GROUP") {
            self.expect_keyword("BY")?;
            let keys = self.list(Self::expression)?;
            clauses.group_by = keys.into_iter().map(Term::into_part).collect();
            (next, more) = (2, "',', ");
        }
        if self.take_keyword("HAVING") {
            let having = self.with_aggregates(Self::expression)?;
            let location = having.location;
            clauses.having = Some(Part { expr: having.into_condition()?, location });
            (next, more) = (3, "AND, OR, ");
        }
        if self.take_keyword("ORDER") {
            self.expect_keyword("BY")?;
            clauses.order_by = self.with_aggregates(|cursor| cursor.list(Self::sort_key))?;
            (next, more) = (4, "',', ASC, DESC, ");
        }
        if self.take_keyword("LIMIT") {
            clauses.limit = Some(self.whole_number("LIMIT")?);
            (next, more) = (5, "");
        }
        if self.take_keyword("OFFSET") {
            clauses.offset = self.whole_number("OFFSET")?;
            (next, more) = (6, "");
        }
        let expected = match CLAUSES[next..].join(", ") {
            none if none.is_empty() => format!("{more}the end of the statement"),
            clauses => format!("{more}{clauses} or the end of the statement"),
        };
        self.expect_end(&expected)?;
        Select::new(collection, clauses)
    }

    fn with_aggregates<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        self.aggregates = Aggregates::Allowed;
        let result = read(self);
        self.aggregates = Aggregates::Elsewhere;
        result
    }

    fn item(&mut self) -> Result<Item, QueryError> {
        let location = self.location();
        if self.take(&Token::Mul) {
            return Ok(Item::Document(location));
        }
        if self.at_keyword("FROM") || *self.peek() == Token::EOF {
            return Err(self.expected("'*' or what to select"));
        }
        let part = self.expression()?.into_part();
        let name = if self.take_keyword("AS") { Some(self.name("a name after AS")?) } else { None };
        Ok(Item::Column { part, name })
    }

    fn sort_key(&mut self) -> Result<(Part, Direction), QueryError> {
        let key = self.expression()?.into_part();
        if self.take_keyword("DESC") {
            return Ok((key, Direction::Descending));
        }
        self.take_keyword("ASC");
        Ok((key, Direction::Ascending))
    }

    fn whole_number(&mut self, clause: &str) -> Result<u64, QueryError> {
        let given = self.value()?;
        match given.value {
            crate::Value::Int(number) => u64::try_from(number).ok(),
            _ => None,
        }
        .ok_or_else(|| given.unfit(&format!("a whole number from 0 after {clause}")))
    }
}
