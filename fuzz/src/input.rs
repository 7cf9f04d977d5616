//! What the bytes of a fuzzer mean.

use anabranch_core::Value;
use anabranch_core::query::Args;

/// What ends a part: a byte that is for this and that no statement needs.
const SEPARATOR: u8 = 0x1e;

/// A text, values for the names in it, and documents.
#[derive(Debug)]
pub struct Input {
    /// A statement or a rule.
    pub text: String,
    /// Its arguments or claims.
    pub args: Args,
    /// What it is about: the last one comes from the bytes, if they have one.
    pub documents: Vec<Value>,
}

impl Input {
    /// The text, JSON of an object of arguments and JSON of a document, with separators in between.
    /// What is not there, or is not what it should be, is replaced: so every text is looked at.
    pub fn new(bytes: &[u8]) -> Self {
        let mut parts = bytes.splitn(3, |byte| *byte == SEPARATOR);
        let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let mut json = || Value::from_json(parts.next()?).ok();
        let args = match json() {
            Some(Value::Object(args)) => args,
            _ => usual_args(),
        };
        let mut documents = usual_documents();
        documents.extend(json());
        Input { text, args, documents }
    }
}

fn usual_args() -> Args {
    let args = br#"{"x": 1, "s": "ab", "n": null, "l": [1, 2.5, "ab", null], "d": {"_id": "a", "a": {"b": 2}}}"#;
    match Value::from_json(args) {
        Ok(Value::Object(args)) => args,
        other => unreachable!("it is an object: {other:?}"),
    }
}

/// In a document there is much or little.
fn usual_documents() -> Vec<Value> {
    let texts: [&[u8]; 4] = [
        br#"{"_id": "a", "a": 1, "b": {"c": "ab"}, "s": "ab", "t": true, "l": [1, [2], {"a": 3}]}"#,
        br#"{"_id": 1, "a": 1.0, "b": null, "s": "2026-03-01T12:00:00Z", "t": false}"#,
        br#"{"_id": {"n": 1}, "a": -9223372036854775808, "b": 1e308, "s": "", "l": []}"#,
        br#"{}"#,
    ];
    texts.map(|text| Value::from_json(text).expect("it is JSON")).into()
}
