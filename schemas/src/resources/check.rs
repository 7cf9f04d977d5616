//! Reads resources key by key, so that an error can name the key to blame. Each kind has its file;
//! what they share stands here.

mod cluster;
mod key;
mod replication;
mod tokens;

use serde_json::{Map, Value};

use anabranch_core::ids::AppId;

use super::{API_VERSION, Kind, Resource, ResourceError, ResourceName};
use crate::topics::ClusterName;

pub(super) fn resource(value: &Value) -> Result<Resource, ResourceError> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = object("resource", value, &known)?;
    let version = text("apiVersion", required("", fields, "apiVersion")?)?;
    if version != API_VERSION {
        return Err(refuse("apiVersion", format!("'{}' is not known", shorten(version)))
            .with_hint(format!("write {API_VERSION}")));
    }
    let kind: Kind = text("kind", required("", fields, "kind")?)?.parse()?;
    let metadata = required("", fields, "metadata")?;
    let spec = required("", fields, "spec")?;
    match kind {
        Kind::Cluster => {
            let name = name_of_cluster(metadata)?;
            Ok(Resource::Cluster { name, spec: cluster::cluster(spec)? })
        }
        Kind::Replication => {
            let (app, name) = name_in_app(metadata)?;
            Ok(Resource::Replication { app, name, spec: replication::replication(spec)? })
        }
        Kind::Key => {
            let (app, name) = name_in_app(metadata)?;
            Ok(Resource::Key { app, name, spec: key::key(spec)? })
        }
    }
}

/// Of a kind that belongs to an app.
fn name_in_app(metadata: &Value) -> Result<(AppId, ResourceName), ResourceError> {
    let fields = object("metadata", metadata, &["name", "app"])?;
    let name = text("metadata.name", required("metadata", fields, "name")?)?.parse()?;
    let app: AppId = text("metadata.app", required("metadata", fields, "app")?)?
        .parse()
        .map_err(|error| refuse("metadata.app", format!("{error}")))?;
    Ok((app, name))
}

fn name_of_cluster(metadata: &Value) -> Result<ClusterName, ResourceError> {
    if metadata.get("app").is_some() {
        return Err(refuse("metadata.app", "a Cluster belongs to no app".to_owned())
            .with_hint("leave the key out"));
    }
    let fields = object("metadata", metadata, &["name"])?;
    let name = text("metadata.name", required("metadata", fields, "name")?)?;
    name.parse().map_err(|_| {
        refuse("metadata.name", format!("'{}' cannot be a cluster's name", shorten(name)))
            .with_hint(
                "it has 1 to 64 lower-case letters, digits and '-', and begins with a letter",
            )
    })
}

/// An address of another process; `example` is one that would do.
fn address(path: &str, value: &Value, example: &str) -> Result<String, ResourceError> {
    let address = text(path, value)?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if ip.is_ok_and(|ip| ip.is_unspecified()) {
        let what = format!("'{}' is where to listen, and no address to dial", shorten(address));
        return Err(refuse(path, what).with_hint("write the address that others reach it at"));
    }
    if is_address(address) {
        return Ok(address.to_owned());
    }
    let port = example.rsplit_once(':').map_or("", |(_, port)| port);
    Err(refuse(path, format!("'{}' is not host:port", shorten(address)))
        .with_hint(format!("write it like {example}, or [::1]:{port}")))
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

/// A whole number that is not negative and not too large for its type.
fn whole<T: TryFrom<u64>>(path: &str, value: &Value) -> Result<T, ResourceError> {
    let Value::Number(number) = value else {
        return Err(mistyped(path, "a whole number", value));
    };
    number.as_u64().and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        refuse(path, format!("{number} cannot be used")).with_hint("write a whole number above 0")
    })
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
