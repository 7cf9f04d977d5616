//! What declares indexes, and what tells how documents are found.

use sqlparser::tokenizer::Token;

use super::super::error::{QueryError, QueryErrorCode};
use super::super::index::{IndexName, IndexPaths};
use super::super::statement::{CreateIndex, DropIndex, Explain, Statement};
use super::cursor::Cursor;

/// What EXPLAIN takes: what finds documents by a condition.
const EXPLAINED: [&str; 4] = ["SELECT", "UPDATE", "DELETE", "EVICT"];

impl Cursor<'_> {
    /// What follows CREATE.
    pub(super) fn create_index(&mut self) -> Result<CreateIndex, QueryError> {
        self.expect_keyword("INDEX")?;
        let if_not_exists = self.at_keywords("IF", "NOT");
        if if_not_exists {
            self.advance();
            self.advance();
            self.expect_keyword("EXISTS")?;
        }
        let name = self.index_name()?;
        self.expect_keyword("ON")?;
        let collection = self.collection()?;
        let location = self.location();
        self.expect(&Token::LParen)?;
        let paths = self.list(Self::path)?;
        if !self.take(&Token::RParen) {
            return Err(self.expected("',' or ')'"));
        }
        let paths = IndexPaths::new(paths).map_err(|error| error.at(location))?;
        self.expect_end("the end of the statement")?;
        Ok(CreateIndex { name, collection, paths, if_not_exists })
    }

    /// What follows DROP.
    pub(super) fn drop_index(&mut self) -> Result<DropIndex, QueryError> {
        self.expect_keyword("INDEX")?;
        let if_exists = self.at_keywords("IF", "EXISTS");
        if if_exists {
            self.advance();
            self.advance();
        }
        let name = self.index_name()?;
        self.expect_keyword("ON")?;
        let collection = self.collection()?;
        self.expect_end("the end of the statement")?;
        Ok(DropIndex { name, collection, if_exists })
    }

    /// What follows EXPLAIN.
    pub(super) fn explain(&mut self) -> Result<Explain, QueryError> {
        let analyze = self.take_keyword("ANALYZE");
        let location = self.location();
        if !EXPLAINED.iter().any(|kind| self.at_keyword(kind)) {
            return Err(self.expected("SELECT, UPDATE, DELETE or EVICT"));
        }
        let statement = Box::new(self.statement()?);
        if analyze && !matches!(*statement, Statement::Select(_)) {
            let message = "EXPLAIN ANALYZE runs its statement, and so takes a SELECT only";
            return Err(QueryError::new(QueryErrorCode::Unsupported, message)
                .at(location)
                .with_hint("leave ANALYZE out, or explain the SELECT with the same WHERE"));
        }
        Ok(Explain { analyze, statement })
    }

    fn index_name(&mut self) -> Result<IndexName, QueryError> {
        let location = self.location();
        let name = self.name("an index's name")?;
        name.parse().map_err(|error: QueryError| error.at(location))
    }
}
