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
        self.open(Kind::Query(app), self.max_read, snapshot, cursor, ExplainCursor::next, reply)
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::PathBuf;

    use anabranch_core::document::{Commit, Document, Mutation};
    use anabranch_core::hlc::Hlc;
    use anabranch_core::ids::{ActorId, DocumentId, DocumentKey, TxnId};
    use anabranch_core::keyspace::{Intervals, SliceCount};
    use anabranch_core::query::{FieldPath, IndexOver, IndexPaths, OnConflict};
    use anabranch_schemas::state;
    use uuid::Uuid;

    use super::super::{Question, parse_with};
    use super::*;
    use crate::log::Log;
    use crate::storage::{
        Batch, Catalog, Index, IndexNumber, IndexState, MemoryDisk, Progress, STATE_PREFIX,
        StoreOptions,
    };
    use crate::wishes::Wishes;

    const APP: AppId = AppId(Uuid::from_u128(7));
    const ACTOR: ActorId = ActorId(Uuid::from_u128(1));
    /// The bytes that are sorted at most are those of fewer of them.
    const DOCUMENTS: i64 = 80;

    fn document(number: i64) -> Value {
        let fields = [("n", number), ("odd", number % 2)];
        fields.into_iter().map(|(name, value)| (name.to_owned(), Value::Int(value))).collect()
    }

    /// A store with documents, and with an index over one of their fields.
    fn storage() -> Storage {
        let log = Log::new(ACTOR, SliceCount::try_from(4).unwrap(), Intervals::all());
        let options = StoreOptions {
            path: PathBuf::new(),
            write_buffer_bytes: 1 << 20,
            block_cache_bytes: 1 << 20,
            round_retention_ms: 1,
        };
        let storage = Storage::open_in_memory(&MemoryDisk::default(), &options, &log);
        let storage = storage.unwrap().storage;
        let collection = "things".parse().unwrap();
        let paths = IndexPaths::new(vec![FieldPath::new(vec!["n".to_owned()]).unwrap()]).unwrap();
        let over = IndexOver { app: APP, collection, paths };
        let index = Index::begun(IndexNumber(0), over, Some("by_n".parse().unwrap()));
        let index = Index { state: IndexState::Built { from: None }, ..index };
        let mut batch = Batch::new(&storage, 1024);
        for number in 0..DOCUMENTS {
            let (mut made, fields) = (Document::default(), document(number));
            let values = index.over.paths.entry(|path| fields.get(path.steps()).map(Cow::Borrowed));
            let insert = Mutation::Insert { fields: fields.clone(), on_conflict: OnConflict::Fail };
            made.apply(&insert, Commit { hlc: Hlc(1), actor: ACTOR, sequence: 0 });
            let key = DocumentKey::from_value(&Value::Int(number)).unwrap();
            batch.add_entry(index.number, &values.unwrap(), key.as_str());
            let id = DocumentId { app: APP, collection: index.over.collection.clone(), key };
            let stored = state::encode_after(STATE_PREFIX, &made);
            batch.put_version(&id.to_bytes(), TxnId(0), &stored);
        }
        batch.put_index(&index);
        batch.write(&Progress::start(4), Err).unwrap();
        storage.set_indexes(Catalog::default().with(index));
        storage
    }

    fn cursor(statement: &str) -> QueryCursor {
        let question = parse_with(statement, "").unwrap();
        let Question::Select(select) = question else { panic!("{statement} is no SELECT") };
        QueryCursor::new(APP, select, Vec::new(), TxnId(0), Arc::new(Wishes::new(0))).unwrap()
    }

    /// The rows, as far as these indexes find them.
    fn rows(storage: &Storage, statement: &str, indexes: &Catalog) -> Vec<String> {
        let (mut cursor, mut rows) = (cursor(statement), Vec::new());
        cursor.find.choose(indexes);
        loop {
            let page = cursor.next(storage).unwrap();
            rows.extend(page.items.into_iter().map(|item| item.item));
            if page.is_last {
                return rows;
            }
        }
    }

    /// What is said of a statement, without the time that it took.
    fn explained(storage: &Storage, statement: &str, analyze: bool) -> Value {
        let run = analyze.then(|| (Instant::now(), 0));
        let mut cursor = ExplainCursor { query: cursor(statement), run };
        let item = loop {
            let mut page = cursor.next(storage).unwrap();
            if page.is_last {
                assert_eq!(page.items.len(), 1, "{statement}");
                break page.items.remove(0);
            }
            assert!(page.items.is_empty(), "{statement}");
        };
        let said = Value::from_json(item.item.as_bytes()).unwrap();
        let Value::Object(mut said) = said else { panic!("{said}") };
        match said.remove("elapsedMs") {
            None => assert!(!analyze, "{statement}"),
            Some(Value::Float(ms)) => assert!(analyze && ms > 0.0, "{statement}: {ms} ms"),
            Some(other) => panic!("{other}"),
        }
        Value::Object(said)
    }

    fn object(fields: &[(&str, Value)]) -> Value {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn what_was_looked_at_is_told_with_what_matched_and_became_rows() {
        let storage = storage();
        let why = "the condition gives a range for n: 1 place of the index";
        let found =
            [("access", Value::from("index")), ("why", why.into()), ("index", "by_n (n)".into())];
        let statement = "SELECT COUNT(*) AS c FROM things WHERE n < 11 AND odd < 2 GROUP BY odd";
        assert_eq!(explained(&storage, statement, false), object(&found));
        for (statement, [examined, matched, rows]) in [
            (statement, [11, 11, 2]),
            ("SELECT n FROM things WHERE n < 11 AND odd = 1", [11, 5, 5]),
            // In the order of ids: 0, 1, 10, 2, 3, 4, 5.
            ("SELECT n FROM things WHERE n < 11 AND odd = 1 LIMIT 3", [7, 3, 3]),
            ("SELECT n FROM things WHERE n < 11 AND odd = 1 ORDER BY n LIMIT 3", [11, 5, 3]),
        ] {
            let counts = [("examined", examined), ("matched", matched), ("rows", rows)];
            let counts = counts.map(|(name, count)| (name, Value::Int(count)));
            let expected = object(&[&found[..], &counts].concat());
            assert_eq!(explained(&storage, statement, true), expected, "{statement}");
        }
    }

    #[test]
    fn what_is_too_much_to_be_sorted_is_scanned() {
        let storage = storage();
        let (indexes, none) = (storage.indexes(), Catalog::default());
        let too_many = "by_n (n) was begun with, but the index has too many of them";
        // 24 ids are worth a row here, 44 are two, and about 57 fit.
        for (condition, access) in [
            ("n < 24 LIMIT 1", "index"),
            ("n < 25 LIMIT 1", "scan"),
            ("n < 44 LIMIT 1 OFFSET 1", "index"),
            ("n < 45 LIMIT 1 OFFSET 1", "scan"),
            ("n IN (0, 3) OR n > 5 LIMIT 1", "scan"),
            ("n < 45 ORDER BY odd, n LIMIT 1", "index"),
            ("n < 50", "index"),
            ("n >= 50", "index"),
            ("n >= 10", "scan"),
            ("n >= 10 ORDER BY odd DESC, n DESC", "scan"),
            ("n >= 10 AND odd = 1 LIMIT 5", "scan"),
        ] {
            let statement = format!("SELECT * FROM things WHERE {condition}");
            let said = explained(&storage, &statement, true);
            assert_eq!(said.get(&["access"]), Some(&access.into()), "{statement}: {said}");
            let fell_back = access == "scan" && !condition.contains(" OR ");
            let is_told = said.get(&["why"]) == Some(&too_many.into());
            assert_eq!(is_told, fell_back, "{statement}: {said}");
            assert_eq!(said.get(&["index"]).is_some(), access == "index", "{statement}: {said}");
            let scanned = rows(&storage, &statement, &none);
            assert!(!scanned.is_empty(), "{statement}");
            assert_eq!(rows(&storage, &statement, &indexes), scanned, "{statement}");
        }
    }
}
