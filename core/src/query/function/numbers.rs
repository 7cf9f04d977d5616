//! Functions on numbers. What is whole stays an integer.

use super::super::eval::{as_float, finite};
use super::integer;
use crate::Value;

/// An integer through the one, a double through the other.
fn of(
    value: &Value,
    integer: impl Fn(i64) -> Option<i64>,
    float: impl Fn(f64) -> f64,
) -> Option<Value> {
    match value {
        Value::Int(number) => Some(match integer(*number) {
            Some(result) => Value::Int(result),
            None => finite(float(as_float(*number))),
        }),
        Value::Float(number) => Some(finite(float(*number))),
        _ => None,
    }
}

pub(super) fn abs(values: &[&Value]) -> Option<Value> {
    of(values[0], i64::checked_abs, f64::abs)
}

pub(super) fn ceil(values: &[&Value]) -> Option<Value> {
    of(values[0], Some, f64::ceil)
}

pub(super) fn floor(values: &[&Value]) -> Option<Value> {
    of(values[0], Some, f64::floor)
}

pub(super) fn trunc(values: &[&Value]) -> Option<Value> {
    of(values[0], Some, f64::trunc)
}

/// -1, 0 or 1.
pub(super) fn sign(values: &[&Value]) -> Option<Value> {
    match values[0] {
        Value::Int(number) => Some(Value::Int(number.signum())),
        Value::Float(number) if *number == 0.0 => Some(Value::Int(0)),
        Value::Float(number) => Some(Value::Int(if *number > 0.0 { 1 } else { -1 })),
        _ => None,
    }
}

/// NULL of a number below 0.
pub(super) fn sqrt(values: &[&Value]) -> Option<Value> {
    match values[0] {
        Value::Int(number) => Some(finite(as_float(*number).sqrt())),
        Value::Float(number) => Some(finite(number.sqrt())),
        _ => None,
    }
}

/// Half away from zero, as written in decimal; so many digits after the point, from 0 to 15.
pub(super) fn round(values: &[&Value]) -> Option<Value> {
    let digits = match values.get(1) {
        Some(digits) => usize::try_from(integer(digits)?).ok().filter(|digits| *digits <= 15)?,
        None => 0,
    };
    of(values[0], Some, |number| rounded(number, digits))
}

fn rounded(number: f64, digits: usize) -> f64 {
    if digits == 0 {
        return number.round();
    }
    // The shortest text that reads back as the number is what a person sees: 1.005 is a little less
    // in binary, but rounds up.
    let text = number.abs().to_string();
    let Some((whole, fraction)) = text.split_once('.') else { return number };
    if fraction.len() <= digits {
        return number;
    }
    let mut kept: Vec<u8> = whole.bytes().chain(fraction.bytes().take(digits)).collect();
    if fraction.as_bytes()[digits] >= b'5' {
        let mut carry = true;
        for digit in kept.iter_mut().rev() {
            carry = *digit == b'9';
            *digit = if carry { b'0' } else { *digit + 1 };
            if !carry {
                break;
            }
        }
        if carry {
            kept.insert(0, b'1');
        }
    }
    let (whole, fraction) = kept.split_at(kept.len() - digits);
    let text = [whole, b".", fraction].concat();
    let magnitude: f64 =
        std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(number.abs());
    magnitude.copysign(number)
}
