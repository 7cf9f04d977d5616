use super::super::{parse, parse_filter};
use super::{args, filter, json, run};
use crate::query::Statement;

/// A condition, and whether it holds for the document, does not, or is unknown.
fn check(document: &str, cases: &[(&str, Option<bool>)]) {
    let document = json(document);
    for (text, expected) in cases {
        assert_eq!(filter(text).matches(&document), *expected == Some(true), "{text}");
        let negated = format!("NOT ({text})");
        assert_eq!(filter(&negated).matches(&document), *expected == Some(false), "{negated}");
    }
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);
const UNKNOWN: Option<bool> = None;

#[test]
fn comparisons() {
    check(
        r#"{"_id": "x", "n": 5, "f": 5.0, "s": "b", "t": true, "a": [1, 2], "o": {"k": 1}, "z": null}"#,
        &[
            ("n = 5", YES),
            ("n == 5.0", YES),
            ("n = f", YES),
            ("5 < n", NO),
            ("n <> 5", NO),
            ("n != 4", YES),
            ("n >= 5 AND n <= 5", YES),
            ("n > 4.999", YES),
            ("n < -1", NO),
            ("s > 'a'", YES),
            ("s = 'B'", NO),
            ("t = true", YES),
            ("t > FALSE", YES),
            ("a = [1.0, 2]", YES),
            ("a < [1, 3]", YES),
            ("o = {'k': 1}", YES),
            ("o.k = 1", YES),
            ("`o`.\"k\" = 1", YES),
            ("_id = 'x'", YES),
            ("n = '5'", UNKNOWN),
            ("n <> '5'", UNKNOWN),
            ("n < 'a'", UNKNOWN),
            ("n = NULL", UNKNOWN),
            ("z = NULL", UNKNOWN),
            ("z <> 1", UNKNOWN),
            ("gone = 1", UNKNOWN),
            ("gone = gone", UNKNOWN),
            ("o.k.j = 1", UNKNOWN),
            ("(n) = (5)", YES),
            ("1 = 1", YES),
        ],
    );
}

#[test]
fn logic_is_three_valued() {
    check(
        r#"{"t": true, "f": false, "z": null, "n": 1}"#,
        &[
            ("true", YES),
            ("false", NO),
            ("NULL", UNKNOWN),
            ("t", YES),
            ("f", NO),
            ("z", UNKNOWN),
            ("n", UNKNOWN),
            ("gone", UNKNOWN),
            ("t AND t", YES),
            ("t AND z", UNKNOWN),
            ("f AND z", NO),
            ("z AND f", NO),
            ("t OR z", YES),
            ("z OR t", YES),
            ("f OR z", UNKNOWN),
            ("f OR f", NO),
            ("NOT f", YES),
            ("NOT z", UNKNOWN),
            ("NOT NOT t", YES),
            ("t OR f AND f", YES),
            ("(t OR f) AND f", NO),
            ("NOT f AND f", NO),
            ("NOT (f AND f)", YES),
        ],
    );
}

#[test]
fn null_and_missing_differ() {
    check(
        r#"{"n": 1, "z": null}"#,
        &[
            ("z IS NULL", YES),
            ("n IS NULL", NO),
            ("n IS NOT NULL", YES),
            ("gone IS NULL", UNKNOWN),
            ("gone IS NOT NULL", UNKNOWN),
            ("gone IS MISSING", YES),
            ("z IS MISSING", NO),
            ("z IS NOT MISSING", YES),
            ("n.x IS MISSING", YES),
        ],
    );
}

#[test]
fn lists_ranges_and_patterns() {
    check(
        r#"{"n": 2, "s": "a_b%c", "e": "", "z": null, "a": [1]}"#,
        &[
            ("n IN (3, 1, 2.0)", YES),
            ("n IN (1, 3)", NO),
            ("n NOT IN (1, 3)", YES),
            ("n IN (1, 'x')", UNKNOWN),
            ("n IN (1, null)", UNKNOWN),
            ("n IN (2, null)", YES),
            ("n IN ()", NO),
            ("z IN ()", NO),
            ("z IN (null)", UNKNOWN),
            ("gone IN (1)", UNKNOWN),
            ("n IN [1, 2]", YES),
            ("a IN ([1], [2])", YES),
            ("a IN ([2])", NO),
            ("n BETWEEN 1 AND 2", YES),
            ("n BETWEEN 3 AND 4 OR true", YES),
            ("n NOT BETWEEN 3 AND 4", YES),
            ("n BETWEEN 3 AND null", NO),
            ("n BETWEEN 1 AND null", UNKNOWN),
            ("n BETWEEN 'a' AND 'b'", UNKNOWN),
            ("s LIKE 'a%'", YES),
            ("s LIKE '%c'", YES),
            ("s LIKE '%_b%'", YES),
            ("s LIKE 'a_b_c'", YES),
            ("s LIKE 'a\\_b\\%c'", YES),
            ("s LIKE 'a\\%%'", NO),
            ("s LIKE 'A%'", NO),
            ("s NOT LIKE 'b%'", YES),
            ("s LIKE '%a%c%'", YES),
            ("s LIKE '%c%a%'", NO),
            ("s LIKE 'a_b%_b%c'", NO),
            ("e LIKE ''", YES),
            ("e LIKE '%%'", YES),
            ("e LIKE '_'", NO),
            ("n LIKE '2'", UNKNOWN),
            ("gone LIKE '%'", UNKNOWN),
        ],
    );
    check(
        r#"{"s": "日本語 🚗"}"#,
        &[("s LIKE '日_語%_'", YES), ("s LIKE '%🚗'", YES), ("s LIKE '____'", NO)],
    );
}

#[test]
fn numbers_compare_exactly() {
    // 2^53 + 1 is the first integer that a double cannot hold.
    check(
        r#"{"i": 9007199254740993, "max": 9223372036854775807, "min": -9223372036854775808}"#,
        &[
            ("i = 9007199254740992.0", NO),
            ("i > 9007199254740992.0", YES),
            ("i < 9007199254740994.0", YES),
            ("max = 9223372036854775808.0", NO),
            ("max < 9223372036854775808.0", YES),
            ("min = -9223372036854775808.0", YES),
            ("min > -1e300", YES),
            ("max < 1e300", YES),
            ("i IN (9007199254740992.0, 9007199254740994.0)", NO),
        ],
    );
}

#[test]
fn arguments_are_put_in_place() {
    let statement = run(
        "SELECT * FROM c WHERE a = :a AND b IN (:list) AND c IN :list AND d IN (:a, :n) \
         AND e LIKE :a AND f AND :yes",
        r#"{"a": "it's", "list": [2, 1], "n": null, "yes": true}"#,
    );
    let Statement::Select(select) = statement else { panic!("{statement:?}") };
    assert_eq!(
        select.filter.unwrap().to_string(),
        "a = 'it''s' AND b IN (1, 2) AND c IN (1, 2) AND d IN (NULL, 'it''s') \
         AND e LIKE 'it''s' AND f AND true"
    );
}

#[test]
fn text_is_normal() {
    for (text, normal) in [
        ("a==1and(b!=2)", "a = 1 AND b <> 2"),
        ("((a))", "a"),
        ("(a = 1 AND b = 2) AND c = 3", "a = 1 AND b = 2 AND c = 3"),
        ("a OR (b OR c) OR d AND e", "a OR b OR c OR d AND e"),
        ("(a OR b) AND c", "(a OR b) AND c"),
        ("NOT (a AND b)", "NOT (a AND b)"),
        ("NOT (a = 1)", "NOT a = 1"),
        ("NOT a IN (1)", "a NOT IN (1)"),
        ("NOT a IS NULL", "a IS NOT NULL"),
        ("NOT NOT a IS MISSING", "NOT a IS NOT MISSING"),
        ("`order` = \"limit\".`x y`.\"q\"\"q\".`b``b`", "`order` = `limit`.`x y`.`q\"q`.`b``b`"),
        ("a = {\"k\": [\"it's\"], b: -1.50}", "a = {'b': -1.5, 'k': ['it''s']}"),
        ("``.é = 1", "``.`é` = 1"),
        ("a IN (2, 1, 1.0, 'x', null)", "a IN (NULL, 1, 2, 'x')"),
        ("interval = 1 OR date = user", "interval = 1 OR date = user"),
        ("(1).e5 IS MISSING", "(1).e5 IS MISSING"),
        ("a['b'].c = (a).b[0]", "a.b.c = a.b[0]"),
        ("- - -a = - 1", "- - -a = -1"),
        ("a IN b[0] OR a IN (b || c)", "a IN b[0] OR a IN (b || c)"),
    ] {
        let parsed = filter(text);
        assert_eq!(parsed.to_string(), normal);
        assert_eq!(parse_filter(normal).unwrap(), parsed, "{text}");
    }
}

#[test]
fn keys_are_found_where_the_id_is_pinned() {
    for (text, keys) in [
        ("_id = 'x'", Some(vec!["\"x\""])),
        ("'x' = _id AND a = 1", Some(vec!["\"x\""])),
        ("a = 1 AND (b = 2 AND _id IN (2, 1, 2))", Some(vec!["1", "2"])),
        ("_id IN (1, 2, 3) AND _id IN (4, 3, 2)", Some(vec!["2", "3"])),
        ("_id = {'b': 1.0, 'a': 'x'}", Some(vec![r#"{"a":"x","b":1}"#])),
        ("_id = 1.0", Some(vec!["1"])),
        ("_id = 1.5", Some(vec![])),
        ("_id = NULL", Some(vec![])),
        ("_id IN ()", Some(vec![])),
        ("_id = 'x' OR a = 1", None),
        ("NOT _id = 'x'", None),
        ("_id <> 'x'", None),
        ("_id.a = 'x'", None),
        ("_id = a", None),
        ("a._id = 'x'", None),
        ("true", None),
    ] {
        let found = filter(text).key();
        let found = found.as_ref().map(|keys| keys.iter().map(|key| key.as_str()).collect());
        assert_eq!(found, keys, "{text}");
    }
}

#[test]
fn extra_arguments_are_ignored() {
    assert!(parse("SELECT * FROM c", &args(r#"{"x": 1}"#)).is_ok());
}
