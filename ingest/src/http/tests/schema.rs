//! Whether JSON is as a schema says, for the part of JSON Schema that our descriptions use. A part
//! that is not known here fails a test: it would let everything pass.

use regex::Regex;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What is looked at, and what only tells a reader something.
const KNOWN: &[&str] = &[
    "$ref",
    "additionalProperties",
    "allOf",
    "description",
    "enum",
    "example",
    "examples",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "type",
];

/// What only tells a reader something.
const TOLD: &[&str] = &["description", "example", "examples"];

/// What about a value is not as a schema of this document says, or is not described by it.
pub(crate) fn mismatch(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    Reader { document, is_strict: true }.mismatch(schema, value)
}

/// Somebody who goes by a document.
#[derive(Clone, Copy)]
struct Reader<'a> {
    document: &'a Value,
    /// Whether everything has to be described. A client lets pass what its schema does not forbid;
    /// but we are not to send it.
    is_strict: bool,
}

impl<'a> Reader<'a> {
    fn mismatch(self, schema: &Value, value: &Value) -> Option<String> {
        let schema = self.resolved(schema);
        if let Some(schemas) = schema["oneOf"].as_array() {
            has_only(schema, &["oneOf"]);
            return self.mismatch_of_one(schemas, value);
        }
        if let Some(parts) = schema["allOf"].as_array() {
            has_only(schema, &["allOf"]);
            return self.mismatch(&self.together(parts), value);
        }
        let is_of = |wanted: &Value| wanted.as_str().is_some_and(|name| is_of_type(name, value));
        let is_of_type = match &schema["type"] {
            Value::Null => true,
            Value::Array(types) => types.iter().any(is_of),
            one => is_of(one),
        };
        if !is_of_type {
            return Some(format!("{value} is not of type {}", schema["type"]));
        }
        if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
            return Some(format!("{value} is not among the values"));
        }
        match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(_) => mismatch_of_number(schema, value),
            Value::String(text) => mismatch_of_text(schema, text),
            Value::Array(items) => self.mismatch_of_items(schema, items),
            Value::Object(fields) => self.mismatch_of_fields(schema, fields),
        }
    }

    /// The schema that is meant.
    fn resolved<'s>(self, schema: &'s Value) -> &'s Value
    where
        'a: 's,
    {
        let fields = schema.as_object().expect("a schema is an object");
        let unknown = fields.keys().find(|name| !KNOWN.contains(&name.as_str()));
        assert_eq!(unknown, None, "{schema}");
        match schema["$ref"].as_str() {
            None => schema,
            Some(target) => {
                has_only(schema, &["$ref"]);
                let target = self.document.pointer(target.trim_start_matches('#'));
                self.resolved(target.expect("it leads somewhere"))
            }
        }
    }

    /// To a client, who does not know that nothing else is sent, exactly one has to do.
    fn mismatch_of_one(self, schemas: &[Value], value: &Value) -> Option<String> {
        let client = Reader { is_strict: false, ..self };
        let wrong: Vec<_> = schemas.iter().map(|schema| client.mismatch(schema, value)).collect();
        let mut fitting = schemas.iter().zip(&wrong).filter(|(_, wrong)| wrong.is_none());
        match (fitting.next(), fitting.next()) {
            (None, _) => Some(wrong.into_iter().flatten().collect::<Vec<_>>().join(", or ")),
            (Some((schema, _)), None) => self.mismatch(schema, value),
            (Some(_), Some(_)) => Some(format!("{value} is as several schemas say")),
        }
    }

    /// Parts of an object as one.
    fn together(self, parts: &[Value]) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for part in parts.iter().map(|part| self.resolved(part)) {
            assert_eq!(part["type"], "object", "of others nobody knows how: {part}");
            has_only(part, &["type", "properties", "required"]);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        json!({"type": "object", "properties": properties, "required": required})
    }

    fn mismatch_of_items(self, schema: &Value, items: &[Value]) -> Option<String> {
        if !is_within(schema, "minItems", "maxItems", &json!(items.len())) {
            return Some(format!("{} are too few or too many items", items.len()));
        }
        let of_each = schema.get("items")?;
        items.iter().find_map(|item| self.mismatch(of_each, item))
    }

    fn mismatch_of_fields(self, schema: &Value, fields: &Map<String, Value>) -> Option<String> {
        let required = schema["required"].as_array().into_iter().flatten();
        let missing = required.filter_map(Value::as_str).find(|name| !fields.contains_key(*name));
        if let Some(name) = missing {
            return Some(format!("'{name}' is missing"));
        }
        if !is_within(schema, "minProperties", "maxProperties", &json!(fields.len())) {
            return Some(format!("{} are too few or too many fields", fields.len()));
        }
        let named = schema["properties"].as_object();
        fields.iter().find_map(|(name, value)| {
            if let Some(schema) = named.and_then(|named| named.get(name)) {
                return self.mismatch(schema, value);
            }
            let is_let_in = match &schema["additionalProperties"] {
                Value::Bool(is_let_in) => *is_let_in,
                Value::Null => !self.is_strict || named.is_none(),
                others => return self.mismatch(others, value),
            };
            (!is_let_in).then(|| format!("'{name}' is not described"))
        })
    }
}

/// Fails if a schema has more than these, and what tells a reader something: beside them nobody
/// looks at it.
#[track_caller]
fn has_only(schema: &Value, names: &[&str]) {
    let fields = schema.as_object().expect("a schema is an object");
    let is_known = |name: &&String| names.iter().chain(TOLD).any(|known| known == name);
    let more = fields.keys().find(|name| !is_known(name));
    assert_eq!(more, None, "nobody looks at it: {schema}");
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

fn mismatch_of_number(schema: &Value, value: &Value) -> Option<String> {
    if !is_within(schema, "minimum", "maximum", value) {
        return Some(format!("{value} is too small or too large"));
    }
    let fits = match schema["format"].as_str() {
        None => true,
        Some("int32") => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Some("int64") => value.is_i64(),
        Some(other) => panic!("nobody looks at the format {other}"),
    };
    (!fits).then(|| format!("{value} does not fit into its format"))
}

fn mismatch_of_text(schema: &Value, text: &str) -> Option<String> {
    if !is_within(schema, "minLength", "maxLength", &json!(text.chars().count())) {
        return Some(format!("'{text}' is too short or too long"));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let pattern = Regex::new(pattern).expect("a pattern is a regular expression");
        if !pattern.is_match(text) {
            return Some(format!("'{text}' is not like {pattern}"));
        }
    }
    let fits = match schema["format"].as_str() {
        None => true,
        // With hyphens, and nothing around it.
        Some("uuid") => text.len() == 36 && Uuid::parse_str(text).is_ok(),
        Some(other) => panic!("nobody looks at the format {other}"),
    };
    (!fits).then(|| format!("'{text}' is not of its format"))
}

/// Whether a number is within what a schema says by these names.
fn is_within(schema: &Value, least: &str, most: &str, number: &Value) -> bool {
    // As integers, those of 64 bits do not fit into a double.
    let whole = |value: &Value| {
        let signed = value.as_i64().map(i128::from);
        signed.or_else(|| value.as_u64().map(i128::from))
    };
    let is_at_most = |low: &Value, high: &Value| match (whole(low), whole(high)) {
        (Some(low), Some(high)) => low <= high,
        _ => low.as_f64() <= high.as_f64(),
    };
    schema.get(least).is_none_or(|least| is_at_most(least, number))
        && schema.get(most).is_none_or(|most| is_at_most(number, most))
}

#[track_caller]
fn tell(document: &Value, schema: &Value, good: &[Value], bad: &[Value]) {
    for good in good {
        assert_eq!(mismatch(document, schema, good), None, "{good}");
    }
    for bad in bad {
        assert!(mismatch(document, schema, bad).is_some(), "{bad}");
    }
}

#[test]
fn what_is_not_as_described_is_noticed() {
    let document = json!({
        "a": {"type": "object", "required": ["n"], "properties": {
            "n": {"type": ["integer", "null"]}, "e": {"enum": ["x"]},
        }},
        "b": {"type": "object", "required": ["m"], "properties": {"m": {"type": "boolean"}}},
    });
    let (a, b) = (json!({"$ref": "#/a"}), json!({"$ref": "#/b"}));
    let good = [json!({"n": 1}), json!({"n": null, "e": "x"})];
    let bad =
        [json!({}), json!({"n": "1"}), json!({"n": 0.5}), json!({"n": 1, "e": "y"}), json!(1)];
    tell(&document, &a, &good, &bad);
    tell(&document, &a, &[], &[json!({"n": 1, "m": true})]);
    let one = json!({"oneOf": [a, b, {"type": "string"}]});
    // To a client the last one is both.
    let good = [good[0].clone(), good[1].clone(), json!({"m": true}), json!("text")];
    tell(&document, &one, &good, &[json!({"m": 1}), json!(1), json!({"n": 1, "m": true})]);
    let all = json!({"allOf": [a, b]});
    let bad = [json!({"n": 1}), json!({"n": 1, "m": 1}), json!({"n": 1, "m": true, "o": 1})];
    tell(&document, &all, &[json!({"n": 1, "m": true})], &bad);
}

#[test]
fn what_is_out_of_bounds_is_noticed() {
    let none = Value::Null;
    let number = json!({"type": "integer", "minimum": 1, "maximum": u64::MAX});
    tell(&none, &number, &[json!(1), json!(u64::MAX)], &[json!(0), json!(-1)]);
    tell(&none, &json!({"type": "number", "maximum": 1}), &[json!(1), json!(0.5)], &[json!(1.5)]);
    let number = json!({"type": "integer", "format": "int64"});
    tell(&none, &number, &[json!(i64::MIN)], &[json!(u64::MAX)]);
    tell(&none, &json!({"format": "int32"}), &[json!(-1)], &[json!(1_u64 << 31)]);
    let text = json!({"type": "string", "minLength": 1, "maxLength": 2});
    tell(&none, &text, &[json!("ä"), json!("ää")], &[json!(""), json!("aaa")]);
    let text = json!({"type": "string", "pattern": "^[a-z]$"});
    tell(&none, &text, &[json!("a")], &[json!("A"), json!("aa"), json!("a\n")]);
    let text = json!({"type": "string", "format": "uuid"});
    let plain = crate::doubles::APP.replace('-', "");
    tell(&none, &text, &[json!(crate::doubles::APP)], &[json!("mine"), json!(plain)]);
    let items = json!({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "null"}});
    let bad = [json!([]), json!([null, null, null]), json!([1])];
    tell(&none, &items, &[json!([null]), json!([null, null])], &bad);
    let map = json!({
        "type": "object", "minProperties": 1, "additionalProperties": {"type": "null"},
    });
    tell(&none, &map, &[json!({"a": null})], &[json!({}), json!({"a": 1})]);
    let closed = json!({"type": "object", "additionalProperties": false});
    tell(&none, &closed, &[json!({})], &[json!({"a": 1})]);
}

#[test]
fn what_nobody_would_look_at_is_not_passed_over() {
    let document = json!({
        "a": {"type": "object", "description": "told"},
        "closed": {"type": "object", "additionalProperties": false},
    });
    let told = [("description", json!("told")), ("example", json!({})), ("examples", json!([{}]))];
    let ways = [
        json!({"$ref": "#/a"}),
        json!({"oneOf": [{"$ref": "#/a"}]}),
        json!({"allOf": [{"$ref": "#/a"}]}),
    ];
    for way in ways {
        let with = |name: &str, more: &Value| {
            let mut schema = way.clone();
            schema[name] = more.clone();
            schema
        };
        for (name, more) in &told {
            assert_eq!(mismatch(&document, &with(name, more), &json!({})), None, "{name}");
        }
        for (name, more) in [("maxProperties", json!(1)), ("required", json!(["n"]))] {
            let schema = with(name, &more);
            let looked = std::panic::catch_unwind(|| mismatch(&document, &schema, &json!({})));
            assert!(looked.is_err(), "{schema}");
        }
    }
    let parts = json!({"allOf": [{"$ref": "#/a"}, {"$ref": "#/closed"}]});
    assert!(std::panic::catch_unwind(|| mismatch(&document, &parts, &json!({}))).is_err());
}
