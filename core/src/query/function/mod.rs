//! The functions of the language: pure, and the same on every machine, which is why there are none
//! that a platform's mathematics library computes, and none that tells the time.
//!
//! What is MISSING makes the result MISSING, what is NULL or of the wrong type makes it NULL, except
//! where a function is about that ([`Call::Lenient`]).

mod collections;
mod dates;
mod numbers;
mod strings;
mod types;

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use crate::Value;
use crate::document::MAX_BYTES;

/// The longest text or array that a function makes of shorter ones, in bytes, about; what would be
/// longer is NULL. It is as large as a document may be.
pub(super) const MAX_RESULT_BYTES: usize = MAX_BYTES;

/// A function of the language.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// What its arguments are called, for messages.
    pub(super) arguments: &'static str,
    /// How many it takes.
    pub(super) arity: RangeInclusive<usize>,
    call: Call,
}

enum Call {
    /// Of values none of which is MISSING or NULL; `None` is NULL.
    Strict(fn(&[&Value]) -> Option<Value>),
    /// Of whatever there is; `None` is MISSING.
    Lenient(fn(&[Option<&Value>]) -> Option<Value>),
}

/// As many arguments as anybody may want.
const ANY: usize = usize::MAX;

const fn strict(
    name: &'static str,
    arguments: &'static str,
    arity: RangeInclusive<usize>,
    call: fn(&[&Value]) -> Option<Value>,
) -> Function {
    Function { name, arguments, arity, call: Call::Strict(call) }
}

const fn lenient(
    name: &'static str,
    arguments: &'static str,
    arity: RangeInclusive<usize>,
    call: fn(&[Option<&Value>]) -> Option<Value>,
) -> Function {
    Function { name, arguments, arity, call: Call::Lenient(call) }
}

/// All of them, by name.
static FUNCTIONS: &[Function] = &[
    strict("abs", "number", 1..=1, numbers::abs),
    strict("array_concat", "array, ..", 1..=ANY, collections::array_concat),
    lenient("array_contains", "array, value", 2..=2, collections::array_contains),
    strict("array_distinct", "array", 1..=1, collections::array_distinct),
    strict("array_join", "array, separator", 2..=2, strings::array_join),
    strict("array_length", "array", 1..=1, collections::array_length),
    strict("array_max", "array", 1..=1, collections::array_max),
    strict("array_min", "array", 1..=1, collections::array_min),
    lenient("array_position", "array, value", 2..=2, collections::array_position),
    strict("array_slice", "array, from [, to]", 2..=3, collections::array_slice),
    strict("array_sort", "array", 1..=1, collections::array_sort),
    strict("array_sum", "array", 1..=1, collections::array_sum),
    strict("byte_length", "string", 1..=1, strings::byte_length),
    strict("ceil", "number", 1..=1, numbers::ceil),
    lenient("coalesce", "value, ..", 1..=ANY, types::coalesce),
    strict("contains", "string, part", 2..=2, strings::contains),
    strict("date_add", "date, count, unit", 3..=3, dates::date_add),
    strict("date_diff", "from, to, unit", 3..=3, dates::date_diff),
    strict("date_part", "date, unit", 2..=2, dates::date_part),
    strict("date_trunc", "date, unit", 2..=2, dates::date_trunc),
    strict("ends_with", "string, end", 2..=2, strings::ends_with),
    strict("epoch_ms", "date", 1..=1, dates::epoch_ms),
    strict("floor", "number", 1..=1, numbers::floor),
    strict("greatest", "value, ..", 1..=ANY, types::greatest),
    lenient("ifmissing", "value, otherwise", 2..=2, types::if_missing),
    lenient("ifnull", "value, otherwise", 2..=2, types::coalesce),
    lenient("is_array", "value", 1..=1, types::is_array),
    lenient("is_boolean", "value", 1..=1, types::is_boolean),
    lenient("is_number", "value", 1..=1, types::is_number),
    lenient("is_object", "value", 1..=1, types::is_object),
    lenient("is_string", "value", 1..=1, types::is_string),
    strict("least", "value, ..", 1..=ANY, types::least),
    strict("length", "string", 1..=1, strings::length),
    strict("lower", "string", 1..=1, strings::lower),
    strict("ltrim", "string [, characters]", 1..=2, strings::ltrim),
    lenient("nullif", "value, other", 2..=2, types::null_if),
    strict("object_keys", "object", 1..=1, collections::object_keys),
    strict("object_length", "object", 1..=1, collections::object_length),
    strict("object_values", "object", 1..=1, collections::object_values),
    strict("position", "string, part", 2..=2, strings::position),
    strict("replace", "string, part, by", 3..=3, strings::replace),
    strict("round", "number [, digits]", 1..=2, numbers::round),
    strict("rtrim", "string [, characters]", 1..=2, strings::rtrim),
    strict("sign", "number", 1..=1, numbers::sign),
    strict("split", "string, separator", 2..=2, strings::split),
    strict("sqrt", "number", 1..=1, numbers::sqrt),
    strict("starts_with", "string, start", 2..=2, strings::starts_with),
    strict("substr", "string, from [, count]", 2..=3, strings::substr),
    strict("timestamp", "date", 1..=1, dates::timestamp),
    strict("to_number", "value", 1..=1, types::to_number),
    strict("to_string", "value", 1..=1, types::to_string),
    strict("trim", "string [, characters]", 1..=2, strings::trim),
    strict("trunc", "number", 1..=1, numbers::trunc),
    lenient("type", "value", 1..=1, types::type_of),
    strict("upper", "string", 1..=1, strings::upper),
];

impl Function {
    /// The function of a name, in any case.
    pub(super) fn named(name: &str) -> Option<&'static Function> {
        FUNCTIONS.iter().find(|function| function.name.eq_ignore_ascii_case(name))
    }

    /// The names of all functions, sorted.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        FUNCTIONS.iter().map(|function| function.name)
    }

    /// Its value for as many arguments as it takes; `None` is MISSING.
    pub(super) fn call(&self, arguments: &[Option<Cow<'_, Value>>]) -> Option<Value> {
        match self.call {
            Call::Strict(call) => {
                let values: Option<Vec<&Value>> = arguments.iter().map(Option::as_deref).collect();
                let values = values?;
                if values.iter().any(|value| **value == Value::Null) {
                    return Some(Value::Null);
                }
                Some(call(&values).unwrap_or_default())
            }
            Call::Lenient(call) => {
                let values: Vec<_> = arguments.iter().map(Option::as_deref).collect();
                call(&values)
            }
        }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The text, if it is one.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The whole number, if it is one: `2.0` is, too.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Float(number) => super::order::exact_int(*number),
        _ => None,
    }
}

/// The elements, if it is an array.
fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// How many there are of something.
fn count(count: usize) -> Value {
    i64::try_from(count).map_or(Value::Null, Value::Int)
}
