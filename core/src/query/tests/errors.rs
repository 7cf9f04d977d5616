use super::super::{Location, MAX_FILTER_BYTES, MAX_STATEMENT_BYTES, parse, parse_filter};
use super::{args, fail};
use crate::ErrorKind;

/// Statement, code, message with place.
const CASES: &[(&str, &str, &str)] = &[
    (
        "",
        "syntax_error",
        "expected SELECT, INSERT, UPDATE, DELETE, EVICT, CREATE INDEX, DROP INDEX or EXPLAIN, found \
         the end at line 1, column 1",
    ),
    (
        "ALTER TABLE c",
        "unsupported",
        "expected SELECT, INSERT, UPDATE, DELETE, EVICT, CREATE INDEX, DROP INDEX or EXPLAIN, found \
         'ALTER' at line 1, column 1",
    ),
    (
        "SELECT FROM c",
        "syntax_error",
        "expected '*' or what to select, found 'FROM' at line 1, column 8",
    ),
    ("SELECT *, a, * FROM c", "duplicate_name", "'*' stands twice at line 1, column 14"),
    (
        "SELECT a b FROM c",
        "syntax_error",
        "expected ',', AS or FROM, found 'b' at line 1, column 10",
    ),
    (
        "SELECT a, DISTINCT b FROM c",
        "unsupported",
        "expected a field, found 'DISTINCT' at line 1, column 11",
    ),
    ("SELECT lowr(a) FROM c", "unsupported", "there is no function 'lowr' at line 1, column 8"),
    ("SELECT a[0 FROM c", "syntax_error", "expected ']', found 'FROM' at line 1, column 12"),
    (
        "SELECT a.0 FROM c",
        "syntax_error",
        "expected a field after '.', found the number .0 at line 1, column 9",
    ),
    (
        "SELECT a, b.a FROM c",
        "duplicate_name",
        "two columns have the name 'a' at line 1, column 11",
    ),
    (
        "SELECT * FROM 'c'",
        "syntax_error",
        "expected a collection's name, found the string 'c' at line 1, column 15",
    ),
    (
        "SELECT * FROM my-cars",
        "syntax_error",
        "expected the end of the name 'my', found '-' at line 1, column 17",
    ),
    (
        "SELECT * FROM `a b`",
        "invalid_collection",
        "collection name 'a b' must be 1 to 128 characters: a letter or '_' first, then letters, digits, '_', '-' or '.' at line 1, column 15",
    ),
    ("SELECT * FROM c\nORDER a", "syntax_error", "expected BY, found 'a' at line 2, column 7"),
    (
        "SELECT * FROM c WHERE",
        "syntax_error",
        "expected a condition or a value, found the end at line 1, column 22",
    ),
    (
        "SELECT * FROM c WHERE a = 1 b",
        "syntax_error",
        "expected AND, OR, GROUP BY, HAVING, ORDER BY, LIMIT, OFFSET or the end of the statement, found 'b' at line 1, column 29",
    ),
    (
        "SELECT * FROM c WHERE 5",
        "invalid_argument",
        "expected a condition, found the number 5 at line 1, column 23",
    ),
    (
        "SELECT * FROM c WHERE :n",
        "invalid_argument",
        "expected a condition, found argument ':n', which is the number 1 at line 1, column 23",
    ),
    (
        "SELECT * FROM c WHERE a = b = c",
        "syntax_error",
        "expected AND, OR, GROUP BY, HAVING, ORDER BY, LIMIT, OFFSET or the end of the statement, found '=' at line 1, column 29",
    ),
    (
        "SELECT * FROM c LIMIT 1 ORDER BY a",
        "syntax_error",
        "expected OFFSET or the end of the statement, found 'ORDER' at line 1, column 25",
    ),
    (
        "SELECT * FROM c WHERE (a = 1",
        "syntax_error",
        "expected ')', found the end at line 1, column 29",
    ),
    (
        "SELECT * FROM c WHERE a = missing",
        "syntax_error",
        "expected a value, found 'missing' at line 1, column 27",
    ),
    (
        "SELECT * FROM c WHERE a IS 1",
        "syntax_error",
        "expected NOT, NULL or MISSING, found the number 1 at line 1, column 28",
    ),
    (
        "SELECT * FROM c WHERE a IN = b",
        "syntax_error",
        "expected '(', an array or an argument, found '=' at line 1, column 28",
    ),
    (
        "SELECT * FROM c WHERE a IN (SELECT b FROM c)",
        "unsupported",
        "expected a field, found 'SELECT' at line 1, column 29",
    ),
    (
        "SELECT * FROM c WHERE a IN :n",
        "invalid_argument",
        "expected an array, found argument ':n', which is the number 1 at line 1, column 28",
    ),
    (
        "SELECT * FROM c WHERE a BETWEEN 1 OR 2",
        "syntax_error",
        "expected AND, found 'OR' at line 1, column 35",
    ),
    (
        "SELECT * FROM c WHERE a LIKE 1",
        "invalid_argument",
        "expected a string, found the number 1 at line 1, column 30",
    ),
    (
        "SELECT * FROM c WHERE a + 1",
        "invalid_argument",
        "expected a condition, found 'a + 1' at line 1, column 23",
    ),
    (
        "SELECT * FROM c WHERE a = ?",
        "syntax_error",
        "expected a condition or a value, found '?' at line 1, column 27",
    ),
    (
        "SELECT * FROM c WHERE a = 'x",
        "syntax_error",
        "unterminated string literal at line 1, column 27",
    ),
    (
        "SELECT * FROM c WHERE a = -= b",
        "syntax_error",
        "expected a number after '-', found '=' at line 1, column 28",
    ),
    (
        "SELECT * FROM c LIMIT -1",
        "invalid_argument",
        "expected a whole number from 0 after LIMIT, found the number -1 at line 1, column 23",
    ),
    (
        "SELECT * FROM c LIMIT 1; SELECT 2",
        "syntax_error",
        "expected the end after ';', found 'SELECT' at line 1, column 26",
    ),
    (
        "SELECT * FROM c WHERE a = 9223372036854775808",
        "invalid_argument",
        "integer 9223372036854775808 does not fit 64 bits with a sign at line 1, column 27",
    ),
    (
        "SELECT * FROM c WHERE a = 1e999",
        "invalid_argument",
        "number 1e999 is too large at line 1, column 27",
    ),
    (
        "INSERT INTO c VALUES (1)",
        "unsupported",
        "expected DOCUMENTS, found 'VALUES' at line 1, column 15",
    ),
    ("INSERT INTO c DOCUMENTS {}", "syntax_error", "expected '(', found '{' at line 1, column 25"),
    (
        "INSERT INTO c DOCUMENTS ({}, {})",
        "syntax_error",
        "expected ')', found ',' at line 1, column 28",
    ),
    (
        "INSERT INTO c DOCUMENTS (:n)",
        "invalid_argument",
        "expected an object or an array of objects, found argument ':n', which is the number 1 at line 1, column 26",
    ),
    (
        "INSERT INTO c DOCUMENTS ([{}, 1])",
        "invalid_argument",
        "expected an object or an array of objects, found an array whose element 1 is of type number at line 1, column 26",
    ),
    (
        "INSERT INTO c DOCUMENTS ({a: 1, 'a': 2})",
        "duplicate_name",
        "the object has the key 'a' twice at line 1, column 33",
    ),
    (
        "INSERT INTO c DOCUMENTS ({a 1})",
        "syntax_error",
        "expected ':', found the number 1 at line 1, column 29",
    ),
    (
        "INSERT INTO c DOCUMENTS ({a: \"\\n\"})",
        "unsupported",
        "backslash escapes are not supported in strings at line 1, column 30",
    ),
    (
        "INSERT INTO c DOCUMENTS ([1,])",
        "syntax_error",
        "expected a value, found ']' at line 1, column 29",
    ),
    (
        "INSERT INTO c DOCUMENTS ({}) ON CONFLICT",
        "syntax_error",
        "expected ID, found 'CONFLICT' at line 1, column 33",
    ),
    (
        "INSERT INTO c DOCUMENTS ({}) ON ID CONFLICT DO IT",
        "syntax_error",
        "expected NOTHING, UPDATE or UPDATE_LOCAL_DIFF, found 'IT' at line 1, column 48",
    ),
    (
        "UPDATE c WHERE true",
        "syntax_error",
        "expected SET, UNSET or APPLY, found 'WHERE' at line 1, column 10",
    ),
    (
        "UPDATE c SET a 1 WHERE true",
        "syntax_error",
        "expected '=', found the number 1 at line 1, column 16",
    ),
    (
        "UPDATE c SET a = 1 LIMIT 1",
        "syntax_error",
        "expected ',', SET, UNSET, APPLY or WHERE, found 'LIMIT' at line 1, column 20",
    ),
    (
        "UPDATE c APPLY n INCREMENT BY 1.5 WHERE true",
        "invalid_argument",
        "expected a whole number after INCREMENT BY, found the number 1.5 at line 1, column 31",
    ),
    ("DELETE c WHERE true", "syntax_error", "expected FROM, found 'c' at line 1, column 8"),
    (
        "DELETE FROM order WHERE true",
        "syntax_error",
        "expected a collection's name, found 'order' at line 1, column 13",
    ),
    (
        "SELECT lower(a, b) FROM c",
        "invalid_argument",
        "lower takes (string), found 2 arguments at line 1, column 8",
    ),
    (
        "SELECT a FROM c WHERE COUNT(*) > 1",
        "syntax_error",
        "COUNT cannot stand here at line 1, column 23",
    ),
    (
        "SELECT SUM(MAX(a)) FROM c",
        "syntax_error",
        "MAX cannot stand within another aggregate at line 1, column 12",
    ),
    (
        "SELECT a, COUNT(*) FROM c GROUP BY b",
        "invalid_argument",
        "'a' is of documents, but the rows are groups of them at line 1, column 8",
    ),
    (
        "SELECT * FROM c GROUP BY b",
        "invalid_argument",
        "'*' is of documents, but the rows are groups of them at line 1, column 8",
    ),
    (
        "SELECT DISTINCT a FROM c ORDER BY b",
        "invalid_argument",
        "with DISTINCT rows are not sorted by 'b', which is not selected at line 1, column 35",
    ),
    (
        "SELECT CASE a WHEN 1 THEN 2 FROM c",
        "syntax_error",
        "expected WHEN, ELSE or END, found 'FROM' at line 1, column 29",
    ),
    (
        "SELECT * FROM c WHERE a LIKE b",
        "unsupported",
        "expected a string that is known before, found 'b' at line 1, column 30",
    ),
    ("SELECT a[0]._id FROM c", "syntax_error", "unexpected character '_' at line 1, column 12"),
    (
        "SELECT a[b] FROM c",
        "unsupported",
        "expected a literal or an argument, found 'b' at line 1, column 10",
    ),
    (
        "SELECT * FROM c LIMIT 1 OFFSET 'x'",
        "invalid_argument",
        "expected a whole number from 0 after OFFSET, found the string 'x' at line 1, column 32",
    ),
    (
        "SELECT COUNT(*) AS n FROM c GROUP BY n",
        "invalid_argument",
        "rows cannot be grouped by 'COUNT(*)', which is of a group at line 1, column 38",
    ),
    (
        "SELECT a FROM c ORDER BY 1",
        "invalid_argument",
        "ORDER BY 1 is the same for all rows at line 1, column 26",
    ),
    (
        "SELECT DISTINCT *, 1 AS _id FROM c",
        "invalid_argument",
        "'*' is of documents, but the rows are groups of them at line 1, column 17",
    ),
    (
        "SELECT a, COUNT(*) AS n FROM c GROUP BY a\nHAVING n > 1 AND b = 1",
        "invalid_argument",
        "'b' is of documents, but the rows are groups of them at line 2, column 8",
    ),
    (
        "SELECT a FROM c\nGROUP BY a\nORDER BY a,\n b DESC",
        "invalid_argument",
        "'b' is of documents, but the rows are groups of them at line 4, column 2",
    ),
    (
        "SELECT a, COUNT(*) + b AS n FROM c GROUP BY a",
        "invalid_argument",
        "'b' is of documents, but the rows are groups of them at line 1, column 11",
    ),
    (
        "SELECT a AS x, b AS y,\n c AS x FROM c",
        "duplicate_name",
        "two columns have the name 'x' at line 2, column 2",
    ),
    (
        "SELECT a, 2 AS b FROM c GROUP BY a, b",
        "invalid_argument",
        "GROUP BY 2 is the same for all rows at line 1, column 37",
    ),
    (
        "UPDATE c SET a = 1,\n b = 2, a = 3 WHERE true",
        "conflicting_paths",
        "the statement changes 'a' twice at line 2, column 9",
    ),
    (
        "UPDATE c SET a.b = 1 APPLY a INCREMENT BY 1 WHERE true",
        "conflicting_paths",
        "the statement changes both 'a' and 'a.b' inside it at line 1, column 28",
    ),
    (
        "UPDATE c UNSET a SET b = 1, a.b.c = 1 WHERE true",
        "conflicting_paths",
        "the statement changes both 'a' and 'a.b.c' inside it at line 1, column 29",
    ),
];

#[test]
fn errors_say_what_was_found_and_expected_and_where() {
    for (statement, code, message) in CASES {
        let error = fail(statement, r#"{"n": 1}"#);
        assert_eq!((error.to_string().as_str(), error.code()), (*message, *code), "{statement}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn missing_arguments_are_named() {
    let error = fail("SELECT *\n FROM c WHERE a = :colour", r#"{"color": "red", "b": 1}"#);
    assert_eq!(error.code(), "unknown_argument");
    assert_eq!(error.to_string(), "missing argument ':colour' at line 2, column 20");
    assert_eq!(error.location(), Some(Location { line: 2, column: 20 }));
    assert_eq!(error.hint(), Some("given, but not used by the statement: 'b', 'color'"));

    let error = fail("SELECT * FROM c WHERE a = :x", r#"{":x": 1}"#);
    assert_eq!(error.hint(), Some("arguments are named without the colon: give it as 'x'"));
    let error = fail("SELECT * FROM c WHERE a = :x", "{}");
    assert_eq!(error.hint(), Some("give a value for 'x' with the statement"));
    let error = fail("SELECT * FROM c WHERE a = : x", r#"{"x": 1}"#);
    assert_eq!(error.hint(), Some("an argument is written ':name'"));
}

#[test]
fn filters_take_no_arguments() {
    let error = parse_filter("a = :x").unwrap_err();
    assert_eq!(error.code(), "unknown_argument");
    assert!(error.hint().unwrap().contains("a filter has no arguments"));
    let error = parse_filter("a = 1 LIMIT 2").unwrap_err();
    assert_eq!(error.message(), "expected AND, OR or the end of the filter, found 'LIMIT'");
    assert_eq!(parse_filter("").unwrap_err().code(), "syntax_error");
}

#[test]
fn length_is_limited() {
    let spaces = " ".repeat(MAX_STATEMENT_BYTES);
    let error = fail(&format!("SELECT * FROM c{spaces}"), "{}");
    assert_eq!(error.code(), "too_long");
    assert!(error.to_string().contains("65536"), "{error}");
    // It is about all of the text: there is no part of it to point at.
    assert_eq!(error.location(), None);
    assert!(parse_filter(&format!("true{spaces}")).is_ok());
    assert_eq!(parse_filter(&" ".repeat(MAX_FILTER_BYTES + 1)).unwrap_err().code(), "too_long");

    // Arguments count where the condition's text would have to hold them.
    let large = args(&format!(r#"{{"x": "{}"}}"#, "x".repeat(MAX_FILTER_BYTES)));
    for statement in ["SELECT * FROM c\n  WHERE a = :x", "DELETE FROM c\n  WHERE b = 1 OR a = :x"] {
        let error = parse(statement, &large).unwrap_err();
        assert_eq!(error.code(), "too_long");
        assert_eq!(error.location(), Some(Location { line: 2, column: 9 }), "{statement}: {error}");
    }
    assert!(parse("UPDATE c SET a = :x WHERE true", &large).is_ok());

    let error = parse_filter(&format!("a LIKE '{}'", "x".repeat(257))).unwrap_err();
    assert_eq!(error.code(), "too_long");
    assert_eq!(error.location(), Some(Location { line: 1, column: 8 }), "where the pattern is");
}

#[test]
fn nesting_is_limited_and_chains_are_not() {
    let parentheses = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    for (fits, too_deep) in [
        (parentheses(64), parentheses(65)),
        ("NOT ".repeat(64) + "a", "NOT ".repeat(65) + "a"),
        (
            format!("a = {}", "[".repeat(64) + &"]".repeat(64)),
            format!("a = {}", "[".repeat(30_000)),
        ),
        (format!("a{}", ".a".repeat(63)), format!("a{}", ".a".repeat(64))),
        ("a".to_owned(), "(".repeat(60_000)),
        (format!("{}a", "- ".repeat(64)) + " = 1", format!("{}a = 1", "- ".repeat(65))),
        ("a[[0][0]] = 1".to_owned(), format!("a{}", "[1".repeat(30_000))),
        ("a = 1".to_owned(), "a IN (".repeat(20_000)),
        (format!("a{} = 1", "['b']".repeat(63)), format!("a{} = 1", "['b']".repeat(64))),
        ("a".to_owned(), format!("a = {}", "{a:".repeat(8_000))),
    ] {
        assert!(parse_filter(&fits).is_ok(), "{fits}");
        assert_eq!(parse_filter(&too_deep).unwrap_err().code(), "too_deep");
    }
    // Parentheses around a literal do not count against it; together they fit a small stack.
    let deepest =
        format!("{}a = {}{}{}", "(".repeat(64), "[".repeat(64), "]".repeat(64), ")".repeat(64));
    let small = std::thread::Builder::new().stack_size(1024 * 1024);
    small.spawn(move || assert!(parse_filter(&deepest).is_ok())).unwrap().join().unwrap();

    for word in ["AND", "OR"] {
        let chain = format!("a = 1{}", format!(" {word} a = 1").repeat(5_000));
        let filter = parse_filter(&chain).unwrap();
        assert_eq!(parse_filter(&filter.to_string()).unwrap(), filter);
    }
}

#[test]
fn what_a_statement_computes_and_repeats_is_limited() {
    let args = args(&format!(r#"{{"a":"{}","b":"{}"}}"#, "x".repeat(2_000), "y".repeat(2_000)));
    let columns = |column: &str, count: usize| {
        let columns: Vec<_> = (0..count).map(|number| format!("{column} AS c{number}")).collect();
        format!("SELECT {} FROM c", columns.join(", "))
    };
    let sum = vec!["a"; 2_000].join("+");
    let by = vec!["x"; 2_000].join(",");
    for (statement, line) in [
        (columns("replace(:a, 'x', :b)", 100), 1),
        (columns("split(replace(:a, 'x', :b), 'y')", 4), 1),
        (format!("SELECT {sum} AS x FROM c\nORDER BY {by}"), 2),
        (format!("SELECT replace(:a, 'x', 'yy') AS x, :b AS z FROM c\nORDER BY {by}"), 2),
    ] {
        let error = parse(&statement, &args).unwrap_err();
        assert_eq!(error.code(), "too_long");
        assert_eq!(error.location().map(|at| at.line), Some(line), "{error}");
    }
    assert!(parse(&columns("replace(:a, 'x', :b)", 3), &args).is_ok());
}

#[test]
fn a_large_argument_is_not_multiplied() {
    let large = args(&format!(r#"{{"d":{{"t":"{}"}},"x":[1]}}"#, "x".repeat(100_000)));
    let inserted = format!("INSERT INTO c DOCUMENTS {}", vec!["(:d)"; 10_000].join(","));
    let list = format!("DELETE FROM c WHERE a IN ({})", vec![":d"; 10_000].join(","));
    let object: String = (0..5_000).map(|key| format!("k{key}::d,")).collect();
    let object = format!("INSERT INTO c DOCUMENTS ({{{}}})", object.trim_end_matches(','));
    let set: Vec<_> = (0..5_000).map(|key| format!("k{key}=:d")).collect();
    let set = format!("UPDATE c SET {} WHERE true", set.join(","));
    for statement in [inserted, list, object, set] {
        let error = parse(&statement, &large).unwrap_err();
        assert_eq!(error.code(), "too_long", "{error}");
        assert_eq!(error.hint(), Some("name a large argument once"));
    }
    assert!(parse("UPDATE c SET a = :d, b = :d WHERE true", &large).is_ok());
    let many = format!("SELECT * FROM c WHERE a IN ({})", vec![":x"; 10_000].join(","));
    assert!(parse(&many, &large).is_ok());
    // Named once, it is as large as the request that brought it.
    let larger = args(&format!(r#"{{"d":{{"t":"{}"}}}}"#, "x".repeat(20_000_000)));
    assert!(parse("INSERT INTO c DOCUMENTS (:d)", &larger).is_ok());
}
