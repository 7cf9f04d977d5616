//! The description of the API is whole and says what is there; every reply in these tests is held
//! against it.

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::schema::mismatch;
use crate::doubles::{Cluster, Reply};
use crate::error::Code;
use crate::http::openapi::DOCUMENT;

/// Every `$ref` in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                found.push(target);
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn it_describes_every_route() {
    let cluster = Cluster::start().await;
    let reply = cluster.get("/openapi.json", &[]).await;
    assert_eq!(reply.status, StatusCode::OK);
    let document = reply.json();
    assert_eq!(document["openapi"], "3.1.0");
    let documents = "/apps/{app}/api/v1/collections/{collection}/documents";
    let routes = [
        ("/apps/{app}/api/v1/store/execute".to_owned(), "post"),
        ("/apps/{app}/api/v1/store/transaction".to_owned(), "post"),
        ("/apps/{app}/api/v1/store/subscribe".to_owned(), "get"),
        (documents.to_owned(), "post"),
        (documents.to_owned(), "get"),
        (format!("{documents}/{{id}}"), "get"),
        ("/healthz".to_owned(), "get"),
        ("/readyz".to_owned(), "get"),
    ];
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(described, routes.len());
    for (path, method) in routes {
        let operation = &paths[&path][method];
        assert!(operation["responses"]["200"].is_object(), "{method} {path}");
        let named = path.matches('{').count();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        assert_eq!(in_path.count(), named, "{method} {path}");
    }
}

#[tokio::test]
async fn its_references_lead_somewhere_and_its_codes_are_all() {
    let cluster = Cluster::start().await;
    let document = cluster.get("/openapi.json", &[]).await.json();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for target in found {
        let pointer = target.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
    let codes = document["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap();
    let all: Vec<_> = Code::ALL.iter().map(|code| Value::from(code.as_str())).collect();
    assert_eq!(*codes, all);
}

/// Checks that a reply of the HTTP API is as it is described.
pub(crate) fn check(method: &Method, path: &str, reply: &Reply) {
    check_against(&DOCUMENT, method, path, reply);
}

/// Checks that a reply is as a document describes it; what is asked for in vain is not described at
/// all.
pub(crate) fn check_against(document: &Value, method: &Method, path: &str, reply: &Reply) {
    let paths = document["paths"].as_object().expect("paths are an object");
    let routes = paths.iter().filter(|(template, _)| is_path(template, path));
    // Of several that say what lies there the most precise one counts.
    let Some((template, route)) = routes.min_by_key(|(template, _)| template.matches('{').count())
    else {
        return;
    };
    let Some(operation) = route.get(method.as_str().to_lowercase()) else { return };
    let status = reply.status.as_str();
    let asked = format!("{status} of {method} {template}");
    let described = &operation["responses"][status];
    assert!(described.is_object(), "{asked} is not described: {}", reply.text);
    for name in ["X-Anabranch-Txn-Id", "ETag", "Retry-After"] {
        if reply.headers.contains_key(name) {
            assert!(described["headers"][name].is_object(), "{name} of {asked} is not described");
        }
    }
    let media_type = reply.headers.get("content-type").and_then(|value| value.to_str().ok());
    let schema = &described["content"][media_type.unwrap_or_default()]["schema"];
    let is_json = media_type == Some("application/json");
    if schema.is_null() {
        assert!(!is_json, "the body of {asked} is not described: {}", reply.text);
        return;
    }
    let body = if is_json { reply.json() } else { Value::from(reply.text.as_str()) };
    let wrong = mismatch(document, schema, &body);
    assert!(wrong.is_none(), "the body of {asked} is not as described: {wrong:?} {}", reply.text);
}

fn is_path(template: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template.iter().zip(&path).all(|(want, got)| want.starts_with('{') || want == got)
}

/// Checks that a description has an example of each body and each parameter that has to be there,
/// and that all of its examples are as it says.
pub(crate) fn examples_of_each(document: &Value) {
    let items = document["paths"].as_object().expect("paths are an object");
    let operations = items.iter().flat_map(|(path, item)| {
        let operations = item.as_object().expect("operations are an object");
        operations.iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    for (name, operation) in operations {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let content = &parameter["content"]["application/json"];
            let (described, example) = match content.is_null() {
                true => (&parameter["schema"], &parameter["example"]),
                false => (&content["schema"], &content["example"]),
            };
            let name = format!("the parameter {} of {name}", parameter["name"]);
            if example.is_null() {
                assert_eq!(parameter["required"], false, "{name} has no example");
            } else {
                assert_eq!(mismatch(document, described, example), None, "{name}");
            }
        }
        let request = ("request".to_owned(), &operation["requestBody"]);
        let replies = operation["responses"].as_object().expect("responses are an object");
        let replies = replies.iter().map(|(status, reply)| (format!("reply {status}"), reply));
        for (part, described) in std::iter::once(request).chain(replies) {
            for (media_type, content) in described["content"].as_object().into_iter().flatten() {
                let name = format!("the {part} of {name} as {media_type}");
                let examples = content["examples"].as_object().into_iter().flat_map(Map::values);
                let examples =
                    examples.map(|example| &example["value"]).chain(content.get("example"));
                let mut count = 0;
                for example in examples {
                    let wrong = mismatch(document, &content["schema"], example);
                    assert_eq!(wrong, None, "an example of {name}: {example}");
                    count += 1;
                }
                assert!(count > 0, "there is no example of {name}");
            }
        }
    }
}
