//! A SELECT page by page: all pages together are the whole, and a cursor is of its statement only.

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use crate::doubles::{Cluster, Reply, execute_path, post};

async fn ask(cluster: &Cluster, body: &Value, headers: &[(&str, &str)]) -> Reply {
    cluster.send(post(&execute_path(), "application/json", headers, body.to_string())).await
}

/// The ids of each page.
async fn pages(cluster: &Cluster, statement: &str, size: usize) -> Vec<Vec<i64>> {
    let mut cursor = Value::Null;
    let mut pages = Vec::new();
    loop {
        let body = json!({"statement": statement, "pageSize": size, "cursor": cursor});
        let reply = ask(cluster, &body, &[]).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let reply = reply.json();
        let ids = reply["items"].as_array().unwrap().iter();
        pages.push(ids.map(|item| item["_id"].as_i64().unwrap()).collect());
        cursor = reply["cursor"].clone();
        if cursor.is_null() {
            return pages;
        }
    }
}

async fn some_cars(count: i64) -> Cluster {
    let cluster = Cluster::start().await;
    let cars: Vec<_> = (10..10 + count).map(|id| json!({"_id": id})).collect();
    let reply = cluster.execute("INSERT INTO cars DOCUMENTS (:d)", json!({"d": cars})).await;
    assert_eq!(reply.status, StatusCode::OK);
    cluster
}

#[tokio::test]
async fn all_pages_together_are_the_whole() {
    let cluster = some_cars(25).await;
    let all: Vec<i64> = (10..35).collect();
    let statement = "SELECT * FROM cars";
    for (size, count) in [(10, 3), (25, 1), (24, 2), (1, 25), (10_000, 1)] {
        let pages = pages(&cluster, statement, size).await;
        assert_eq!(pages.len(), count);
        assert_eq!(pages.concat(), all);
    }
    let limited = pages(&cluster, "SELECT * FROM cars LIMIT 12", 5).await;
    let lengths: Vec<_> = limited.iter().map(Vec::len).collect();
    assert_eq!((lengths, limited.concat()), (vec![5, 5, 2], all[..12].to_vec()));
    assert_eq!(pages(&cluster, "SELECT * FROM bikes", 5).await, [Vec::<i64>::new()]);
    let reply = ask(&cluster, &json!({"statement": statement}), &[]).await;
    assert!(reply.json().get("cursor").is_none(), "nobody asked for pages");
}

#[tokio::test]
async fn a_page_whose_time_is_over_has_what_came_and_the_next_goes_on() {
    let cluster = some_cars(250).await;
    let statement = "SELECT * FROM cars";
    let in_time = [("x-anabranch-timeout-ms", "500")];
    // A message of rows comes, and then nothing.
    cluster.store.node.stall_after(Some(1));
    let mut body = json!({"statement": statement, "pageSize": 200});
    let first = ask(&cluster, &body, &in_time).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let first = first.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 100);
    // Behind a row that is not there nobody can go on.
    body["cursor"] = first["cursor"].clone();
    cluster.store.node.stall_after(Some(0));
    let none = ask(&cluster, &body, &in_time).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (504, "deadline_exceeded"));
    cluster.store.node.stall_after(None);
    let rest = ask(&cluster, &body, &[]).await.json();
    let items = [&first, &rest].into_iter().flat_map(|page| page["items"].as_array().unwrap());
    let mut ids: Vec<_> = items.map(|item| item["_id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (10..260).collect::<Vec<_>>());
    assert_eq!(rest["cursor"], Value::Null);
}

#[tokio::test]
async fn a_page_that_is_full_is_not_held_back_for_the_row_behind_it() {
    let cluster = some_cars(250).await;
    cluster.store.node.stall_after(Some(1));
    let body = json!({"statement": "SELECT * FROM cars", "pageSize": 100});
    let page = ask(&cluster, &body, &[("x-anabranch-timeout-ms", "60000")]);
    // Long before its own time is over.
    let page = tokio::time::timeout(Duration::from_secs(30), page).await.expect("it is given");
    let page = page.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 100);
    assert!(page["cursor"].is_string(), "it cannot tell that this is the last");
}

#[tokio::test]
async fn a_page_of_lines_has_its_cursor_in_a_header() {
    let cluster = some_cars(12).await;
    let mut body = json!({"statement": "SELECT * FROM cars", "pageSize": 10});
    let lines = [("accept", "application/x-ndjson")];
    let reply = ask(&cluster, &body, &lines).await;
    assert_eq!(reply.text.lines().count(), 10);
    body["cursor"] = reply.headers["x-anabranch-cursor"].to_str().unwrap().into();
    let reply = ask(&cluster, &body, &lines).await;
    assert_eq!(reply.text, "{\"_id\":20}\n{\"_id\":21}\n");
    assert!(!reply.headers.contains_key("x-anabranch-cursor"));
}

#[tokio::test]
async fn large_rows_end_a_page_early() {
    let cluster = Cluster::start().await;
    for id in 0..12 {
        let car = json!({"_id": id, "text": "x".repeat(1 << 20)});
        let reply = cluster.execute("INSERT INTO cars DOCUMENTS (:d)", json!({"d": car})).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let pages = pages(&cluster, "SELECT * FROM cars", 100).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
}

/// Neither the transaction nor the place in it can be chosen.
#[tokio::test]
async fn a_cursor_of_which_a_byte_was_altered_is_refused() {
    let cluster = some_cars(3).await;
    let statement = "SELECT * FROM cars";
    let first = ask(&cluster, &json!({"statement": statement, "pageSize": 1}), &[]).await.json();
    let given = BASE64.decode(first["cursor"].as_str().unwrap()).unwrap();
    let next = async |cursor: &[u8]| {
        let body = json!({"statement": statement, "pageSize": 1, "cursor": BASE64.encode(cursor)});
        let reply = ask(&cluster, &body, &[]).await;
        (reply.status.as_u16(), reply.code())
    };
    let refused = (400, "invalid_cursor".to_owned());
    for index in 0..given.len() {
        let mut altered = given.clone();
        altered[index] ^= 1;
        assert_eq!(next(&altered).await, refused, "byte {index}");
    }
    assert_eq!(next(&given[..given.len() - 1]).await, refused);
    assert_eq!(next(&[&given[..], b"0"].concat()).await, refused);
    assert_eq!(next(&given).await, (200, String::new()));
}

#[tokio::test]
async fn a_cursor_is_of_its_statement_and_of_nothing_else() {
    let cluster = some_cars(3).await;
    let statement = "SELECT * FROM cars WHERE _id > :n";
    let body = json!({"statement": statement, "args": {"n": 1}, "pageSize": 1});
    let first = ask(&cluster, &body, &[]).await.json();
    let cursor = &first["cursor"];
    assert!(cursor.is_string(), "{first}");
    let newer = (first["transactionId"].as_u64().unwrap() + 1).to_string();
    for (body, headers, code) in [
        (json!({"statement": "SELECT * FROM cars", "cursor": cursor}), None, "invalid_cursor"),
        (
            json!({"statement": statement, "args": {"n": 2}, "cursor": cursor}),
            None,
            "invalid_cursor",
        ),
        (json!({"statement": statement, "cursor": "x"}), None, "invalid_cursor"),
        (json!({"statement": statement, "cursor": 1}), None, "invalid_request"),
        (json!({"statement": statement, "pageSize": 0}), None, "invalid_request"),
        (json!({"statement": statement, "pageSize": 10_001}), None, "invalid_request"),
        (json!({"statement": statement, "pageSize": "1"}), None, "invalid_request"),
        (
            json!({"statement": "DELETE FROM cars WHERE true", "pageSize": 1}),
            None,
            "invalid_request",
        ),
        (
            json!({"statement": "EXPLAIN SELECT * FROM cars", "pageSize": 1}),
            None,
            "invalid_request",
        ),
        (
            json!({"statement": statement, "args": {"n": 1}, "cursor": cursor}),
            Some(("x-anabranch-txn-id", newer.as_str())),
            "invalid_request",
        ),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let reply = ask(&cluster, &body, &headers).await;
        let told = (reply.status.as_u16(), reply.code());
        assert_eq!(told, (400, code.to_owned()), "{body}: {}", reply.text);
    }
    let delete = json!({"statement": "DELETE FROM cars WHERE true"});
    let reply = cluster.transact(&json!({"statements": [delete], "pageSize": 1}), &[]).await;
    assert_eq!(reply.code(), "invalid_request");
}
