//! Three-valued logic as the textbook has it: 0 false, 1 unknown, 2 true.

use super::super::super::expr::{Comparison, Expr, Operator, Step};
use super::super::super::path::FieldPath;
use super::super::super::total_cmp;
use crate::Value;

fn of_bool(value: bool) -> u8 {
    if value { 2 } else { 0 }
}

fn find(path: &FieldPath, document: &Value) -> Option<Value> {
    path.steps().iter().try_fold(document.clone(), |value, step| match value {
        Value::Object(mut fields) => fields.remove(step),
        _ => None,
    })
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn operate(operator: Operator, left: &Value, right: &Value) -> Value {
    let finite = |float: f64| if float.is_finite() { Value::Float(float) } else { Value::Null };
    if operator == Operator::Concatenate {
        return match (left, right) {
            (Value::String(left), Value::String(right)) => Value::String(format!("{left}{right}")),
            _ => Value::Null,
        };
    }
    if let (Value::Int(left), Value::Int(right)) = (left, right) {
        let (left, right) = (i128::from(*left), i128::from(*right));
        let exact = match operator {
            Operator::Add => Some(left + right),
            Operator::Subtract => Some(left - right),
            Operator::Multiply => Some(left * right),
            Operator::Remainder if right != 0 => Some(left % right),
            Operator::Divide if right != 0 && left % right == 0 => Some(left / right),
            Operator::Remainder => return Value::Null,
            _ => None,
        };
        if let Some(exact) = exact.and_then(|exact| i64::try_from(exact).ok()) {
            return Value::Int(exact);
        }
    }
    let (Some(left), Some(right)) = (number(left), number(right)) else { return Value::Null };
    finite(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        _ => left % right,
    })
}

/// `None` is MISSING.
pub(super) fn value(expr: &Expr, document: &Value) -> Option<Value> {
    let value = |expr: &Expr| value(expr, document);
    match expr {
        Expr::Literal(literal) => Some(literal.clone()),
        Expr::Path(path) => find(path, document),
        Expr::Access(base, steps) => {
            steps.iter().try_fold(value(base)?, |value, step| match (value, step) {
                (Value::Object(mut fields), Step::Field(name)) => fields.remove(name),
                (Value::Array(items), Step::Element(index)) => {
                    let length = items.len() as i64;
                    let index = if *index < 0 { index + length } else { *index };
                    usize::try_from(index).ok().and_then(|index| items.get(index).cloned())
                }
                _ => None,
            })
        }
        Expr::Chain(first, rest) => {
            rest.iter().try_fold(value(first)?, |left, (operator, right)| {
                Some(operate(*operator, &left, &value(right)?))
            })
        }
        Expr::Negate(inner) => Some(match value(inner)? {
            Value::Float(number) => Value::Float(-number),
            number => operate(Operator::Subtract, &Value::Int(0), &number),
        }),
        Expr::Array(items) => {
            Some(Value::Array(items.iter().map(|item| value(item).unwrap_or_default()).collect()))
        }
        Expr::Object(fields) => Some(
            fields.iter().filter_map(|(name, field)| Some((name.clone(), value(field)?))).collect(),
        ),
        Expr::Case(case) => {
            for (when, then) in &case.arms {
                let is_met = match &case.operand {
                    Some(operand) => compare(Comparison::Equal, value(operand), value(when)) == 2,
                    None => truth(when, document) == 2,
                };
                if is_met {
                    return value(then);
                }
            }
            case.otherwise.as_ref().map_or(Some(Value::Null), value)
        }
        // Functions have tests of their own.
        Expr::Call(function, arguments) => {
            let arguments: Vec<_> = arguments
                .iter()
                .map(|argument| value(argument).map(std::borrow::Cow::Owned))
                .collect();
            function.call(&arguments)
        }
        condition => Some(match truth(condition, document) {
            0 => Value::Bool(false),
            1 => Value::Null,
            _ => Value::Bool(true),
        }),
    }
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

pub(super) fn truth(expr: &Expr, document: &Value) -> u8 {
    let value = |expr: &Expr| value(expr, document);
    match expr {
        Expr::Compare(comparison, pair) => compare(*comparison, value(&pair[0]), value(&pair[1])),
        Expr::IsNull(inner) => value(inner).map_or(1, |value| of_bool(value == Value::Null)),
        Expr::IsMissing(inner) => of_bool(value(inner).is_none()),
        Expr::InList(operand, values) => values
            .iter()
            .map(|item| compare(Comparison::Equal, value(operand), Some(item.clone())))
            .max()
            .unwrap_or(0),
        Expr::InArray(pair) => match value(&pair[1]) {
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| compare(Comparison::Equal, value(&pair[0]), Some(item)))
                .max()
                .unwrap_or(0),
            other => compare(Comparison::Equal, value(&pair[0]), other),
        },
        Expr::Between(three) => {
            let above = compare(Comparison::GreaterOrEqual, value(&three[0]), value(&three[1]));
            above.min(compare(Comparison::LessOrEqual, value(&three[0]), value(&three[2])))
        }
        Expr::Like(operand, pattern) => match value(operand) {
            Some(Value::String(text)) => {
                let text: Vec<_> = text.chars().collect();
                of_bool(like(&text, &pattern.text().chars().collect::<Vec<_>>()))
            }
            _ => 1,
        },
        Expr::Not(inner) => 2 - truth(inner, document),
        Expr::And(parts) => parts.iter().map(|part| truth(part, document)).min().unwrap_or(2),
        Expr::Or(parts) => parts.iter().map(|part| truth(part, document)).max().unwrap_or(0),
        other => match value(other) {
            Some(Value::Bool(value)) => of_bool(value),
            _ => 1,
        },
    }
}
