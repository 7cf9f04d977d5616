//! Reads resources key by key, so that an error can name the key to blame.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use anabranch_core::ids::{AppId, Collection};
use anabranch_core::query::parse_filter;

use super::{
    API_VERSION, Kind, OnLeave, ReplicationSpec, Resource, ResourceError, ResourceMetadata, Spec,
    Subscriptions,
};

/// The most addresses of one replication.
const MAX_CONNECTIONS: usize = 64;
/// The most conditions of one collection.
const MAX_QUERIES: usize = 1_000;

pub(super) fn resource(value: &Value) -> Result<Resource, ResourceError> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = object("resource", value, &known)?;
    let version = text("apiVersion", required("", fields, "apiVersion")?)?;
    if version != API_VERSION {
        return Err(refuse("apiVersion", format!("'{}' is not known", shorten(version)))
            .with_hint(format!("write {API_VERSION}")));
    }
    let kind: Kind = text("kind", required("", fields, "kind")?)?.parse()?;
    let metadata = metadata(required("", fields, "metadata")?)?;
    let spec = required("", fields, "spec")?;
    let spec = match kind {
        Kind::Replication => Spec::Replication(replication(spec)?),
    };
    Ok(Resource { metadata, spec })
}

fn metadata(value: &Value) -> Result<ResourceMetadata, ResourceError> {
    let fields = object("metadata", value, &["name", "app"])?;
    let name = text("metadata.name", required("metadata", fields, "name")?)?.parse()?;
    let app: AppId = text("metadata.app", required("metadata", fields, "app")?)?
        .parse()
        .map_err(|error| refuse("metadata.app", format!("{error}")))?;
    Ok(ResourceMetadata { name, app })
}

fn replication(value: &Value) -> Result<ReplicationSpec, ResourceError> {
    let fields = object("spec", value, &["connections", "subscriptions", "onLeave"])?;
    let connections = fields.get("connections").map_or(Ok(Vec::new()), connections)?;
    let subscriptions =
        fields.get("subscriptions").map_or(Ok(Subscriptions::default()), subscriptions)?;
    let on_leave = match fields.get("onLeave").map(|value| text("spec.onLeave", value)) {
        None => OnLeave::default(),
        Some(word) => match word? {
            "purge" => OnLeave::Purge,
            "keep" => OnLeave::Keep,
            other => return Err(unknown_word("spec.onLeave", other, &["purge", "keep"])),
        },
    };
    Ok(ReplicationSpec { connections, subscriptions, on_leave })
}

fn connections(value: &Value) -> Result<Vec<String>, ResourceError> {
    const PATH: &str = "spec.connections";
    let items = array(PATH, value, MAX_CONNECTIONS)?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let path = format!("{PATH}[{index}]");
            let address = text(&path, item)?;
            if is_address(address) {
                Ok(address.to_owned())
            } else {
                Err(refuse(&path, format!("'{}' is not host:port", shorten(address)))
                    .with_hint("write it like west.example:4040, or [::1]:4040"))
            }
        })
        .collect()
}

/// Whether it is a host and a port; an IPv6 address stands in brackets.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let port = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port != 0);
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        }
    };
    host && port
}

fn subscriptions(value: &Value) -> Result<Subscriptions, ResourceError> {
    const PATH: &str = "spec.subscriptions.queriesByCollection";
    let fields = object("spec.subscriptions", value, &["queriesByCollection"])?;
    let Some(value) = fields.get("queriesByCollection") else {
        return Ok(Subscriptions::default());
    };
    let Value::Object(queries) = value else {
        return Err(mistyped(PATH, "an object of lists of conditions", value));
    };
    let mut queries_by_collection = BTreeMap::new();
    for (name, value) in queries {
        let collection: Collection =
            name.parse().map_err(|error| refuse(PATH, format!("{error}")))?;
        let path = format!("{PATH}.{name}");
        let conditions = array(&path, value, MAX_QUERIES)?;
        if conditions.is_empty() {
            return Err(refuse(&path, "the list is empty".to_owned()).with_hint(
                "to want every document write [\"true\"]; for none, leave the key out",
            ));
        }
        let conditions = conditions
            .iter()
            .enumerate()
            .map(|(index, value)| condition(&format!("{path}[{index}]"), value))
            .collect::<Result<_, _>>()?;
        queries_by_collection.insert(collection, conditions);
    }
    Ok(Subscriptions { queries_by_collection })
}

fn condition(path: &str, value: &Value) -> Result<String, ResourceError> {
    let condition = text(path, value)?;
    parse_filter(condition).map_err(|error| ResourceError {
        path: path.to_owned(),
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
    })?;
    Ok(condition.to_owned())
}

/// The fields of an object that has no others than the known ones.
fn object<'a>(
    path: &str,
    value: &'a Value,
    known: &[&str],
) -> Result<&'a Map<String, Value>, ResourceError> {
    let Value::Object(fields) = value else {
        return Err(mistyped(path, "an object", value));
    };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(fields),
        Some(unknown) => Err(ResourceError {
            path: path.to_owned(),
            message: format!("unknown key '{}'", shorten(unknown)),
            hint: Some(nearest(unknown, known)),
        }),
    }
}

fn required<'a>(
    path: &str,
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<&'a Value, ResourceError> {
    fields.get(key).ok_or_else(|| {
        let dot = if path.is_empty() { "" } else { "." };
        refuse(&format!("{path}{dot}{key}"), "missing".to_owned())
    })
}

fn text<'a>(path: &str, value: &'a Value) -> Result<&'a str, ResourceError> {
    value.as_str().ok_or_else(|| mistyped(path, "a string", value))
}

fn array<'a>(path: &str, value: &'a Value, most: usize) -> Result<&'a [Value], ResourceError> {
    match value {
        Value::Array(items) if items.len() <= most => Ok(items),
        Value::Array(items) => {
            Err(refuse(path, format!("has {} items; the limit is {most}", items.len())))
        }
        other => Err(mistyped(path, "a list", other)),
    }
}

fn mistyped(path: &str, expected: &str, found: &Value) -> ResourceError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    refuse(path, format!("expected {expected}, found {found}"))
}

/// The error that a word is none of the known ones.
pub(super) fn unknown_word(path: &str, word: &str, known: &[&str]) -> ResourceError {
    refuse(path, format!("'{}' is not known", shorten(word))).with_hint(nearest(word, known))
}

fn nearest(word: &str, known: &[&str]) -> String {
    let word = word.to_ascii_lowercase();
    let closest = known
        .iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()), *candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(2));
    match closest {
        Some((_, candidate)) => format!("did you mean '{candidate}'?"),
        None => format!("known: {}", known.join(", ")),
    }
}

fn refuse(path: &str, message: String) -> ResourceError {
    ResourceError { path: path.to_owned(), message, hint: None }
}

impl ResourceError {
    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Text of the input for a message: never longer than a line.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}..", &text[..end]),
    }
}
