//! The JSON values that documents hold.
//!
//! Digits alone are an integer, stay exact and must fit an `i64`; a number with a fraction or an
//! exponent is a double. Objects keep their keys sorted, so equal values have equal text:
//! [`Value::to_json`] is canonical, and document ids rely on that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::{fmt, io};

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A JSON value. Keys of objects are sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// JSON `null`; a field that is absent is not `Null` but missing.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, exact.
    Int(i64),
    /// Any other number, always finite.
    Float(f64),
    /// Text.
    String(String),
    /// An array; replaced as a whole, never merged.
    Array(Vec<Value>),
    /// An object; merged by key.
    Object(BTreeMap<String, Value>),
}

/// Text that is not a JSON value this database can hold.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct JsonError {
    message: String,
    fault: JsonFault,
}

/// The sort of a [`JsonError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// It is not JSON.
    Syntax,
    /// It nests so deeply that it is not even read.
    TooDeep,
    /// It is JSON, with something in it that would not come back as it was sent.
    Unusable,
}

impl JsonError {
    /// What is wrong.
    pub fn fault(&self) -> JsonFault {
        self.fault
    }
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let message = error.to_string();
        // The parser's own limit has no category of its own.
        let fault = if message.starts_with("recursion limit exceeded") {
            JsonFault::TooDeep
        } else if error.is_data() {
            JsonFault::Unusable
        } else {
            JsonFault::Syntax
        };
        JsonError { message, fault }
    }
}

impl Value {
    /// Reads JSON text. Refuses what would be stored as something else than was sent: integers
    /// beyond `i64`, which would lose digits as doubles, and objects with a key twice.
    pub fn from_json(text: &[u8]) -> Result<Self, JsonError> {
        let value: Value = serde_json::from_slice(text)?;
        // Integers beyond 64 bits reach the visitor as doubles: only the text tells them apart
        // from numbers that were meant to be doubles.
        if value.holds_large_float()
            && let Some(integer) = large_integer(text)
        {
            return Err(JsonError { message: too_large(integer), fault: JsonFault::Unusable });
        }
        Ok(value)
    }

    /// Compact JSON text with sorted keys: equal values give equal text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a value has string keys and finite numbers only")
    }

    /// How long the text of [`Value::to_json`] is, in bytes, without making it.
    pub fn json_len(&self) -> usize {
        struct Counter(usize);

        impl io::Write for Counter {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let mut counter = Counter(0);
        serde_json::to_writer(&mut counter, self)
            .expect("a value has string keys and finite numbers only, and counting does not fail");
        counter.0
    }

    /// Whether a double in it is so large that it may have been written as an integer.
    fn holds_large_float(&self) -> bool {
        const LARGE: f64 = 9_223_372_036_854_775_808.0;
        match self {
            Value::Float(float) => float.abs() >= LARGE,
            Value::Array(items) => items.iter().any(Value::holds_large_float),
            Value::Object(fields) => fields.values().any(Value::holds_large_float),
            _ => false,
        }
    }

    /// The value at `path` inside nested objects, or `None` if a step is missing.
    pub fn get<S: AsRef<str>>(&self, path: &[S]) -> Option<&Value> {
        path.iter().try_fold(self, |value, step| match value {
            Value::Object(fields) => fields.get(step.as_ref()),
            _ => None,
        })
    }

    /// The fields, if this is an object.
    pub fn as_object(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// How deep objects and arrays nest: 0 for a scalar.
    pub fn depth(&self) -> usize {
        match self {
            Value::Array(items) => 1 + items.iter().map(Value::depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(Value::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The word for this type in error messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) | Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
                i64::try_from(value)
                    .map(Value::Int)
                    .map_err(|_| E::custom(too_large(&value.to_string())))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
                if value.is_finite() {
                    Ok(Value::Float(value))
                } else {
                    Err(E::custom("a number must be finite"))
                }
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::String(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(Value::String(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1024));
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    match fields.entry(key) {
                        Entry::Vacant(entry) => _ = entry.insert(map.next_value()?),
                        Entry::Occupied(entry) => {
                            let key = shorten(entry.key());
                            let message = format!("an object has the key '{key}' twice");
                            return Err(de::Error::custom(message));
                        }
                    }
                }
                Ok(Value::Object(fields))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// The first integer in JSON text that does not fit an `i64`.
fn large_integer(text: &[u8]) -> Option<&str> {
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let length = rest.iter().take_while(|byte| is_part(byte)).count();
                let (number, after) = rest.split_at(length);
                let number = std::str::from_utf8(number).ok()?;
                if !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() {
                    return Some(number);
                }
                after
            }
            _ => after,
        };
    }
    None
}

/// What follows a string of which the opening quote is behind.
fn after_string(mut text: &[u8]) -> &[u8] {
    loop {
        match text {
            [b'\\', _, after @ ..] => text = after,
            [b'"', after @ ..] => return after,
            [_, after @ ..] => text = after,
            [] => return text,
        }
    }
}

fn too_large(integer: &str) -> String {
    format!("integer {} does not fit 64 bits with a sign; send it as a string", shorten(integer))
}

/// The start of a text, for messages.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::String(value)
    }
}

impl FromIterator<(String, Value)> for Value {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        Value::Object(fields.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> JsonError {
        Value::from_json(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn integers_stay_exact_or_are_refused() {
        for integer in ["0", "-0", "9223372036854775807", "-9223372036854775808"] {
            let value = Value::from_json(format!("[{integer}]").as_bytes()).unwrap();
            assert!(value.holds_large_float() || value.to_json().contains(integer), "{integer}");
        }
        for integer in [
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
        ] {
            for text in [integer.to_owned(), format!(r#"{{"a":["\\\"1.0",1e300,{integer}]}}"#)] {
                let error = refused(&text);
                assert_eq!(error.fault(), JsonFault::Unusable);
                let expected = format!("integer {integer} does not fit 64 bits with a sign");
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
        }
        let long = refused(&"9".repeat(200));
        assert!(long.to_string().len() < 120, "{long}");
    }

    #[test]
    fn what_is_meant_to_be_a_double_is_one() {
        for (text, float) in [("1e300", 1e300), ("18446744073709551616.0", 2f64.powi(64))] {
            assert_eq!(Value::from_json(text.as_bytes()).unwrap(), Value::Float(float));
        }
        let text = r#"{"18446744073709551616":["\"18446744073709551616",1e300]}"#;
        assert!(Value::from_json(text.as_bytes()).is_ok(), "a string is no number");
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let error = refused(r#"[{"a":1,"b":{"c":1,"c":1}}]"#);
        assert_eq!(error.fault(), JsonFault::Unusable);
        assert!(error.to_string().starts_with("an object has the key 'c' twice"), "{error}");
        assert!(Value::from_json(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(refused("{").fault(), JsonFault::Syntax);
        assert_eq!(refused("[1] 2").fault(), JsonFault::Syntax);
        assert_eq!(refused(&"[".repeat(500)).fault(), JsonFault::TooDeep);
        assert_eq!(refused(&r#"{"a":"#.repeat(500)).fault(), JsonFault::TooDeep);
    }

    fn values() -> impl Strategy<Value = Value> {
        let scalars = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            prop::num::f64::NORMAL.prop_map(Value::Float),
            any::<String>().prop_map(Value::String),
        ];
        scalars.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn text_reads_back_and_has_the_length_that_was_counted(value in values()) {
            let text = value.to_json();
            prop_assert_eq!(value.json_len(), text.len());
            prop_assert_eq!(Value::from_json(text.as_bytes()).unwrap(), value);
        }
    }
}
