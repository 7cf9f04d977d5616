use super::super::{Allowed, MAX_DEPTH, MAX_RULE_BYTES, Rule};
use super::{args, json, run};
use crate::query::{Meter, QueryErrorCode, Statement, parse_filter};

fn allowed(rule: &str, claims: &str) -> Allowed {
    let rule = Rule::new(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
    rule.bind(&args(claims)).unwrap_or_else(|error| panic!("{}: {error}", rule.as_str()))
}

/// Whether a document of store 17 is let through.
fn lets(rule: &str, claims: &str) -> bool {
    let document = json(r#"{"_id": "a", "store": 17, "owner": "ann", "tags": ["x"]}"#);
    allowed(rule, claims).into_condition().matches(&document)
}

#[test]
fn claims_stand_in_the_places_that_name_them() {
    for (rule, claims, expected) in [
        ("store = :store", r#"{"store": 17}"#, true),
        ("store = :store", r#"{"store": 18}"#, false),
        ("store = :store", r#"{"store": "17"}"#, false),
        ("store IN (:stores)", r#"{"stores": [16, 17]}"#, true),
        ("store IN :stores", r#"{"stores": [16]}"#, false),
        ("owner = :who.name", r#"{"who": {"name": "ann"}}"#, true),
        ("owner = :who.name", r#"{"who": {}}"#, false),
        (
            "owner = :claims['https://a.example/name']",
            r#"{"claims": {"https://a.example/name": "ann"}}"#,
            true,
        ),
        ("owner LIKE :pattern", r#"{"pattern": "a%"}"#, true),
        ("owner = 'ann' AND :level > 3", r#"{"level": 4}"#, true),
        ("owner = 'ann' AND :level > 3", r#"{"level": 3}"#, false),
    ] {
        assert_eq!(lets(rule, claims), expected, "{rule} {claims}");
    }
}

#[test]
fn what_a_claim_says_is_a_value_and_never_text() {
    let claims = r#"{"owner": "x' OR TRUE OR owner = 'x"}"#;
    assert!(!lets("owner = :owner", claims));
    let Allowed::Where(condition) = allowed("owner = :owner", claims) else {
        panic!("a condition")
    };
    assert_eq!(parse_filter(&condition.to_string()).unwrap(), condition);
}

#[test]
fn who_lacks_a_claim_is_let_at_nothing() {
    for rule in ["owner != :name", "NOT owner = :name", "TRUE OR owner = :name", ":name IS MISSING"]
    {
        assert_eq!(allowed(rule, "{}"), Allowed::Nothing, "{rule}");
    }
}

#[test]
fn what_depends_on_no_document_is_all_or_nothing() {
    for (rule, claims, expected) in [
        ("TRUE", "{}", Allowed::Everything),
        ("FALSE", "{}", Allowed::Nothing),
        ("NULL", "{}", Allowed::Nothing),
        ("1 = 1", "{}", Allowed::Everything),
        ("'admin' IN :roles", r#"{"roles": ["admin"]}"#, Allowed::Everything),
        ("'admin' IN :roles", r#"{"roles": []}"#, Allowed::Nothing),
    ] {
        assert_eq!(allowed(rule, claims), expected, "{rule} {claims}");
    }
}

#[test]
fn wrong_rules_are_told_when_they_are_read() {
    for (rule, code) in [
        ("", QueryErrorCode::SyntaxError),
        ("store = ", QueryErrorCode::SyntaxError),
        ("store = :store OR", QueryErrorCode::SyntaxError),
        ("store = 1; TRUE", QueryErrorCode::SyntaxError),
        ("store + 1", QueryErrorCode::InvalidArgument),
        ("owner LIKE 1", QueryErrorCode::InvalidArgument),
    ] {
        let error = Rule::new(rule).expect_err(rule);
        assert_eq!(error.error_code(), code, "{rule}: {error}");
    }
    Rule::new("owner LIKE :pattern").unwrap();
    let error = Rule::new("owner LIKE :pattern").unwrap().bind(&args(r#"{"pattern": 1}"#));
    assert_eq!(error.unwrap_err().error_code(), QueryErrorCode::InvalidArgument);
}

#[test]
fn a_rule_is_not_too_long_with_its_claims() {
    let rule = Rule::new("owner IN :names").unwrap();
    let names = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("{number:09}")).collect();
        rule.bind(&args(&serde_json::json!({ "names": names }).to_string()))
    };
    assert!(matches!(names(1_000), Ok(Allowed::Where(_))));
    let nested = Rule::new(format!("{}owner = :who.name", "NOT ".repeat(MAX_DEPTH))).unwrap();
    let error = nested.bind(&args(r#"{"who": {}}"#)).unwrap_err();
    assert_eq!(error.error_code(), QueryErrorCode::TooDeep);
    let error = names(10_000).unwrap_err();
    // It is the claims that make it too long, and they stand in no text.
    assert_eq!((error.error_code(), error.location()), (QueryErrorCode::TooLong, None));
    let text = format!("owner = '{}'", "a".repeat(MAX_RULE_BYTES));
    assert_eq!(Rule::new(text).unwrap_err().error_code(), QueryErrorCode::TooLong);
}

#[test]
fn a_restricted_select_finds_what_both_conditions_hold_of() {
    for (select, rule) in [
        ("SELECT * FROM c WHERE a = 1 OR b = 2", "c = 3 OR d = 4"),
        ("SELECT * FROM c WHERE (a = 1 OR b = 2) AND (c = 3 OR d = 4)", "TRUE"),
    ] {
        let Statement::Select(mut select) = run(select, "{}") else { panic!("a SELECT") };
        select.restrict(parse_filter(rule).unwrap());
        let condition = select.condition().unwrap();
        for (document, expected) in [
            (r#"{"a": 1, "c": 3}"#, true),
            (r#"{"a": 1}"#, false),
            (r#"{"d": 4}"#, false),
            (r#"{"b": 2, "d": 4}"#, true),
        ] {
            let document = json(document);
            assert_eq!(
                select.matches(&document, &Meter::new()),
                expected,
                "{condition} {document:?}"
            );
            assert_eq!(condition.matches(&document), expected, "{condition} {document:?}");
        }
    }
    let Statement::Select(mut select) = run("SELECT COUNT(*) AS n FROM c", "{}") else { panic!() };
    select.restrict(parse_filter("a = 1").unwrap());
    assert_eq!(select.condition().unwrap().to_string(), "a = 1");
    assert!(select.matches(&json(r#"{"a": 1}"#), &Meter::new()));
    assert!(!select.matches(&json(r#"{"a": 2}"#), &Meter::new()));
}

#[test]
fn nothing_is_computed_of_what_may_not_be_read() {
    let statement = "SELECT * FROM c WHERE secret LIKE 'h%' AND replace(long, 'a', 'bb') = '1'";
    let Statement::Select(mut select) = run(statement, "{}") else { panic!("a SELECT") };
    select.restrict(parse_filter("owner = 'me'").unwrap());
    let work = |owner: &str, secret: &str| {
        let long = "a".repeat(10_000);
        let document = format!(r#"{{{owner}"secret": "{secret}", "long": "{long}"}}"#);
        let meter = Meter::new();
        assert!(!select.matches(&json(&document), &meter));
        meter.taken()
    };
    assert!(work(r#""owner": "me", "#, "hunter2") > 10_000);
    // Whether the rule does not hold, or is unknown.
    for owner in ["", r#""owner": null, "#, r#""owner": 7, "#, r#""owner": "you", "#] {
        assert_eq!(work(owner, "hunter2"), work(owner, "nobody"), "{owner}");
        assert!(work(owner, "hunter2") < 100, "{owner}");
    }
}

#[test]
fn what_is_evaluated_with_too_few_steps_is_over() {
    let Statement::Select(select) =
        run("SELECT upper(long) AS x FROM c WHERE long LIKE '%b%'", "{}")
    else {
        panic!("a SELECT")
    };
    let document = json(&format!(r#"{{"long": "{}b"}}"#, "a".repeat(10_000)));
    let enough = Meter::new();
    assert!(select.matches(&document, &enough));
    let row = select.row(&document, &enough);
    assert!(!enough.is_over());
    for steps in 0..=enough.taken() {
        let meter = Meter::of(steps);
        let found = (select.matches(&document, &meter), select.row(&document, &meter));
        assert!(meter.is_over() || found == (true, row.clone()), "{steps}");
    }
    assert!(!Meter::of(enough.taken() + 1).is_over());
}
