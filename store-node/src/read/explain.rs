//! How a node finds the documents of a query, and what it takes.

use std::sync::Arc;
use std::time::Instant;

use anabranch_core::Value;
use anabranch_core::ids::AppId;
use anabranch_core::query::Select;
use anabranch_schemas::store as proto;

use super::access::Chosen;
use super::page::Page;
use super::query::QueryCursor;
use super::stream::{Kind, QueryStream};
use super::{Reads, Snapshot};
use crate::error::Error;
use crate::storage::Storage;

/// A query that is explained.
struct ExplainCursor {
    query: QueryCursor,
    /// If it is run: when that began, and how many rows came.
    run: Option<(Instant, u64)>,
}

impl Reads {
    /// How the documents of a SELECT are found here: one item, an object. If it is to be run, with what
    /// that took.
    pub(crate) fn explain(
        &self,
        app: AppId,
        select: Arc<Select>,
        analyze: bool,
        snapshot: Snapshot,
    ) -> Result<QueryStream, Error> {
        // Before the first transaction there is nothing to be found, in whichever way.
        let at = snapshot.txn.unwrap_or_default();
        let query = self.cursor(app, select, Vec::new(), at)?;
        let run = analyze.then(|| (Instant::now(), 0));
        let cursor = Some(ExplainCursor { query, run });
        let reply = |txn, items| proto::QueryReply { txn, items, stable: None };
        self.open(Kind::Query, self.max_read, snapshot, cursor, ExplainCursor::next, reply)
    }
}

impl ExplainCursor {
    fn next(&mut self, storage: &Storage) -> Result<Page<proto::QueryItem>, Error> {
        let mut page = Page::new();
        if let Some((_, rows)) = &mut self.run {
            let found = self.query.next(storage)?;
            *rows += found.items.len() as u64;
            page.is_last = found.is_last;
            if !found.is_last {
                return Ok(page);
            }
        }
        let item = self.explained(storage).to_json();
        page.items.push(proto::QueryItem { key: String::new(), item, place: Default::default() });
        Ok(page)
    }

    fn explained(&mut self, storage: &Storage) -> Value {
        let find = &mut self.query.find;
        let Chosen { name, why, index, .. } = find.choose(&storage.indexes()).clone();
        let mut said = vec![("access", name.into()), ("why", why.into())];
        said.extend(index.map(|index| ("index", index.into())));
        if let Some((began, rows)) = self.run {
            let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            let took_us = (began.elapsed().as_secs_f64() * 1e6).round();
            said.extend([
                ("examined", count(find.counts.examined)),
                ("matched", count(find.counts.matched)),
                ("rows", count(rows)),
                ("elapsedMs", Value::Float(took_us / 1e3)),
            ]);
        }
        said.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect()
    }
}
