use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::super::path::FieldPath;
use super::super::pattern::Pattern;
use super::super::predicate::{Comparison, Node, Operand, Predicate};
use super::super::{Args, parse, parse_filter, total_cmp};
use crate::Value;

const COMPARISONS: [Comparison; 6] = [
    Comparison::Equal,
    Comparison::NotEqual,
    Comparison::Less,
    Comparison::LessOrEqual,
    Comparison::Greater,
    Comparison::GreaterOrEqual,
];

/// A small world, so that comparisons often meet: three fields, few values.
fn scalar() -> impl Strategy<Value = Value> {
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

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abc]", 1 => Just("_id".to_owned()), 1 => Just("order".to_owned()), 1 => any::<String>()]
}

fn path() -> impl Strategy<Value = FieldPath> {
    vec(name(), 1..3).prop_map(|steps| FieldPath::new(steps).unwrap())
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![path().prop_map(Operand::Path), value().prop_map(Operand::Literal)]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    r"[ab%_\\']{0,6}".prop_map(|text| Pattern::new(&text).unwrap())
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        any::<Option<bool>>().prop_map(Node::Constant),
        path().prop_map(Node::Truth),
        (proptest::sample::select(&COMPARISONS[..]), operand(), operand())
            .prop_map(|(comparison, left, right)| Node::Compare(comparison, left, right)),
        operand().prop_map(Node::IsNull),
        operand().prop_map(Node::IsMissing),
        (operand(), vec(value(), 0..4)).prop_map(|(left, values)| Node::is_in(left, values)),
        (operand(), operand(), operand()).prop_map(|(a, b, c)| Node::Between(a, b, c)),
        (operand(), pattern()).prop_map(|(left, pattern)| Node::Like(left, pattern)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            vec(inner.clone(), 1..4).prop_map(Node::all),
            vec(inner, 1..4).prop_map(Node::any),
        ]
    })
}

fn document() -> impl Strategy<Value = Value> {
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
    vec(proptest::sample::select(WORDS), 0..24).prop_map(|words| words.join(" "))
}

/// Three-valued logic as the textbook has it: 0 false, 1 unknown, 2 true.
mod model {
    use super::*;

    fn of_bool(value: bool) -> u8 {
        if value { 2 } else { 0 }
    }

    fn find(operand: &Operand, document: &Value) -> Option<Value> {
        let path = match operand {
            Operand::Literal(value) => return Some(value.clone()),
            Operand::Path(path) => path,
        };
        let mut value = document.clone();
        for step in path.steps() {
            value = match value {
                Value::Object(mut fields) => fields.remove(step)?,
                _ => return None,
            };
        }
        Some(value)
    }

    fn compare(comparison: Comparison, left: Option<Value>, right: Option<Value>) -> u8 {
        let (Some(left), Some(right)) = (left, right) else { return 1 };
        if left == Value::Null || left.type_name() != right.type_name() {
            return 1;
        }
        let (equal, less) = (total_cmp(&left, &right).is_eq(), total_cmp(&left, &right).is_lt());
        of_bool(match comparison {
            Comparison::Equal => equal,
            Comparison::NotEqual => !equal,
            Comparison::Less => less,
            Comparison::LessOrEqual => less || equal,
            Comparison::Greater => !less && !equal,
            Comparison::GreaterOrEqual => !less,
        })
    }

    fn like(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|start| like(&text[start..], rest)),
            ['_', rest @ ..] => !text.is_empty() && like(&text[1..], rest),
            ['\\', exact, rest @ ..] | [exact, rest @ ..] => {
                text.first() == Some(exact) && like(&text[1..], rest)
            }
        }
    }

    pub(super) fn truth(node: &Node, document: &Value) -> u8 {
        let find = |operand: &Operand| find(operand, document);
        match node {
            Node::Constant(constant) => constant.map_or(1, of_bool),
            Node::Truth(path) => match find(&Operand::Path(path.clone())) {
                Some(Value::Bool(value)) => of_bool(value),
                _ => 1,
            },
            Node::Compare(comparison, left, right) => compare(*comparison, find(left), find(right)),
            Node::IsNull(operand) => find(operand).map_or(1, |value| of_bool(value == Value::Null)),
            Node::IsMissing(operand) => of_bool(find(operand).is_none()),
            Node::In(operand, values) => values
                .iter()
                .map(|value| compare(Comparison::Equal, find(operand), Some(value.clone())))
                .max()
                .unwrap_or(0),
            Node::Between(operand, low, high) => {
                let above = compare(Comparison::GreaterOrEqual, find(operand), find(low));
                above.min(compare(Comparison::LessOrEqual, find(operand), find(high)))
            }
            Node::Like(operand, pattern) => match find(operand) {
                Some(Value::String(text)) => {
                    let text: Vec<_> = text.chars().collect();
                    of_bool(like(&text, &pattern.text().chars().collect::<Vec<_>>()))
                }
                _ => 1,
            },
            Node::Not(inner) => 2 - truth(inner, document),
            Node::And(nodes) => nodes.iter().map(|node| truth(node, document)).min().unwrap_or(2),
            Node::Or(nodes) => nodes.iter().map(|node| truth(node, document)).max().unwrap_or(0),
        }
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
    fn predicates_print_and_read_back(node in node()) {
        check_round_trip(&Predicate::new(node).unwrap())?;
    }

    #[test]
    fn evaluation_agrees_with_the_model(node in node(), documents in vec(document(), 1..8)) {
        let predicate = Predicate::new(node.clone()).unwrap();
        let negated = Predicate::new(Node::Not(Box::new(node.clone()))).unwrap();
        for document in &documents {
            let expected = model::truth(&node, document);
            prop_assert_eq!(predicate.matches(document), expected == 2, "{} {}", predicate, document);
            prop_assert_eq!(negated.matches(document), expected == 0, "{} {}", negated, document);
        }
    }

    #[test]
    fn keys_hold_every_match(node in node(), documents in vec(document(), 1..8)) {
        let predicate = Predicate::new(node).unwrap();
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
        let filter = Predicate::new(Node::Compare(
            Comparison::Equal,
            Operand::Path(FieldPath::new(vec!["a".to_owned()]).unwrap()),
            Operand::Literal(given),
        ));
        check_round_trip(&filter.unwrap())?;
    }

    #[test]
    fn garbage_never_panics(text in prop_oneof![soup(), ".*", any::<String>()]) {
        let args: Args = [
            ("x".to_owned(), Value::Int(1)),
            ("d".to_owned(), Value::Object(Default::default())),
        ].into();
        for text in [text.clone(), format!("SELECT * FROM c WHERE {text}"), format!("UPDATE c SET a = {text}"),
                     format!("INSERT INTO c DOCUMENTS ({text})")] {
            if let Err(error) = parse(&text, &args) {
                prop_assert!(!error.to_string().is_empty() && !error.code().is_empty());
            }
        }
        if let Ok(predicate) = parse_filter(&text) {
            check_round_trip(&predicate)?;
        }
    }
}
