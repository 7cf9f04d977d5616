//! More than the server can do, and a log or store that is away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::sync::oneshot;

use anabranch_journal as journal;

use crate::config::IngestConfig;
use crate::doubles::{APP, Cluster, Fault, execute_path, impatient, insert, post, until};

const INSERT: &str = "INSERT INTO cars DOCUMENTS ({'_id': 'a'}) ON ID CONFLICT DO UPDATE";

/// A body that does not end before it is told to.
fn endless() -> (oneshot::Sender<()>, Body) {
    let (end, ended) = oneshot::channel::<()>();
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b" "))]);
    let wait = stream::once(async move {
        let _ = ended.await;
        Ok(Bytes::new())
    });
    (end, Body::from_stream(first.chain(wait)))
}

#[tokio::test]
async fn too_many_requests_are_turned_away() {
    let config = IngestConfig { max_requests: 1, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    let (end, body) = endless();
    let router = cluster.router.clone();
    let first = tokio::spawn(tower::ServiceExt::oneshot(
        router,
        post(&execute_path(), "application/json", &[], body),
    ));
    until(|| cluster.api.limits.request().is_err()).await;
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(cluster.get("/healthz", &[]).await.status, StatusCode::OK);
    drop(end);
    first.await.unwrap().unwrap();
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn too_many_loads_and_too_large_bodies_are_turned_away() {
    let config = IngestConfig {
        max_loads: 1,
        max_body_bytes: 4_096,
        max_buffered_bytes: 4_096,
        ..IngestConfig::default()
    };
    let cluster = Cluster::with(config).await;
    let held = cluster.api.limits.load().unwrap();
    let reply = cluster.load("{}", &[]).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    drop(held);
    assert_eq!(cluster.load("{}", &[]).await.status, StatusCode::OK);

    let (end, body) = endless();
    let headers = [("content-length", "4000")];
    let first = post(&execute_path(), "application/json", &headers, body);
    let first = tokio::spawn(tower::ServiceExt::oneshot(cluster.router.clone(), first));
    until(|| cluster.api.limits.reserve(1).is_err()).await;
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    assert_eq!((reply.status, reply.code()), expected);
    drop(end);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_pauses_is_given_up() {
    let config = IngestConfig { body_idle_timeout_ms: 20, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    let (_end, body) = endless();
    let reply = cluster.send(post(&execute_path(), "application/json", &[], body)).await;
    let expected = (StatusCode::REQUEST_TIMEOUT, "request_timeout".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    let (_end, body) = endless();
    let reply = cluster.load(body, &[]).await;
    assert_eq!((reply.status, reply.code()), expected);
}

#[tokio::test]
async fn a_journal_that_is_down_is_told_within_the_deadline() {
    let cluster = Cluster::with(impatient()).await;
    cluster.log.set_down(true);
    let reply = cluster.execute(INSERT, json!({})).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    assert!(reply.headers.contains_key("retry-after"));
    let reply = cluster.load("{\"_id\": 1}\n{\"_id\": 2}", &[]).await;
    assert_eq!((reply.status, reply.code()), expected);
    assert_eq!(reply.json()["written"], 0);
    assert_eq!(reply.json()["errors"][0]["line"], 1);
    // Reads go on, and writes as soon as the journal is back.
    assert!(cluster.cars().await.is_empty());
    cluster.log.set_down(false);
    assert_eq!(cluster.execute(INSERT, json!({})).await.status, StatusCode::OK);
    assert_eq!(cluster.load("{\"_id\": 1}", &[]).await.json()["written"], 1);
}

#[tokio::test]
async fn a_short_outage_is_waited_for() {
    let cluster = Cluster::start().await;
    let down = || Fault::Refuse(journal::Error::Unavailable("not now".to_owned()));
    cluster.log.inject([down(), down()]);
    assert_eq!(cluster.execute(INSERT, json!({})).await.status, StatusCode::OK);
    cluster.log.inject([down(), Fault::Lose]);
    assert_eq!(cluster.load("{\"_id\": 1}", &[]).await.json()["written"], 1);
}

#[tokio::test]
async fn a_full_disk_is_named() {
    let cluster = Cluster::with(impatient()).await;
    let full = || Fault::Refuse(journal::Error::DiskFull("/data".to_owned()));
    cluster.log.inject((0..100).map(|_| full()));
    let reply = cluster.execute(INSERT, json!({})).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (507, "disk_full".to_owned()));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_said_to_be_unknown() {
    let cluster = Cluster::with(impatient()).await;
    cluster.log.inject([Fault::Hang]);
    let reply = cluster.execute(INSERT, json!({})).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    let shorter = [("x-anabranch-timeout-ms", "100")];
    cluster.log.inject([Fault::Hang]);
    let started = std::time::Instant::now();
    let reply = cluster.execute_with(INSERT, json!({}), &shorter).await;
    assert_eq!((reply.status, reply.code()), expected);
    assert!(started.elapsed().as_millis() < 400, "the client was less patient");
}

#[tokio::test]
async fn an_unknown_outcome_is_found_out() {
    let cluster = Cluster::start().await;
    // Written, not told: the second try finds the first.
    cluster.log.inject([Fault::Forget]);
    let insert = "INSERT INTO cars DOCUMENTS ({'_id': 'a', 'n': 0})";
    let reply = cluster.execute(insert, json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let committed = cluster.shared.world.lock().committed.len();
    assert_eq!(committed, 2);
    let first = cluster.shared.world.lock().committed[0].0;
    assert_eq!(reply.txn(), Some(first));
    for fault in [Fault::Forget, Fault::Lose] {
        cluster.log.inject([fault]);
        let update = "UPDATE cars APPLY n INCREMENT BY 1 WHERE _id = 'a'";
        assert_eq!(cluster.execute(update, json!({})).await.status, StatusCode::OK);
    }
    assert_eq!(cluster.cars().await, [json!({"_id": "a", "n": 2})]);
}

#[tokio::test]
async fn a_store_node_that_restarts_is_waited_for() {
    let cluster = Cluster::start().await;
    cluster.execute(INSERT, json!({})).await;
    cluster.store.stop().await;
    let back = async {
        tokio::task::yield_now().await;
        cluster.store.restart().await;
    };
    let (cars, ()) = tokio::join!(cluster.cars(), back);
    assert_eq!(cars, [json!({"_id": "a"})]);
}

#[tokio::test]
async fn a_store_node_that_is_away_is_told_within_the_deadline() {
    let cluster = Cluster::with(impatient()).await;
    cluster.store.stop().await;
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
    // What needs no answer of the store node goes on.
    assert_eq!(cluster.execute(INSERT, json!({})).await.status, StatusCode::OK);
    assert_eq!(cluster.load("{\"_id\": 1}", &[]).await.json()["written"], 1);
}

#[tokio::test]
async fn a_store_node_that_cannot_is_not_asked_again() {
    let cluster = Cluster::start().await;
    for (refused, status, code) in
        [("overloaded", 503, "overloaded"), ("halted", 500, "store_halted")]
    {
        cluster.store.node.refuse(Some(refused));
        let before = cluster.store.node.reads.load(Ordering::SeqCst);
        let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (status, code.to_owned()));
        assert_eq!(reply.headers.contains_key("retry-after"), status == 503);
        assert_eq!(cluster.store.node.reads.load(Ordering::SeqCst), before + 1);
    }
    cluster.store.node.refuse(None);
    assert!(cluster.cars().await.is_empty());
}

#[tokio::test]
async fn a_store_node_that_does_not_answer_is_given_up() {
    let cluster = Cluster::start().await;
    cluster.log.commit_now(&insert(&json!({"_id": "a"})));
    cluster.store.node.stall_after(Some(0));
    let in_time = [("x-anabranch-timeout-ms", "300")];
    let statement = |statement: &str| json!({"statement": statement}).to_string();
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents/a");
    let mut replies = vec![cluster.get(&path, &in_time).await];
    for text in ["SELECT * FROM cars", "UPDATE cars SET n = 1 WHERE true"] {
        let request = post(&execute_path(), "application/json", &in_time, statement(text));
        replies.push(cluster.send(request).await);
    }
    for reply in replies {
        let told = (reply.status.as_u16(), reply.code());
        assert_eq!(told, (504, "deadline_exceeded".to_owned()), "{}", reply.text);
        assert!(reply.headers.contains_key("retry-after"));
    }
    cluster.store.node.stall_after(None);
    let reply = cluster.execute("SELECT * FROM cars", json!({})).await;
    assert_eq!(reply.json()["items"], json!([{"_id": "a"}]), "nothing was written");
}

/// Rows are asked of the store nodes as fast as they are taken, and no faster.
#[tokio::test]
async fn nothing_is_read_ahead_while_nobody_takes_it() {
    const ROW_BYTES: usize = 64 << 10;
    const MOST_BYTES: usize = 16 << 20;
    let cluster = Cluster::start().await;
    let car = json!({"_id": "a", "text": "x".repeat(ROW_BYTES)});
    cluster.log.commit_now(&insert(&car));
    cluster.store.node.repeat();
    let body = json!({"statement": "SELECT * FROM cars"}).to_string();
    let reply = cluster.raw(post(&execute_path(), "application/json", &[], body)).await;
    let taken = || cluster.store.node.taken.load(Ordering::SeqCst);
    let at_rest = async || {
        let mut before = 0;
        while before != taken() {
            before = taken();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        before
    };
    let ahead = at_rest().await;
    assert!(ahead * ROW_BYTES < MOST_BYTES, "{ahead} rows were read, and none was taken");
    let mut body = reply.into_body().into_data_stream();
    let mut bytes = 0;
    while bytes < 2 * MOST_BYTES {
        bytes += body.next().await.expect("it does not end").unwrap().len();
    }
    let more = at_rest().await;
    assert!(more > ahead, "what is taken makes room for more");
    assert!(more * ROW_BYTES - bytes < MOST_BYTES, "{more} rows were read for {bytes} bytes");
}
