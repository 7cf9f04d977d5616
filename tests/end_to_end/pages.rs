//! A result that is read page by page is of one transaction, whatever is written meanwhile.

use std::path::Path;

use anabranch_tests::cluster::{Api, Dev, PATIENCE, Terms};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::BINARY;

const STATEMENTS: [&str; 6] = [
    "SELECT * FROM cars",
    "SELECT _id, n FROM cars WHERE n >= 3 LIMIT 20 OFFSET 4",
    "SELECT * FROM cars ORDER BY n DESC, _id",
    "SELECT _id FROM cars ORDER BY n LIMIT 30 OFFSET 3",
    "SELECT n, COUNT(*) AS c FROM cars GROUP BY n",
    "SELECT _id FROM cars WHERE n = 3",
];

/// The rows of a statement, read page by page, with something written after each page.
fn in_pages(
    api: &Api,
    statement: &str,
    size: usize,
    Written { writes, seen }: &mut Written,
) -> Result<Vec<Value>> {
    let mut body = json!({"statement": statement, "pageSize": size});
    let mut rows = Vec::new();
    let mut txn = None;
    loop {
        let reply = api.ask(&body)?.success()?;
        let items = reply["items"].as_array().context("items")?;
        ensure!(items.len() <= size, "{} rows on a page of {size}", items.len());
        rows.extend(items.iter().cloned());
        let read = reply["transactionId"].as_u64().context("a transaction")?;
        ensure!(*txn.get_or_insert(read) == read, "a page is of {read}, the first of {txn:?}");
        if reply["cursor"].is_null() {
            return Ok(rows);
        }
        body["cursor"] = reply["cursor"].clone();
        *writes += 1;
        let (id, n) = (*writes * 7 % 60, *writes % 9);
        let statement = match *writes % 3 {
            0 => format!("DELETE FROM cars WHERE _id = {id}"),
            1 => format!("UPDATE cars SET n = {n} WHERE _id < {id}"),
            _ => format!(
                "INSERT INTO cars DOCUMENTS ({{'_id': {id}, 'n': {n}}}) ON ID CONFLICT DO UPDATE"
            ),
        };
        *seen = api.execute(&statement, &json!({}))?["transactionId"].as_u64().max(*seen);
    }
}

/// What was written so far: how often, and the last transaction.
struct Written {
    writes: u64,
    seen: Option<u64>,
}

#[test]
fn all_pages_are_of_one_transaction() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Dev { process: _process, api } = Dev::start(Path::new(BINARY), dir.path(), "pages", &[])?;
    let cars: Vec<_> = (0..50).map(|id| json!({"_id": id, "n": id % 7})).collect();
    let written = api.execute("INSERT INTO cars DOCUMENTS (:d)", &json!({"d": cars}))?;
    let mut written = Written { writes: 0, seen: written["transactionId"].as_u64() };
    // Some pages of the last statement are found by an index, others not.
    api.execute("CREATE INDEX by_n ON cars (n)", &json!({}))?;
    for size in [1, 3, 10, 1_000] {
        for statement in STATEMENTS {
            let terms = Terms::at(written.seen);
            let whole = api.try_execute_on(statement, &json!({}), &terms)?.success()?;
            let pages = in_pages(&api, statement, size, &mut written)?;
            ensure!(
                whole["items"] == Value::Array(pages.clone()),
                "{statement} by {size}: {pages:?}, not {}",
                whole["items"]
            );
        }
    }
    let Written { writes, .. } = written;
    ensure!(writes > 100, "only {writes} writes came between pages");
    Ok(())
}

#[test]
fn a_cursor_is_refused_once_its_snapshot_is_gone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("settings.toml");
    std::fs::write(&config, "[store_node]\nhistory_ms = 1\n")?;
    let flags = ["--config".to_owned(), config.display().to_string()];
    let Dev { process: _process, api } = Dev::start(Path::new(BINARY), dir.path(), "gone", &flags)?;
    api.execute("INSERT INTO cars DOCUMENTS ({}), ({})", &json!({}))?;
    let mut body = json!({"statement": "SELECT * FROM cars", "pageSize": 1});
    let mut cursor = Value::Null;
    wait_until("there are two pages", PATIENCE, || {
        cursor = api.ask(&body)?.success()?["cursor"].clone();
        Ok(!cursor.is_null())
    })?;
    body["cursor"] = cursor;
    // The log's time goes on with what is written; samples of it are seconds apart.
    wait_until("the snapshot is gone", PATIENCE, || {
        api.execute("INSERT INTO bikes DOCUMENTS ({})", &json!({}))?;
        let reply = api.ask(&body)?;
        if reply.status == 410 {
            ensure!(reply.code() == "snapshot_gone", "{reply:?}");
            return Ok(true);
        }
        reply.success().map(|_| false)
    })
}
