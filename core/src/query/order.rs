//! Order and equality of values.
//!
//! Integers and doubles compare as the numbers they are, without rounding: a double that is close
//! to an integer but not equal to it is not equal here either.

use std::cmp::Ordering;

use crate::Value;

/// The total order across types: null, false, true, numbers, strings (by code point), arrays
/// (element by element, then the shorter first), objects (as lists of key and value, sorted by
/// key). Values that compare equal differ at most in how numbers are held: `1` and `1.0`.
pub fn total_cmp(left: &Value, right: &Value) -> Ordering {
    total_cmp_while(left, right, &mut |_| true)
}

/// The same, asking before each step, which compares so many bytes of text, whether to go on. If
/// not, the order that it gives means nothing.
pub(super) fn total_cmp_while(
    left: &Value,
    right: &Value,
    may_go_on: &mut impl FnMut(usize) -> bool,
) -> Ordering {
    let bytes = match (left, right) {
        (Value::String(left), Value::String(right)) => left.len().min(right.len()),
        _ => 0,
    };
    if !may_go_on(bytes) {
        return Ordering::Less;
    }
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Float(left), Value::Float(right)) => {
            left.partial_cmp(right).unwrap_or_else(|| left.total_cmp(right))
        }
        (Value::Int(left), Value::Float(right)) => cmp_int_float(*left, *right),
        (Value::Float(left), Value::Int(right)) => cmp_int_float(*right, *left).reverse(),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            let pairs = left.iter().zip(right);
            cmp_each(pairs.map(|(left, right)| total_cmp_while(left, right, may_go_on)))
                .then(left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            let fields = left.iter().zip(right);
            cmp_each(fields.map(|((left_name, left), (right_name, right))| {
                if !may_go_on(left_name.len().min(right_name.len())) {
                    return Ordering::Less;
                }
                left_name.cmp(right_name).then_with(|| total_cmp_while(left, right, may_go_on))
            }))
            .then(left.len().cmp(&right.len()))
        }
        _ => type_rank(left).cmp(&type_rank(right)),
    }
}

/// The order of two values of one type; `None`, that is unknown, across types and with null.
pub(super) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    is_comparable(left, right).then(|| total_cmp(left, right))
}

/// Whether two values are of one type, and not null.
pub(super) fn is_comparable(left: &Value, right: &Value) -> bool {
    type_rank(left) == type_rank(right) && *left != Value::Null
}

/// The place of a value's type in the total order.
pub(super) fn type_rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

/// The integer that a double is exactly, if it is one.
pub(super) fn exact_int(float: f64) -> Option<i64> {
    let (truncated, fraction) = split(float)?;
    (fraction == 0.0).then_some(truncated)
}

fn cmp_each(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn cmp_int_float(int: i64, float: f64) -> Ordering {
    match split(float) {
        Some((truncated, fraction)) => int
            .cmp(&truncated)
            .then_with(|| 0.0_f64.partial_cmp(&fraction).expect("a fraction is a number")),
        // Beyond every integer; NaN, which documents never hold, goes by its sign like the rest.
        None if float.is_sign_negative() => Ordering::Greater,
        None => Ordering::Less,
    }
}

/// The whole part and the fraction of a double within the range of `i64`.
fn split(float: f64) -> Option<(i64, f64)> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0; // 2^63: the first double past i64::MAX
    if !(-BEYOND..BEYOND).contains(&float) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation)] // in range, and cutting the fraction is the point
    let truncated = float as i64;
    Some((truncated, float - float.trunc()))
}
