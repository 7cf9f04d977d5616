//! What a document, a statement and its clauses may cost: what is beyond that is NULL or refused,
//! what is just below is as it always was.

use std::sync::Arc;

use super::super::{Args, Groups, Location, Meter, Select, Statement, key, parse};
use super::{args, fail, filter, run};
use crate::Value;

const MIB: usize = 1 << 20;

fn select(text: &str, args: &Args) -> Select {
    match parse(text, args) {
        Ok(Statement::Select(select)) => select,
        other => panic!("{text}: {other:?}"),
    }
}

fn text(letter: &str, count: usize) -> Value {
    Value::String(letter.repeat(count))
}

fn document(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A document with a text of 4 MiB, in which each of [`patterns`] takes 12 of 64 million steps.
fn long() -> Value {
    document([("t", text("a", 4 * MIB)), ("u", text("a", 4 * MIB)), ("n", Value::Int(0))])
}

/// So many patterns, each another one, which have to be looked for at every letter.
fn patterns(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("t LIKE '%aa_{number}%'")).collect()
}

fn all_of(condition: &str, times: usize) -> String {
    vec![condition; times].join(" AND ")
}

#[test]
fn a_condition_holds_of_no_document_that_is_too_much_work() {
    let document = long();
    for (before, after, holds) in [
        ("NOT (", ")", true),
        ("(", ")", false),
        // Nor is it as if they were known not to match, or were NULL by nature.
        ("CASE WHEN ", " THEN false ELSE true END", true),
        ("true = ifnull(", ", true)", false),
    ] {
        for (count, is_bearable) in [(5, true), (6, false), (2_000, false)] {
            let condition = format!("{before}{}{after}", patterns(count).join(" OR "));
            let found = filter(&condition).matches(&document);
            assert_eq!(found, holds && is_bearable, "{count} within {before}{after}");
        }
    }
    let gone = format!("NOT t LIKE '%_{}b%'", "a".repeat(100));
    assert!(filter(&all_of(&gone, 200)).matches(&document), "they are plain search");
    assert!(!filter(&all_of(&gone, 2_000)).matches(&document));
}

#[test]
fn a_large_text_is_searched_to_its_end() {
    let document = document([("t", Value::String("a".repeat(5 * MIB - 3) + "bcd"))]);
    for (condition, holds) in [
        ("t LIKE '%b_d'", true),
        ("t LIKE '%b_d%' AND contains(t, 'bcd') AND position(t, 'bcd') > 5000000", true),
        ("t LIKE '%aa_d%'", false),
        ("t LIKE '%a_c_%' AND t LIKE '%abcd' AND t LIKE 'a%'", true),
    ] {
        assert_eq!(filter(condition).matches(&document), holds, "{condition}");
    }
}

#[test]
fn whatever_goes_through_a_text_or_an_array_is_counted() {
    let zeros = Value::Array(vec![Value::Int(0); MIB]);
    let Value::Object(mut fields) = long() else { panic!("an object") };
    fields.insert("l".to_owned(), zeros.clone());
    fields.insert("m".to_owned(), zeros);
    let document = Value::Object(fields);
    for (condition, bearable, too_many) in [
        ("NOT contains(t, 'b')", 250, 260),
        ("position(t, 'b') = 0", 250, 260),
        ("t = u", 250, 260),
        ("t BETWEEN u AND u", 125, 130),
        ("CASE t WHEN u THEN true END", 250, 260),
        // It is NULL in the end as well, but nothing follows from that.
        ("to_number(t) IS NULL", 15, 17),
        ("NOT array_contains(l, 1)", 60, 70),
        ("1 NOT IN l", 60, 70),
        ("l = m", 60, 70),
        ("array_sum(l) = 0", 60, 70),
        ("array_sort(l)[0] = 0", 2, 3),
    ] {
        assert!(filter(&all_of(condition, bearable)).matches(&document), "{condition}");
        assert!(!filter(&all_of(condition, too_many)).matches(&document), "{condition}");
    }
}

#[test]
fn all_that_a_row_has_shares_its_work() {
    let patterns = patterns(6);
    let columns: Vec<_> =
        patterns.iter().enumerate().map(|(place, like)| format!("{like} AS c{place}")).collect();
    let of_row = select(&format!("SELECT {}, n FROM c", columns.join(", ")), &Args::new());
    let row = of_row.row(&long(), &Meter::new());
    assert_eq!(row.get(&["c4"]), Some(&Value::Bool(false)));
    assert_eq!(row.get(&["c5"]), Some(&Value::Null));
    assert_eq!(row.get(&["n"]), Some(&Value::Int(0)), "it is not computed");

    let sorted = format!("SELECT n FROM c ORDER BY {}", patterns.join(", "));
    let mut expected = Vec::new();
    (0..5).for_each(|_| key::encode(Some(&Value::Bool(false)), &mut expected));
    key::encode(Some(&Value::Null), &mut expected);
    assert_eq!(select(&sorted, &Args::new()).sort_key(&long(), &Meter::new()), expected);
}

#[test]
fn aggregates_share_the_work_for_a_document_and_not_over_documents() {
    let counts: Vec<_> = patterns(6)
        .iter()
        .enumerate()
        .map(|(place, like)| format!("COUNT({like}) AS c{place}"))
        .collect();
    let select = select(&format!("SELECT {} FROM c", counts.join(", ")), &Args::new());
    let mut groups = Groups::new(Arc::new(select));
    (0..3).for_each(|_| groups.add(&long(), &Meter::new()));
    let rows = groups.into_rows(MIB).unwrap();
    assert_eq!(rows, [r#"{"c0":3,"c1":3,"c2":3,"c3":3,"c4":3,"c5":0}"#]);
}

#[test]
fn what_is_made_counts_as_it_is_written_in_json() {
    let args = args(r#"{"c": "\u0001"}"#);
    let replaced = |count: usize| {
        let select = select("SELECT replace(s, 'a', :c) AS x FROM c", &args);
        select.row(&document([("s", text("a", count))]), &Meter::new()).get(&["x"]).cloned()
    };
    assert_eq!(replaced(2 * MIB), Some(text("\u{1}", 2 * MIB)));
    assert_eq!(replaced(3 * MIB), Some(Value::Null), "a control character has six bytes");

    let document = document([("s", text("\u{1}", 3 * MIB / 2))]);
    for (columns, expected) in [
        ("s || s AS x", "null"),
        ("[s, s] AS x", "null"),
        ("s AS y, s AS x", "null"),
        ("s || '' AS x", "string"),
        ("[s] AS x", "array"),
    ] {
        let row =
            select(&format!("SELECT {columns} FROM c"), &Args::new()).row(&document, &Meter::new());
        assert_eq!(row.get(&["x"]).map(Value::type_name), Some(expected), "{columns}");
        assert!(row.json_len() < 16 * MIB + 100, "{columns}");
    }
}

#[test]
fn what_is_sorted_and_grouped_by_is_not_multiplied() {
    let by = vec!["t"; 1_000].join(", ");
    let sorted = select(&format!("SELECT n FROM c ORDER BY {by}"), &Args::new());
    let bytes = sorted.sort_key(&long(), &Meter::new()).len();
    assert!((12 * MIB..17 * MIB).contains(&bytes), "{bytes}");

    let least: Vec<_> = (1..100)
        .map(|number| format!("MIN(CASE WHEN n < {number} THEN t END) AS c{number}"))
        .collect();
    for text in [
        format!("SELECT COUNT(*) AS c FROM c GROUP BY {by}"),
        format!("SELECT {} FROM c", least.join(", ")),
    ] {
        let mut groups = Groups::new(Arc::new(select(&text, &Args::new())));
        groups.add(&long(), &Meter::new());
        let bytes = groups.bytes();
        assert!((12 * MIB..17 * MIB).contains(&bytes), "{bytes}");
    }
}

#[test]
fn the_constants_of_a_statement_share_their_work() {
    let large = args(&format!(r#"{{"t": "{}"}}"#, "a".repeat(128 << 10)));
    // 26 of 64 million steps each.
    let like = format!("%aa{}b%", "_".repeat(200));
    let update = |count: usize| {
        let set: Vec<_> = (0..count)
            .map(|number| format!("c{number} =\n CASE WHEN :t LIKE '{like}' THEN 1 ELSE 2 END"))
            .collect();
        parse(&format!("UPDATE c SET {} WHERE true", set.join(", ")), &large)
    };
    let Ok(Statement::Update(bearable)) = update(2) else { panic!("an UPDATE") };
    assert!(bearable.set.iter().all(|(_, value)| *value == Value::Int(2)));
    let error = update(3).unwrap_err();
    assert_eq!(
        (error.code(), error.location()),
        ("too_long", Some(Location { line: 4, column: 2 }))
    );
    assert!(error.hint().is_some());
}

#[test]
fn rows_are_grouped_by_so_many_expressions() {
    let list = |what: &str, count: usize| -> String {
        let items: Vec<_> = (0..count).map(|number| format!("\n{what}{number}")).collect();
        items.join(",")
    };
    for (before, after) in [
        ("SELECT DISTINCT", " FROM c"),
        ("SELECT DISTINCT", " FROM c ORDER BY a0"),
        ("SELECT COUNT(*) AS n FROM c GROUP BY", " ORDER BY n"),
    ] {
        run(&format!("{before}{}{after}", list("a", 1_000)), "{}");
        let error = fail(&format!("{before}{}{after}", list("a", 1_001)), "{}");
        let last = Location { line: 1_002, column: 1 };
        assert_eq!((error.code(), error.location()), ("too_long", Some(last)), "{error}");
        assert!(error.hint().is_some());
    }
    // What is compared with nothing may be more.
    run(&format!("SELECT{} FROM c ORDER BY{}", list("a", 3_000), list("b", 3_000)), "{}");
    let sums = list("SUM(a) AS s", 3_000);
    let Statement::Select(select) = run(&format!("SELECT{sums} FROM c"), "{}") else { panic!() };
    let mut groups = Groups::new(Arc::new(select));
    groups.add(&document([("a", Value::Int(2))]), &Meter::new());
    assert!(groups.bytes() < 1_000, "they are one sum");
    assert!(groups.into_rows(MIB).unwrap()[0].contains(r#""s2999":2"#));
}
