//! How a node finds the documents of a query, and what it takes.

use std::collections::BTreeMap;
use std::time::Instant;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, TxnId};
use anabranch_core::query::Select;
use anabranch_schemas::store as proto;

use super::access::{Access, shown, why};
use super::page::Page;
use super::query::QueryCursor;
use super::stream::{Kind, QueryStream};
use super::{Reads, Snapshot};
use crate::error::Error;
use crate::storage::Storage;

/// An explanation that is being made.
struct ExplainCursor {
    explained: BTreeMap<String, Value>,
    /// The query, if it is run.
    run: Option<Run>,
}

struct Run {
    query: QueryCursor,
    began: Instant,
    rows: u64,
}

impl Reads {
    /// How the documents of a SELECT are found here: one item, an object. If it is to be run, with what
    /// that took.
    pub(crate) fn explain(
        &self,
        app: AppId,
        select: Select,
        analyze: bool,
        snapshot: Snapshot,
    ) -> Result<QueryStream, Error> {
        // Before the first transaction there is nothing to be found, in whichever way.
        let at = snapshot.txn.unwrap_or_default();
        let cursor = self.explained(app, select, analyze, at)?;
        let reply = |txn, items| proto::QueryReply { txn, items, stable: None };
        let max_read = self.max_read;
        self.open(Kind::Query, max_read, snapshot, Some(cursor), ExplainCursor::next, reply)
    }

    fn explained(
        &self,
        app: AppId,
        select: Select,
        analyze: bool,
        at: TxnId,
    ) -> Result<ExplainCursor, Error> {
        let indexes = self.storage.indexes();
        let access = Access::choose(app, &select, at, &indexes);
        let of_collection = indexes.of(app, &select.collection);
        let mut explained = BTreeMap::new();
        let mut say = |name: &str, value: Value| explained.insert(name.to_owned(), value);
        say("access", access.name().into());
        say("why", why(&access, &select, at, of_collection).into());
        if let Access::Index(index, _) = &access {
            say("index", shown(index).into());
        }
        let run = match analyze {
            true => Some(Run {
                query: self.cursor(app, select, Vec::new(), at)?,
                began: Instant::now(),
                rows: 0,
            }),
            false => None,
        };
        Ok(ExplainCursor { explained, run })
    }
}

impl ExplainCursor {
    fn next(&mut self, storage: &Storage) -> Result<Page<proto::QueryItem>, Error> {
        let mut page = Page::new();
        if let Some(run) = &mut self.run {
            let found = run.query.next(storage)?;
            run.rows += found.items.len() as u64;
            page.is_last = found.is_last;
            if !found.is_last {
                return Ok(page);
            }
            let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            let took_ms = run.began.elapsed().as_secs_f64() * 1_000.0;
            let find = &run.query.find;
            for (name, value) in [
                ("examined", count(find.examined)),
                ("matched", count(find.matched)),
                ("rows", count(run.rows)),
                ("elapsedMs", Value::Float((took_ms * 1_000.0).round() / 1_000.0)),
            ] {
                self.explained.insert(name.to_owned(), value);
            }
        }
        let item = Value::Object(std::mem::take(&mut self.explained)).to_json();
        page.items.push(proto::QueryItem { key: String::new(), item, place: Default::default() });
        Ok(page)
    }
}
