//! Everything that a client can get wrong has a code, a message and a hint, and changes nothing.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::json;

use crate::config::IngestConfig;
use crate::doubles::{APP, Cluster, Reply, execute_path, post};

/// Refused with this code, with all that belongs to an error, and nothing was written.
fn refused(cluster: &Cluster, reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.code(), code, "{}", reply.text);
    assert_eq!(reply.status.as_u16(), status, "{}", reply.text);
    let error = &reply.json()["error"];
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert!(!error["hint"].as_str().unwrap().is_empty());
    assert!(cluster.shared.world.lock().committed.is_empty());
}

#[tokio::test]
async fn statements() {
    let cluster = Cluster::start().await;
    for (statement, args, code) in [
        ("SELEC * FROM cars", json!({}), "syntax_error"),
        ("SELECT * FROM cars WHERE", json!({}), "syntax_error"),
        ("", json!({}), "syntax_error"),
        ("SELECT * FROM cars GROUP BY a", json!({}), "invalid_argument"),
        ("SELECT * FROM cars JOIN dogs", json!({}), "unsupported"),
        ("SELECT lowr(a) FROM cars", json!({}), "unsupported"),
        ("SELECT * FROM cars WHERE a = :b", json!({"c": 1}), "unknown_argument"),
        ("SELECT * FROM cars LIMIT :n", json!({"n": "ten"}), "invalid_argument"),
        ("INSERT INTO cars DOCUMENTS (:d)", json!({"d": 3}), "invalid_argument"),
        ("SELECT * FROM `a b`", json!({}), "invalid_collection"),
        ("DELETE FROM cars", json!({}), "missing_where"),
        ("UPDATE cars SET _id = 1 WHERE true", json!({}), "immutable_id"),
        ("UPDATE cars SET a = 1, a.b = 2 WHERE true", json!({}), "conflicting_paths"),
        ("SELECT a, b.a FROM cars", json!({}), "duplicate_name"),
        (&"x".repeat(70_000), json!({}), "too_long"),
        ("INSERT INTO cars DOCUMENTS (:d)", json!({"d": nested(65)}), "too_deep"),
        ("UPDATE cars SET a = :d WHERE true", json!({"d": nested(64)}), "too_deep"),
        ("INSERT INTO cars DOCUMENTS (:d)", json!({"d": nested(300)}), "too_deep"),
        ("INSERT INTO cars DOCUMENTS (:d)", json!({"d": {"a": u64::MAX}}), "invalid_value"),
        ("INSERT INTO cars DOCUMENTS ({'_id': 1.5})", json!({}), "invalid_id"),
        ("INSERT INTO cars DOCUMENTS ({'_id': ''})", json!({}), "invalid_id"),
    ] {
        let reply = cluster.execute(statement, args).await;
        refused(&cluster, &reply, 400, code);
    }
    let reply =
        cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1}), ({'_id': 1})", json!({})).await;
    refused(&cluster, &reply, 422, "duplicate_id");
}

#[tokio::test]
async fn transactions() {
    let cluster = Cluster::start().await;
    let delete = json!({"statement": "DELETE FROM cars WHERE true"});
    for (body, code, part) in [
        (json!({}), "invalid_request", "lacks 'statements'"),
        (json!({"statements": []}), "invalid_request", "1 to 100"),
        (json!({"statements": vec![&delete; 101]}), "invalid_request", "not 101"),
        (json!({"statements": {}}), "invalid_request", "object"),
        (json!({"statements": [1]}), "invalid_request", "statement 1"),
        (json!({"statements": [delete, {}]}), "invalid_request", "statement 2 lacks"),
        (json!({"statements": [delete], "statement": "x"}), "invalid_request", "'statement'"),
        (json!({"statements": [delete], "atomic": 1}), "invalid_request", "'atomic'"),
        (
            json!({"statements": [{"statement": "x", "ifMatch": "1"}]}),
            "invalid_request",
            "'ifMatch'",
        ),
        (json!({"statements": [{"statement": "x", "args": []}]}), "invalid_request", "'args'"),
        (json!({"statements": [{"statement": "x", "b": 1}]}), "invalid_request", "'b'"),
        (json!({"statements": [delete, {"statement": "DELETE"}]}), "syntax_error", "statement 2"),
        (json!({"statements": [delete, {"statement": "SELECT * FROM c"}]}), "unsupported", "2"),
    ] {
        let reply = cluster.transact(&body, &[]).await;
        refused(&cluster, &reply, 400, code);
        assert!(reply.text.contains(part), "{body}: {}", reply.text);
    }
    let condition = [("x-anabranch-if-match", "1")];
    let reply = cluster.transact(&json!({"statements": [delete]}), &condition).await;
    refused(&cluster, &reply, 400, "invalid_header");
    let reply = cluster.load("{}", &condition).await;
    refused(&cluster, &reply, 400, "invalid_header");
    for since in ["", "x", "\"1", "-1", "1.5"] {
        let headers = [("x-anabranch-if-match", since)];
        let reply = cluster.execute_with("DELETE FROM c WHERE _id = 1", json!({}), &headers).await;
        refused(&cluster, &reply, 400, "invalid_header");
    }
}

fn nested(depth: usize) -> serde_json::Value {
    (0..depth).fold(json!(1), |inner, _| json!({"a": inner}))
}

#[tokio::test]
async fn a_document_of_6_mib() {
    let cluster = Cluster::start().await;
    let text = "x".repeat(6 << 20);
    let document = json!({"_id": "large", "text": text});
    let reply = cluster.execute("INSERT INTO cars DOCUMENTS (:d)", json!({"d": document})).await;
    refused(&cluster, &reply, 413, "document_too_large");
    assert!(reply.text.contains("5242880"), "the limit is named: {}", reply.text);

    let reply = cluster.load(document.to_string(), &[]).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = reply.json();
    assert_eq!((&reply["received"], &reply["written"]), (&json!(1), &json!(0)));
    assert_eq!(reply["errors"][0]["code"], "document_too_large");
}

#[tokio::test]
async fn a_body_over_the_limit() {
    let config =
        IngestConfig { max_body_bytes: 1_000, max_load_bytes: 2_000, ..Default::default() };
    let cluster = Cluster::with(config).await;
    let large = "x".repeat(3_000);
    let reply = cluster.execute("SELECT * FROM cars WHERE a = :a", json!({"a": large})).await;
    refused(&cluster, &reply, 413, "body_too_large");
    assert!(reply.text.contains("1000"), "the limit is named: {}", reply.text);

    let body = json!({"_id": 1, "a": large}).to_string();
    let reply = cluster.load(body.clone(), &[("content-length", &body.len().to_string())]).await;
    refused(&cluster, &reply, 413, "body_too_large");
    assert!(reply.text.contains("2000"), "the limit is named: {}", reply.text);

    // Without a length it is noticed on the way.
    let chunks: Vec<_> = (0..30).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])).collect();
    let stream = || {
        Body::from_stream(futures::stream::iter(
            chunks
                .iter()
                .map(|chunk| Ok::<_, std::io::Error>(chunk.as_ref().unwrap().clone()))
                .collect::<Vec<_>>(),
        ))
    };
    let reply = cluster.send(post(&execute_path(), "application/json", &[], stream())).await;
    refused(&cluster, &reply, 413, "body_too_large");
    let reply = cluster.load(stream(), &[]).await;
    refused(&cluster, &reply, 413, "body_too_large");
}

#[tokio::test]
async fn paths() {
    let cluster = Cluster::start().await;
    let reply =
        cluster.send(post("/apps/x/api/v1/store/execute", "application/json", &[], "{}")).await;
    refused(&cluster, &reply, 400, "invalid_app");
    for (path, status, code) in [
        ("/apps/x/api/v1/collections/cars/documents/1".to_owned(), 400, "invalid_app"),
        (format!("/apps/{APP}/api/v1/collections/a%20b/documents/1"), 400, "invalid_collection"),
        (format!("/apps/{APP}/api/v1/collections/cars/documents/%ff"), 400, "invalid_request"),
        (format!("/apps/{APP}/api/v1/collections/cars/documents"), 400, "invalid_parameter"),
        (format!("/apps/{APP}/api/v1/collections/cars/documents?key=a"), 400, "invalid_parameter"),
        (format!("/apps/{APP}/api/v1/collections/cars/documents?key=0.5"), 400, "invalid_id"),
        (format!("/apps/{APP}/api/v1/collections/cars/documents?kee=1"), 400, "invalid_parameter"),
        (format!("/apps/{APP}/api/v1/nothing"), 404, "unknown_route"),
        ("/".to_owned(), 404, "unknown_route"),
        (execute_path(), 405, "method_not_allowed"),
    ] {
        let reply = cluster.get(&path, &[]).await;
        refused(&cluster, &reply, status, code);
    }
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents?id=");
    let reply = cluster.send(post(&path, "application/x-ndjson", &[], "{}")).await;
    refused(&cluster, &reply, 400, "invalid_parameter");
    let request = Request::builder().method(Method::DELETE).uri("/healthz");
    let reply = cluster.send(request.body(Body::empty()).unwrap()).await;
    refused(&cluster, &reply, 405, "method_not_allowed");
    let path = format!("/apps/{APP}/api/v1/collections/9lives/documents");
    let reply = cluster.send(post(&path, "application/x-ndjson", &[], "{}")).await;
    refused(&cluster, &reply, 400, "invalid_collection");
}

#[tokio::test]
async fn bodies() {
    let cluster = Cluster::start().await;
    for (body, code) in [
        ("", "invalid_json"),
        ("{\"statement\": ", "invalid_json"),
        ("[]", "invalid_request"),
        ("{\"statement\": 3}", "invalid_request"),
        ("{\"args\": {}}", "invalid_request"),
        ("{\"statement\": \"SELECT * FROM c\", \"arg\": {}}", "invalid_request"),
        ("{\"statement\": \"SELECT * FROM c\", \"args\": [1]}", "invalid_request"),
        ("{\"statement\": \"SELECT * FROM c\"} {}", "invalid_json"),
        ("{\"statement\": \"SELECT * FROM c\", \"statement\": \"\"}", "invalid_value"),
        ("{\"statement\": \"\", \"args\": {\"a\": 18446744073709551616}}", "invalid_value"),
        ("{\"statement\": \"\", \"args\": {\"a\": {\"b\": 1, \"b\": 1}}}", "invalid_value"),
    ] {
        let reply = cluster.send(post(&execute_path(), "application/json", &[], body)).await;
        refused(&cluster, &reply, 400, code);
    }
    let deep = json!({"statement": "", "args": {"a": nested(300)}}).to_string();
    let reply = cluster.send(post(&execute_path(), "application/json", &[], deep)).await;
    assert_eq!(reply.json()["error"]["message"], "the arguments nest too deeply");
    for media_type in ["application/x-www-form-urlencoded", "text/plain", "application/x-ndjson"] {
        let reply = cluster.send(post(&execute_path(), media_type, &[], "{}")).await;
        refused(&cluster, &reply, 415, "unsupported_media_type");
    }
    let headers = [("content-encoding", "gzip")];
    let reply = cluster.send(post(&execute_path(), "application/json", &headers, "{}")).await;
    refused(&cluster, &reply, 415, "unsupported_media_type");
    assert!(reply.text.contains("send the body uncompressed"), "{}", reply.text);
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents");
    let reply = cluster.send(post(&path, "text/csv", &[], "a,b")).await;
    refused(&cluster, &reply, 415, "unsupported_media_type");
}

#[tokio::test]
async fn headers() {
    let cluster = Cluster::start().await;
    let long = "k".repeat(300);
    for (name, value) in [
        ("x-anabranch-txn-id", "-1"),
        ("x-anabranch-txn-id", "one"),
        ("x-anabranch-txn-id", "18446744073709551616"),
        ("x-anabranch-timeout-ms", "0"),
        ("x-anabranch-timeout-ms", "99"),
        ("x-anabranch-timeout-ms", "+5"),
        ("idempotency-key", ""),
        ("idempotency-key", long.as_str()),
    ] {
        let reply = cluster.execute_with("SELECT * FROM cars", json!({}), &[(name, value)]).await;
        refused(&cluster, &reply, 400, "invalid_header");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let reply = cluster.execute_with("SELECT * FROM cars", json!({}), &twice).await;
    refused(&cluster, &reply, 400, "invalid_header");
}

#[tokio::test]
async fn lines_of_a_load() {
    let cluster = Cluster::start().await;
    let body = "{\"_id\": 1}\n{\"_id\": 2\n\n[3]\n{\"_id\": [4]}\n{\"_id\": 5}\n";
    let reply = cluster.load(body, &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reply = reply.json();
    assert_eq!((&reply["received"], &reply["written"]), (&json!(5), &json!(2)));
    let errors: Vec<_> =
        reply["errors"].as_array().unwrap().iter().map(|e| (&e["line"], &e["code"])).collect();
    let expected = [
        (&json!(2), &json!("invalid_json")),
        (&json!(4), &json!("invalid_document")),
        (&json!(5), &json!("invalid_id")),
    ];
    assert_eq!(errors, expected);
    assert_eq!(cluster.cars().await, [json!({"_id": 1}), json!({"_id": 5})]);
}

#[tokio::test]
async fn what_would_not_come_back_as_it_was_sent() {
    let cluster = Cluster::start().await;
    let deep = nested(300);
    let body = format!(
        "{{\"n\": 18446744073709551616}}\n{{\"n\": -9223372036854775809}}\n\
         {{\"n\": 1, \"n\": 2}}\n{deep}\n{{\"_id\": 1, \"n\": 18446744073709551616.0}}"
    );
    let reply = cluster.load(body, &[]).await.json();
    let codes: Vec<_> = reply["errors"].as_array().unwrap().iter().map(|e| &e["code"]).collect();
    assert_eq!(codes, ["invalid_value", "invalid_value", "invalid_value", "too_deep"]);
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "n": 18446744073709551616.0})]);
}

#[tokio::test]
async fn arrays_that_break_off_say_what_was_written() {
    let cluster = Cluster::start().await;
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents");
    let body = "[{\"_id\": 1}, {\"_id\": 2}, ";
    let reply = cluster.send(post(&path, "application/json", &[], body)).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::BAD_REQUEST, "invalid_json".to_owned()));
    assert_eq!(reply.json()["written"], 2);
    assert_eq!(cluster.cars().await.len(), 2);
    let reply = cluster.send(post(&path, "application/json", &[], "{\"_id\": 1}")).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::BAD_REQUEST, "invalid_json".to_owned()));
}

#[tokio::test]
async fn an_idempotency_key_for_another_request() {
    let cluster = Cluster::start().await;
    let key = [("idempotency-key", "k1")];
    let insert = "INSERT INTO cars DOCUMENTS (:d)";
    let first = cluster.execute_with(insert, json!({"d": {"_id": 1}}), &key).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    for (statement, args) in
        [(insert, json!({"d": {"_id": 2}})), ("DELETE FROM cars WHERE true", json!({}))]
    {
        let reply = cluster.execute_with(statement, args, &key).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code()),
            (422, "idempotency_key_reused".to_owned())
        );
    }
    let load = [("idempotency-key", "k2")];
    assert_eq!(cluster.load("{\"_id\": 3}", &load).await.status, StatusCode::OK);
    let reply = cluster.load("{\"_id\": 4}", &load).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (422, "idempotency_key_reused".to_owned()));
    assert_eq!(cluster.cars().await, [json!({"_id": 1}), json!({"_id": 3})]);
}
