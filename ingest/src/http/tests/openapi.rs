//! The description of the API is whole and says what is there.

use axum::http::StatusCode;
use serde_json::Value;

use crate::doubles::Cluster;
use crate::error::Code;

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
        (documents.to_owned(), "post"),
        (documents.to_owned(), "get"),
        (format!("{documents}/{{id}}"), "get"),
        ("/healthz".to_owned(), "get"),
        ("/readyz".to_owned(), "get"),
        ("/metrics".to_owned(), "get"),
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
