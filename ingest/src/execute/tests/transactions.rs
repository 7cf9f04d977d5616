//! Statements that are one round.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::KEY;
use crate::doubles::Cluster;

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
async fn statements_that_make_a_document_too_large_together_are_told_so() {
    let cluster = Cluster::start().await;
    cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 'a'})", json!({})).await;
    let statements: Vec<_> = (0..60)
        .map(|field| {
            let statement = format!("UPDATE cars SET f{field} = :v WHERE _id = 'a'");
            json!({"statement": statement, "args": {"v": "x".repeat(100_000)}})
        })
        .collect();
    let reply = cluster.transact(&json!({"statements": statements}), &[]).await;
    let expected = (StatusCode::PAYLOAD_TOO_LARGE, "document_too_large".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert_eq!(cluster.cars().await, [json!({"_id": "a"})]);
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
