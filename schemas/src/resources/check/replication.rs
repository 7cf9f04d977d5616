//! Reads replications.

use std::collections::BTreeMap;

use serde_json::Value;

use anabranch_core::ids::Collection;
use anabranch_core::query::parse_filter;

use super::{address, array, mistyped, object, refuse, text, unknown_word};
use crate::resources::{OnLeave, ReplicationSpec, ResourceError, Subscriptions};

/// The most addresses of one replication.
const MAX_CONNECTIONS: usize = 64;
/// The most conditions of one collection.
const MAX_QUERIES: usize = 1_000;

pub(super) fn replication(value: &Value) -> Result<ReplicationSpec, ResourceError> {
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
        .map(|(index, item)| address(&format!("{PATH}[{index}]"), item, "west.example:4040"))
        .collect()
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
