//! What statements do, alone.

use anabranch_core::document::MAX_BYTES;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{KEY, ids};
use crate::config::IngestConfig;
use crate::doubles::Cluster;

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
async fn an_argument_that_is_not_used_is_told() {
    let cluster = Cluster::start().await;
    for statement in [
        "SELECT * FROM cars WHERE n = :n",
        "SELECT COUNT(*) AS count FROM cars WHERE n = :n",
        "EXPLAIN SELECT * FROM cars WHERE n = :n",
        "INSERT INTO cars DOCUMENTS (:n)",
        "DELETE FROM cars WHERE n = :n",
    ] {
        for (more, warned) in
            [(json!({}), json!([])), (json!({"m": 1}), json!(["unused_argument"]))]
        {
            let mut args = more;
            args["n"] = json!({"a": 1});
            let reply = cluster.execute(statement, args).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
            let reply = reply.json();
            let codes = reply["warnings"].as_array().unwrap().iter().map(|it| it["code"].clone());
            assert_eq!(Value::from_iter(codes), warned, "{statement}");
        }
    }
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
    // However little it brings.
    let merge = "INSERT INTO cars DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
    for (field, bytes, status) in [("a", MAX_BYTES - 880, 200), ("b", 500, 200), ("c", 500, 413)] {
        let document = json!({"_id": 3, field: "z".repeat(bytes)});
        let reply = cluster.execute(merge, json!({"d": document})).await;
        assert_eq!(reply.status.as_u16(), status, "{field}");
    }
}

#[tokio::test]
async fn who_is_not_told_what_fitted_is_told_that() {
    let cluster = Cluster::start().await;
    cluster.store.stop().await;
    let merge = "INSERT INTO cars DOCUMENTS ({'_id': 'a'}) ON ID CONFLICT DO UPDATE";
    let reply = cluster.execute(merge, json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.json()["warnings"][0]["code"], "effect_unknown");
    assert_eq!(ids(&reply.json()), ["a"]);
    assert!(reply.txn().is_some());
    // Nobody who would have to ask waits in vain again, until a store node is known to answer.
    cluster.store.restart().await;
    let large = json!({"d": {"_id": "a", "x": "x".repeat(300_000)}});
    let warned = async || {
        let merge = "INSERT INTO cars DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
        let reply = cluster.execute(merge, large.clone()).await.json();
        let warnings = reply["warnings"].as_array().unwrap().iter();
        warnings.map(|warning| warning["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(warned().await, ["large_document", "effect_unknown"]);
    let reply = cluster.execute("INSERT INTO cars DOCUMENTS ({'_id': 'a'})", json!({})).await;
    assert_eq!(reply.code(), "id_conflict", "{}", reply.text);
    assert_eq!(warned().await, ["large_document"]);
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
