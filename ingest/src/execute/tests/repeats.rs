//! Requests that are sent again under one key, and outcomes that cannot be learnt.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{KEY, ids};
use crate::access::Caller;
use crate::doubles::{APP, Cluster, Fault};
use crate::idempotency::RequestName;

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
