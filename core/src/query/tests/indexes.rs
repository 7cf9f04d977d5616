//! What an index is, and that a condition's documents lie where it is looked up.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::expr::{Comparison, Expr};
use super::super::index::{IndexPaths, Lookup, Restrictions, Span};
use super::super::path::FieldPath;
use super::super::pattern::Pattern;
use super::super::predicate::Predicate;
use super::super::statement::Statement;
use super::properties::{COMPARISONS, condition, document, scalar, value};
use super::{fail, filter, json, run};
use crate::Value;

fn path(dotted: &str) -> FieldPath {
    FieldPath::new(dotted.split('.').map(str::to_owned).collect()).unwrap()
}

fn index(paths: &[&str]) -> IndexPaths {
    IndexPaths::new(paths.iter().map(|dotted| path(dotted)).collect()).unwrap()
}

fn entry(index: &IndexPaths, document: &Value) -> Option<Vec<u8>> {
    index.entry(|path| document.get(path.steps()).map(Cow::Borrowed))
}

fn holds(span: &Span, entry: &[u8]) -> bool {
    match span {
        Span::Point(values) => values == entry,
        Span::Range(range) => range.contains(&entry.to_vec()),
    }
}

fn lookup(paths: &[&str], condition: &str) -> Option<Lookup> {
    index(paths).lookup(&Restrictions::of_condition(&filter(condition)))
}

/// Of these documents, which by their numbers are looked at.
fn looked_at(paths: &[&str], condition: &str, documents: &[&str]) -> Vec<usize> {
    let (index, lookup) = (index(paths), lookup(paths, condition).expect(condition));
    let is_in = |text: &&str| {
        let entry = entry(&index, &json(text));
        entry.is_some_and(|entry| lookup.spans.iter().any(|span| holds(span, &entry)))
    };
    let found = documents.iter().enumerate().filter(|(_, text)| is_in(text));
    found.map(|(number, _)| number).collect()
}

#[test]
fn indexes_are_declared_and_dropped() {
    let text = "create index if not exists by_maker on cars (maker, `sold in`.country);";
    let Statement::CreateIndex(create) = run(text, "{}") else { panic!("{text}") };
    assert_eq!((create.name.as_str(), create.if_not_exists), ("by_maker", true));
    assert_eq!(create.collection.as_str(), "cars");
    assert_eq!(create.paths.to_string(), "maker, `sold in`.country");
    let Statement::CreateIndex(create) = run("CREATE INDEX `if-2` ON c (a)", "{}") else {
        panic!()
    };
    assert_eq!((create.name.as_str(), create.if_not_exists), ("if-2", false));
    let Statement::DropIndex(drop) = run("DROP INDEX IF EXISTS x ON a.b", "{}") else { panic!() };
    assert_eq!((drop.name.as_str(), drop.if_exists), ("x", true));
    assert_eq!(drop.collection.as_str(), "a.b");
    let Statement::DropIndex(drop) = run("DROP INDEX x ON c", "{}") else { panic!() };
    assert!(!drop.if_exists);
}

#[test]
fn statements_that_find_documents_are_explained() {
    for (text, analyze, kind) in [
        ("EXPLAIN SELECT a FROM c", false, "select"),
        ("explain analyze select * from c where a = 1", true, "select"),
        ("EXPLAIN UPDATE c SET a = 1 WHERE b = 2", false, "update"),
        ("EXPLAIN DELETE FROM c WHERE b = 2", false, "delete"),
        ("EXPLAIN EVICT FROM c WHERE b = 2", false, "evict"),
    ] {
        let statement = run(text, "{}");
        let Statement::Explain(explain) = &statement else { panic!("{text}") };
        assert_eq!((explain.analyze, explain.statement.kind()), (analyze, kind));
        assert_eq!((statement.kind(), statement.collection().as_str()), ("explain", "c"));
    }
}

#[test]
fn what_can_be_no_index_is_refused_with_its_place() {
    for (text, code, expected) in [
        ("CREATE INDEX 'x' ON c (a)", "syntax_error", "an index's name"),
        ("CREATE INDEX `a b` ON c (a)", "invalid_index", "line 1, column 14"),
        ("CREATE INDEX x ON c ()", "syntax_error", "field"),
        ("CREATE INDEX x ON c (a b)", "syntax_error", "',' or ')'"),
        ("CREATE INDEX x ON c (a, a)", "invalid_index", "names 'a' twice at line 1, column 21"),
        ("CREATE INDEX x ON c (_id)", "invalid_index", "found by '_id' without an index"),
        ("CREATE INDEX x ON c (a, b, c, d, e)", "invalid_index", "1 to 4 fields, not 5"),
        ("CREATE TABLE x", "syntax_error", "expected INDEX"),
        ("DROP INDEX x", "syntax_error", "expected ON"),
        ("EXPLAIN INSERT INTO c DOCUMENTS ({})", "syntax_error", "SELECT, UPDATE, DELETE or EVICT"),
        ("EXPLAIN EXPLAIN SELECT * FROM c", "syntax_error", "SELECT, UPDATE, DELETE or EVICT"),
        ("EXPLAIN ANALYZE DELETE FROM c WHERE true", "unsupported", "takes a SELECT only"),
    ] {
        let error = fail(text, "{}");
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}

#[test]
fn only_documents_that_may_match_are_looked_at() {
    let documents = [
        r#"{"a": 1, "b": "x"}"#,
        r#"{"a": 1.0, "b": "xy"}"#,
        r#"{"a": 2}"#,
        r#"{"a": "1", "b": "y"}"#,
        r#"{"a": null}"#,
        r#"{"a": true, "b": ["x"]}"#,
        r#"{"b": "x"}"#,
    ];
    for (paths, condition, expected) in [
        (&["a"][..], "a = 1", &[0, 1][..]),
        (&["a"], "1 = a AND b = 'x'", &[0, 1]),
        (&["a"], "a IN (2, '1', NULL)", &[2, 3]),
        (&["a"], "a > 1", &[2]),
        (&["a"], "1 <= a", &[0, 1, 2]),
        (&["a"], "a > 1 AND a < 2", &[]),
        (&["a"], "a BETWEEN 0 AND 1", &[0, 1]),
        (&["a"], "a < 'z'", &[3]),
        (&["a"], "a IS NULL", &[4]),
        (&["a"], "a = NULL", &[]),
        (&["a"], "a", &[5]),
        (&["a"], "NOT a", &[]),
        (&["a"], "a = 1 AND a IN (1, 2)", &[0, 1]),
        (&["a"], "a = 1 AND a > 1", &[]),
        (&["b"], "b LIKE 'x%'", &[0, 1, 6]),
        (&["b"], "b = ['x']", &[5]),
        (&["a", "b"], "a = 1 AND b = 'x'", &[0]),
        (&["a", "b"], "a = 1 AND b LIKE 'xy_'", &[1]),
        (&["a", "b"], "a = 2", &[2]),
        (&["a", "b"], "a IN (1, 2) AND b > 'x'", &[1]),
    ] {
        assert_eq!(looked_at(paths, condition, &documents), expected, "{paths:?} {condition}");
    }
}

#[test]
fn what_an_index_cannot_serve_is_not_looked_up() {
    for condition in [
        "a <> 1",
        "a IS MISSING",
        "a = 1 OR b = 2",
        "lower(a) = 'x'",
        "a = b",
        "a.b = 1",
        "b = 1",
        "a LIKE '%x'",
        "NOT (a = 1)",
        "a + 1 = 2",
        "a BETWEEN b AND 2",
    ] {
        assert_eq!(lookup(&["a"], condition), None, "{condition}");
    }
    assert_eq!(lookup(&["a", "b"], "b = 1"), None, "of the first field nothing is said");
}

#[test]
fn the_more_is_pinned_the_better() {
    let rank = |paths: &[&str], condition| lookup(paths, condition).unwrap().rank();
    let condition = "a = 1 AND b > 2";
    assert!(rank(&["a", "b"], condition) > rank(&["a"], condition));
    assert!(rank(&["a"], condition) > rank(&["b"], condition));
    let spans = lookup(&["a"], condition).unwrap().spans;
    assert!(matches!(spans[..], [Span::Point(_)]));
}

#[test]
fn the_index_that_would_serve_a_condition_is_over_what_it_pins() {
    for (condition, expected) in [
        ("b = 1 AND a IN (1, 2) AND c > 3", Some("a, b")),
        ("c > 3 AND lower(a) = 'x'", Some("c")),
        ("a = 1 AND b = 2 AND c = 3 AND d = 4 AND e = 5", Some("a, b, c, d")),
        ("a IS MISSING", None),
        ("_id = 1", None),
        ("_id > 5 AND a > 3", Some("a")),
        ("_id > 5 AND a = 3", Some("a")),
    ] {
        let filter = filter(condition);
        let serving = IndexPaths::serving(&Restrictions::of_condition(&filter));
        let serving = serving.map(|paths| paths.to_string());
        assert_eq!(serving.as_deref(), expected, "{condition}");
    }
}

#[test]
fn long_lists_are_looked_up_as_far_as_is_worth_it() {
    let list = |count: u32| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let spans = lookup(&["a"], &format!("a IN ({})", list(1_000))).unwrap().spans;
    assert_eq!(spans.len(), 1_000);
    assert_eq!(lookup(&["a"], &format!("a IN ({})", list(1_001))), None);
    let both = format!("a IN ({0}) AND b IN ({0})", list(100));
    let Lookup { spans, pinned, .. } = lookup(&["a", "b"], &both).unwrap();
    assert_eq!((spans.len(), pinned), (100, 1), "the second field is tested on what is found");
}

#[test]
fn long_values_are_cut_and_found() {
    let long = |end: &str| format!("{}{end}", "x".repeat(3_000));
    let documents =
        [long("a"), long("b"), "x".to_owned()].map(|text| format!(r#"{{"a":"{text}"}}"#));
    let documents: Vec<_> = documents.iter().map(String::as_str).collect();
    for (condition, expected) in [
        (format!("a = '{}'", long("b")), &[0, 1][..]),
        (format!("a > '{}'", long("a")), &[0, 1]),
        (format!("a <= '{}'", long("")), &[0, 1, 2]),
        (format!("a < '{}'", "x".repeat(500)), &[2]),
    ] {
        assert_eq!(looked_at(&["a"], &condition, &documents), expected);
    }
    let entry = entry(&index(&["a"]), &json(documents[0])).unwrap();
    assert_eq!(entry.len(), 1024);
    // However long they are: what many places have in common stands in each, and is cut.
    let many = (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let condition = format!("a = '{}' AND b IN ({many})", "x".repeat(100_000));
    let Lookup { spans, .. } = lookup(&["a", "b"], &condition).unwrap();
    assert!(matches!(&spans[..], [Span::Point(point)] if point.len() == 1024));
}

/// Conditions that an index serves, of few fields, and others.
fn served() -> impl Strategy<Value = Expr> {
    let field = || select(&["a", "b", "a.b"][..]).prop_map(|name| Expr::Path(path(name)));
    let literal = || prop_oneof![scalar(), value()].prop_map(Expr::Literal);
    prop_oneof![
        4 => (select(&COMPARISONS[..]), field(), literal(), any::<bool>()).prop_map(
            |(by, field, literal, is_first): (Comparison, _, _, _)| {
                let pair = if is_first { [field, literal] } else { [literal, field] };
                Expr::Compare(by, Box::new(pair))
            }
        ),
        2 => (field(), vec(value(), 0..4)).prop_map(|(field, list)| Expr::is_in(field, list)),
        2 => (field(), literal(), literal())
            .prop_map(|(field, low, high)| Expr::Between(Box::new([field, low, high]))),
        1 => (field(), r"[ab]{0,2}[ab%_]{0,2}")
            .prop_map(|(field, text)| Expr::Like(Box::new(field), Pattern::new(&text).unwrap())),
        1 => field().prop_map(|field| Expr::IsNull(Box::new(field))),
        1 => field(),
        1 => field().prop_map(|field| Expr::Not(Box::new(field))),
        1 => condition(),
    ]
}

proptest! {
    #[test]
    fn every_match_lies_where_it_is_looked_up(
        conditions in vec(served(), 1..4),
        documents in vec(document(), 1..12),
    ) {
        let condition = Predicate::new(Expr::all(conditions)).unwrap();
        let restrictions = Restrictions::of_condition(&condition);
        for paths in [&["a"][..], &["b"], &["a.b"], &["a", "b"], &["b", "a.b", "a"]] {
            let index = index(paths);
            let Some(Lookup { spans, .. }) = index.lookup(&restrictions) else { continue };
            for document in documents.iter().filter(|document| condition.matches(document)) {
                let entry = entry(&index, document);
                let entry = entry.ok_or_else(|| TestCaseError::fail(format!("{document}")))?;
                let count = spans.iter().filter(|span| holds(span, &entry)).count();
                prop_assert_eq!(count, 1, "{:?}: {} of {}", paths, condition, document);
            }
        }
    }
}
