//! Functions on types, and on what is NULL or MISSING.

use std::cmp::Ordering;

use super::super::order::{compare, total_cmp};
use crate::Value;

/// `missing`, `null`, `boolean`, `number`, `string`, `array` or `object`.
pub(super) fn type_of(values: &[Option<&Value>]) -> Option<Value> {
    let name = values[0].map_or("missing", Value::type_name);
    Some(Value::String(name.to_owned()))
}

/// Whether a value is of a type; MISSING and NULL are of none.
fn is_of(value: Option<&Value>, is_of: impl Fn(&Value) -> bool) -> Option<Value> {
    Some(Value::Bool(value.is_some_and(is_of)))
}

pub(super) fn is_array(values: &[Option<&Value>]) -> Option<Value> {
    is_of(values[0], |value| matches!(value, Value::Array(_)))
}

pub(super) fn is_boolean(values: &[Option<&Value>]) -> Option<Value> {
    is_of(values[0], |value| matches!(value, Value::Bool(_)))
}

pub(super) fn is_number(values: &[Option<&Value>]) -> Option<Value> {
    is_of(values[0], |value| matches!(value, Value::Int(_) | Value::Float(_)))
}

pub(super) fn is_object(values: &[Option<&Value>]) -> Option<Value> {
    is_of(values[0], |value| matches!(value, Value::Object(_)))
}

pub(super) fn is_string(values: &[Option<&Value>]) -> Option<Value> {
    is_of(values[0], |value| matches!(value, Value::String(_)))
}

/// The first that is neither MISSING nor NULL; NULL if there is none.
pub(super) fn coalesce(values: &[Option<&Value>]) -> Option<Value> {
    let found = values.iter().flatten().find(|value| ***value != Value::Null);
    Some(found.copied().cloned().unwrap_or_default())
}

/// The value unless it is MISSING.
pub(super) fn if_missing(values: &[Option<&Value>]) -> Option<Value> {
    values[0].or(values[1]).cloned()
}

/// NULL if both are equal, else the first.
pub(super) fn null_if(values: &[Option<&Value>]) -> Option<Value> {
    let value = values[0]?;
    let is_equal = values[1].and_then(|other| compare(value, other)).is_some_and(Ordering::is_eq);
    Some(if is_equal { Value::Null } else { value.clone() })
}

/// By the total order across types.
pub(super) fn greatest(values: &[&Value]) -> Option<Value> {
    values.iter().max_by(|left, right| total_cmp(left, right)).copied().cloned()
}

/// By the total order across types.
pub(super) fn least(values: &[&Value]) -> Option<Value> {
    values.iter().min_by(|left, right| total_cmp(left, right)).copied().cloned()
}

/// A string as it is, anything else as JSON.
pub(super) fn to_string(values: &[&Value]) -> Option<Value> {
    Some(Value::String(match values[0] {
        Value::String(text) => text.clone(),
        other => other.to_json(),
    }))
}

/// A number as JSON writes one, spaces around it, or true and false as 1 and 0; else NULL.
pub(super) fn to_number(values: &[&Value]) -> Option<Value> {
    match values[0] {
        Value::Int(_) | Value::Float(_) => Some(values[0].clone()),
        Value::Bool(value) => Some(Value::Int(i64::from(*value))),
        Value::String(text) => {
            let text = text.trim();
            // Whatever else it is need not be made to see that it is no number.
            if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                return None;
            }
            match Value::from_json(text.as_bytes()) {
                Ok(number @ (Value::Int(_) | Value::Float(_))) => Some(number),
                _ => None,
            }
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
