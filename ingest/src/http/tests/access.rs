//! Keys and what they allow, as far as it is decided here: what may be read is asked of the store node,
//! what may be written stands in the round.

use std::io;

use anabranch_journal::metadata::{DeclaredKey, Version};
use anabranch_schemas::resources::{Resource, ResourceName};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::channel::mpsc;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::audit::Log;
use crate::access::ApiToken;
use crate::config::IngestConfig;
use crate::doubles::followed::{Event, Followed, request};
use crate::doubles::signer::{Signer, claims, seconds, with};
use crate::doubles::{APP, Cluster, Reply, execute_path, post, until};

/// A server with these keys; each is a name and its permissions. And what shows each of them.
async fn guarded<const N: usize>(keys: [(&str, Value); N]) -> (Cluster, [String; N]) {
    guarded_with(IngestConfig::default(), keys).await
}

/// The same, with these settings.
pub(super) async fn guarded_with<const N: usize>(
    config: IngestConfig,
    keys: [(&str, Value); N],
) -> (Cluster, [String; N]) {
    let cluster = Cluster::guarded(config).await;
    let tokens = keys.each_ref().map(|(name, _)| ApiToken::draw(name.parse().unwrap()));
    let declared = tokens.iter().zip(keys).map(|(token, (name, permissions))| {
        let spec = json!({
            "apiKey": {"hash": token.hash()},
            "claims": {"store": 17},
            "permissions": permissions,
        });
        declared(&name.parse().unwrap(), &spec)
    });
    cluster.api.keys.replace(declared.collect());
    (cluster, tokens.map(|token| format!("Bearer {}", token.reveal())))
}

fn declared(name: &ResourceName, spec: &Value) -> DeclaredKey {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": name, "app": APP},
        "spec": spec,
    });
    match Resource::from_value(&resource).unwrap() {
        Resource::Key { app, name, spec } => DeclaredKey { app, name, version: Version(1), spec },
        other => panic!("{other:?}"),
    }
}

async fn execute(cluster: &Cluster, key: &str, statement: &str, args: Value) -> Reply {
    cluster.execute_with(statement, args, &[("authorization", key)]).await
}

fn everything() -> Value {
    json!({"*": {"read": true, "write": true}})
}

/// Of store 17, and to be written as long as it is open.
fn own() -> Value {
    json!({"orders": {"read": "store = :store", "write": "store = :store AND open"}})
}

async fn orders(cluster: &Cluster, admin: &str) {
    let orders = json!([
        {"_id": "a", "store": 17, "open": true},
        {"_id": "b", "store": 18, "open": true},
        {"_id": "c", "store": 17, "open": false},
    ]);
    let insert = "INSERT INTO orders DOCUMENTS (:d)";
    let reply = execute(cluster, admin, insert, json!({"d": orders})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
}

#[tokio::test]
async fn nothing_is_done_without_a_key() {
    let (cluster, [key]) = guarded([("all", everything())]).await;
    let documents = format!("/apps/{APP}/api/v1/collections/orders/documents");
    let other = ApiToken::draw("all".parse().unwrap());
    let wrong = format!("Bearer {}", other.reveal());
    for headers in [&[][..], &[("authorization", wrong.as_str())]] {
        let read = |path: &str| {
            let request = Request::get(path);
            let with = |request: axum::http::request::Builder, (name, value): &(&str, &str)| {
                request.header(*name, *value)
            };
            headers.iter().fold(request, with).body(Body::empty()).unwrap()
        };
        let statement = json!({"statement": "SELECT * FROM orders"}).to_string();
        let transaction = json!({"statements": []}).to_string();
        for request in [
            post(&execute_path(), "application/json", headers, statement),
            post(
                &format!("/apps/{APP}/api/v1/store/transaction"),
                "application/json",
                headers,
                transaction,
            ),
            post(&documents, "application/x-ndjson", headers, "{}"),
            read(&format!("{documents}/a")),
            read(&format!("{documents}?key=1")),
            // Who asks is looked at before what is asked.
            read(&format!("{documents}?key=1&key=2")),
            read(&format!("/apps/{APP}/api/v1/collections/%20/documents/a")),
            read(&format!("/apps/{APP}/api/v1/store/subscribe?query=SELEC")),
            read(&format!("/apps/{APP}/api/v1/store/subscribe?args=no")),
            post(&execute_path(), "text/plain", headers, "{"),
            post(&documents, "text/plain", headers, "{"),
        ] {
            let path = request.uri().to_string();
            let reply = cluster.send(request).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}: {}", reply.text);
            assert_eq!(
                (reply.code(), &reply.headers["www-authenticate"]),
                (
                    "unauthenticated".to_owned(),
                    &"Bearer".parse::<axum::http::HeaderValue>().unwrap()
                )
            );
        }
    }
    assert_eq!(cluster.shared.world.lock().committed.len(), 0);
    let reply = execute(&cluster, &key, "SELECT * FROM orders", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    // What says how the server is and how it is used is for everyone.
    for path in ["/healthz", "/openapi.json"] {
        assert_eq!(cluster.get(path, &[]).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn who_may_read_a_part_is_answered_as_if_it_were_all() {
    let (cluster, [admin, till]) = guarded([("admin", everything()), ("till", own())]).await;
    orders(&cluster, &admin).await;
    let ids = async |statement: &str| {
        let reply = execute(&cluster, &till, statement, json!({})).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let items = reply.json()["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("SELECT * FROM orders").await, ["a", "c"]);
    assert_eq!(ids("SELECT * FROM orders WHERE store = 18").await, [""; 0]);
    assert_eq!(ids("SELECT * FROM orders WHERE _id IN ('a', 'b')").await, ["a"]);
    let page = json!({"statement": "SELECT * FROM orders", "pageSize": 10}).to_string();
    let headers = [("authorization", till.as_str())];
    let reply = cluster.send(post(&execute_path(), "application/json", &headers, page)).await;
    assert_eq!(reply.json()["items"].as_array().unwrap().len(), 2);
    for (id, status) in [("a", 200), ("b", 404), ("x", 404)] {
        let path = format!("/apps/{APP}/api/v1/collections/orders/documents/{id}");
        let reply = cluster.get(&path, &headers).await;
        assert_eq!(reply.status.as_u16(), status, "{id}");
        if status == 404 {
            let message = format!("there is no document \"{id}\" in 'orders'");
            assert_eq!(reply.json()["error"]["message"], message);
        }
    }
}

#[tokio::test]
async fn a_cursor_reads_what_its_holder_may_read_and_is_of_no_use_to_others() {
    let (cluster, [admin, till, other]) = guarded([
        ("admin", everything()),
        ("till", own()),
        ("other", json!({"cars": {"read": true}})),
    ])
    .await;
    let orders: Vec<_> =
        (10..16).map(|id| json!({"_id": id, "store": 17 + id % 2, "open": true})).collect();
    let insert = "INSERT INTO orders DOCUMENTS (:d)";
    assert_eq!(execute(&cluster, &admin, insert, json!({"d": orders})).await.status, 200);
    let page = async |key: &str, cursor: &Value| {
        let select = "SELECT _id FROM orders";
        let body = json!({"statement": select, "pageSize": 2, "cursor": cursor}).to_string();
        let headers = [("authorization", key)];
        let reply = cluster.send(post(&execute_path(), "application/json", &headers, body)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let mut reply = reply.json();
        let ids = reply["items"].as_array().unwrap().iter().map(|item| item["_id"].clone());
        (ids.collect::<Vec<_>>(), reply["cursor"].take())
    };
    let (all, of_all) = page(&admin, &Value::Null).await;
    let (own, of_own) = page(&till, &Value::Null).await;
    assert_eq!((all, own), (vec![json!(10), json!(11)], vec![json!(10), json!(12)]));
    // Each goes on with his own.
    assert_eq!(page(&till, &of_own).await.0, [json!(14)]);
    assert_eq!(page(&admin, &of_all).await.0, [json!(12), json!(13)]);
    // Nobody does with another's, be it that he may read nothing of it or shows no key.
    for (headers, cursor, status) in [
        (&[("authorization", till.as_str())][..], &of_all, 400),
        (&[("authorization", admin.as_str())], &of_own, 400),
        (&[("authorization", other.as_str())], &of_all, 403),
        (&[], &of_all, 401),
    ] {
        let body = json!({"statement": "SELECT _id FROM orders", "cursor": cursor}).to_string();
        let request = post(&execute_path(), "application/json", headers, body);
        assert_eq!(cluster.send(request).await.status.as_u16(), status);
    }
}

#[tokio::test]
async fn what_a_round_may_do_stands_in_it() {
    let (cluster, [admin, till]) = guarded([("admin", everything()), ("till", own())]).await;
    orders(&cluster, &admin).await;
    let last = || {
        let world = cluster.shared.world.lock();
        let (_, round) = world.committed.last().cloned().unwrap();
        round
    };
    assert_eq!(last().restrictions, []);
    let reply = execute(&cluster, &till, "UPDATE orders SET n = 1 WHERE TRUE", json!({})).await;
    assert_eq!(reply.json()["mutatedDocumentIds"], json!(["a", "c"]));
    assert!(reply.json()["decided"].is_string(), "{}", reply.text);
    let restricted = |round: anabranch_journal::rounds::Round| {
        let [restriction] = &round.restrictions[..] else { panic!("{round:?}") };
        assert_eq!(restriction.collection.as_str(), "orders");
        assert_eq!(restriction.readable.to_string(), "store = 17");
        assert_eq!(restriction.writable.to_string(), "store = 17 AND open");
    };
    restricted(last());
    let insert = "INSERT INTO orders DOCUMENTS ({'_id': 'd', 'store': 17, 'open': true})";
    assert_eq!(execute(&cluster, &till, insert, json!({})).await.status, StatusCode::OK);
    restricted(last());
    let path = format!("/apps/{APP}/api/v1/collections/orders/documents");
    let headers = [("authorization", till.as_str())];
    let line = json!({"_id": "e", "store": 17, "open": true}).to_string();
    let reply = cluster.send(post(&path, "application/x-ndjson", &headers, line)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    restricted(last());
}

#[tokio::test]
async fn what_no_rule_allows_is_forbidden_whatever_is_there() {
    let (cluster, [admin, till, writer]) = guarded([
        ("admin", everything()),
        ("till", own()),
        ("writer", json!({"orders": {"write": true}})),
    ])
    .await;
    orders(&cluster, &admin).await;
    let committed = cluster.shared.world.lock().committed.len();
    for (key, statement) in [
        (&till, "SELECT * FROM cars"),
        (&till, "INSERT INTO cars DOCUMENTS ({})"),
        (&till, "DELETE FROM cars WHERE TRUE"),
        // How a collection is looked through depends on all of it.
        (&till, "EXPLAIN SELECT * FROM orders"),
        (&till, "EXPLAIN ANALYZE SELECT * FROM orders WHERE _id = 'b'"),
        (&till, "EXPLAIN UPDATE orders SET n = 1 WHERE _id = 'a'"),
        (&till, "EXPLAIN DELETE FROM orders WHERE TRUE"),
        (&till, "EXPLAIN EVICT FROM orders WHERE TRUE"),
        (&till, "CREATE INDEX i ON orders (store)"),
        (&till, "DROP INDEX i ON orders"),
        (&writer, "SELECT * FROM orders"),
        (&writer, "SELECT COUNT(*) AS n FROM orders"),
        (&writer, "UPDATE orders SET n = 1 WHERE _id = 'a'"),
        (&writer, "EVICT FROM orders WHERE _id = 'a'"),
    ] {
        let reply = execute(&cluster, key, statement, json!({})).await;
        assert_eq!(
            (reply.status, reply.code()),
            (StatusCode::FORBIDDEN, "forbidden".to_owned()),
            "{statement}"
        );
    }
    assert_eq!(cluster.shared.world.lock().committed.len(), committed);
    let reply = execute(&cluster, &writer, "INSERT INTO orders DOCUMENTS ({})", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reply = execute(&cluster, &admin, "CREATE INDEX i ON orders (store)", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
}

#[tokio::test]
async fn the_idempotency_key_of_one_caller_is_not_anothers() {
    let (cluster, [one, other]) = guarded([("one", everything()), ("other", everything())]).await;
    let insert = "INSERT INTO orders DOCUMENTS ({'n': 1})";
    let ids = async |key: &str| {
        let headers = [("authorization", key), ("idempotency-key", "k")];
        let reply = cluster.execute_with(insert, json!({}), &headers).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()["mutatedDocumentIds"].clone()
    };
    let first = ids(&one).await;
    assert_eq!(ids(&one).await, first);
    assert_ne!(ids(&other).await, first);
}

#[tokio::test]
async fn who_follows_a_query_is_told_what_he_may_read_as_long_as_he_may() {
    let (cluster, [admin, till]) = guarded([("all", everything()), ("till", own())]).await;
    orders(&cluster, &admin).await;
    let query = "SELECT _id FROM orders";
    let follow = async |key: &str| {
        Followed::begin(&cluster, request(query, &[("authorization", key)])).await
    };
    let (mut all, mut some) = (follow(&admin).await, follow(&till).await);
    let count = request("SELECT count(*) AS n FROM orders", &[("authorization", &till)]);
    let mut count = Followed::begin(&cluster, count).await;
    assert_eq!(all.result().await.as_array().unwrap().len(), 3);
    assert_eq!(some.result().await, json!([{"_id": "a"}, {"_id": "c"}]));
    assert_eq!(count.result().await, json!([{"n": 2}]));
    // What comes into sight appears, what goes out of sight is gone; what stays out is nothing.
    for (statement, id) in [("b", "store = 18, n = 1"), ("b", "store = 17"), ("a", "store = 18")]
        .map(|(id, set)| (format!("UPDATE orders SET {set} WHERE _id = '{id}'"), id))
    {
        let reply = execute(&cluster, &admin, &statement, json!({})).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.json()["mutatedDocumentIds"], json!([id]));
    }
    let appeared = json!([{"type": "set", "_id": "b", "item": {"_id": "b"}}]);
    assert_eq!(some.changes().await, appeared);
    assert_eq!(some.changes().await, json!([{"type": "remove", "_id": "a"}]));
    let denied = request("SELECT * FROM other", &[("authorization", &till)]);
    assert_eq!(cluster.send(denied).await.status, StatusCode::FORBIDDEN);
    assert_eq!(cluster.send(request(query, &[])).await.status, StatusCode::UNAUTHORIZED);
    cluster.api.keys.replace(Vec::new());
    let ended = some.next().await.unwrap();
    assert_eq!((&*ended.name, &ended.data["error"]["code"]), ("end", &json!("unauthenticated")));
    assert!(some.next().await.is_none());
}

/// A server with a key for the tokens of this signer, which may do this.
async fn trusting(signer: &Signer, permissions: &Value) -> Cluster {
    let cluster = Cluster::guarded(IngestConfig::default()).await;
    cluster.api.keys.replace(vec![for_tokens("tills", signer, permissions)]);
    cluster
}

/// A key for the tokens of a signer.
fn for_tokens(name: &str, signer: &Signer, permissions: &Value) -> DeclaredKey {
    let spec = json!({"jwt": signer.jwt(), "permissions": permissions});
    declared(&name.parse().unwrap(), &spec)
}

#[tokio::test]
async fn who_shows_a_token_does_what_its_claims_allow() {
    let signer = Signer::p256();
    let cluster = trusting(&signer, &own()).await;
    let bearer = |claims: &Value| format!("Bearer {}", signer.sign(claims));
    let (ann, bob) = (claims("ann"), with(claims("bob"), "store", json!(18)));
    for (token, store, other) in [(bearer(&ann), 17, 18), (bearer(&bob), 18, 17)] {
        let insert = format!("INSERT INTO orders DOCUMENTS ({{'store': {store}, 'open': true}})");
        let reply = execute(&cluster, &token, &insert, json!({})).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let round = cluster.shared.world.lock().committed.last().cloned().unwrap().1;
        let [restriction] = &round.restrictions[..] else { panic!("{round:?}") };
        assert_eq!(restriction.readable.to_string(), format!("store = {store}"));
        let select = format!("SELECT * FROM orders WHERE store = {other}");
        let reply = execute(&cluster, &token, &select, json!({})).await;
        assert_eq!(reply.json()["items"], json!([]));
    }
    // What one has signed is no signature of what the other says.
    let (ann, bob) = (bearer(&ann), bearer(&bob));
    let [(_, signature), (said, _)] = [&ann, &bob].map(|token| token.rsplit_once('.').unwrap());
    let stolen = format!("{said}.{signature}");
    let reply = execute(&cluster, &stolen, "SELECT * FROM orders", json!({})).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::UNAUTHORIZED, "unauthenticated".into()));
}

#[tokio::test]
async fn the_idempotency_key_is_of_one_subject_whatever_token_they_show() {
    let signer = Signer::secret(32);
    let cluster = trusting(&signer, &everything()).await;
    let ids = async |claims: Value| {
        let token = format!("Bearer {}", signer.sign(&claims));
        let headers = [("authorization", token.as_str()), ("idempotency-key", "k")];
        let insert = "INSERT INTO orders DOCUMENTS ({'n': 1})";
        let reply = cluster.execute_with(insert, json!({}), &headers).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()["mutatedDocumentIds"].clone()
    };
    let first = ids(claims("ann")).await;
    assert_eq!(ids(with(claims("ann"), "nonce", json!(2))).await, first);
    assert_ne!(ids(claims("bob")).await, first);
}

#[tokio::test]
async fn who_is_refused_with_a_signed_token_is_noted_by_name() {
    let (log, _noted) = Log::begin();
    let signer = Signer::p256();
    let cluster = trusting(&signer, &json!({"*": {"read": "name LIKE :pattern"}})).await;
    let over = with(claims("ann"), "exp", json!(seconds(-60)));
    let unfit = with(claims("bob"), "pattern", json!(1));
    for (token, status, name) in [
        (signer.sign(&over), 401, json!("tills/ann")),
        (signer.sign(&with(over, "sub", json!(null))), 401, json!("tills")),
        (signer.sign(&unfit), 403, json!("tills/bob")),
        // Whoever cannot sign is nobody, whatever they say.
        (Signer::p256().sign(&claims("ann")), 401, json!(null)),
    ] {
        let token = format!("Bearer {token}");
        let reply = execute(&cluster, &token, "SELECT * FROM orders", json!({})).await;
        assert_eq!(reply.status.as_u16(), status, "{}", reply.text);
        let [noted] = &log.audited()[..] else { panic!("it is noted once") };
        let fields = &noted["fields"];
        assert_eq!((&fields["key"], &fields["status"]), (&name, &json!(status)), "{noted}");
    }
}

/// A token that opens nothing any more in some seconds, and when: clocks may be half a minute apart.
fn ending(signer: &Signer) -> (String, i64) {
    let end = seconds(-26);
    (format!("Bearer {}", signer.sign(&with(claims("ann"), "exp", json!(end)))), end + 30)
}

/// Why somebody is told nothing more.
async fn told_at_the_end(followed: &mut Followed) -> String {
    let Event { name, data, .. } = followed.next().await.expect("an event");
    assert_eq!((name.as_str(), &data["error"]["code"]), ("end", &json!("unauthenticated")));
    assert_eq!(followed.next().await, None);
    data["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_follows_a_query_with_a_token_is_told_until_it_or_a_key_ends() {
    let signer = Signer::edwards();
    let cluster = trusting(&signer, &own()).await;
    let lasting = format!("Bearer {}", signer.sign(&claims("ann")));
    orders(&cluster, &lasting).await;
    let follow = async |token: &str| {
        let request = request("SELECT _id FROM orders", &[("authorization", token)]);
        let mut followed = Followed::begin(&cluster, request).await;
        assert_eq!(followed.result().await, json!([{"_id": "a"}, {"_id": "c"}]));
        followed
    };
    let (ending, _) = ending(&signer);
    let (mut short, mut long) = (follow(&ending).await, follow(&lasting).await);
    assert_eq!(told_at_the_end(&mut short).await, "the token has expired");
    // One that goes before the key that opened it may allow less: so all come back, with the same
    // token.
    let tills = for_tokens("tills", &signer, &own());
    let closed = for_tokens("a", &signer, &json!({}));
    cluster.api.keys.replace(vec![tills.clone(), closed]);
    assert!(told_at_the_end(&mut long).await.starts_with("the key was changed or revoked"));
    let again = request("SELECT _id FROM orders", &[("authorization", &lasting)]);
    assert_eq!(cluster.send(again).await.status, StatusCode::FORBIDDEN);
    cluster.api.keys.replace(vec![tills]);
    let mut long = follow(&lasting).await;
    cluster.api.keys.replace(Vec::new());
    assert!(told_at_the_end(&mut long).await.starts_with("the key was changed or revoked"));
}

#[tokio::test]
async fn a_load_breaks_off_when_its_token_or_a_key_ends() {
    let signer = Signer::secret(32);
    for by_itself in [true, false] {
        let config = IngestConfig { load_round_documents: 1, ..IngestConfig::default() };
        let cluster = Cluster::guarded(config).await;
        let tills = for_tokens("tills", &signer, &everything());
        cluster.api.keys.replace(vec![tills.clone()]);
        let (token, end) = ending(&signer);
        let (lines, body) = mpsc::unbounded::<Result<String, io::Error>>();
        let line = |number: u64| {
            let line = json!({"_id": number}).to_string() + "\n";
            lines.unbounded_send(Ok(line)).unwrap();
        };
        let headers = [("authorization", token.as_str())];
        let path = format!("/apps/{APP}/api/v1/collections/orders/documents");
        let load = post(&path, "application/x-ndjson", &headers, Body::from_stream(body));
        let feed = async {
            // What is in a round is known once something comes after it.
            (0..2).for_each(&line);
            until(|| cluster.shared.world.lock().committed.len() == 1).await;
            if by_itself {
                until(|| Timestamp::now().as_second() > end).await;
            } else {
                let before = for_tokens("a", &signer, &everything());
                cluster.api.keys.replace(vec![tills.clone(), before]);
            }
            line(2);
        };
        let (reply, ()) = tokio::join!(cluster.send(load), feed);
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", reply.text);
        assert_eq!((reply.code(), &reply.json()["written"]), ("unauthenticated".into(), &json!(1)));
        assert_eq!(cluster.shared.world.lock().committed.len(), 1);
    }
}
