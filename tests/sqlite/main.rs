//! The same documents and the same questions to Anabranch and to SQLite.
//!
//! Questions are generated where both mean the same. Where they differ on purpose a test says how.

mod questions;

use std::path::Path;

use anabranch_tests::cluster::{Api, Dev, PATIENCE, Terms};
use anabranch_tests::support::{Process, wait_until};
use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Number, Value, json};

use questions::Question;

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_anabranch");
/// How many documents the collections have, one after the other.
const SIZES: [usize; 5] = [0, 1, 7, 60, 700];

/// A cluster in one process, and SQLite with the same documents.
struct Both {
    _process: Process,
    api: Api,
    sqlite: Connection,
    /// The last transaction that was written.
    seen: u64,
}

impl Both {
    fn start(dir: &Path) -> Result<Self> {
        let Dev { process, api } = Dev::start(Path::new(BINARY), dir, "sql", &[])?;
        let sqlite = Connection::open_in_memory()?;
        // Case counts in our LIKE: the test of the differences has SQLite's own.
        sqlite.execute_batch("PRAGMA case_sensitive_like = ON")?;
        Ok(Both { _process: process, api, sqlite, seen: 0 })
    }

    /// Adds a collection to both.
    fn add(&mut self, collection: &str, documents: &[Value]) -> Result<()> {
        self.sqlite.execute_batch(&format!("CREATE TABLE {collection} (doc TEXT)"))?;
        let insert = format!("INSERT INTO {collection} VALUES (?1)");
        for document in documents {
            self.sqlite.execute(&insert, [document.to_string()])?;
        }
        if !documents.is_empty() {
            let statement = format!("INSERT INTO {collection} DOCUMENTS (:d)");
            let reply = self.api.execute(&statement, &json!({"d": documents}))?;
            self.seen = reply["transactionId"].as_u64().context("a transaction")?;
        }
        Ok(())
    }

    /// Declares indexes over what all documents have, and waits until they are used.
    fn add_indexes(&self) -> Result<()> {
        for size in SIZES {
            for (name, fields) in [("n", "n"), ("s_n", "s, n"), ("f", "f"), ("o_n", "o.n")] {
                let statement = format!("CREATE INDEX {name} ON c{size} ({fields})");
                self.api.execute(&statement, &json!({}))?;
            }
            for condition in ["n = 1", "s = 'a'", "f = 1", "o.n = 1"] {
                let statement = format!("SELECT * FROM c{size} WHERE {condition}");
                let is_used = || Ok(self.access(&statement)? == "index");
                wait_until("the index is used", PATIENCE, is_used)?;
            }
        }
        Ok(())
    }

    /// How the documents of a statement are found.
    fn access(&self, statement: &str) -> Result<String> {
        let terms = Terms::at(Some(self.seen));
        let statement = format!("EXPLAIN {statement}");
        let reply = self.api.try_execute_on(&statement, &json!({}), &terms)?.success()?;
        let access = reply["items"][0]["partitions"][0]["access"].as_str();
        Ok(access.context("how documents are found")?.to_owned())
    }

    /// The rows of Anabranch: what its columns `c0`, `c1` .. have, NULL where they are missing.
    fn ours(&self, statement: &str, columns: usize) -> Result<Vec<Vec<Value>>> {
        let terms = Terms::at(Some(self.seen));
        let reply = self.api.try_execute_on(statement, &json!({}), &terms)?.success()?;
        let items = reply["items"].as_array().context("items")?;
        let row = |item: &Value| {
            let columns = (0..columns).map(|column| match &item[format!("c{column}")] {
                Value::Bool(value) => json!(i64::from(*value)),
                other => other.clone(),
            });
            columns.collect()
        };
        Ok(items.iter().map(row).collect())
    }

    fn theirs(&self, statement: &str, columns: usize) -> Result<Vec<Vec<Value>>> {
        let mut prepared = self.sqlite.prepare(statement)?;
        let mut rows = prepared.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let value = |column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                    ValueRef::Integer(number) => json!(number),
                    ValueRef::Real(number) => json!(number),
                    ValueRef::Text(text) => json!(std::str::from_utf8(text)?),
                })
            };
            found.push((0..columns).map(value).collect::<Result<_>>()?);
        }
        Ok(found)
    }

    /// How many rows the answer has.
    fn check(&self, question: &Question) -> Result<usize> {
        let Question { ours, theirs, columns } = question;
        let found = self.ours(ours, *columns).with_context(|| ours.clone())?;
        let expected = self.theirs(theirs, *columns).with_context(|| theirs.clone())?;
        let is_same = found.len() == expected.len()
            && found.iter().flatten().zip(expected.iter().flatten()).all(|(a, b)| is_equal(a, b));
        ensure!(is_same, "{ours}\n{found:?}\n{theirs}\n{expected:?}");
        Ok(found.len())
    }
}

/// Numbers are equal however they are held.
fn is_equal(left: &Value, right: &Value) -> bool {
    let number = |value: &Value| value.as_number().and_then(Number::as_f64);
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

/// Every field is there; some are null. Numbers are such that sums of them are exact.
fn document(id: usize, dice: &mut StdRng) -> Value {
    let text = |dice: &mut StdRng| {
        let length = dice.random_range(0..4);
        let letters = (0..length).map(|_| questions::letter(dice)).collect::<String>();
        if dice.random_bool(0.1) { Value::Null } else { json!(letters) }
    };
    let integer = |dice: &mut StdRng| match dice.random_range(0..10) {
        0 => Value::Null,
        1 => json!(dice.random_range(-1_000_000_000..1_000_000_000)),
        _ => json!(dice.random_range(-3..4)),
    };
    let double = match dice.random_range(0..8) {
        0 => Value::Null,
        _ => json!(f64::from(dice.random_range(-20..20)) / 4.0),
    };
    json!({
        "_id": id, "n": integer(dice), "f": double, "s": text(dice), "t": text(dice),
        "o": {"n": integer(dice), "a": [integer(dice), text(dice)]},
    })
}

#[test]
fn questions_have_the_same_answers() -> Result<()> {
    let cases = std::env::var("ANABRANCH_TEST_SQL_CASES").ok();
    let cases = cases.map_or(Ok(20_000), |cases| cases.parse())?;
    let dir = tempfile::tempdir()?;
    let mut both = Both::start(dir.path())?;
    let mut dice = StdRng::seed_from_u64(1);
    for size in SIZES {
        let documents: Vec<_> = (0..size).map(|id| document(id, &mut dice)).collect();
        both.add(&format!("c{size}"), &documents)?;
    }
    let (mut with_rows, mut by_index) = (0, 0);
    for seed in 0..cases {
        // Half of them without indexes, half of them with some.
        if seed == cases / 2 {
            both.add_indexes()?;
        }
        let mut dice = StdRng::seed_from_u64(seed);
        // Large collections take long, and seldom show more.
        let size = match dice.random_range(0..20) {
            0 => SIZES[4],
            1 => SIZES[0],
            2 => SIZES[1],
            number => SIZES[2 + number % 2],
        };
        let question = questions::question(&format!("c{size}"), &mut dice);
        let rows = both.check(&question).with_context(|| format!("seed {seed}"))?;
        with_rows += u64::from(rows > 0);
        if seed.is_multiple_of(10) && both.access(&question.ours)? == "index" {
            by_index += 1;
        }
    }
    ensure!(with_rows > cases / 2, "only {with_rows} of {cases} answers have rows");
    ensure!(by_index > cases / 200, "only {by_index} of {cases} / 20 were found by an index");
    Ok(())
}

/// What this language means by the same words as SQLite, where that is something else: on purpose, as
/// `docs/query.md` has it.
#[test]
fn differences_are_as_documented() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut both = Both::start(dir.path())?;
    both.add("c", &[json!({"_id": 1, "n": 7, "s": "Ab", "z": null, "b": true})])?;
    both.sqlite.execute_batch("PRAGMA case_sensitive_like = OFF")?;
    for (ours, found, theirs, expected) in [
        // NULL and MISSING differ, and only IS MISSING is true of what is not there.
        ("gone IS NULL", Value::Null, "doc ->> '$.gone' IS NULL", json!(1)),
        // What two integers do not divide evenly into is a double.
        ("n / 2", json!(3.5), "doc ->> '$.n' / 2", json!(3)),
        // Values of different types do not compare, and nothing is converted.
        ("n < s", Value::Null, "doc ->> '$.n' < doc ->> '$.s'", json!(1)),
        ("s + 1", Value::Null, "doc ->> '$.s' + 1", json!(1)),
        ("s || n", Value::Null, "doc ->> '$.s' || (doc ->> '$.n')", json!("Ab7")),
        ("n % 2.5", json!(2.0), "doc ->> '$.n' % 2.5", json!(1.0)),
        // A string is no condition.
        ("NOT s", Value::Null, "NOT (doc ->> '$.s')", json!(1)),
        // Case counts in patterns.
        ("s LIKE 'ab'", json!(0), "doc ->> '$.s' LIKE 'ab'", json!(1)),
        // They have an escape character without being told of one.
        ("'a_' LIKE 'a\\_'", json!(1), "'a_' LIKE 'a\\_'", json!(0)),
        // All letters have two cases, not only those of English.
        ("upper('é')", json!("É"), "upper('é')", json!("é")),
        // What is computed is of the type that it was computed from.
        ("round(n)", json!(7), "round(doc ->> '$.n')", json!(7.0)),
    ] {
        let row = both.ours(&format!("SELECT {ours} AS c0 FROM c"), 1)?;
        assert_eq!(row, [[found]], "{ours}");
        let row = both.theirs(&format!("SELECT {theirs} AS c0 FROM c"), 1)?;
        assert_eq!(row, [[expected]], "{theirs}");
    }
    Ok(())
}
