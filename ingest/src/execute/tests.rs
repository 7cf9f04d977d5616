//! What statements do, alone, in races, and repeated.

use std::sync::atomic::Ordering;

use anabranch_core::ids::{AppId, DocumentId, DocumentKey};
use anabranch_core::keyspace::SliceCount;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::config::IngestConfig;
use crate::doubles::{APP, Cluster, Fault};
use crate::idempotency::RequestName;

fn ids(reply: &Value) -> Vec<Value> {
    reply["mutatedDocumentIds"].as_array().cloned().expect("ids are an array")
}

#[tokio::test]
async fn statements_write_and_say_what() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS (:a), ({'_id': 2, 'n': 5, 'o': {'x': 1}})";
    let reply = cluster.execute(insert, json!({"a": {"_id": "a", "n": 1}})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(
        reply.json(),
        json!({
            "transactionId": reply.txn(), "queryType": "insert", "items": [],
            "mutatedDocumentIds": ["a", 2], "warnings": [], "decided": "per_document",
            "error": null,
        })
    );
    let update = "UPDATE cars SET o.y = :y UNSET o.x \
                  APPLY n INCREMENT BY 2, m.k INCREMENT BY -1 WHERE n > 3";
    let reply = cluster.execute(update, json!({"y": [1]})).await.json();
    assert_eq!((&reply["queryType"], ids(&reply)), (&json!("update"), vec![json!(2)]));
    let two = json!({"_id": 2, "n": 7, "o": {"y": [1]}, "m": {"k": -1}});
    assert_eq!(cluster.cars().await, [json!({"_id": "a", "n": 1}), two.clone()]);
    let reply = cluster.execute("DELETE FROM cars WHERE _id = 'a'", json!({})).await.json();
    assert_eq!((&reply["queryType"], ids(&reply)), (&json!("delete"), vec![json!("a")]));
    assert_eq!(cluster.cars().await, [two]);
    let reply = cluster.execute("EVICT FROM cars WHERE n = 7", json!({})).await.json();
    assert_eq!((&reply["queryType"], ids(&reply)), (&json!("evict"), vec![json!(2)]));
    assert_eq!(cluster.cars().await, [] as [Value; 0]);
}

#[tokio::test]
async fn what_matches_nothing_writes_nothing() {
    let cluster = Cluster::start().await;
    let first = cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1})", json!({})).await;
    for statement in ["UPDATE cars SET a = 1 WHERE _id = 2", "DELETE FROM cars WHERE a = 1"] {
        let reply = cluster.execute(statement, json!({})).await;
        assert_eq!(reply.txn(), first.txn());
        assert_eq!(ids(&reply.json()), [] as [Value; 0]);
    }
    assert_eq!(cluster.shared.world.lock().committed.len(), 1);
}

#[tokio::test]
async fn documents_without_an_id_get_one() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS ({'n': 1}), ({'n': 2})";
    let reply = cluster.execute(insert, json!({})).await.json();
    let ids = ids(&reply);
    assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id.as_str().unwrap()).is_ok()));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(cluster.cars().await.len(), 2);
}

#[tokio::test]
async fn another_node_goes_on_with_the_rows_of_one_that_dies() {
    let cluster = Cluster::start().await;
    let lines: String = (100..350).map(|id| format!("{{\"_id\": {id}}}\n")).collect();
    cluster.load(lines, &[]).await;
    for (limit, rows) in [("", 250), (" LIMIT 250", 250), (" LIMIT 170", 170), (" LIMIT 100", 100)]
    {
        // Before the first of its messages, after some, after all.
        for messages in 0..4 {
            cluster.store.node.lose_after(messages);
            let reply = cluster.execute(&format!("SELECT * FROM cars{limit}"), json!({})).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
            let reply = reply.json();
            let expected: Vec<_> = (100..100 + rows).map(|id| json!({"_id": id})).collect();
            assert_eq!(reply["error"], Value::Null);
            assert_eq!(reply["items"].as_array().unwrap(), &expected, "{limit} {messages}");
        }
    }
    let queries = cluster.store.node.queries.lock();
    let gone_on = queries.iter().filter(|query| !query.after.is_empty());
    assert!(gone_on.clone().count() > 4);
    assert!(gone_on.clone().all(|query| query.at.is_some_and(|at| at.exactly.is_some())));
}

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
async fn the_statements_of_a_transaction_are_one_round() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 5}\n{\"_id\": 2, \"n\": 5}", &[]).await;
    let committed = || cluster.shared.world.lock().committed.len();
    let statements = json!([
        {"statement": "UPDATE cars APPLY n INCREMENT BY -1 WHERE _id = :id", "args": {"id": 1}},
        {"statement": "UPDATE cars APPLY n INCREMENT BY 1 WHERE n = 5"},
        {"statement": "INSERT INTO trips DOCUMENTS ({'_id': 't'}), ({'_id': 't'}) \
                       ON ID CONFLICT DO UPDATE"},
        {"statement": "DELETE FROM trips WHERE true"},
    ]);
    for turn in 0..2 {
        let reply = cluster.transact(&json!({"statements": statements}), &KEY).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.json()["transactionId"].as_u64(), reply.txn());
        let written = |id: Value, collection: &str| json!({"collection": collection, "_id": id});
        let documents = reply.json()["mutatedDocuments"].as_array().cloned().unwrap();
        assert_eq!(documents.len(), 3, "{documents:?}");
        for (id, collection) in [(json!(1), "cars"), (json!(2), "cars"), (json!("t"), "trips")] {
            assert!(documents.contains(&written(id, collection)), "{documents:?}");
        }
        assert_eq!(committed(), 2, "one round, once: turn {turn}");
    }
    let left = [json!({"_id": 1, "n": 5}), json!({"_id": 2, "n": 6})];
    assert_eq!(cluster.cars().await, left, "they do not see each other's changes");
}

#[tokio::test]
async fn a_transaction_reads_as_of_one_time() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 5}", &[]).await;
    let log = cluster.log.clone();
    cluster.store.node.after_read(move || {
        log.commit_now(&crate::doubles::insert(&json!({"_id": 2, "n": 5})));
    });
    let update = json!({"statement": "UPDATE cars SET a = 1 WHERE n = 5"});
    cluster.transact(&json!({"statements": [update, update]}), &[]).await;
    let queries = cluster.store.node.queries.lock();
    let exactly: Vec<_> = queries.iter().map(|query| query.at.unwrap().exactly).collect();
    let [None, Some(first)] = exactly[..] else { panic!("{exactly:?}") };
    assert_eq!(first, cluster.shared.world.lock().committed[0].0);
}

#[tokio::test]
async fn a_condition_of_a_transaction_is_of_its_statement() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 5}\n{\"_id\": 2, \"n\": 5}", &[]).await;
    let first = cluster.execute("UPDATE cars SET n = 6 WHERE _id = 2", json!({})).await.txn();
    let since = first.unwrap() - 1;
    let update = |id| format!("UPDATE cars SET n = 7 WHERE _id = {id}");
    let body = json!({"statements": [
        {"statement": update(1), "ifMatch": since}, {"statement": update(2), "ifMatch": since},
        {"statement": "UPDATE cars SET z = 1 WHERE _id = 2"},
    ]});
    let reply = cluster.transact(&body, &[]).await;
    let expected = (StatusCode::CONFLICT, "document_changed".to_owned());
    assert_eq!((reply.status, reply.code()), expected, "{}", reply.text);
    let conflict = json!([{
        "collection": "cars", "_id": 2, "transactionId": first, "reason": "changed",
    }]);
    assert_eq!(reply.json()["error"]["conflicts"], conflict);
    // What else is asked of that document is not done either.
    let documents = [json!({"_id": 1, "n": 7}), json!({"_id": 2, "n": 6})];
    assert_eq!(cluster.cars().await, documents);
    // Both changes of one document are as of before the transaction.
    let since = reply.txn().unwrap();
    let update = |field| format!("UPDATE cars SET {field} = 8 WHERE _id = 1");
    let body = json!({"statements": [
        {"statement": update("n"), "ifMatch": since}, {"statement": update("m"), "ifMatch": since},
    ]});
    assert_eq!(cluster.transact(&body, &[]).await.status, StatusCode::OK);
    assert_eq!(cluster.cars().await[0], json!({"_id": 1, "n": 8, "m": 8}));
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

#[tokio::test]
async fn an_id_is_inserted_once_in_a_transaction() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1})";
    let insert = |policy: &str| json!({"statement": format!("{insert} {policy}")});
    let body = json!({"statements": [insert("ON ID CONFLICT DO NOTHING"), insert("")]});
    let reply = cluster.transact(&body, &[]).await;
    let expected = (StatusCode::UNPROCESSABLE_ENTITY, "duplicate_id".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert!(reply.text.contains("statement 2"), "{}", reply.text);
    assert!(cluster.shared.world.lock().committed.is_empty());
}

#[tokio::test]
async fn what_is_not_a_number_is_not_counted_up() {
    let cluster = Cluster::start().await;
    cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 1, 'n': 'x', 'm': 1.5})", json!({})).await;
    for path in ["n", "m.k"] {
        let update = format!("UPDATE cars SET z = 1 APPLY {path} INCREMENT BY 1 WHERE true");
        let reply = cluster.execute(&update, json!({})).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (422, "not_a_number".to_owned()));
        assert!(reply.text.contains(path));
    }
    assert_eq!(cluster.shared.world.lock().committed.len(), 1, "nothing was written");
    let update = "UPDATE cars APPLY m INCREMENT BY 1, new.k INCREMENT BY 1 WHERE true";
    assert_eq!(cluster.execute(update, json!({})).await.status, StatusCode::OK);
    let expected = json!({"_id": 1, "n": "x", "m": 2.5, "new": {"k": 1}});
    assert_eq!(cluster.cars().await, [expected]);
}

#[tokio::test]
async fn documents_must_not_grow_too_large() {
    let cluster = Cluster::start().await;
    let insert = "INSERT INTO cars DOCUMENTS (:d)";
    let large = json!({"_id": 1, "a": "x".repeat(300_000)});
    let reply = cluster.execute(insert, json!({"d": large})).await.json();
    assert_eq!(reply["warnings"][0]["code"], "large_document");
    let set = "UPDATE cars SET b.c = :v WHERE _id = 1";
    let reply = cluster.execute(set, json!({"v": "x".repeat(3_000_000)})).await.json();
    assert_eq!(reply["warnings"][0]["code"], "large_document");
    // The same again is no larger; beside it, it is too large.
    let again = cluster.execute(set, json!({"v": "y".repeat(3_000_000)})).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    let beside = "UPDATE cars SET b.d = :v WHERE _id = 1";
    let reply = cluster.execute(beside, json!({"v": "x".repeat(3_000_000)})).await;
    let expected = (StatusCode::PAYLOAD_TOO_LARGE, "document_too_large".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    // Of an INSERT only the store node sees what is there already.
    let merge = "INSERT INTO cars DOCUMENTS (:d), (:e) ON ID CONFLICT DO UPDATE";
    let args = json!({"d": {"_id": 1, "f": "x".repeat(3_000_000)}, "e": {"_id": 2, "f": 1}});
    let reply = cluster.execute(merge, args).await;
    assert_eq!((reply.status, reply.code()), expected);
    assert_eq!(reply.json()["mutatedDocumentIds"], json!([2]));
}

#[tokio::test]
async fn one_statement_changes_so_much_and_no_more() {
    let config = IngestConfig {
        max_changed_documents: 3,
        max_round_bytes: 2_000,
        ..IngestConfig::default()
    };
    let cluster = Cluster::with(config).await;
    let lines: String = (0..4).map(|id| format!("{{\"_id\": {id}}}\n")).collect();
    cluster.load(lines, &[]).await;
    let reply = cluster.execute("DELETE FROM cars WHERE true", json!({})).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (422, "too_many_documents".to_owned()));
    let set = "UPDATE cars SET a = :a WHERE _id < 3";
    let reply = cluster.execute(set, json!({"a": "x".repeat(1_000)})).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (422, "round_too_large".to_owned()));
    assert_eq!(cluster.cars().await.len(), 4);
    let reply = cluster.execute("DELETE FROM cars WHERE _id < 3", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK);
    let committed = cluster.shared.world.lock().committed.len();
    let insert = "INSERT INTO cars DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
    let documents = |count: usize, bytes: usize| {
        let text = "x".repeat(bytes);
        let documents: Vec<_> = (0..count).map(|id| json!({"_id": id, "a": text})).collect();
        json!({"d": documents})
    };
    for (documents, code) in
        [(documents(4, 1), "too_many_documents"), (documents(3, 700), "round_too_large")]
    {
        let reply = cluster.execute(insert, documents).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (422, code.to_owned()));
        assert!(reply.json()["error"]["hint"].as_str().unwrap().contains("bulk endpoint"));
    }
    assert_eq!(cluster.shared.world.lock().committed.len(), committed);
    assert_eq!(cluster.execute(insert, documents(3, 600)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn documents_that_are_left_alone_are_not_called_written() {
    for key in [&[][..], &KEY] {
        let cluster = Cluster::start().await;
        cluster.load("{\"_id\": 1, \"n\": 1}", &[]).await;
        let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1}), ({'_id': 2, 'n': 2}), \
                      ({'_id': 2, 'n': 3}), ({'_id': 1}) ON ID CONFLICT DO NOTHING";
        for turn in 0..2 {
            let reply = cluster.execute_with(insert, json!({}), key).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
            // Under a key the second is a repeat of the first.
            let written = if turn == 0 || !key.is_empty() { vec![json!(2)] } else { vec![] };
            assert_eq!(ids(&reply.json()), written);
        }
        let all = [json!({"_id": 1, "n": 1}), json!({"_id": 2, "n": 2})];
        assert_eq!(cluster.cars().await, all);
    }
}

#[tokio::test]
async fn only_what_a_search_needs_is_asked() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}\n{\"_id\": 2, \"n\": 1}", &[]).await;
    let large = "x".repeat(100_000);
    let update = "UPDATE cars SET a = :d WHERE n = :n";
    let reply = cluster.execute(update, json!({"d": large, "n": 1})).await;
    assert_eq!(ids(&reply.json()), [json!(1), json!(2)]);
    let asked = std::mem::take(&mut *cluster.store.node.queries.lock());
    assert_eq!(asked.iter().map(|query| query.args.as_str()).collect::<Vec<_>>(), ["{}"]);
    for (statement, changed) in [
        ("UPDATE cars SET n = 2 WHERE _id = 1 AND n = 1", vec![json!(1)]),
        ("UPDATE cars SET n = 3 WHERE _id = 1 AND n = 1", vec![]),
        ("UPDATE cars APPLY n INCREMENT BY 1 WHERE _id IN (1.0)", vec![json!(1)]),
        ("DELETE FROM cars WHERE _id = 3", vec![]),
        ("DELETE FROM cars WHERE _id = 2", vec![json!(2)]),
    ] {
        let reply = cluster.execute(statement, json!({})).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(ids(&reply.json()), changed, "{statement}");
        assert!(reply.txn().is_some());
    }
    assert!(cluster.store.node.queries.lock().is_empty(), "a document is read by its id");
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "a": large, "n": 3})]);
}

#[tokio::test]
async fn long_arguments_still_make_a_condition() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": \"where\", \"n\": 1}\n{\"_id\": \"b\", \"n\": 1}", &[]).await;
    let list: Vec<_> = (0..5_000).map(|n| json!(format!("where-{n:020}"))).collect();
    let mut args = json!({"list": list, "s": "a where b"});
    args["list"].as_array_mut().unwrap().push(json!("where"));
    let update = "UPDATE cars SET s = 'a where b' WHERE _id IN (:list) AND n = 1";
    let reply = cluster.execute(update, args.clone()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(ids(&reply.json()), [json!("where")]);
    let reply = cluster.execute("DELETE FROM cars WHERE _id in (:list)", args).await;
    assert_eq!(ids(&reply.json()), [json!("where")]);
}

const KEY: [(&str, &str); 1] = [("idempotency-key", "once")];

#[tokio::test]
async fn a_repeat_is_applied_once_and_answered_alike() {
    for statement in [
        "INSERT INTO cars DOCUMENTS ({'n': 1}), ({'_id': 'b', 'n': 1})",
        "UPDATE cars APPLY n INCREMENT BY 1 WHERE n < 2",
        "UPDATE cars SET n = 7 WHERE n < 2",
        "DELETE FROM cars WHERE n < 2",
    ] {
        let cluster = Cluster::start().await;
        cluster.load("{\"_id\": \"z\", \"n\": 1}\n{\"_id\": \"a\", \"n\": 1}", &[]).await;
        let first = cluster.execute_with(statement, json!({}), &KEY).await;
        assert_eq!(first.status, StatusCode::OK, "{}", first.text);
        let after = cluster.cars().await;
        let again = cluster.execute_with(statement, json!({}), &KEY).await;
        assert_eq!((again.txn(), again.text), (first.txn(), first.text.clone()));
        assert_eq!(cluster.shared.world.lock().committed.len(), 2, "not even written");

        // The store node does not know of the first yet when it is asked, or one that is behind does
        // not know of it at all: then what was read says how far it has to be.
        for looks in [1, usize::MAX] {
            cluster.store.node.forget(looks);
            let late = cluster.execute_with(statement, json!({}), &KEY).await;
            assert_eq!((late.txn(), late.text), (first.txn(), first.text.clone()));
            assert_eq!(cluster.cars().await, after);
        }
        cluster.store.node.forget(0);
    }
}

#[tokio::test]
async fn a_repeat_that_is_written_twice_is_applied_once() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}", &[]).await;
    let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE true";
    cluster.store.node.forget(usize::MAX);
    let first = cluster.execute_with(update, json!({}), &KEY).await;
    let again = cluster.execute_with(update, json!({}), &KEY).await;
    assert_eq!((again.status, again.text), (StatusCode::OK, first.text));
    assert_eq!(cluster.shared.world.lock().committed.len(), 3);
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "n": 2})]);
}

#[tokio::test]
async fn a_repeat_that_reads_something_else_says_what_the_first_try_wrote() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}\n{\"_id\": 2, \"n\": 2}", &[]).await;
    let update = "UPDATE cars SET seen = true WHERE n < 10";
    let first = cluster.execute_with(update, json!({}), &KEY).await;
    assert_eq!(ids(&first.json()), [json!(1), json!(2)]);
    cluster.execute("UPDATE cars SET n = 100 WHERE _id = 2", json!({})).await;
    // Of the repeat, too, one commit gets no answer.
    for faults in [vec![], vec![Fault::Forget], vec![Fault::Lose]] {
        cluster.store.node.forget(usize::MAX);
        cluster.log.inject(faults);
        let again = cluster.execute_with(update, json!({}), &KEY).await;
        assert_eq!((again.txn(), again.text), (first.txn(), first.text.clone()));
    }
}

/// A try that got no answer may still be in an open transaction, where nobody sees it.
#[tokio::test]
async fn who_is_told_that_there_was_nothing_to_do_is_told_the_truth() {
    let update = "UPDATE cars SET seen = true WHERE n < 10";
    let name = RequestName::new(
        APP.parse().unwrap(),
        &Caller::unrestricted(),
        Some("once".parse().unwrap()),
    );
    let mut digest = Vec::new();
    for comes_first in [false, true] {
        let cluster = Cluster::start().await;
        let mut other = crate::doubles::insert(&json!({"_id": 1}));
        (other.id, other.digest) = (name.round(0), digest);
        let log = cluster.log.clone();
        if comes_first {
            let other = other.clone();
            cluster.store.node.after_read(move || log.commit_now(&other));
        } else {
            let told = cluster.execute_with(update, json!({}), &KEY).await;
            assert_eq!(ids(&told.json()), [] as [Value; 0]);
            log.commit_now(&other);
        }
        let told = cluster.execute_with(update, json!({}), &KEY).await.json();
        let documents = cluster.cars().await;
        assert_eq!((ids(&told).len(), documents.len()), (comes_first.into(), comes_first.into()));
        let again = cluster.execute_with(update, json!({}), &KEY).await.json();
        assert_eq!(again, told);
        digest = cluster.shared.world.lock().committed[0].1.digest.clone();
    }
}

/// The same of who is refused for what is there: a key is used up by that.
#[tokio::test]
async fn who_is_refused_under_a_key_is_refused_for_good() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1}", &[]).await;
    cluster.execute("UPDATE cars SET n = 'x' WHERE true", json!({})).await;
    let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE true";
    let told = cluster.execute_with(update, json!({}), &KEY).await;
    assert_eq!((told.status.as_u16(), told.code()), (422, "not_a_number".to_owned()));
    // A try of before that comes late is none.
    let mut late = crate::doubles::insert(&json!({"_id": 2}));
    let name = RequestName::new(
        APP.parse().unwrap(),
        &Caller::unrestricted(),
        Some("once".parse().unwrap()),
    );
    late.id = name.round(0);
    cluster.log.commit_now(&late);
    assert_eq!(cluster.cars().await, [json!({"_id": 1, "n": "x"})]);
    // Nor does it run once nothing is in its way any more, but under another key.
    cluster.execute("DELETE FROM cars WHERE true", json!({})).await;
    let refused = (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_refused".to_owned());
    for looks in [0, 1] {
        cluster.store.node.forget(looks);
        let again = cluster.execute_with(update, json!({}), &KEY).await;
        assert_eq!((again.status, again.code()), refused, "{}", again.text);
    }
    let other = cluster.execute_with(update, json!({}), &[("idempotency-key", "other")]).await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.text);
    // What is wrong whatever is there is not: it was read for nothing.
    let before = cluster.shared.world.lock().committed.len();
    let wrong = "INSERT INTO cars DOCUMENTS ({'_id': 5}), ({'_id': 5})";
    let told = cluster.execute_with(wrong, json!({}), &[("idempotency-key", "wrong")]).await;
    assert_eq!(told.code(), "duplicate_id");
    assert_eq!(cluster.shared.world.lock().committed.len(), before);
}

#[tokio::test]
async fn a_repeat_is_told_of_what_would_have_become_too_large() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}\n{\"_id\": 2, \"n\": 2}", &[]).await;
    let update = "UPDATE cars SET seen = true WHERE n < 10";
    cluster.execute_with(update, json!({}), &KEY).await;
    {
        // The second one had grown when this was applied.
        let mut world = cluster.shared.world.lock();
        let (_, round) = world.committed.last().unwrap().clone();
        let second = round.mutations[1].id(round.app).to_bytes();
        world.outcomes.get_mut(&round.id).unwrap().too_large.push(second.into());
    }
    for looks in [0, usize::MAX] {
        cluster.store.node.forget(looks);
        let again = cluster.execute_with(update, json!({}), &KEY).await;
        let expected = (StatusCode::PAYLOAD_TOO_LARGE, "document_too_large".to_owned());
        assert_eq!((again.status, again.code()), expected, "{}", again.text);
        assert_eq!(ids(&again.json()), [json!(1)]);
    }
}

#[tokio::test]
async fn an_effect_that_cannot_be_learnt_is_said_to_be_unknown() {
    let cluster = Cluster::with(crate::doubles::impatient()).await;
    cluster.log.set_lagging(true);
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1})";
    let reply = cluster.execute_with(insert, json!({}), &KEY).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert!(reply.txn().is_some(), "where it was written is known");
    cluster.log.set_lagging(false);
    let again = cluster.execute_with(insert, json!({}), &KEY).await;
    assert_eq!((again.status, again.txn()), (StatusCode::OK, reply.txn()));
}

#[tokio::test]
async fn an_unknown_commit_under_a_key_is_found_out() {
    let cluster = Cluster::start().await;
    cluster.log.inject([Fault::Forget, Fault::Lose]);
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 1})";
    let reply = cluster.execute_with(insert, json!({}), &KEY).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(ids(&reply.json()), [json!(1)]);
    let first = cluster.shared.world.lock().committed[0].0;
    assert_eq!(reply.txn(), Some(first));
}
