//! What statements do, alone, in races, and repeated.

mod conditions;
mod repeats;
mod statements;
mod transactions;

use serde_json::Value;

const KEY: [(&str, &str); 1] = [("idempotency-key", "once")];

/// The documents that a reply says were written.
fn ids(reply: &Value) -> Vec<Value> {
    reply["mutatedDocumentIds"].as_array().cloned().expect("ids are an array")
}
