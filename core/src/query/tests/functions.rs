use super::super::{Args, Meter, Select, Statement, parse};
use super::json;
use crate::Value;

fn select(text: &str) -> Select {
    match parse(text, &Args::new()) {
        Ok(Statement::Select(select)) => select,
        other => panic!("{text}: {other:?}"),
    }
}

/// Expressions over a document and what they give: JSON, or nothing if it is MISSING.
fn check(document: &str, cases: &[(&str, &str)]) {
    let document = json(document);
    for (expr, expected) in cases {
        let row = select(&format!("SELECT {expr} AS x FROM c")).row(&document, &Meter::new());
        let found = row.get(&["x"]).map(Value::to_json).unwrap_or_default();
        assert_eq!(&found, expected, "{expr}");
    }
}

#[test]
fn operators() {
    check(
        r#"{"i": 7, "f": 2.5, "s": "ab", "z": null, "max": 9223372036854775807, "o": {"a": [1, {"_id": 2}]}}"#,
        &[
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("10 - 2 - 3", "5"),
            ("i / 2", "3.5"),
            ("8 / 2", "4"),
            ("i / 0", "null"),
            ("i % 4", "3"),
            ("-i % 4", "-3"),
            ("i % 0", "null"),
            ("f % 2", "0.5"),
            ("max + 1", "9.223372036854776e+18"),
            ("max * 2.0 * 1e300 * 1e300", "null"),
            ("-f", "-2.5"),
            ("- -i", "7"),
            ("s || '!' || s", r#""ab!ab""#),
            ("s || 1", "null"),
            ("s + 1", "null"),
            ("z + 1", "null"),
            ("gone + 1", ""),
            ("1 + gone", ""),
            ("i > 5", "true"),
            ("i > gone", "null"),
            ("i = 7 AND f = 2.5", "true"),
            ("o.a[0]", "1"),
            ("o.a[-1].`_id`", "2"),
            ("o['a'][1]['_id']", "2"),
            ("o.a[2]", ""),
            ("[i, gone, {'k': f, 'l': gone}]", r#"[7,null,{"k":2.5}]"#),
            ("[1, 2][1]", "2"),
            ("CASE WHEN i > 5 THEN 'large' ELSE 'small' END", r#""large""#),
            ("CASE i WHEN 1 THEN 'a' WHEN 7.0 THEN 'b' END", r#""b""#),
            ("CASE gone WHEN gone THEN 1 END", "null"),
            ("CASE WHEN gone = 1 THEN 1 ELSE gone END", ""),
        ],
    );
}

#[test]
fn strings() {
    check(
        r#"{"s": "Größe", "t": "  a b  ", "z": null, "n": 1}"#,
        &[
            ("lower(s)", r#""größe""#),
            ("UPPER(s)", r#""GRÖSSE""#),
            ("length(s)", "5"),
            ("byte_length(s)", "7"),
            ("length(z)", "null"),
            ("length(n)", "null"),
            ("length(gone)", ""),
            ("contains(s, 'ß')", "true"),
            ("starts_with(s, 'Gr')", "true"),
            ("ends_with(s, 'Gr')", "false"),
            ("position(s, 'ß')", "4"),
            ("position(s, 'x')", "0"),
            ("substr(s, 2)", r#""röße""#),
            ("substr(s, 2, 3)", r#""röß""#),
            ("substr(s, -2)", r#""ße""#),
            ("substr(s, -2, 1)", r#""ß""#),
            ("substr(s, 0, 2)", r#""G""#),
            ("substr(s, 9)", r#""""#),
            ("substr(s, 1, 9223372036854775807)", r#""Größe""#),
            ("substr(s, -9223372036854775808, 3)", r#""""#),
            ("replace(s, 'ö', 'oe')", r#""Groeße""#),
            ("replace(s, '', 'x')", r#""Größe""#),
            ("trim(t)", r#""a b""#),
            ("ltrim(t)", r#""a b  ""#),
            ("rtrim(t)", r#""  a b""#),
            ("trim('xaby', 'xy')", r#""ab""#),
            ("split('a,b,,c', ',')", r#"["a","b","","c"]"#),
            ("split('a', '')", "null"),
            ("array_join(['a', 'b'], '-')", r#""a-b""#),
            ("array_join(['a', 1], '-')", "null"),
        ],
    );
    // What would multiply a text beyond what a document may hold, or a row beyond 16 MiB, is NULL.
    let large = Value::Object([("s".to_owned(), Value::String("x".repeat(3 << 20)))].into());
    for expr in [
        "s || s || s || s",
        "replace(s, 'x', 'yyyy')",
        "array_join([s, s], '')",
        "[s, s, s, s, s, s]",
    ] {
        let row = select(&format!("SELECT {expr} AS x FROM c")).row(&large, &Meter::new());
        assert_eq!(row.get(&["x"]), Some(&Value::Null), "{expr}");
    }
    let columns: Vec<_> = (0..6).map(|number| format!("s AS c{number}")).collect();
    let row = select(&format!("SELECT {} FROM c", columns.join(", "))).row(&large, &Meter::new());
    assert_eq!(row.get(&["c4"]).map(Value::type_name), Some("string"));
    assert_eq!(row.get(&["c5"]), Some(&Value::Null));
}

#[test]
fn numbers() {
    check(
        r#"{"min": -9223372036854775808}"#,
        &[
            ("abs(-3)", "3"),
            ("abs(min)", "9.223372036854776e+18"),
            ("ceil(1.2)", "2.0"),
            ("floor(-1.2)", "-2.0"),
            ("trunc(-1.7)", "-1.0"),
            ("floor(7)", "7"),
            ("sign(-0.5)", "-1"),
            ("sqrt(9)", "3.0"),
            ("sqrt(-1)", "null"),
            ("round(2.5)", "3.0"),
            ("round(-2.5)", "-3.0"),
            ("round(1.005, 2)", "1.01"),
            ("round(9.996, 2)", "10.0"),
            ("round(1.25, 5)", "1.25"),
            ("round(1e300, 2)", "1e+300"),
            ("round(1.5, -1)", "null"),
            ("round(7, 2)", "7"),
            ("round(0.00005, 2)", "0.0"),
            ("round(-0.00015, 4)", "-0.0002"),
        ],
    );
}

#[test]
fn arrays_and_objects() {
    check(
        r#"{"a": [3, 1, 2, 1.0, null], "o": {"x": 1, "y": [2]}, "z": null}"#,
        &[
            ("array_length(a)", "5"),
            ("array_contains(a, 2)", "true"),
            ("array_contains(a, 9)", "false"),
            ("array_contains(a, 'x')", "false"),
            ("array_contains(a, null)", "null"),
            ("array_contains(o, 1)", "null"),
            ("array_contains(gone, 1)", ""),
            ("array_position(a, 1.0)", "1"),
            ("array_position(a, 'x')", "-1"),
            ("array_distinct(a)", "[3,1,2,null]"),
            ("array_sort(a)", "[null,1,1.0,2,3]"),
            ("array_concat(a, [4], [])", "[3,1,2,1.0,null,4]"),
            ("array_slice(a, 1, 3)", "[1,2]"),
            ("array_slice(a, -2)", "[1.0,null]"),
            ("array_slice(a, 3, 1)", "[]"),
            ("array_sum(a)", "7.0"),
            ("array_sum([])", "null"),
            ("array_min(a)", "1"),
            ("array_max(a)", "3"),
            ("array_max([])", "null"),
            ("object_keys(o)", r#"["x","y"]"#),
            ("object_values(o)", "[1,[2]]"),
            ("object_length(o)", "2"),
            ("object_keys(a)", "null"),
        ],
    );
}

#[test]
fn types() {
    check(
        r#"{"n": 1, "s": "1.5", "z": null, "b": true, "a": []}"#,
        &[
            ("type(n)", r#""number""#),
            ("type(z)", r#""null""#),
            ("type(gone)", r#""missing""#),
            ("is_number(n)", "true"),
            ("is_string(n)", "false"),
            ("is_array(a)", "true"),
            ("is_object(gone)", "false"),
            ("is_boolean(b)", "true"),
            ("coalesce(gone, z, n)", "1"),
            ("coalesce(gone, z)", "null"),
            ("ifnull(z, 2)", "2"),
            ("ifmissing(gone, z)", "null"),
            ("ifmissing(z, 1)", "null"),
            ("nullif(n, 1)", "null"),
            ("nullif(n, gone)", "1"),
            ("greatest(n, 3, 2.5)", "3"),
            ("least(n, z)", "null"),
            ("to_string(n)", r#""1""#),
            ("to_string(a)", r#""[]""#),
            ("to_number(s)", "1.5"),
            ("to_number(' 12 ')", "12"),
            ("to_number('x')", "null"),
            ("to_number(b)", "1"),
        ],
    );
}

#[test]
fn dates() {
    check(
        r#"{"t": "2026-11-27T07:20:30.123456+02:00", "d": "2024-02-29", "ms": 1795764030123}"#,
        &[
            ("epoch_ms(t)", "1795756830123"),
            ("timestamp(t)", r#""2026-11-27T05:20:30.123Z""#),
            ("timestamp(ms)", r#""2026-11-27T07:20:30.123Z""#),
            ("epoch_ms(ms)", "1795764030123"),
            ("epoch_ms(d)", "1709164800000"),
            ("epoch_ms('yesterday')", "null"),
            ("timestamp(9223372036854775807)", "null"),
            ("date_part(t, 'hour')", "5"),
            ("date_part(d, 'quarter')", "1"),
            ("date_part(d, 'dayofyear')", "60"),
            ("date_part(d, 'weekday')", "4"),
            ("date_part('2027-01-01', 'week')", "53"),
            ("date_part(t, 'millisecond')", "123"),
            ("date_part(t, 'eon')", "null"),
            ("date_trunc(t, 'HOUR')", r#""2026-11-27T05:00:00.000Z""#),
            ("date_trunc(t, 'week')", r#""2026-11-23T00:00:00.000Z""#),
            ("date_trunc(t, 'quarter')", r#""2026-10-01T00:00:00.000Z""#),
            ("date_trunc(ms, 'day')", "1795737600000"),
            ("date_trunc(t, 'millisecond')", r#""2026-11-27T05:20:30.123Z""#),
            ("epoch_ms(1.0)", "1"),
            ("epoch_ms('2026-11-27T00:00:00[Europe/Paris]')", "null"),
            ("date_add(d, 1, 'year')", r#""2025-02-28T00:00:00.000Z""#),
            ("date_add('2026-01-31', 1, 'month')", r#""2026-02-28T00:00:00.000Z""#),
            ("date_add(ms, -1, 'day')", "1795677630123"),
            ("date_add(d, 9223372036854775807, 'quarter')", "null"),
            ("date_diff(d, '2025-02-28', 'year')", "0"),
            ("date_diff(d, '2025-03-01', 'month')", "12"),
            ("date_diff('2026-11-27T10:00:00Z', '2026-11-26', 'hour')", "-34"),
            ("date_diff(d, ms, 'week')", "143"),
        ],
    );
}
