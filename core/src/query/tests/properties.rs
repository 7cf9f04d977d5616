mod calls;
mod model;

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::super::expr::{Case, Comparison, Expr, Operator, Step};
use super::super::function::Function;
use super::super::path::FieldPath;
use super::super::pattern::Pattern;
use super::super::predicate::Predicate;
use super::super::{Args, Groups, Meter, Statement, key, parse, parse_filter, total_cmp};
use crate::Value;

pub(super) const COMPARISONS: [Comparison; 6] = [
    Comparison::Equal,
    Comparison::NotEqual,
    Comparison::Less,
    Comparison::LessOrEqual,
    Comparison::Greater,
    Comparison::GreaterOrEqual,
];

const OPERATORS: [Operator; 6] = [
    Operator::Add,
    Operator::Subtract,
    Operator::Multiply,
    Operator::Divide,
    Operator::Remainder,
    Operator::Concatenate,
];

/// A small world, so that comparisons often meet: three fields, few values.
pub(super) fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-2i64..3).prop_map(Value::Int),
        any::<i64>().prop_map(Value::Int),
        (-2i8..3).prop_map(|half| Value::Float(f64::from(half) / 2.0)),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::Float),
        "[ab]{0,2}".prop_map(Value::String),
        any::<String>().prop_map(Value::String),
    ]
}

pub(super) fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::Array),
            btree_map(name(), inner, 0..3).prop_map(Value::Object),
        ]
    })
}

pub(super) fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abc]", 1 => Just("_id".to_owned()), 1 => Just("order".to_owned()), 1 => any::<String>()]
}

fn path() -> impl Strategy<Value = FieldPath> {
    vec(name(), 1..3).prop_map(|steps| FieldPath::new(steps).unwrap())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    r"[ab%_\\']{0,6}".prop_map(|text| Pattern::new(&text).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![name().prop_map(Step::Field), (-3i64..3).prop_map(Step::Element)]
}

/// Expressions that can be true or false, and others: both in each place where both may stand.
fn exprs() -> (BoxedStrategy<Expr>, BoxedStrategy<Expr>) {
    let mut condition = prop_oneof![
        any::<bool>().prop_map(|value| Expr::Literal(Value::Bool(value))),
        Just(Expr::Literal(Value::Null)),
        path().prop_map(Expr::Path),
    ]
    .boxed();
    let mut any_expr =
        prop_oneof![path().prop_map(Expr::Path), value().prop_map(Expr::Literal)].boxed();
    for _ in 0..3 {
        let (inner, operand) = (condition.clone(), any_expr.clone());
        condition = prop_oneof![
            2 => condition.clone(),
            3 => (proptest::sample::select(&COMPARISONS[..]), operand.clone(), operand.clone())
                .prop_map(|(by, left, right)| Expr::Compare(by, Box::new([left, right]))),
            1 => operand.clone().prop_map(|inner| Expr::IsNull(Box::new(inner))),
            1 => operand.clone().prop_map(|inner| Expr::IsMissing(Box::new(inner))),
            1 => (operand.clone(), vec(value(), 0..4)).prop_map(|(left, list)| Expr::is_in(left, list)),
            1 => (operand.clone(), path()).prop_map(|(left, path)| {
                Expr::InArray(Box::new([left, Expr::Path(path)]))
            }),
            1 => (operand.clone(), vec(operand.clone(), 2..4)).prop_map(|(left, list)| {
                match Expr::Array(list).folded() {
                    Expr::Literal(Value::Array(list)) => Expr::is_in(left, list),
                    array => Expr::InArray(Box::new([left, array])),
                }
            }),
            1 => (operand.clone(), operand.clone(), operand.clone())
                .prop_map(|(value, low, high)| Expr::Between(Box::new([value, low, high]))),
            1 => (operand.clone(), pattern())
                .prop_map(|(left, pattern)| Expr::Like(Box::new(left), pattern)),
            1 => calls::call(&operand).prop_map(|call| match call.may_be_condition() {
                true => call,
                false => Expr::IsNull(Box::new(call)),
            }),
            1 => inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
            1 => vec(inner.clone(), 1..4).prop_map(Expr::all),
            1 => vec(inner.clone(), 1..4).prop_map(Expr::any),
        ]
        .boxed();
        any_expr = prop_oneof![
            3 => any_expr.clone(),
            1 => inner.clone(),
            3 => (operand.clone(), proptest::sample::select(&OPERATORS[..]), operand.clone())
                .prop_map(|(left, operator, right)| Expr::operation(left, operator, right)),
            1 => operand.clone().prop_map(|inner| Expr::Negate(Box::new(inner)).folded()),
            1 => (operand.clone(), vec(step(), 1..3)).prop_map(|(base, steps)| Expr::access(base, steps)),
            1 => vec(operand.clone(), 0..3).prop_map(|items| Expr::Array(items).folded()),
            1 => btree_map(name(), operand.clone(), 0..3)
                .prop_map(|fields| Expr::Object(fields.into_iter().collect()).folded()),
            1 => (proptest::option::of(operand.clone()), inner, operand.clone(), proptest::option::of(operand.clone()))
                .prop_map(|(operand, when, then, otherwise)| {
                    Expr::Case(Box::new(Case { operand, arms: vec![(when, then)], otherwise }))
                }),
            2 => calls::call(&operand),
        ]
        .boxed();
    }
    (condition, any_expr)
}

pub(super) fn condition() -> BoxedStrategy<Expr> {
    exprs().0
}

pub(super) fn document() -> impl Strategy<Value = Value> {
    btree_map(name(), value(), 0..4).prop_map(Value::Object)
}

/// Words and signs of the language, in any order.
fn soup() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "SELECT",
        "INSERT",
        "INTO",
        "DOCUMENTS",
        "UPDATE",
        "DELETE",
        "FROM",
        "WHERE",
        "LIMIT",
        "SET",
        "UNSET",
        "APPLY",
        "INCREMENT",
        "BY",
        "ON",
        "ID",
        "CONFLICT",
        "DO",
        "AND",
        "OR",
        "NOT",
        "IS",
        "NULL",
        "MISSING",
        "IN",
        "BETWEEN",
        "LIKE",
        "CASE",
        "WHEN",
        "THEN",
        "ELSE",
        "END",
        "DISTINCT",
        "GROUP",
        "HAVING",
        "ORDER",
        "AS",
        "OFFSET",
        "CREATE",
        "INDEX",
        "DROP",
        "IF",
        "EXISTS",
        "EXPLAIN",
        "ANALYZE",
        "COUNT(",
        "SUM(DISTINCT",
        "true",
        "a",
        "b.c",
        "_id",
        "\"q\"",
        "`q`",
        "'s'",
        "1",
        "-",
        "2.5",
        ".5",
        ":x",
        ":d",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        ":",
        "::",
        "=",
        "<>",
        "<=",
        ";",
        "*",
        "+",
        "/",
        "%",
        "||",
        "[0]",
        "--",
        "/*",
        "*/",
        "'",
        "\"",
        "$$",
        "é",
        "\0",
        "\n",
    ];
    let functions: Vec<_> = Function::names().collect();
    let word = prop_oneof![
        8 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => proptest::sample::select(functions).prop_map(|name| format!("{name}(")),
    ];
    vec(word, 0..24).prop_map(|words| words.join(" "))
}

/// Does with documents what a statement does with those that it finds.
fn evaluate(statement: &Statement, documents: &[Value]) {
    let filter = match statement {
        Statement::Select(select) => {
            let select = Arc::new(select.clone());
            let mut groups = Groups::new(Arc::clone(&select));
            for document in documents {
                if select.is_grouped() {
                    groups.add(document, &Meter::new());
                } else {
                    select.row(document, &Meter::new());
                    select.sort_key(document, &Meter::new());
                }
            }
            drop(groups.into_rows(1 << 20));
            select.filter.clone()
        }
        Statement::Update(update) => Some(update.filter.clone()),
        Statement::Delete(delete) => Some(delete.filter.clone()),
        Statement::Evict(evict) => Some(evict.filter.clone()),
        Statement::Explain(explain) => return evaluate(&explain.statement, documents),
        Statement::Insert(_) | Statement::CreateIndex(_) | Statement::DropIndex(_) => None,
    };
    for document in documents {
        let _ = filter.as_ref().is_some_and(|filter| filter.matches(document));
    }
}

/// Whatever is read must print as text that reads back the same.
fn check_round_trip(predicate: &Predicate) -> Result<(), TestCaseError> {
    let text = predicate.to_string();
    let read =
        parse_filter(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
    prop_assert_eq!(&read, predicate, "{}", text);
    prop_assert_eq!(read.to_string(), text);
    Ok(())
}

proptest! {
    #[test]
    fn predicates_print_and_read_back(condition in condition()) {
        check_round_trip(&Predicate::new(condition).unwrap())?;
    }

    #[test]
    fn evaluation_agrees_with_the_model(condition in condition(), documents in vec(document(), 1..8)) {
        let predicate = Predicate::new(condition.clone()).unwrap();
        let negated = Predicate::new(Expr::Not(Box::new(condition.clone()))).unwrap();
        for document in &documents {
            let expected = model::truth(&condition, document);
            prop_assert_eq!(predicate.matches(document), expected == 2, "{} {}", predicate, document);
            prop_assert_eq!(negated.matches(document), expected == 0, "{} {}", negated, document);
        }
    }

    #[test]
    fn keys_hold_every_match(condition in condition(), documents in vec(document(), 1..8)) {
        let predicate = Predicate::new(condition).unwrap();
        if let Some(keys) = predicate.key() {
            prop_assert!(keys.is_sorted());
            for document in documents.iter().filter(|document| predicate.matches(document)) {
                let id = document.get(&["_id"]).map(crate::ids::DocumentKey::from_value);
                if let Some(Ok(id)) = id {
                    prop_assert!(keys.contains(&id), "{} {}", predicate, document);
                }
            }
        }
    }

    #[test]
    fn values_survive_a_literal(given in value()) {
        let field = Expr::Path(FieldPath::new(vec!["a".to_owned()]).unwrap());
        let filter =
            Predicate::new(Expr::Compare(Comparison::Equal, Box::new([field, Expr::Literal(given)])));
        check_round_trip(&filter.unwrap())?;
    }

    #[test]
    fn garbage_never_panics(
        text in prop_oneof![2 => soup(), 2 => calls::call_text(), 1 => ".*", 1 => any::<String>()],
        mut documents in vec(document(), 1..4),
    ) {
        documents.push(Value::Null);
        let args: Args = [
            ("x".to_owned(), Value::Int(1)),
            ("d".to_owned(), Value::Object(Default::default())),
        ].into();
        for statement in [
            text.clone(),
            format!("SELECT * FROM c WHERE {text}"),
            format!("UPDATE c SET a = {text}"),
            format!("INSERT INTO c DOCUMENTS ({text})"),
            format!("DELETE FROM c WHERE {text} IS NULL"),
            format!("SELECT {text} FROM c"),
            format!("SELECT MAX({text}) AS x FROM c"),
            format!("SELECT a FROM c GROUP BY {text}"),
            format!("SELECT COUNT(*) AS n FROM c HAVING {text} > 1"),
            format!("SELECT a FROM c ORDER BY {text}"),
        ] {
            match parse(&statement, &args) {
                Ok(parsed) => evaluate(&parsed, &documents),
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty() && !error.code().is_empty());
                    prop_assert!(error.location().is_some(), "{}: {}", statement, error);
                }
            }
        }
        if let Ok(predicate) = parse_filter(&text) {
            check_round_trip(&predicate)?;
        }
    }

    #[test]
    fn values_agree_with_the_model(expr in exprs().1, documents in vec(document(), 1..4)) {
        let text = format!("SELECT {expr} AS x FROM c");
        let select = match parse(&text, &Args::new()) {
            Ok(Statement::Select(select)) => select,
            other => return Err(TestCaseError::fail(format!("{text}: {other:?}"))),
        };
        for document in &documents {
            let row = select.row(document, &Meter::new());
            let expected = model::value(&expr, document);
            prop_assert_eq!(row.get(&["x"]), expected.as_ref(), "{} of {}", text, document);
        }
    }

    #[test]
    fn keys_order_like_values(left in proptest::option::of(value()), right in proptest::option::of(value())) {
        let bytes = |value: &Option<Value>| {
            let mut bytes = Vec::new();
            key::encode(value.as_ref(), &mut bytes);
            bytes
        };
        let expected = match (&left, &right) {
            (Some(left), Some(right)) => total_cmp(left, right),
            (left, right) => left.is_some().cmp(&right.is_some()),
        };
        prop_assert_eq!(bytes(&left).cmp(&bytes(&right)), expected);
        let both = [bytes(&left), bytes(&right)].concat();
        let mut rest = both.as_slice();
        for value in [&left, &right] {
            let read = key::decode(&mut rest).unwrap();
            prop_assert_eq!(read.is_some(), value.is_some());
            if let (Some(read), Some(value)) = (&read, value) {
                prop_assert!(total_cmp(read, value).is_eq(), "{} {}", read, value);
            }
        }
        prop_assert!(rest.is_empty());
    }
}
