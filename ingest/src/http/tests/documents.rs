//! Reading single documents, and reading what was written.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::doubles::{APP, Cluster, impatient, read};

fn path(rest: &str) -> String {
    format!("/apps/{APP}/api/v1/collections/cars/documents{rest}")
}

#[tokio::test]
async fn a_document_is_found_by_its_id() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 'a b'}), ({'_id': 5}), ({'_id': {'n': 1}})";
    let written = cluster.execute(insert, json!({})).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text);
    for (rest, id) in [
        ("/a%20b", json!("a b")),
        ("?key=%22a%20b%22", json!("a b")),
        ("?key=5", json!(5)),
        ("?key=%7B%20%22n%22:1%7D", json!({"n": 1})),
    ] {
        let reply = cluster.get(&path(rest), &[]).await;
        assert_eq!(reply.status, StatusCode::OK, "{rest}: {}", reply.text);
        assert_eq!(reply.json(), json!({"_id": id}));
        assert_eq!(reply.txn(), written.txn());
        let tag = reply.headers["etag"].to_str().unwrap().to_owned();
        let again = cluster.get(&path(rest), &[("if-none-match", &tag)]).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    }
    let reply = cluster.get(&path("/5"), &[]).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::NOT_FOUND, "document_not_found".into()));
    assert!(reply.text.contains("percent-encoded JSON"), "{}", reply.text);
    assert_eq!(reply.txn(), written.txn());
}

#[tokio::test]
async fn a_read_waits_for_what_was_written() {
    let cluster = Cluster::with(impatient()).await;
    cluster.log.set_lagging(true);
    let written = cluster.load("{\"_id\": \"a\"}", &[]).await;
    let txn = written.txn().expect("it was written").to_string();
    let token = [("x-anabranch-txn-id", txn.as_str())];

    let reply = cluster.get(&path("/a"), &token).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "timestamp_not_reached".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert!(reply.headers.contains_key("retry-after"));
    let reply = cluster.execute_with("SELECT * FROM cars", json!({}), &token).await;
    assert_eq!((reply.status, reply.code()), expected);

    let late = async {
        tokio::task::yield_now().await;
        cluster.log.set_lagging(false);
    };
    let asked = path("/a");
    let (reply, ()) = tokio::join!(cluster.get(&asked, &token), late);
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"_id": "a"})));
}

#[tokio::test]
async fn a_transaction_that_is_not_in_the_log_is_not_waited_for_again() {
    let cluster = Cluster::with(impatient()).await;
    let written = cluster.load("{\"_id\": \"a\"}", &[]).await;
    let next = (written.txn().expect("it was written") + 1).to_string();
    let token = [("x-anabranch-txn-id", next.as_str())];
    let update = "UPDATE cars SET n = 1 WHERE true";
    for reply in [
        cluster.get(&path("/a"), &token).await,
        cluster.execute_with("SELECT * FROM cars", json!({}), &token).await,
        cluster.execute_with(update, json!({}), &token).await,
        cluster.transact(&json!({"statements": [{"statement": update}]}), &token).await,
    ] {
        let expected = (StatusCode::CONFLICT, "transaction_unknown".to_owned());
        assert_eq!((reply.status, reply.code()), expected, "{}", reply.text);
    }
}

#[tokio::test]
async fn an_empty_cluster_has_no_transaction() {
    let cluster = Cluster::start().await;
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    let expected = json!({
        "transactionId": null, "queryType": "select", "items": [],
        "mutatedDocumentIds": [], "warnings": [], "error": null,
    });
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, expected));
    assert_eq!(reply.txn(), None);
}

/// Documents that are too many for one piece of a reply.
async fn large(cluster: &Cluster) -> usize {
    let text = "x".repeat(1_000);
    let lines: String =
        (0..1_000).map(|id| format!("{}\n", json!({"_id": id, "text": text}))).collect();
    let reply = cluster.load(lines, &[]).await;
    assert_eq!(reply.json()["written"], 1_000, "{}", reply.text);
    1_000
}

#[tokio::test]
async fn a_large_result_is_sent_in_pieces() {
    let cluster = Cluster::start().await;
    let count = large(&cluster).await;
    let select = json!({"statement": "SELECT * FROM cars"}).to_string();
    let request =
        crate::doubles::post(&crate::doubles::execute_path(), "application/json", &[], select);
    let response = cluster.raw(request).await;
    assert!(!response.headers().contains_key("content-length"));
    let reply = read(response).await.unwrap();
    assert_eq!(reply.json()["items"].as_array().map(Vec::len), Some(count));
    assert_eq!(reply.json()["error"], json!(null));
    assert_eq!(reply.json()["transactionId"].as_u64(), reply.txn());
}

#[tokio::test]
async fn rows_come_as_lines_to_who_asks_for_them() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1, 's': 'a\n'}), ({'_id': 2})";
    let txn = cluster.execute(insert, json!({})).await.txn();
    let lines = |statement: &'static str, accept: &'static str| {
        let cluster = &cluster;
        async move { cluster.execute_with(statement, json!({}), &[("accept", accept)]).await }
    };
    let reply = lines("SELECT * FROM cars", "text/plain, Application/X-NDJSON;q=0.9").await;
    assert_eq!(reply.text, "{\"_id\":1,\"s\":\"a\\n\"}\n{\"_id\":2}\n");
    assert_eq!(
        (reply.txn(), &reply.headers["content-type"]),
        (txn, &"application/x-ndjson".parse().unwrap())
    );
    let nothing = lines("SELECT * FROM cars WHERE false", "application/x-ndjson").await;
    assert_eq!((nothing.status, nothing.text.as_str()), (StatusCode::OK, ""));
    let refused = lines("SELECT", "application/x-ndjson").await;
    assert_eq!(refused.code(), "syntax_error");
    let all = lines("SELECT * FROM cars", "*/*").await;
    assert_eq!(all.json()["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_result_that_breaks_off_is_not_taken_for_a_whole_one() {
    let cluster = Cluster::start().await;
    large(&cluster).await;
    let select = json!({"statement": "SELECT * FROM cars"}).to_string();
    let request = || {
        let path = crate::doubles::execute_path();
        crate::doubles::post(&path, "application/json", &[], select.clone())
    };
    cluster.store.node.break_after(1);
    let reply = cluster.send(request()).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "nothing was sent yet");
    cluster.store.node.break_after(9);
    let response = cluster.raw(request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(read(response).await.is_err(), "the body breaks off");
    cluster.store.node.break_after(9);
    let mut lines = request();
    lines.headers_mut().insert("accept", "application/x-ndjson".parse().unwrap());
    let response = cluster.raw(lines).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(read(response).await.is_err(), "so do lines");
}

/// A store node waits only so long for its rows to be taken: then the same or another one goes on.
#[tokio::test]
async fn a_result_that_is_taken_slowly_comes_whole() {
    let cluster = Cluster::start().await;
    large(&cluster).await;
    cluster.store.node.break_with("read_untaken", 4);
    let select = "SELECT _id, text FROM cars";
    let object = cluster.execute(select, json!({})).await;
    assert_eq!((object.status, &object.json()["error"]), (StatusCode::OK, &Value::Null));
    let items = object.json()["items"].as_array().cloned().unwrap();
    let ids: BTreeSet<_> = items.iter().map(|item| item["_id"].to_string()).collect();
    assert_eq!((items.len(), ids.len()), (1_000, 1_000), "none is missing or comes twice");
    let accepted = [("accept", "application/x-ndjson")];
    let lines = cluster.execute_with(select, json!({}), &accepted).await;
    let rows: Vec<Value> =
        lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows == items, "lines have the same rows");
    let queries = cluster.store.node.queries.lock();
    assert_eq!(queries.len(), 2 * 3, "each gave a part of them");
    let snapshots: BTreeSet<_> =
        queries.iter().filter_map(|query| query.at.and_then(|at| at.exactly)).collect();
    assert_eq!(snapshots.into_iter().collect::<Vec<_>>(), [object.txn().unwrap()]);
}
