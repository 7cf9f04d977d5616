//! Statements.

use sqlparser::tokenizer::Token;

use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::path::FieldPath;
use super::super::predicate::Predicate;
use super::super::statement::{Delete, Evict, Insert, OnConflict, Statement, Update};
use super::cursor::{Cursor, shorten, syntax_error};
use super::literal::check_depth;
use super::term::Given;
use crate::Value;
use crate::ids::Collection;

impl Cursor<'_> {
    /// Reads one statement up to the end.
    pub(super) fn statement(&mut self) -> Result<Statement, QueryError> {
        if self.take_keyword("SELECT") {
            self.select().map(Statement::Select)
        } else if self.take_keyword("INSERT") {
            self.insert().map(Statement::Insert)
        } else if self.take_keyword("UPDATE") {
            self.update().map(Statement::Update)
        } else if self.take_keyword("DELETE") {
            let (collection, filter) = self.removed("DELETE")?;
            Ok(Statement::Delete(Delete { collection, filter }))
        } else if self.take_keyword("EVICT") {
            let (collection, filter) = self.removed("EVICT")?;
            Ok(Statement::Evict(Evict { collection, filter }))
        } else if self.take_keyword("CREATE") {
            self.create_index().map(Statement::CreateIndex)
        } else if self.take_keyword("DROP") {
            self.drop_index().map(Statement::DropIndex)
        } else if self.take_keyword("EXPLAIN") {
            self.explain().map(Statement::Explain)
        } else {
            let all = "SELECT, INSERT, UPDATE, DELETE, EVICT, CREATE INDEX, DROP INDEX or EXPLAIN";
            Err(self.expected(all))
        }
    }

    fn insert(&mut self) -> Result<Insert, QueryError> {
        self.expect_keyword("INTO")?;
        let collection = self.collection()?;
        self.expect_keyword("DOCUMENTS")?;
        let documents = self.list(Self::documents)?.into_iter().flatten().collect();
        let on_conflict = if self.take_keyword("ON") {
            self.on_conflict()?
        } else if *self.peek() == Token::EOF || *self.peek() == Token::SemiColon {
            OnConflict::default()
        } else {
            return Err(self.expected("',', ON ID CONFLICT or the end of the statement"));
        };
        self.expect_end("the end of the statement")?;
        Ok(Insert { collection, documents, on_conflict })
    }

    /// One document in parentheses, or an array of some.
    fn documents(&mut self) -> Result<Vec<Value>, QueryError> {
        const EXPECTED: &str = "an object or an array of objects";
        if !self.take(&Token::LParen) {
            return Err(self.expected("'('").with_hint("each document stands in parentheses"));
        }
        let location = self.location();
        let mut given = if self.take(&Token::Colon) {
            // An array of documents may nest one deeper than a document.
            let (name, value) = self.argument(true)?;
            Given { value, location, argument: Some(name) }
        } else {
            self.value()?
        };
        let documents = match std::mem::take(&mut given.value) {
            Value::Array(documents) => documents,
            document @ Value::Object(_) => vec![document],
            other => {
                given.value = other;
                return Err(given.unfit(EXPECTED));
            }
        };
        for (index, document) in documents.iter().enumerate() {
            check_depth(document, 0).map_err(|error| error.at(location))?;
            if document.as_object().is_none() {
                let message = format!(
                    "expected {EXPECTED}, found an array whose element {index} is of type {}",
                    document.type_name()
                );
                return Err(QueryError::new(QueryErrorCode::InvalidArgument, message).at(location));
            }
        }
        match self.peek() {
            Token::RParen => {
                self.advance();
                Ok(documents)
            }
            Token::Comma => {
                Err(self.expected("')'").with_hint("each document stands in its own parentheses"))
            }
            _ => Err(self.expected("')'")),
        }
    }

    fn on_conflict(&mut self) -> Result<OnConflict, QueryError> {
        self.expect_keyword("ID")?;
        self.expect_keyword("CONFLICT")?;
        if self.take_keyword("FAIL") {
            return Ok(OnConflict::Fail);
        }
        if !self.take_keyword("DO") {
            return Err(self.expected("FAIL or DO"));
        }
        if self.take_keyword("NOTHING") {
            Ok(OnConflict::DoNothing)
        } else if self.take_keyword("UPDATE") {
            Ok(OnConflict::DoUpdate)
        } else if self.take_keyword("UPDATE_LOCAL_DIFF") {
            Ok(OnConflict::DoUpdateLocalDiff)
        } else {
            Err(self.expected("NOTHING, UPDATE or UPDATE_LOCAL_DIFF"))
        }
    }

    /// The clauses may come in any order.
    fn update(&mut self) -> Result<Update, QueryError> {
        let collection = self.collection()?;
        let (mut set, mut unset, mut increment) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            if self.take_keyword("SET") {
                set.extend(self.list(|cursor| cursor.placed(Self::assignment))?);
            } else if self.take_keyword("UNSET") {
                unset.extend(self.list(|cursor| cursor.placed(Self::changed_path))?);
            } else if self.take_keyword("APPLY") {
                increment.extend(self.list(|cursor| cursor.placed(Self::increment))?);
            } else {
                break;
            }
        }
        if set.is_empty() && unset.is_empty() && increment.is_empty() {
            return Err(self.expected("SET, UNSET or APPLY"));
        }
        let assigned = set.iter().map(|(at, (path, _))| (path, *at));
        let removed = unset.iter().map(|(at, path)| (path, *at));
        let added_to = increment.iter().map(|(at, (path, _))| (path, *at));
        check_disjoint(assigned.chain(removed).chain(added_to))?;
        let (set, unset, increment) =
            (without_places(set), without_places(unset), without_places(increment));
        let filter = self.required_filter("UPDATE", "',', SET, UNSET, APPLY or WHERE")?;
        Ok(Update { collection, set, unset, increment, filter })
    }

    fn assignment(&mut self) -> Result<(FieldPath, Value), QueryError> {
        let path = self.changed_path()?;
        self.expect(&Token::Eq)?;
        Ok((path, self.value()?.value))
    }

    fn increment(&mut self) -> Result<(FieldPath, i64), QueryError> {
        let path = self.changed_path()?;
        self.expect_keyword("INCREMENT")?;
        self.expect_keyword("BY")?;
        let given = self.value()?;
        match given.value {
            Value::Int(amount) => Ok((path, amount)),
            _ => Err(given.unfit("a whole number after INCREMENT BY")),
        }
    }

    fn changed_path(&mut self) -> Result<FieldPath, QueryError> {
        let location = self.location();
        let path = self.path()?;
        if path.is_within_id() {
            let message = format!("'{path}' cannot be changed: it is the document's id");
            return Err(QueryError::new(QueryErrorCode::ImmutableId, message)
                .at(location)
                .with_hint("insert the document under the new id and delete the old one"));
        }
        Ok(path)
    }

    /// What follows DELETE and EVICT.
    fn removed(&mut self, statement: &str) -> Result<(Collection, Predicate), QueryError> {
        self.expect_keyword("FROM")?;
        let collection = self.collection()?;
        Ok((collection, self.required_filter(statement, "WHERE")?))
    }

    /// The WHERE that ends an UPDATE, DELETE or EVICT. It is required, so that leaving it out by mistake
    /// does not change everything.
    fn required_filter(
        &mut self,
        statement: &str,
        expected: &str,
    ) -> Result<Predicate, QueryError> {
        if matches!(self.peek(), Token::EOF | Token::SemiColon) {
            let message = format!("{statement} needs a WHERE, found the end");
            return Err(QueryError::new(QueryErrorCode::MissingWhere, message)
                .at(self.location())
                .with_hint("to mean every document, write WHERE true"));
        }
        if !self.take_keyword("WHERE") {
            return Err(self.expected(expected));
        }
        let filter = self.predicate()?;
        self.expect_end("AND, OR or the end of the statement")?;
        Ok(filter)
    }

    pub(super) fn collection(&mut self) -> Result<Collection, QueryError> {
        let location = self.location();
        let mut name = self.name("a collection's name")?;
        while self.take(&Token::Period) {
            name.push('.');
            name.push_str(&self.any_word("a collection's name")?);
        }
        if *self.peek() == Token::Minus {
            let hint = format!("a name with '-' is quoted: `{}-..`", shorten(&name));
            return Err(syntax_error(format!("expected the end of the name '{name}', found '-'"))
                .at(self.location())
                .with_hint(hint));
        }
        name.parse().map_err(|error: crate::ids::IdError| {
            QueryError::new(QueryErrorCode::InvalidCollection, error.to_string()).at(location)
        })
    }
}

/// What was read, without where it stood.
fn without_places<T>(placed: Vec<(Location, T)>) -> Vec<T> {
    placed.into_iter().map(|(_, read)| read).collect()
}

/// Refuses fields that are named twice or lie inside another. Sorted, a field stands directly
/// before those inside it. What is wrong stands where the later of the two does.
fn check_disjoint<'a>(
    paths: impl Iterator<Item = (&'a FieldPath, Location)>,
) -> Result<(), QueryError> {
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    let conflict = paths.windows(2).find(|pair| pair[0].0.contains(pair[1].0));
    let Some([(outer, one), (inner, other)]) = conflict else { return Ok(()) };
    let message = if outer == inner {
        format!("the statement changes '{outer}' twice")
    } else {
        format!("the statement changes both '{outer}' and '{inner}' inside it")
    };
    let error = QueryError::new(QueryErrorCode::ConflictingPaths, message);
    Err(error.at(*one.max(other)))
}
