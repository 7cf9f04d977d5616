//! The functions of the language: pure, and the same on every machine, which is why there are none
//! that a platform's mathematics library computes, and none that tells the time.
//!
//! What is MISSING makes the result MISSING, what is NULL or of the wrong type makes it NULL, except
//! where a function is about that ([`Call::Lenient`]). The work of a call ([`Work`]) is taken from
//! the budget before it: no function goes through more than that says.

mod collections;
mod dates;
mod numbers;
mod strings;
mod types;

use std::borrow::Cow;
use std::fmt;
use std::iter::successors;
use std::ops::RangeInclusive;

use super::budget::{BYTES_PER_STEP, Budget};
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
    work: Work,
    call: Call,
}

/// What a function goes through. What it makes counts as well, once that is known.
#[derive(Clone, Copy)]
enum Work {
    /// The texts among its arguments, many bytes at once.
    Texts,
    /// All that is in its arguments, texts many bytes at once.
    Elements,
    /// All that is in its arguments, texts letter by letter.
    Letters,
    /// All that is in an array, as often as sorting goes through it.
    Sorting,
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
    Function { name, arguments, arity, work: Work::Texts, call: Call::Strict(call) }
}

const fn lenient(
    name: &'static str,
    arguments: &'static str,
    arity: RangeInclusive<usize>,
    call: fn(&[Option<&Value>]) -> Option<Value>,
) -> Function {
    Function { name, arguments, arity, work: Work::Texts, call: Call::Lenient(call) }
}

/// All of them, by name.
static FUNCTIONS: &[Function] = &[
    strict("abs", "number", 1..=1, numbers::abs),
    strict("array_concat", "array, ..", 1..=ANY, collections::array_concat).through(Work::Letters),
    lenient("array_contains", "array, value", 2..=2, collections::array_contains)
        .through(Work::Elements),
    strict("array_distinct", "array", 1..=1, collections::array_distinct).through(Work::Sorting),
    strict("array_join", "array, separator", 2..=2, strings::array_join).through(Work::Elements),
    strict("array_length", "array", 1..=1, collections::array_length),
    strict("array_max", "array", 1..=1, collections::array_max).through(Work::Elements),
    strict("array_min", "array", 1..=1, collections::array_min).through(Work::Elements),
    lenient("array_position", "array, value", 2..=2, collections::array_position)
        .through(Work::Elements),
    strict("array_slice", "array, from [, to]", 2..=3, collections::array_slice),
    strict("array_sort", "array", 1..=1, collections::array_sort).through(Work::Sorting),
    strict("array_sum", "array", 1..=1, collections::array_sum).through(Work::Elements),
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
    strict("greatest", "value, ..", 1..=ANY, types::greatest).through(Work::Elements),
    lenient("ifmissing", "value, otherwise", 2..=2, types::if_missing),
    lenient("ifnull", "value, otherwise", 2..=2, types::coalesce),
    lenient("is_array", "value", 1..=1, types::is_array),
    lenient("is_boolean", "value", 1..=1, types::is_boolean),
    lenient("is_number", "value", 1..=1, types::is_number),
    lenient("is_object", "value", 1..=1, types::is_object),
    lenient("is_string", "value", 1..=1, types::is_string),
    strict("least", "value, ..", 1..=ANY, types::least).through(Work::Elements),
    strict("length", "string", 1..=1, strings::length),
    strict("lower", "string", 1..=1, strings::lower).through(Work::Letters),
    strict("ltrim", "string [, characters]", 1..=2, strings::ltrim).through(Work::Letters),
    lenient("nullif", "value, other", 2..=2, types::null_if).through(Work::Elements),
    strict("object_keys", "object", 1..=1, collections::object_keys),
    strict("object_length", "object", 1..=1, collections::object_length),
    strict("object_values", "object", 1..=1, collections::object_values),
    strict("position", "string, part", 2..=2, strings::position),
    strict("replace", "string, part, by", 3..=3, strings::replace).through(Work::Letters),
    strict("round", "number [, digits]", 1..=2, numbers::round),
    strict("rtrim", "string [, characters]", 1..=2, strings::rtrim).through(Work::Letters),
    strict("sign", "number", 1..=1, numbers::sign),
    strict("split", "string, separator", 2..=2, strings::split).through(Work::Letters),
    strict("sqrt", "number", 1..=1, numbers::sqrt),
    strict("starts_with", "string, start", 2..=2, strings::starts_with),
    strict("substr", "string, from [, count]", 2..=3, strings::substr),
    strict("timestamp", "date", 1..=1, dates::timestamp),
    strict("to_number", "value", 1..=1, types::to_number).through(Work::Letters),
    strict("to_string", "value", 1..=1, types::to_string).through(Work::Letters),
    strict("trim", "string [, characters]", 1..=2, strings::trim).through(Work::Letters),
    strict("trunc", "number", 1..=1, numbers::trunc),
    lenient("type", "value", 1..=1, types::type_of),
    strict("upper", "string", 1..=1, strings::upper).through(Work::Letters),
];

impl Function {
    /// The same, going through more than texts.
    const fn through(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// Takes the steps of a call. False if the work is used up.
    pub(super) fn charge(&self, arguments: &[Option<Cow<'_, Value>>], budget: &Budget) -> bool {
        let mut values = arguments.iter().flatten();
        match self.work {
            Work::Texts => values.all(|value| budget.scan(text(value).map_or(0, str::len))),
            Work::Elements => values.all(|value| budget.walk(value, 1, BYTES_PER_STEP)),
            Work::Letters => values.all(|value| budget.walk(value, 1, 1)),
            Work::Sorting => values.all(|value| {
                let halved = |length: &usize| Some(length / 2);
                let lengths = successors(items(value).map(<[Value]>::len), halved);
                let times = lengths.take_while(|length| *length > 0).count().max(1);
                budget.walk(value, times, (BYTES_PER_STEP / times).max(1))
            }),
        }
    }

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
