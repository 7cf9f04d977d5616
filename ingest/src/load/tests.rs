//! Loads: their rounds, their order, what they say when they break off, and repeats.

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};

use anabranch_journal as journal;

use crate::config::IngestConfig;
use crate::doubles::{APP, Cluster, Fault, impatient, post};

fn lines(ids: impl IntoIterator<Item = u64>) -> String {
    ids.into_iter().map(|id| doc(id, id)).collect()
}

fn rounds(cluster: &Cluster) -> Vec<usize> {
    let world = cluster.shared.world.lock();
    world.committed.iter().map(|(_, round)| round.mutations.len()).collect()
}

#[tokio::test]
async fn rounds_have_at_most_so_many_documents() {
    let cluster = Cluster::start().await;
    let reply = cluster.load(lines(0..2_500), &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let last = cluster.shared.world.lock().committed.iter().map(|(txn, _)| *txn).max();
    assert_eq!(
        reply.json(),
        json!({
            "transactionId": last, "received": 2_500, "written": 2_500,
            "errors": [], "moreErrors": 0, "warnings": [], "error": null,
        })
    );
    assert_eq!(reply.txn(), last);
    let mut rounds = rounds(&cluster);
    rounds.sort_unstable();
    assert_eq!(rounds, [500, 1_000, 1_000]);
    assert_eq!(cluster.cars().await.len(), 2_500);
}

#[tokio::test]
async fn rounds_have_at_most_so_many_bytes() {
    let config = IngestConfig { load_round_bytes: 1_000, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    let text = "x".repeat(400);
    let body: String = (0..5).map(|id| format!("{}\n", json!({"_id": id, "text": text}))).collect();
    cluster.load(body, &[]).await;
    assert_eq!(rounds(&cluster), [2, 2, 1]);
}

#[tokio::test]
async fn an_array_and_chunks_of_any_size_do_as_well() {
    let cluster = Cluster::start().await;
    let array =
        Value::from((100..200).map(|id| json!({"_id": id, "s": "],["})).collect::<Vec<_>>());
    let text = serde_json::to_string_pretty(&array).unwrap();
    let chunks: Vec<_> = text
        .as_bytes()
        .chunks(7)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents");
    let body = Body::from_stream(stream::iter(chunks));
    let reply = cluster.send(post(&path, "application/json; charset=utf-8", &[], body)).await;
    assert_eq!(reply.json()["written"], 100, "{}", reply.text);
    assert_eq!(Value::from(cluster.cars().await), array);
}

#[tokio::test]
async fn of_two_with_the_same_id_the_later_wins() {
    let config = IngestConfig { load_round_documents: 2, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    for turn in 0..10 {
        // Two rounds; if nobody kept the second from it, it would come to the log first.
        let body: String =
            [(1, 0), (2, 0), (2, 1), (3, 1)].map(|(id, n)| doc(id, turn * 10 + n)).concat();
        cluster.log.inject([Fault::Refuse(journal::Error::Unavailable("later".to_owned()))]);
        let reply = cluster.load(body, &[]).await;
        assert_eq!(reply.json()["written"], 4, "{}", reply.text);
        let last = [(1, 0), (2, 1), (3, 1)].map(|(id, n)| json!({"_id": id, "n": turn * 10 + n}));
        assert_eq!(cluster.cars().await, last);
    }
}

fn doc(id: u64, n: u64) -> String {
    format!("{}\n", json!({"_id": id, "n": n}))
}

#[tokio::test]
async fn a_field_can_be_the_id() {
    let cluster = Cluster::start().await;
    let path = format!("/apps/{APP}/api/v1/collections/cars/documents?id=sku");
    let body = "{\"sku\": \"a\"}\n{\"sku\": 7, \"_id\": 7}\n{\"_id\": 1}\n{\"sku\": 1, \"_id\": 2}";
    let reply = cluster.send(post(&path, "application/x-ndjson", &[], body)).await.json();
    assert_eq!(reply["written"], 2);
    let codes: Vec<_> =
        reply["errors"].as_array().unwrap().iter().map(|error| &error["code"]).collect();
    assert_eq!(codes, ["missing_id", "invalid_id"]);
    let expected = [json!({"_id": "a", "sku": "a"}), json!({"_id": 7, "sku": 7})];
    assert_eq!(cluster.cars().await, expected);
}

#[tokio::test]
async fn documents_without_an_id_get_one() {
    let cluster = Cluster::start().await;
    let reply = cluster.load("{}\n{}", &[("idempotency-key", "l")]).await;
    assert_eq!(reply.json()["written"], 2);
    let cars = cluster.cars().await;
    assert_eq!(cars.len(), 2);
    assert_eq!(cluster.load("{}\n{}", &[("idempotency-key", "l")]).await.status, StatusCode::OK);
    assert_eq!(cluster.cars().await, cars, "the key decides the ids");
}

#[tokio::test]
async fn errors_are_listed_up_to_a_number() {
    let cluster = Cluster::start().await;
    let reply = cluster.load("x\n".repeat(150), &[]).await.json();
    assert_eq!(reply["errors"].as_array().map(Vec::len), Some(100));
    assert_eq!((&reply["moreErrors"], &reply["received"]), (&json!(50), &json!(150)));
    assert!(reply["transactionId"].is_null());
}

#[tokio::test]
async fn a_load_that_breaks_off_says_what_was_written() {
    let config = IngestConfig { load_round_documents: 10, load_rounds_in_flight: 3, ..impatient() };
    let cluster = Cluster::with(config).await;
    let broken = Fault::Refuse(journal::Error::Corrupt("broken".to_owned()));
    // The first round is in, what became of the second is not known, the third fails for good,
    // the fourth, which is under way by then, is in, and the fifth is not tried.
    cluster.log.inject([Fault::Pass, Fault::Hang, broken, Fault::Pass]);
    let reply = cluster.load(lines(0..100), &[]).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "outcome_unknown".to_owned()));
    let last = cluster.shared.world.lock().committed.iter().map(|(txn, _)| *txn).max();
    assert_eq!(reply.txn(), last);
    let reply = reply.json();
    assert_eq!((&reply["received"], &reply["written"]), (&json!(50), &json!(20)));
    let mut listed: Vec<_> = reply["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            let message = error["message"].as_str().unwrap().split(':').next().unwrap();
            (error["line"].as_u64().unwrap(), error["code"].as_str().unwrap(), message)
        })
        .collect();
    listed.sort_unstable();
    let expected = [
        (11, "outcome_unknown", "whether documents 11 to 20 were written is not known"),
        (21, "internal", "documents 21 to 30 were not written"),
        (41, "journal_unavailable", "documents 41 to 50 were not written"),
    ];
    assert_eq!(listed, expected);
    assert_eq!(rounds(&cluster), [10, 10]);
    // Once more, and all is there.
    assert_eq!(cluster.load(lines(0..100), &[]).await.json()["written"], 100);
    assert_eq!(cluster.cars().await.len(), 100);
}

/// A body of which the connection breaks after so many of its documents.
fn cut(documents: u64) -> Body {
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Body::from_stream(stream::iter([Ok(Bytes::from(lines(0..documents))), Err(error)]))
}

#[tokio::test]
async fn a_cut_load_is_repeated_under_its_key() {
    for (documents, written) in [(15, 10), (20, 20), (9, 0)] {
        let config = IngestConfig { load_round_documents: 10, ..IngestConfig::default() };
        let cluster = Cluster::with(config).await;
        let key = [("idempotency-key", "load")];
        let reply = cluster.load(cut(documents), &key).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid_request".to_owned()));
        let reply = reply.json();
        assert_eq!((&reply["received"], &reply["written"]), (&json!(documents), &json!(written)));
        if written < documents {
            assert_eq!(reply["errors"][0]["line"], written + 1);
        }
        let whole = cluster.load(lines(0..40), &key).await;
        assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
        assert_eq!(whole.json()["written"], 40);
        assert_eq!(rounds(&cluster), [10; 4]);
        assert_eq!(cluster.cars().await.len(), 40);
    }
}

#[tokio::test]
async fn of_a_cut_load_without_a_key_all_is_written_that_came() {
    let cluster = Cluster::start().await;
    let reply = cluster.load(cut(15), &[]).await;
    assert_eq!((reply.status, &reply.json()["written"]), (StatusCode::BAD_REQUEST, &json!(15)));
    assert_eq!(cluster.cars().await.len(), 15);
}

#[tokio::test]
async fn a_busy_journal_slows_a_load_down() {
    let cluster = Cluster::start().await;
    let busy = || Fault::Refuse(journal::Error::Busy { waiting: 9 });
    cluster.log.inject([busy(), busy(), busy()]);
    assert_eq!(cluster.load(lines(0..10), &[]).await.json()["written"], 10);
    cluster.log.inject([busy()]);
    let insert = "INSERT INTO cars DOCUMENTS ({'n': 1})";
    let reply = cluster.execute(insert, json!({})).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned());
    assert_eq!((reply.status, reply.code()), expected);
}

#[tokio::test]
async fn a_repeated_load_writes_what_is_missing() {
    let config = IngestConfig { load_round_documents: 10, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    let key = [("idempotency-key", "load")];
    let half = cluster.load(lines(0..20), &key).await;
    assert_eq!(half.json()["written"], 20, "{}", half.text);
    // The same load, whole this time.
    let whole = cluster.load(lines(0..40), &key).await;
    assert_eq!(whole.json()["written"], 40);
    assert_eq!(rounds(&cluster), [10; 4]);
    let again = cluster.load(lines(0..40), &key).await;
    assert_eq!(again.text, whole.text);
    assert_eq!(rounds(&cluster), [10; 4], "not written again");
    // The store node is behind: written again, applied once.
    cluster.store.node.forget(1);
    assert_eq!(cluster.load(lines(0..40), &key).await.text, whole.text);
    assert_eq!(rounds(&cluster).len(), 5);
}

#[tokio::test]
async fn an_empty_load_is_none() {
    let cluster = Cluster::start().await;
    let reply = cluster.load("\n \n", &[]).await;
    assert_eq!((reply.status, &reply.json()["received"]), (StatusCode::OK, &json!(0)));
}

#[tokio::test]
async fn a_document_that_would_become_too_large_is_listed() {
    let cluster = Cluster::start().await;
    let large = "x".repeat(3 << 20);
    cluster.load(json!({"_id": "a", "x": large}).to_string(), &[]).await;
    let body = format!("{}\n{}", json!({"_id": "a", "y": large}), json!({"_id": "b"}));
    for key in [None, Some(("idempotency-key", "again"))] {
        let headers: Vec<_> = key.into_iter().collect();
        let reply = cluster.load(body.clone(), &headers).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let reply = reply.json();
        assert_eq!((&reply["received"], &reply["written"]), (&json!(2), &json!(1)));
        assert_eq!(reply["errors"][0]["code"], "document_too_large");
        let message = reply["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("\"a\""), "{message}");
    }
    assert!(cluster.cars().await.iter().all(|car| car["y"].is_null()));
}

#[tokio::test]
async fn a_load_goes_on_while_no_store_node_tells_what_fitted() {
    let config = IngestConfig { load_round_documents: 10, ..IngestConfig::default() };
    let cluster = Cluster::with(config).await;
    cluster.store.stop().await;
    let reply = cluster.load(lines(0..500), &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reply = reply.json();
    assert_eq!((&reply["written"], &reply["errors"]), (&json!(500), &json!([])));
    let warnings = reply["warnings"].as_array().unwrap();
    assert_eq!(warnings.iter().map(|it| &it["code"]).collect::<Vec<_>>(), ["effect_unknown"]);
    let world = cluster.shared.world.lock();
    let txns: Vec<_> = world.committed.iter().map(|(txn, _)| *txn).collect();
    let (first, last) = (txns.iter().min().unwrap(), txns.iter().max().unwrap());
    let message = warnings[0]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("transactions {first} to {last} are")), "{message}");
}
