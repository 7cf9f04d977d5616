//! Indexes are declared and given up with statements, and everything that is in the way is told.

use anabranch_core::ids::AppId;
use anabranch_journal::metadata::MetadataStore;
use axum::http::StatusCode;
use serde_json::json;

use crate::doubles::{APP, Cluster, Reply};

async fn run(cluster: &Cluster, statement: &str) -> Reply {
    cluster.execute(statement, json!({})).await
}

/// The declared indexes, each as its name, its collection and its fields.
fn declared(cluster: &Cluster) -> Vec<String> {
    let name = "east".parse().unwrap();
    let store = MetadataStore::open(cluster.journal.clone(), &name).unwrap();
    let app: AppId = APP.parse().unwrap();
    let indexes = store.indexes().unwrap().indexes.into_iter();
    let of_app = indexes.filter(|(over, _)| over.app == app);
    of_app.map(|(over, name)| format!("{name} {} {}", over.collection, over.paths)).collect()
}

#[tokio::test]
async fn they_are_declared_once_and_given_up_once() {
    let cluster = Cluster::start().await;
    let create = "CREATE INDEX by_maker ON cars (maker, sold.year)";
    let reply = run(&cluster, create).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.json()["queryType"], "create_index");
    assert_eq!(reply.json()["warnings"], json!([]));
    assert_eq!(declared(&cluster), ["by_maker cars maker, sold.year"]);

    for (statement, status, code) in [
        (create, 409, "index_exists"),
        ("CREATE INDEX by_maker ON cars (year)", 409, "index_exists"),
        ("CREATE INDEX IF NOT EXISTS by_maker ON cars (year)", 409, "index_exists"),
        ("CREATE INDEX other ON cars (maker, sold.year)", 409, "index_exists"),
        ("DROP INDEX other ON cars", 404, "index_not_found"),
        ("DROP INDEX by_maker ON bikes", 404, "index_not_found"),
        ("CREATE INDEX x ON cars (_id)", 400, "invalid_index"),
    ] {
        let reply = run(&cluster, statement).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (status, code.to_owned()), "{statement}");
    }
    for (statement, warning) in [
        ("CREATE INDEX IF NOT EXISTS by_maker ON cars (maker, sold.year)", "index_exists"),
        ("DROP INDEX IF EXISTS other ON cars", "index_not_found"),
    ] {
        let reply = run(&cluster, statement).await;
        assert_eq!(reply.status, StatusCode::OK, "{statement}: {}", reply.text);
        assert_eq!(reply.json()["warnings"][0]["code"], warning);
    }
    assert_eq!(declared(&cluster), ["by_maker cars maker, sold.year"]);
    let reply = run(&cluster, "DROP INDEX by_maker ON cars").await;
    assert_eq!(reply.json()["queryType"], "drop_index");
    assert!(declared(&cluster).is_empty());
    assert!(cluster.shared.world.lock().committed.is_empty(), "nothing was written to the log");
}

#[tokio::test]
async fn a_collection_has_so_many_at_most() {
    let cluster = Cluster::start().await;
    for number in 0..16 {
        let statement = format!("CREATE INDEX n{number} ON cars (f{number})");
        assert_eq!(run(&cluster, &statement).await.status, StatusCode::OK);
    }
    let reply = run(&cluster, "CREATE INDEX more ON cars (more)").await;
    assert_eq!((reply.status.as_u16(), reply.code()), (422, "too_many_indexes".to_owned()));
    assert_eq!(run(&cluster, "CREATE INDEX more ON bikes (more)").await.status, StatusCode::OK);
}

#[tokio::test]
async fn conditions_and_transactions_are_of_documents() {
    let cluster = Cluster::start().await;
    let create = "CREATE INDEX IF NOT EXISTS x ON cars (a)";
    for header in [("x-anabranch-if-match", "7"), ("idempotency-key", "k")] {
        let reply = cluster.execute_with(create, json!({}), &[header]).await;
        let told = (reply.status.as_u16(), reply.code());
        assert_eq!(told, (400, "invalid_request".to_owned()), "{header:?}");
    }
    let insert = json!({"statement": "INSERT INTO cars DOCUMENTS ({})"});
    for statement in [create, "EXPLAIN SELECT * FROM cars"] {
        let body = json!({"statements": [insert, {"statement": statement}]});
        let reply = cluster.transact(&body, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "unsupported".to_owned()));
        assert!(reply.text.contains("statement 2"), "{}", reply.text);
    }
    assert!(declared(&cluster).is_empty());
}

/// What would be changed is found like the rows of a SELECT, and stays as it is.
#[tokio::test]
async fn what_finds_documents_to_change_is_explained_and_changes_none() {
    let cluster = Cluster::start().await;
    cluster.load("{\"_id\": 1, \"n\": 1}", &[]).await;
    let before = cluster.cars().await;
    let committed = || cluster.shared.world.lock().committed.len();
    let written = committed();
    let args = json!({"n": 1, "large": "x".repeat(1_000)});
    for (statement, args) in [
        ("EXPLAIN UPDATE cars SET text = :large APPLY n INCREMENT BY 1 WHERE n = :n", args),
        ("EXPLAIN DELETE FROM cars WHERE n = :n", json!({"n": 1})),
        ("explain evict from cars where n = :n", json!({"n": 1})),
    ] {
        cluster.store.node.queries.lock().clear();
        let reply = cluster.execute(statement, args).await;
        assert_eq!(reply.status, StatusCode::OK, "{statement}: {}", reply.text);
        let body = reply.json();
        assert_eq!(body["queryType"], "explain", "{statement}");
        assert_eq!(body["items"], json!([{"partitions": [{"access": "scan"}]}]), "{statement}");
        assert_eq!(body["mutatedDocumentIds"], json!([]), "{statement}");
        let asked = cluster.store.node.queries.lock().clone();
        let [asked] = &asked[..] else { panic!("{statement} is asked once: {asked:?}") };
        let select = "EXPLAIN SELECT _id FROM `cars` WHERE n = 1";
        assert_eq!((&*asked.statement, &*asked.args), (select, "{}"), "only what finds them");
    }
    // One that is longer than a statement with its arguments in place stays as it was written.
    let list: Vec<_> = (0..5_000).map(|n| format!("where-{n:020}")).collect();
    let statement = "EXPLAIN DELETE FROM cars WHERE text IN (:list)";
    let reply = cluster.execute(statement, json!({"list": list})).await;
    assert_eq!(reply.json()["queryType"], "explain", "{}", reply.text);
    let asked = cluster.store.node.queries.lock().last().cloned().unwrap();
    assert_eq!(asked.statement, "EXPLAIN SELECT _id FROM `cars` WHERE  text IN (:list)");
    assert!(asked.args.contains("where-00000000000000000007"));
    assert_eq!((committed(), cluster.cars().await), (written, before));
    let insert = run(&cluster, "EXPLAIN INSERT INTO cars DOCUMENTS ({})").await;
    assert_eq!((insert.status.as_u16(), insert.code()), (400, "syntax_error".to_owned()));
}
