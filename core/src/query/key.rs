//! Values as bytes whose order is the total order of the values, MISSING first.
//!
//! What sorts, groups, tells duplicates apart or looks up in an index does so by these bytes. Values
//! that compare equal have equal bytes; read back, a number is an integer if it is a whole one that
//! fits, so `1.0` comes back as `1`.
//!
//! ```text
//! missing 05 | null 06 | false 07 | true 08
//! number  09 ordered(double at or below it) be16(what is left of an integer)
//! string  0a text, 00 as 00 ff, then 00 01
//! array   0b element .. 00
//! object  0c (01 name value) .. 00, a name as a string without its tag
//! ```
//!
//! Nothing begins with a byte below 05, so 00 and 01 sort before whatever could follow.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::Value;

const MISSING: u8 = 5;
const NULL: u8 = 6;
const FALSE: u8 = 7;
const TRUE: u8 = 8;
const NUMBER: u8 = 9;
const STRING: u8 = 10;
const ARRAY: u8 = 11;
const OBJECT: u8 = 12;
/// Ends arrays and objects, and begins what stands for a zero byte or the end in a string.
const END: u8 = 0;
/// Before each entry of an object, and after the zero byte that ends a string.
const MORE: u8 = 1;
/// After a zero byte of a string itself.
const ZERO: u8 = 0xff;
/// What ends a string.
const TEXT_END: [u8; 2] = [END, MORE];

/// Appends a value; `None` is MISSING.
pub(super) fn encode(value: Option<&Value>, bytes: &mut Vec<u8>) {
    match value {
        None => bytes.push(MISSING),
        Some(Value::Null) => bytes.push(NULL),
        Some(Value::Bool(value)) => bytes.push(if *value { TRUE } else { FALSE }),
        Some(Value::Int(number)) => {
            let (below, rest) = floor(*number);
            encode_number(below, rest, bytes);
        }
        Some(Value::Float(number)) => encode_number(*number, 0, bytes),
        Some(Value::String(text)) => {
            bytes.push(STRING);
            encode_text(text, bytes);
        }
        Some(Value::Array(items)) => {
            bytes.push(ARRAY);
            items.iter().for_each(|item| encode(Some(item), bytes));
            bytes.push(END);
        }
        Some(Value::Object(fields)) => {
            bytes.push(OBJECT);
            for (name, field) in fields {
                bytes.push(MORE);
                encode_text(name, bytes);
                encode(Some(field), bytes);
            }
            bytes.push(END);
        }
    }
}

/// Takes a value from the front of bytes; `None` if none of ours begins there.
pub(super) fn decode(bytes: &mut &[u8]) -> Option<Option<Value>> {
    let value = match take(bytes)? {
        MISSING => return Some(None),
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        NUMBER => decode_number(bytes)?,
        STRING => Value::String(decode_text(bytes)?),
        ARRAY => {
            let mut items = Vec::new();
            while *bytes.first()? != END {
                items.push(decode(bytes)??);
            }
            take(bytes)?;
            Value::Array(items)
        }
        OBJECT => {
            let mut fields = BTreeMap::new();
            while take(bytes)? == MORE {
                let name = decode_text(bytes)?;
                fields.insert(name, decode(bytes)??);
            }
            Value::Object(fields)
        }
        _ => return None,
    };
    Some(Some(value))
}

/// The bytes of all values of the type of this one lie in this range.
pub(super) fn of_type(value: &Value) -> Range<Vec<u8>> {
    let (first, last) = match value {
        Value::Null => (NULL, NULL),
        Value::Bool(_) => (FALSE, TRUE),
        Value::Int(_) | Value::Float(_) => (NUMBER, NUMBER),
        Value::String(_) => (STRING, STRING),
        Value::Array(_) => (ARRAY, ARRAY),
        Value::Object(_) => (OBJECT, OBJECT),
    };
    vec![first]..vec![last + 1]
}

/// The bytes of all strings that begin with this text lie in this range.
pub(super) fn strings_beginning_with(text: &str) -> Range<Vec<u8>> {
    let mut start = vec![STRING];
    encode_text(text, &mut start);
    start.truncate(start.len() - TEXT_END.len());
    let end = after(&start);
    start..end
}

/// The first bytes that are above all that begin with these, which are of a value.
pub(super) fn after(bytes: &[u8]) -> Vec<u8> {
    let last = bytes.iter().rposition(|byte| *byte != u8::MAX).expect("a tag is a small number");
    let mut end = bytes[..=last].to_vec();
    end[last] += 1;
    end
}

fn take(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// The largest double that is not above an integer, and what is left. Doubles are at most 1,024
/// apart there.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn floor(number: i64) -> (f64, u16) {
    let nearest = number as f64;
    let below = if nearest as i128 > i128::from(number) { nearest.next_down() } else { nearest };
    (below, (i128::from(number) - below as i128) as u16)
}

fn encode_number(number: f64, rest: u16, bytes: &mut Vec<u8>) {
    // There is one zero.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    bytes.push(NUMBER);
    bytes.extend_from_slice(&ordered.to_be_bytes());
    bytes.extend_from_slice(&rest.to_be_bytes());
}

fn decode_number(bytes: &mut &[u8]) -> Option<Value> {
    let (ordered, rest) = bytes.split_first_chunk::<8>()?;
    let (left, rest) = rest.split_first_chunk::<2>()?;
    *bytes = rest;
    let ordered = u64::from_be_bytes(*ordered);
    let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
    let number = f64::from_bits(bits);
    Some(match super::order::exact_int(number) {
        Some(whole) => Value::Int(whole.checked_add(i64::from(u16::from_be_bytes(*left)))?),
        None => Value::Float(number),
    })
}

fn encode_text(text: &str, bytes: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(zero) = memchr::memchr(0, rest) {
        bytes.extend_from_slice(&rest[..=zero]);
        bytes.push(ZERO);
        rest = &rest[zero + 1..];
    }
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(&TEXT_END);
}

fn decode_text(bytes: &mut &[u8]) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let zero = memchr::memchr(0, bytes)?;
        text.extend_from_slice(&bytes[..zero]);
        let follows = *bytes.get(zero + 1)?;
        *bytes = &bytes[zero + 2..];
        match follows {
            ZERO => text.push(0),
            MORE => return String::from_utf8(text).ok(),
            _ => return None,
        }
    }
}
