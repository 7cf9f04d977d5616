use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{
    Args, Groups, Meter, Select, SortedRow, SortedRows, Statement, TooLarge, parse,
};
use super::json;
use super::properties::value;
use crate::Value;

fn select(text: &str) -> Select {
    match parse(text, &Args::new()) {
        Ok(Statement::Select(select)) => select,
        other => panic!("{text}: {other:?}"),
    }
}

/// The rows of documents that are spread over some nodes.
fn rows(select: &Select, nodes: &[Vec<Value>]) -> Vec<Value> {
    let select = Arc::new(select.clone());
    let mut all = Groups::new(Arc::clone(&select));
    for documents in nodes {
        let mut groups = Groups::new(Arc::clone(&select));
        for document in documents {
            groups.add(document, &Meter::new());
        }
        for group in groups.into_groups() {
            all.merge(&group).unwrap();
        }
    }
    let rows = all.into_rows(1 << 20).unwrap();
    rows.iter().map(|row| json(row)).collect()
}

/// Statements over cars on two nodes, and their rows as JSON.
fn check(cases: &[(&str, &str)]) {
    let Value::Array(cars) = json(
        r#"[{"_id": 1, "make": "mazda", "price": 10, "sold": true},
            {"_id": 2, "make": "mazda", "price": 20.5, "tags": ["a"]},
            {"_id": 3, "make": "volvo", "price": 30},
            {"_id": 4, "make": null, "price": null},
            {"_id": 5, "price": "cheap"},
            {"_id": 6, "make": "volvo", "price": 30.0}]"#,
    ) else {
        panic!("not an array")
    };
    for (text, expected) in cases {
        let (left, right) = cars.split_at(3);
        let found = rows(&select(text), &[left.to_vec(), right.to_vec()]);
        assert_eq!(Value::Array(found), json(expected), "{text}");
    }
}

#[test]
fn aggregates() {
    check(&[
        ("SELECT COUNT(*) FROM cars", r#"[{"COUNT(*)": 6}]"#),
        ("SELECT count(make) AS n FROM cars", r#"[{"n": 4}]"#),
        ("SELECT COUNT(DISTINCT make) AS n FROM cars", r#"[{"n": 2}]"#),
        ("SELECT SUM(price) FROM cars", r#"[{"SUM(price)": 90.5}]"#),
        ("SELECT SUM(DISTINCT price) AS s FROM cars", r#"[{"s": 60.5}]"#),
        ("SELECT AVG(price) AS a FROM cars", r#"[{"a": 22.625}]"#),
        ("SELECT MIN(price) AS a, MAX(price) AS b FROM cars", r#"[{"a": 10, "b": "cheap"}]"#),
        (
            "SELECT SUM(gone) AS s, MIN(gone) AS m, COUNT(gone) AS n FROM cars",
            r#"[{"s": null, "m": null, "n": 0}]"#,
        ),
        ("SELECT SUM(price) / COUNT(price) + 1 AS x FROM cars", r#"[{"x": 19.1}]"#),
    ]);
}

#[test]
fn groups_of_nothing() {
    for (text, expected) in [
        ("SELECT COUNT(*) AS n, MAX(a) AS m FROM c", r#"[{"n": 0, "m": null}]"#),
        ("SELECT a, COUNT(*) AS n FROM c GROUP BY a", "[]"),
        ("SELECT DISTINCT a FROM c", "[]"),
        ("SELECT COUNT(*) AS n FROM c HAVING COUNT(*) > 0", "[]"),
    ] {
        assert_eq!(Value::Array(rows(&select(text), &[vec![]])), json(expected), "{text}");
    }
}

#[test]
fn grouping() {
    check(&[
        (
            "SELECT make, COUNT(*) AS n FROM cars GROUP BY make",
            r#"[{"n": 1}, {"make": null, "n": 1}, {"make": "mazda", "n": 2}, {"make": "volvo", "n": 2}]"#,
        ),
        (
            "SELECT upper(make) AS m, MAX(price) AS p FROM cars GROUP BY m HAVING p > 20 ORDER BY p DESC",
            r#"[{"m": "VOLVO", "p": 30}, {"m": "MAZDA", "p": 20.5}]"#,
        ),
        (
            "SELECT make FROM cars GROUP BY make, sold ORDER BY COUNT(*) DESC, make LIMIT 2 OFFSET 1",
            r#"[{}, {"make": null}]"#,
        ),
        (
            "SELECT DISTINCT make FROM cars WHERE true ORDER BY make DESC LIMIT 2",
            r#"[{"make": "volvo"}, {"make": "mazda"}]"#,
        ),
        (
            "SELECT DISTINCT COUNT(*) AS n FROM cars GROUP BY make ORDER BY n",
            r#"[{"n": 1}, {"n": 2}]"#,
        ),
        (
            "SELECT price, COUNT(*) AS n FROM cars GROUP BY price HAVING n > 1",
            r#"[{"price": 30, "n": 2}]"#,
        ),
    ]);
}

#[test]
fn sorting() {
    let select = select("SELECT a FROM c ORDER BY b DESC, a LIMIT 3 OFFSET 1");
    assert_eq!((select.needed(), select.is_sorted(), select.is_grouped()), (Some(4), true, false));
    let documents = [
        r#"{"_id": 1, "a": 1, "b": 1}"#,
        r#"{"_id": 2, "a": 2, "b": 2}"#,
        r#"{"_id": 3, "a": 1, "b": 2}"#,
        r#"{"_id": 4, "a": 4}"#,
        r#"{"_id": 5, "a": 1, "b": 2}"#,
        r#"{"_id": 6, "a": 9, "b": "x"}"#,
    ];
    let mut rows = SortedRows::new(select.needed());
    for (id, document) in documents.into_iter().map(json).enumerate() {
        rows.add(SortedRow {
            key: select.sort_key(&document, &Meter::new()),
            id,
            row: select.row(&document, &Meter::new()),
        });
    }
    let ids: Vec<usize> = rows.into_sorted().map(|row| row.id + 1).collect();
    assert_eq!(ids, [6, 3, 5, 2]);
}

#[test]
fn rows_take_so_much_memory_and_no_more() {
    let select = Arc::new(select("SELECT a || a AS x FROM c GROUP BY a LIMIT 1"));
    let mut groups = Groups::new(Arc::clone(&select));
    for letter in ["b", "a", "c"] {
        groups.add(
            &Value::Object([("a".to_owned(), Value::String(letter.repeat(100)))].into()),
            &Meter::new(),
        );
    }
    let rows = groups.into_rows(500).unwrap();
    assert_eq!(
        rows,
        [format!(r#"{{"x":"{}"}}"#, "a".repeat(200))],
        "what is not needed does not count"
    );
    let mut groups = Groups::new(select);
    groups.add(
        &Value::Object([("a".to_owned(), Value::String("x".repeat(300)))].into()),
        &Meter::new(),
    );
    assert_eq!(groups.into_rows(500), Err(TooLarge));
}

#[test]
fn what_is_kept_is_counted_and_what_is_not_is_not() {
    let select = Arc::new(select("SELECT MAX(t) AS m, AVG(t) AS v FROM c"));
    let mut groups = Groups::new(select);
    let document = |t: i64| Value::Object([("t".to_owned(), Value::Float(t as f64))].into());
    groups.add(&document(1_000_000), &Meter::new());
    let kept = groups.bytes();
    assert!(kept > 500, "an exact sum of doubles takes some: {kept}");
    (1_000_001..1_010_000).for_each(|t| groups.add(&document(t), &Meter::new()));
    assert!(groups.bytes() < kept + 100, "only the greatest is kept: {}", groups.bytes());
}

proptest! {
    /// However documents are spread over nodes, and in whichever order they come.
    #[test]
    fn results_do_not_depend_on_who_saw_what(
        documents in vec((value(), value()), 0..12),
        split in 0usize..12,
    ) {
        let select = select(
            "SELECT a, COUNT(*) AS n, SUM(b) AS s, AVG(b) AS v, MIN(b) AS l, MAX(b) AS m, \
             SUM(DISTINCT b) AS d FROM c GROUP BY a",
        );
        let documents: Vec<Value> = documents
            .into_iter()
            .map(|(a, b)| Value::Object([("a".to_owned(), a), ("b".to_owned(), b)].into()))
            .collect();
        let reversed: Vec<Value> = documents.iter().rev().cloned().collect();
        let (left, right) = reversed.split_at(split.min(reversed.len()));
        let expected = rows(&select, &[documents]);
        let found = rows(&select, &[left.to_vec(), right.to_vec()]);
        // As text: 1 and 1.0 are equal, and so are 0.0 and -0.0.
        prop_assert_eq!(Value::Array(found).to_json(), Value::Array(expected).to_json());
    }
}
