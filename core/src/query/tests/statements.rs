use super::super::statement::{Delete, Insert, OnConflict, Statement, Update};
use super::super::{FieldPath, Meter, Select, parse, parse_taking};
use super::{args, fail, filter, json, run};
use crate::Value;

fn select(statement: &str, arguments: &str) -> Select {
    match run(statement, arguments) {
        Statement::Select(select) => select,
        other => panic!("{other:?}"),
    }
}

fn insert(statement: &str, arguments: &str) -> Insert {
    match run(statement, arguments) {
        Statement::Insert(insert) => insert,
        other => panic!("{other:?}"),
    }
}

fn update(statement: &str, arguments: &str) -> Update {
    match run(statement, arguments) {
        Statement::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

fn path(steps: &[&str]) -> FieldPath {
    FieldPath::new(steps.iter().map(|step| (*step).to_owned()).collect()).unwrap()
}

#[test]
fn statements_tell_kind_and_collection() {
    for (text, kind) in [
        ("select * from cars", "select"),
        ("INSERT INTO `cars` DOCUMENTS ({})", "insert"),
        ("Update \"cars\" Set a = 1 Where true", "update"),
        ("DELETE FROM cars WHERE false;", "delete"),
        ("evict from cars where n > 1", "evict"),
    ] {
        let statement = run(text, "{}");
        assert_eq!((statement.kind(), statement.collection().as_str()), (kind, "cars"));
    }
}

#[test]
fn select_all() {
    let select = select("SELECT * FROM fleet.cars -- all of them", "{}");
    assert_eq!(select.collection.as_str(), "fleet.cars");
    assert_eq!((select.filter.clone(), select.limit), (None, None));
    let document = json(r#"{"_id": 1, "a": {"b": null}}"#);
    assert_eq!(select.row(&document, &Meter::new()), document);
}

#[test]
fn select_columns() {
    let text = "SELECT _id, a.b, a.c AS d, `order`.from FROM `my-cars` WHERE a.b > :n LIMIT :limit";
    let select = select(text, r#"{"n": 2, "limit": 10, "other": 1}"#);
    assert_eq!(select.collection.as_str(), "my-cars");
    assert_eq!(select.filter, Some(filter("a.b > 2")));
    assert_eq!(select.limit, Some(10));
    let document =
        json(r#"{"_id": "x", "a": {"b": null, "c": 2}, "order": {"from": [1]}, "z": 1}"#);
    assert_eq!(
        select.row(&document, &Meter::new()),
        json(r#"{"_id": "x", "b": null, "d": 2, "from": [1]}"#)
    );
}

#[test]
fn insert_takes_objects_arrays_and_literals() {
    let insert = insert(
        "INSERT INTO cars DOCUMENTS (:one), (:many), ({'_id': -1, \"b\": [1, 2.5, 'it''s', \"x\"], \
         c: {d: :one, 'e'::n, f: NULL, select: TRUE}}), ([{}, {}])",
        r#"{"one": {"_id": "a"}, "many": [{"_id": 1}, {"_id": 2}], "n": 7}"#,
    );
    let expected = json(
        r#"[{"_id": "a"}, {"_id": 1}, {"_id": 2},
            {"_id": -1, "b": [1, 2.5, "it's", "x"],
             "c": {"d": {"_id": "a"}, "e": 7, "f": null, "select": true}}, {}, {}]"#,
    );
    assert_eq!(Value::Array(insert.documents), expected);
    assert_eq!(insert.on_conflict, OnConflict::Fail);
}

#[test]
fn insert_says_what_to_do_on_conflict() {
    for (text, expected) in [
        ("FAIL", OnConflict::Fail),
        ("DO NOTHING", OnConflict::DoNothing),
        ("DO UPDATE", OnConflict::DoUpdate),
        ("do update_local_diff", OnConflict::DoUpdateLocalDiff),
    ] {
        let text = format!("INSERT INTO c DOCUMENTS (:d) ON ID CONFLICT {text}");
        assert_eq!(insert(&text, r#"{"d": []}"#).on_conflict, expected);
    }
    assert_eq!(
        serde_json::to_string(&OnConflict::DoUpdateLocalDiff).unwrap(),
        "\"do_update_local_diff\""
    );
}

#[test]
fn update_in_any_order() {
    let parsed = update(
        "UPDATE cars SET a.b = :v, c = [1, {'x': null}] UNSET d, e.f \
         APPLY n INCREMENT BY -3, `m o` INCREMENT BY :by WHERE _id = 'x'",
        r#"{"v": {"k": 1}, "by": 4}"#,
    );
    assert_eq!(
        parsed.set,
        [(path(&["a", "b"]), json(r#"{"k": 1}"#)), (path(&["c"]), json(r#"[1, {"x": null}]"#))]
    );
    assert_eq!(parsed.unset, [path(&["d"]), path(&["e", "f"])]);
    assert_eq!(parsed.increment, [(path(&["n"]), -3), (path(&["m o"]), 4)]);
    assert_eq!(parsed.filter, filter("_id = 'x'"));

    let parsed = update("UPDATE c APPLY n INCREMENT BY 1 SET a = 1 WHERE true", "{}");
    assert_eq!((parsed.set.len(), parsed.increment.len()), (1, 1));
}

#[test]
fn delete_has_a_condition() {
    let Statement::Delete(Delete { collection, filter: found }) =
        run("DELETE FROM c WHERE NOT a = 1", "{}")
    else {
        panic!("not a delete")
    };
    assert_eq!(collection.as_str(), "c");
    assert_eq!(found, filter("NOT (a = 1)"));
}

#[test]
fn numbers_are_read_as_json_reads_them() {
    for (text, expected) in [
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("1.0", Value::Float(1.0)),
        (".5", Value::Float(0.5)),
        ("-1e3", Value::Float(-1000.0)),
        ("007", Value::Int(7)),
    ] {
        let parsed = update(&format!("UPDATE c SET a = {text} WHERE true"), "{}");
        assert_eq!(parsed.set[0].1, expected, "{text}");
    }
}

#[test]
fn changed_fields_are_disjoint_and_not_the_id() {
    for text in [
        "SET a = 1, a = 2",
        "SET a.b = 1 APPLY a INCREMENT BY 1",
        "SET a = 1 UNSET a.b.c",
        "UNSET a, a",
        "APPLY a INCREMENT BY 1, a INCREMENT BY 2",
    ] {
        let error = fail(&format!("UPDATE c {text} WHERE true"), "{}");
        assert_eq!(error.code(), "conflicting_paths", "{text}");
    }
    run(
        "UPDATE c SET a.b = 1, a.c = 2, ab = 3 UNSET b APPLY `a.b` INCREMENT BY 1 WHERE true",
        "{}",
    );

    for text in ["SET _id = 1", "UNSET _id.x", "SET a = 1 APPLY `_id`.n INCREMENT BY 1"] {
        let error = fail(&format!("UPDATE c {text} WHERE true"), "{}");
        assert_eq!(error.code(), "immutable_id", "{text}");
    }
    run("UPDATE c SET a._id = 1 WHERE true", "{}");
}

#[test]
fn where_is_required_to_change_anything() {
    for text in ["UPDATE c SET a = 1", "DELETE FROM c;"] {
        let error = fail(text, "{}");
        assert_eq!(error.code(), "missing_where");
        assert!(error.to_string().contains("needs a WHERE"), "{error}");
        assert!(error.hint().unwrap().contains("WHERE true"));
    }
}

#[test]
fn values_of_set_do_not_depend_on_the_document() {
    let parsed =
        update("UPDATE c SET a = lower(:x) || '!', b = [1 + 1] WHERE true", r#"{"x": "A"}"#);
    assert_eq!(parsed.set, [(path(&["a"]), json(r#""a!""#)), (path(&["b"]), json("[2]"))]);
    for text in ["SET a = b", "SET a = b + 1", "SET a = 1 + b", "SET a = now()", "SET a = [b]"] {
        let error = fail(&format!("UPDATE c {text} WHERE true"), "{}");
        assert_eq!(error.code(), "unsupported", "{text}: {error}");
        assert!(error.hint().is_some(), "{text}");
    }
    let error = fail("UPDATE c SET color = \"red\" WHERE true", "{}");
    assert_eq!(error.hint(), Some("a string has single quotes: 'red'"));
}

#[test]
fn documents_may_nest_as_deep_as_documents_can() {
    let literal = |levels: usize| format!("{}{}", "{a:".repeat(levels), "1") + &"}".repeat(levels);
    insert(&format!("INSERT INTO c DOCUMENTS ({})", literal(64)), "{}");
    let error = fail(&format!("INSERT INTO c DOCUMENTS ({})", literal(65)), "{}");
    assert_eq!(error.code(), "too_deep");

    let value = |levels: usize| format!(r#"{}1{}"#, r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let many = |levels: usize| args(&format!(r#"{{"d": [{}]}}"#, value(levels)));
    assert!(parse("INSERT INTO c DOCUMENTS (:d)", &many(64)).is_ok());
    let error = parse("INSERT INTO c DOCUMENTS (:d)", &many(65)).unwrap_err();
    assert_eq!(error.code(), "too_deep");
    let error = parse("INSERT INTO c DOCUMENTS ({a: :d})", &many(63)).unwrap_err();
    assert_eq!(error.code(), "too_deep");
}

#[test]
fn which_arguments_a_statement_names_is_known() {
    let statement = "SELECT * FROM c WHERE note = :note AND kind = ':kind' AND x IN [:a, 'b']";
    let given = r#"{"note": 1, "n": 2, "kind": 3, "a": 4, "b": 5}"#;
    let taken = parse_taking(statement, &mut args(given)).unwrap();
    let named = ["note", "n", "kind", "a", "b"].map(|name| taken.names(name));
    assert_eq!(named, [true, false, false, true, false]);
}

#[test]
fn documents_that_are_named_once_are_taken() {
    let given = r#"{"a":{"n":1},"b":[{"n":2}],"c":{"n":3}}"#;
    for (statement, left) in [
        ("INSERT INTO c DOCUMENTS (:a), (:b)", r#"{"a":null,"b":null,"c":{"n":3}}"#),
        ("INSERT INTO c DOCUMENTS (:a), (:c), (:a)", r#"{"a":{"n":1},"b":[{"n":2}],"c":null}"#),
        ("INSERT INTO c DOCUMENTS ({x: :a, y::b})", given),
        ("UPDATE c SET x = :a WHERE y = :b", given),
    ] {
        let mut taken = args(given);
        let statement_of_copies = run(statement, given);
        assert_eq!(parse_taking(statement, &mut taken).unwrap().statement, statement_of_copies);
        assert_eq!(taken, args(left), "{statement}");
    }
}
