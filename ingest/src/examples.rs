//! Examples of requests and replies in descriptions of routes.
//!
//! They are a story: the requests are sent one after the other to a new cluster, and the replies
//! are what they get there. A test tells it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Code, Refusal};
use crate::http::ErrorReply;

/// The app of the examples, and of the tests.
pub(crate) const APP: &str = "2164bef3-37c0-489c-9ac6-c94b034525d7";

/// A request and its reply.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Example {
    /// The `operationId` of what is asked for.
    pub(crate) operation: String,
    /// What it is called among the examples of its operation.
    name: String,
    summary: String,
    #[cfg_attr(not(test), allow(dead_code, reason = "a test sends it"))]
    pub(crate) method: String,
    #[cfg_attr(not(test), allow(dead_code, reason = "a test sends it there"))]
    pub(crate) path: String,
    /// The name of the key that is shown, if it is not the usual one.
    #[serde(rename = "as")]
    #[cfg_attr(not(test), allow(dead_code, reason = "a test shows it"))]
    pub(crate) caller: Option<String>,
    /// Headers beside the one with the key.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// JSON, or text of another type.
    pub(crate) body: Option<Value>,
    pub(crate) status: u16,
    /// JSON, or text of another type.
    pub(crate) reply: Option<Value>,
}

/// Reads a story.
pub(crate) fn read(story: &str) -> Vec<Example> {
    serde_json::from_str(story).expect("the examples of this program are examples")
}

/// Shows the examples in a description; and replies to failures, a code and a message each, where
/// the story has no reply of their status.
pub(crate) fn show(document: &mut Value, story: &[Example], failures: &[(Code, &str)]) {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        for Example { name, summary, headers, body, status, reply, .. } in
            story.iter().filter(|example| example.operation == id)
        {
            let example = |value: &Value| json!({"summary": summary, "value": value});
            let media_type = headers.get("content-type").map_or(JSON, String::as_str);
            if let (Some(body), true) = (body, *status < 300) {
                add(&mut operation["requestBody"], media_type, name, example(body));
            }
            let accepted = headers.get("accept").map_or(JSON, String::as_str);
            if let Some(reply) = reply {
                add(
                    &mut operation["responses"][status.to_string()],
                    accepted,
                    name,
                    example(reply),
                );
            }
        }
        for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            let described = &response["content"][JSON];
            if described.is_null() || !described["examples"].is_null() {
                continue;
            }
            let of_status = |(code, _): &&(Code, &str)| code.status().to_string() == *status;
            for (code, message) in failures.iter().filter(of_status) {
                let reply = ErrorReply::from(&Refusal::new(*code, *message));
                let example = json!({"summary": code.hint(), "value": reply});
                add(response, JSON, code.as_str(), example);
            }
        }
    }
}

const JSON: &str = "application/json";

/// Adds an example to a body that is described as one of this type, or of one type only.
fn add(described: &mut Value, media_type: &str, name: &str, example: Value) {
    let Some(content) = described.get_mut("content").and_then(Value::as_object_mut) else { return };
    let is_only = content.len() == 1;
    let mut types = content.iter_mut();
    if let Some((_, content)) = types.find(|(described, _)| is_only || *described == media_type) {
        content["examples"][name] = example;
    }
}

#[cfg(test)]
impl Example {
    /// The request, which shows this key.
    pub(crate) fn request(&self, key: &str) -> axum::http::Request<axum::body::Body> {
        let Example { method, path, headers, body, .. } = self;
        let mut request = axum::http::Request::builder().method(method.as_str()).uri(path);
        request = request.header("authorization", key);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = match body {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(json) => json.to_string(),
        };
        request.body(body.into()).expect("a request")
    }

    /// Checks that the reply is the one that is shown.
    pub(crate) fn check(&self, reply: &crate::doubles::Reply) {
        let Example { status, reply: shown, .. } = self;
        let shown = shown.clone().unwrap_or_default();
        let replied = match serde_json::from_str(&reply.text) {
            Ok(json) if !shown.is_string() => json,
            _ if reply.text.is_empty() => Value::Null,
            _ => Value::from(reply.text.as_str()),
        };
        assert_eq!((reply.status.as_u16(), replied), (*status, shown), "{self:?}");
    }
}
