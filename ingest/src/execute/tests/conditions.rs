//! Writes that are decided when they are applied: ids that are taken, documents that have changed,
//! what is written as a whole or not at all.

use std::sync::atomic::Ordering;

use anabranch_core::ids::{AppId, DocumentId, DocumentKey};
use anabranch_core::keyspace::SliceCount;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{KEY, ids};
use crate::doubles::{APP, Cluster};

#[tokio::test]
async fn ids_that_are_taken() {
    let cluster = Cluster::start().await;
    cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 1})", json!({})).await;
    for statement in [
        "INSERT INTO cars DOCUMENTS ({'_id': 1})",
        "INSERT INTO cars DOCUMENTS ({'_id': 0}), ({'_id': 1}) ON ID CONFLICT FAIL",
    ] {
        let reply = cluster.execute(statement, json!({})).await;
        let expected = (StatusCode::CONFLICT, "id_conflict".to_owned());
        assert_eq!((reply.status, reply.code()), expected, "{}", reply.text);
        assert!(reply.text.contains('1'), "the id is named");
    }
    assert_eq!(cluster.cars().await, [json!({"_id": 0}), json!({"_id": 1, "n": 1})]);
    cluster.execute("DELETE FROM cars WHERE _id = 0", json!({})).await;
    let twice = "INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 2}), ({'_id': 1, 'm': 3})";
    cluster.execute(&format!("{twice} ON ID CONFLICT DO NOTHING"), json!({})).await;
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "n": 1})]);
    cluster.execute(&format!("{twice} ON ID CONFLICT DO UPDATE"), json!({})).await;
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "n": 2, "m": 3})]);
}

#[tokio::test]
async fn who_finds_an_id_taken_is_told_by_whom_and_what_became_of_the_others() {
    let cluster = Cluster::start().await;
    let first = cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1})", json!({})).await;
    let reads = || cluster.store.node.reads.load(Ordering::SeqCst);
    let before = reads();
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 2}), ({'_id': 2})";
    let reply = cluster.execute(insert, json!({})).await;
    let expected = (StatusCode::CONFLICT, "id_conflict".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert_eq!(reads(), before, "whoever looks before may be wrong by then");
    let body = reply.json();
    let taken = json!([{
        "collection": "cars", "_id": 1, "transactionId": first.txn(), "reason": "exists",
    }]);
    assert_eq!(body["error"]["conflicts"], taken);
    assert_eq!(body["decided"], "per_document");
    assert_eq!(ids(&body), [json!(2)], "the others were written");
    assert_eq!(body["transactionId"].as_u64(), reply.txn());
    assert_eq!(cluster.cars().await, [json!({"_id": 1}), json!({"_id": 2})]);
}

/// Two ids of documents that are in one slice, and one that is in another.
fn ids_by_slice() -> ([i64; 2], i64) {
    let slice = |id: i64| {
        let key = DocumentKey::from_value(&anabranch_core::Value::Int(id)).unwrap();
        let (app, collection) = (AppId(APP.parse().unwrap()), "cars".parse().unwrap());
        SliceCount::default().slice_of(DocumentId { app, collection, key }.position())
    };
    let other = (2..).find(|id| slice(*id) == slice(1)).unwrap();
    let elsewhere = (2..).find(|id| slice(*id) != slice(1)).unwrap();
    ([1, other], elsewhere)
}

#[tokio::test]
async fn what_is_in_one_slice_is_written_as_a_whole_or_not_at_all() {
    let cluster = Cluster::start().await;
    let ([one, other], elsewhere) = ids_by_slice();
    cluster.execute("INSERT INTO cars DOCUMENTS (:d)", json!({"d": {"_id": one}})).await;
    let insert = "INSERT INTO cars DOCUMENTS (:a), (:b)";
    let args = json!({"a": {"_id": other}, "b": {"_id": one, "n": 2}});
    let reply = cluster.execute(insert, args).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::CONFLICT, "id_conflict".to_owned()));
    assert_eq!((&reply.json()["decided"], ids(&reply.json())), (&json!("whole"), vec![]));
    assert!(reply.text.contains("nothing was written"), "{}", reply.text);
    assert_eq!(cluster.cars().await, [json!({"_id": one})]);
    // Who wants that or nothing says so.
    let path = crate::doubles::execute_path();
    let atomic = |second: i64| {
        let args = json!({"a": {"_id": other}, "b": {"_id": second}});
        let body = json!({"statement": insert, "args": args, "atomic": true}).to_string();
        cluster.send(crate::doubles::post(&path, "application/json", &[], body))
    };
    let committed = || cluster.shared.world.lock().committed.len();
    let before = committed();
    let reply = atomic(elsewhere).await;
    let expected = (StatusCode::UNPROCESSABLE_ENTITY, "not_atomic".to_owned());
    assert_eq!((reply.status, reply.code()), expected, "{}", reply.text);
    assert_eq!(committed(), before, "nothing was written");
    assert_eq!(atomic(one).await.status, StatusCode::CONFLICT);
    assert_eq!(cluster.cars().await, [json!({"_id": one})]);
}

#[tokio::test]
async fn a_document_is_changed_only_if_it_is_as_it_was_read() {
    let cluster = Cluster::start().await;
    let first = cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 1})", json!({})).await;
    let changed = |statement: &'static str, since: u64| {
        let since = since.to_string();
        let cluster = &cluster;
        async move {
            let headers = [("x-anabranch-if-match", since.as_str())];
            let reply = cluster.execute_with(statement, json!({}), &headers).await;
            let winner = reply.json()["error"]["conflicts"][0]["transactionId"].as_u64();
            (reply.status.as_u16(), reply.code(), winner, reply.txn())
        }
    };
    let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE _id = 1";
    let (status, _, _, second) = changed(update, first.txn().unwrap()).await;
    assert_eq!(status, 200);
    let refused = (409, "document_changed".to_owned(), second);
    let (status, code, winner, _) = changed(update, first.txn().unwrap()).await;
    assert_eq!((status, code, winner), refused, "it was seen to have changed");
    let committed = cluster.shared.world.lock().committed.len();
    assert_eq!(committed, 2, "nothing was written for that");
    // It changes after it was read.
    let (log, rival) = (cluster.log.clone(), crate::doubles::delete(&json!(1)));
    cluster.store.node.after_read(move || log.commit_now(&rival));
    let (status, code, winner, txn) = changed(update, second.unwrap()).await;
    let third = second.map(|second| second + 1);
    assert_eq!((status, code, winner), (409, "document_changed".to_owned(), third));
    assert!(txn > third, "the log decided");
    // What is gone is not as it was, nor is what never was there.
    for (statement, expected) in [
        ("DELETE FROM cars WHERE _id = 1", third),
        ("INSERT INTO cars DOCUMENTS ({'_id': 1}) ON ID CONFLICT DO UPDATE", third),
        ("UPDATE cars SET n = 1 WHERE _id IN (5)", None),
    ] {
        let (status, code, winner, _) = changed(statement, txn.unwrap()).await;
        let refused = (409, "document_changed".to_owned(), expected);
        assert_eq!((status, code, winner), refused, "{statement}");
    }
    assert_eq!(cluster.cars().await, [] as [Value; 0]);
    for statement in [
        "UPDATE cars SET n = 1 WHERE n = 1",
        "INSERT INTO cars DOCUMENTS ({'_id': 1})",
        "SELECT * FROM cars",
    ] {
        let (status, code, ..) = changed(statement, 0).await;
        assert_eq!((status, code), (400, "invalid_request".to_owned()), "{statement}");
    }
}

/// An ETag is sent back as it came, and is the same as its number.
#[tokio::test]
async fn a_document_is_unchanged_since_its_etag() {
    let cluster = Cluster::start().await;
    cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 'a', 'n': 1})", json!({})).await;
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents/a");
    let etag = async || {
        let reply = cluster.get(&path, &[]).await;
        reply.headers["etag"].to_str().unwrap().to_owned()
    };
    let first = etag().await;
    assert!(first.starts_with('"') && first.ends_with('"') && first.len() > 2, "{first}");
    let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE _id = 'a'";
    let since = async |etag: &str| {
        let headers = [("x-anabranch-if-match", etag)];
        let reply = cluster.execute_with(update, json!({}), &headers).await;
        (reply.status.as_u16(), reply.code())
    };
    assert_eq!(since(&first).await, (200, String::new()));
    assert_eq!(since(&first).await, (409, "document_changed".to_owned()));
    let second = etag().await;
    assert_ne!(second, first);
    for torn in [&second[1..], &second[..second.len() - 1], "\"\"", "\"", "W/\"1\"", "\"x\""] {
        assert_eq!(since(torn).await, (400, "invalid_header".to_owned()), "{torn}");
    }
    assert_eq!(since(&second).await, (200, String::new()));
    assert_eq!(cluster.cars().await, [json!({"_id": "a", "n": 3})]);
}

#[tokio::test]
async fn what_no_longer_matches_as_it_was_read_is_left_alone() {
    let cluster = Cluster::start().await;
    let first = cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 1})", json!({})).await;
    let since = first.txn().unwrap().to_string();
    let update = "UPDATE cars SET n = 2 WHERE _id = 1 AND n = 5";
    let reply = cluster.execute_with(update, json!({}), &[("x-anabranch-if-match", &since)]).await;
    assert_eq!((reply.status, ids(&reply.json())), (StatusCode::OK, vec![]));
}

/// Also once it is there: the reply is of the first try.
#[tokio::test]
async fn a_condition_that_did_not_hold_is_told_again_at_each_repeat() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1}\n{\"_id\": 3}", &[]).await;
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1}), ({'_id': 2})";
    let told = cluster.execute_with(insert, json!({}), &KEY).await;
    assert_eq!((told.status, told.code()), (StatusCode::CONFLICT, "id_conflict".to_owned()));
    cluster.execute("DELETE FROM cars WHERE true", json!({})).await;
    for looks in [0, usize::MAX] {
        cluster.store.node.forget(looks);
        let again = cluster.execute_with(insert, json!({}), &KEY).await;
        assert_eq!((again.status, again.text), (told.status, told.text.clone()));
    }
    assert_eq!(cluster.cars().await, [] as [Value; 0]);
}

#[tokio::test]
async fn of_several_documents_each_is_as_it_was_or_not() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}\n{\"_id\": 2, \"n\": 1}", &[]).await;
    let loaded = cluster.shared.world.lock().committed[0].0;
    for changed in [1, 2] {
        let other = 3 - changed;
        let update = format!("UPDATE cars SET n = 'x' WHERE _id = {changed}");
        let since = cluster.execute(&update, json!({})).await.txn().unwrap();
        let headers = [("x-anabranch-if-match", (since - 1).to_string())];
        let headers = headers.each_ref().map(|(name, since)| (*name, since.as_str()));
        let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE _id IN (1, 2)";
        let reply = cluster.execute_with(update, json!({}), &headers).await;
        assert_eq!(reply.code(), "document_changed", "{}", reply.text);
        let conflicts = reply.json()["error"]["conflicts"].as_array().cloned().unwrap();
        assert!(conflicts.iter().any(|conflict| conflict["_id"] == changed), "{conflicts:?}");
        assert_eq!(reply.json()["decided"], "per_document");
        assert!(since > loaded);
        let reset = "UPDATE cars SET n = 1 WHERE true";
        assert_eq!(
            ids(&reply.json()),
            if conflicts.len() == 1 { vec![json!(other)] } else { vec![] }
        );
        cluster.execute(reset, json!({})).await;
    }
}
