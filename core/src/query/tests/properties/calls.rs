//! Calls of every function there is, with arguments that fit and with others: none panics, and what
//! they give is a value that can be sent.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use super::super::super::expr::Expr;
use super::super::super::function::Function;
use super::super::super::{Args, Meter, Statement, parse};
use super::{document, name, scalar, value};
use crate::Value;

/// How many arguments those functions are given at most that take any number.
const MOST_ARGUMENTS: usize = 4;

const AGGREGATES: [&str; 5] = ["COUNT", "SUM", "AVG", "MIN", "MAX"];

fn all() -> impl Iterator<Item = &'static Function> {
    Function::names().map(|name| Function::named(name).expect("it is one of them"))
}

fn text() -> BoxedStrategy<Value> {
    prop_oneof![
        "[ab ]{0,4}".prop_map(Value::String),
        "[ -~é日]{0,6}".prop_map(Value::String),
        "-?[0-9]{1,3}(\\.[0-9]{1,3})?(e[0-9]{1,3})?".prop_map(Value::String),
        any::<String>().prop_map(Value::String),
    ]
    .boxed()
}

fn whole() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => (-3i64..18).prop_map(Value::Int),
        1 => (-3i8..18).prop_map(|number| Value::Float(f64::from(number))),
        1 => any::<i64>().prop_map(Value::Int),
        1 => select(vec![i64::MIN, i64::MIN + 1, i64::MAX]).prop_map(Value::Int),
    ]
    .boxed()
}

/// Dates as text and as milliseconds, near and beyond the first and the last one, too.
fn date() -> BoxedStrategy<Value> {
    const DAY: &str = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    const TIME: &str = "[ T]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\\.[0-9]{1,9})?)?";
    let any_text = format!("{DAY}({TIME}(Z|[+-][01][0-9]:[0-5][0-9])?)?");
    let any_text = proptest::string::string_regex(&any_text).expect("it is one");
    let edges = [
        "-009999-01-01",
        "-009999-01-02T01:59:59Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999999Z",
        "2024-02-29T23:59:60Z",
        "2026-03-01T12:00:00+25:59",
        "9999-12-30T22:00:00.999999999Z",
        "9999-12-31T23:59:59.999999999",
    ];
    prop_oneof![
        4 => any_text.prop_map(Value::String),
        2 => select(edges.to_vec()).prop_map(Value::from),
        2 => (-377_705_116_800_001_i64..253_402_300_800_001).prop_map(Value::Int),
        1 => whole(),
    ]
    .boxed()
}

fn unit() -> BoxedStrategy<Value> {
    let units = [
        "year",
        "quarter",
        "month",
        "week",
        "weekday",
        "day",
        "dayofyear",
        "hour",
        "minute",
        "second",
        "millisecond",
        "Month",
        "eon",
    ];
    select(units.to_vec()).prop_map(Value::from).boxed()
}

/// What fits an argument of this name.
fn fitting(argument: &str) -> BoxedStrategy<Value> {
    match argument {
        "date" => date(),
        "unit" => unit(),
        // Of two dates, or places in a string or an array.
        "from" | "to" => prop_oneof![date(), whole()].boxed(),
        "count" | "digits" => whole(),
        "number" => prop_oneof![
            whole(),
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::Float),
        ]
        .boxed(),
        "array" => prop_oneof![
            vec(value(), 0..4).prop_map(Value::Array),
            vec(text(), 0..4).prop_map(Value::Array),
            vec(whole(), 0..4).prop_map(Value::Array),
        ]
        .boxed(),
        "object" => btree_map(name(), value(), 0..4).prop_map(Value::Object).boxed(),
        "string" | "part" | "separator" | "characters" | "by" | "start" | "end" => text(),
        "value" | "other" | "otherwise" => value().boxed(),
        other => unreachable!("no argument has been called {other} so far"),
    }
}

/// A call of a function with as many arguments as it takes. Most fit: so it does not only say NULL.
fn call_of(function: &'static Function, operand: &BoxedStrategy<Expr>) -> BoxedStrategy<Expr> {
    let names = function.arguments.split(|char: char| !char.is_alphabetic());
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    let (least, most) = (*function.arity.start(), (*function.arity.end()).min(MOST_ARGUMENTS));
    let argument = |place: usize| {
        // The last name stands for all behind it.
        let fits = fitting(names[place.min(names.len() - 1)]).prop_map(Expr::Literal);
        prop_oneof![2 => fits, 1 => operand.clone()].boxed()
    };
    let arguments: Vec<_> = (0..most).map(argument).collect();
    let call = move |(count, mut arguments): (usize, Vec<Expr>)| {
        arguments.truncate(count);
        Expr::Call(function, arguments).folded()
    };
    (least..=most, arguments).prop_map(call).boxed()
}

/// A call of any function, of these operands among others.
pub(super) fn call(operand: &BoxedStrategy<Expr>) -> BoxedStrategy<Expr> {
    Union::new(all().map(|function| call_of(function, operand))).boxed()
}

/// One call of every function, over fields among others.
fn a_call_of_each() -> Vec<BoxedStrategy<Expr>> {
    let operand = prop_oneof![
        super::path().prop_map(Expr::Path),
        scalar().prop_map(Expr::Literal),
        value().prop_map(Expr::Literal),
    ];
    let operand = operand.boxed();
    all().map(|function| call_of(function, &operand)).collect()
}

/// The text of a call with any number of any arguments, also of more or fewer than there can be.
pub(super) fn call_text() -> impl Strategy<Value = String> {
    let names: Vec<_> = Function::names().chain(AGGREGATES).collect();
    let literal = prop_oneof![value().boxed(), date(), unit(), whole(), text()];
    let argument = prop_oneof![
        2 => literal.prop_map(|literal| Expr::Literal(literal).to_string()),
        1 => select(vec!["a", "b.c", "_id", "a[0]", ":x", ":d", "*"]).prop_map(str::to_owned),
    ];
    (select(names), vec(argument, 0..5))
        .prop_map(|(name, arguments)| format!("{name}({})", arguments.join(", ")))
}

proptest! {
    #[test]
    fn every_function_gives_a_value_whatever_it_is_given(
        calls in a_call_of_each(),
        document in document(),
    ) {
        for call in calls {
            let text = format!("SELECT {call} AS x FROM c");
            let select = match parse(&text, &Args::new()) {
                Ok(Statement::Select(select)) => select,
                other => return Err(TestCaseError::fail(format!("{text}: {other:?}"))),
            };
            let row = select.row(&document, &Meter::new());
            let read = Value::from_json(row.to_json().as_bytes());
            prop_assert_eq!(read.ok(), Some(row), "{} of {}", text, document);
        }
    }
}
