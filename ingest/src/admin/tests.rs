//! Resources, over a log of their own.

mod audit;
mod cluster;

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::{cluster_topics, cursors};
use anabranch_schemas::records::RemoteCursor;
use anabranch_schemas::resources::Kind;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use super::*;
use crate::doubles::signer::{Signer, jwt};
use crate::doubles::{APP, Cluster, Reply, read as read_reply};
use crate::examples;
use crate::http::tests::openapi::{check_against, examples_of_each};
use crate::http::tests::schema::mismatch;

fn east() -> ClusterIdentity {
    ClusterIdentity {
        name: "east".parse().unwrap(),
        actor: ActorId(Uuid::from_u128(1)),
        slices: SliceCount::try_from(4).unwrap(),
        created_ms: 0,
    }
}

/// A cluster and its routes for operators.
async fn start() -> (Cluster, Router) {
    let cluster = Cluster::start().await;
    let topics = cluster_topics(&east().name, east().slices, None);
    cluster.journal.ensure_topics(&topics).unwrap();
    let probe: ReplicationProbe = Arc::new(|_, name| Some(json!({"of": name.as_str()})));
    let loopback = "127.0.0.1:8081".parse().unwrap();
    let journal = cluster.journal.clone();
    let store_nodes = Some(cluster.store.nodes());
    let operated = Operated { replications: Some(probe), ..operated(journal, store_nodes) };
    let routes = admin_routes(loopback, &[], operated);
    (cluster, routes)
}

/// A cluster of which nothing else is known.
fn operated(journal: Arc<dyn Journal>, store_nodes: Option<AnyOf>) -> Operated {
    let operators = Operators::Anyone;
    Operated { operators, journal, cluster: east(), replications: None, store_nodes }
}

async fn send(
    router: &Router,
    method: Method,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Reply {
    let mut request = Request::builder().method(method.clone()).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let reply = read_reply(response).await.unwrap();
    check_against(&openapi::DOCUMENT, &method, path, &reply);
    reply
}

fn replication(query: &str) -> Value {
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Replication",
        "metadata": {"name": "japanese", "app": APP},
        "spec": {
            "connections": ["west.example:4040"],
            "subscriptions": {"queriesByCollection": {"cars": [query]}},
            "onLeave": "purge",
        },
    })
}

fn path() -> String {
    format!("/api/v1/resources/replication/{APP}/japanese")
}

#[tokio::test]
async fn a_resource_is_made_changed_shown_and_removed() {
    let (_cluster, router) = start().await;
    let (first, second) = (replication("Origin = 'Japan'"), replication("true"));
    let path = path();
    let put = async |body: &Value, headers: &[(&str, &str)]| {
        let reply = send(&router, Method::PUT, &path, body, headers).await;
        let tag = reply.headers.get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        (reply.status, tag.unwrap_or_default())
    };
    assert_eq!(put(&first, &[]).await, (StatusCode::CREATED, "\"1\"".to_owned()));
    assert_eq!(put(&first, &[]).await, (StatusCode::OK, "\"1\"".to_owned()), "it is so already");
    assert_eq!(put(&second, &[]).await, (StatusCode::OK, "\"2\"".to_owned()));
    assert_eq!(put(&first, &[("if-match", "\"1\"")]).await.0, StatusCode::CONFLICT);
    assert_eq!(put(&first, &[("if-match", "\"2\"")]).await, (StatusCode::OK, "\"3\"".to_owned()));
    for tag in ["2", "\"+2\"", "\"\"", "\"2"] {
        assert_eq!(put(&first, &[("if-match", tag)]).await.0, StatusCode::BAD_REQUEST, "{tag}");
    }

    let mut shown = send(&router, Method::GET, &path, &Value::Null, &[]).await.json();
    for list in ["/api/v1/resources", "/api/v1/resources/replications"] {
        let listed = send(&router, Method::GET, list, &Value::Null, &[]).await;
        assert_eq!(listed.status, StatusCode::OK);
        assert_eq!(listed.json()["items"].as_array().map(Vec::len), Some(1));
    }
    let status = shown.as_object_mut().unwrap().remove("status").unwrap();
    assert_eq!(shown, first);
    let expected = json!({
        "state": "nothing received yet", "remotes": [], "link": {"of": "japanese"},
    });
    assert_eq!(status, expected);

    let removed = send(&router, Method::DELETE, &path, &Value::Null, &[]).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        let reply = send(&router, method, &path, &Value::Null, &[]).await;
        let expected = (StatusCode::NOT_FOUND, "resource_not_found".to_owned());
        assert_eq!((reply.status, reply.code()), expected);
    }
    assert_eq!(put(&first, &[]).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_resource_that_cannot_be_used_is_refused() {
    let (_cluster, router) = start().await;
    let good = replication("true");
    let mut unknown = good.clone();
    unknown["spec"]["conections"] = json!([]);
    let mut broken = good.clone();
    broken["spec"]["subscriptions"]["queriesByCollection"]["cars"] = json!(["Origin ="]);
    let other = format!("/api/v1/resources/replication/{APP}/other");
    let path = path();
    for (path, body, status, code) in [
        (&path, &unknown, 422, "invalid_resource"),
        (&path, &broken, 422, "invalid_resource"),
        (&path, &json!("text"), 422, "invalid_resource"),
        (&path, &json!("x".repeat(2 << 20)), 413, "body_too_large"),
        (&other, &good, 422, "invalid_resource"),
        (&"/api/v1/resources/replication/x/y".to_owned(), &good, 400, "invalid_app"),
        (&format!("/api/v1/resources/streams/{APP}/y"), &good, 422, "invalid_resource"),
        (&"/api/v1/nothing".to_owned(), &good, 404, "unknown_route"),
        (&"/api/v1/resources".to_owned(), &good, 405, "method_not_allowed"),
    ] {
        let reply = send(&router, Method::PUT, path, body, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{path}");
    }
    let reply = send(&router, Method::PUT, &path, &unknown, &[]).await.json();
    assert_eq!(reply["error"]["hint"], "did you mean 'connections'?");
    let list = send(&router, Method::GET, "/api/v1/resources", &Value::Null, &[]).await.json();
    assert_eq!(list, json!({"items": []}));
}

#[tokio::test]
async fn a_key_that_nothing_could_open_is_refused() {
    let (_cluster, router) = start().await;
    let key = |spec: Value| {
        json!({
            "apiVersion": "anabranch/v1",
            "kind": "Key",
            "metadata": {"name": "tills", "app": APP},
            "spec": spec,
        })
    };
    let path = format!("/api/v1/resources/key/{APP}/tills");
    let signer = Signer::p256();
    let good = key(json!({"jwt": signer.jwt(), "permissions": {"*": {"read": "s = :s"}}}));
    let mut beside = signer.jwk();
    beside["x"] = signer.jwk()["y"].clone();
    let beside = jwt(&[beside]);
    let claims = json!({"s": 1});
    for (body, told) in [
        (key(json!({"permissions": {}})), "spec: nothing opens it"),
        (
            key(json!({"apiKey": {"hash": "$argon2id$v=19$x"}, "permissions": {}})),
            "spec.apiKey.hash: it is no hash",
        ),
        (
            key(json!({"jwt": beside, "permissions": {}})),
            "spec.jwt.jwks.keys[0]: x and y are no point",
        ),
        (
            key(json!({
                "jwt": signer.jwt(),
                "claims": claims,
                "permissions": {"*": {"read": "name LIKE :s"}},
            })),
            "spec.permissions.*.read: ",
        ),
    ] {
        let reply = send(&router, Method::PUT, &path, &body, &[]).await;
        assert_eq!(reply.code(), "invalid_resource", "{}", reply.text);
        assert!(reply.json()["error"]["message"].as_str().unwrap().starts_with(told), "{body}");
    }
    assert_eq!(send(&router, Method::PUT, &path, &good, &[]).await.status, StatusCode::CREATED);
    let shown = send(&router, Method::GET, &path, &Value::Null, &[]).await.json();
    assert_eq!(
        (&shown["spec"]["jwt"], &shown["status"]["state"]),
        (&signer.jwt(), &json!("valid"))
    );
}

#[tokio::test]
async fn what_a_newer_server_has_declared_is_in_the_way_of_nothing_else() {
    let (cluster, router) = start().await;
    let good = replication("true");
    let reply = send(&router, Method::PUT, &path(), &good, &[]).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    let metadata = {
        let journal = cluster.journal.clone();
        anabranch_journal::metadata::MetadataStore::open(journal, &east().name).unwrap()
    };
    let newer = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "newer", "app": APP},
        "spec": {"passkey": "hidden", "permissions": {}},
    });
    for (name, text) in [("newer", newer.to_string()), ("torn", "{".to_owned())] {
        metadata.compare_and_set(&format!("key/{APP}/{name}"), None, Some(text)).unwrap();
    }
    let listed = send(&router, Method::GET, "/api/v1/resources", &Value::Null, &[]).await;
    assert_eq!(listed.status, StatusCode::OK, "{}", listed.text);
    let items = listed.json()["items"].as_array().unwrap().clone();
    let of = |name: &str| items.iter().find(|item| item["metadata"]["name"] == name);
    assert_eq!((items.len(), &of("japanese").unwrap()["spec"]), (3, &good["spec"]));
    let shown = of("newer").unwrap();
    // Of what is no JSON nothing is known but where it stands.
    let torn = items.iter().find(|item| item["kind"].is_null()).unwrap();
    assert_eq!((&shown["kind"], &shown["metadata"]["app"]), (&json!("Key"), &json!(APP)));
    assert!(!listed.text.contains("hidden"), "{}", listed.text);
    for (name, item) in [("newer", shown), ("torn", torn)] {
        assert_eq!(item["status"]["state"], "unreadable", "{item}");
        let error = item["status"]["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("the entry 'key/{APP}/{name}' cannot be read: ")));
    }
    // It can be taken away.
    let path = format!("/api/v1/resources/key/{APP}/torn");
    let removed = send(&router, Method::DELETE, &path, &Value::Null, &[]).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
}

#[tokio::test]
async fn a_broken_connection_is_not_called_a_large_body() {
    let (_cluster, router) = start().await;
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let chunks = futures::stream::iter([Ok("{"), Err(broken)]);
    let request = Request::put(path()).body(Body::from_stream(chunks)).unwrap();
    let reply = read_reply(router.oneshot(request).await.unwrap()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid_request".to_owned()));
}

#[tokio::test]
async fn a_replication_says_how_far_it_is() {
    let (cluster, router) = start().await;
    send(&router, Method::PUT, &path(), &replication("true"), &[]).await;
    let mut writer = cluster.journal.writer(&"bridge".into()).unwrap();
    writer.begin().unwrap();
    let remote = RemoteCursor {
        remote: ActorId(Uuid::from_u128(2)),
        next: TxnId(77),
        snapshot_after: None,
        queries: 0,
        hlc: Hlc::from_millis(5_000),
    };
    let (app, name) = (APP.parse().unwrap(), "japanese".parse().unwrap());
    let key = RemoteCursor::key(app, &name, remote.remote);
    cursors::append(writer.as_mut(), &"east".parse().unwrap(), &key, &remote).unwrap();
    writer.flush().unwrap();
    writer.commit().unwrap();
    let shown = send(&router, Method::GET, &path(), &Value::Null, &[]).await.json();
    let expected = json!({
        "state": "following",
        "remotes": [{
            "actor": Uuid::from_u128(2), "next": 77, "inSnapshot": false, "lastRoundMs": 5_000,
        }],
        "link": {"of": "japanese"},
    });
    assert_eq!(shown["status"], expected);
}

#[tokio::test]
async fn a_page_that_was_given_our_address_gets_nothing() {
    let (cluster, router) = start().await;
    let loopback = "127.0.0.1:8081".parse().unwrap();
    let hosts = ["db.example".to_owned()];
    let configured = admin_routes(loopback, &hosts, operated(cluster.journal.clone(), None));
    for (router, host, expected) in [
        (&router, "evil.example:8081", 403),
        (&router, "localhost:8081", 200),
        (&configured, "evil.example:8081", 403),
        (&configured, "east-ingest:8081", 403),
        (&configured, "db.example:8081", 200),
        (&configured, "localhost:8081", 200),
    ] {
        let headers = [("host", host)];
        let reply = send(router, Method::GET, "/api/v1/resources", &Value::Null, &headers).await;
        assert_eq!(reply.status.as_u16(), expected, "{host}");
        let body = replication("true");
        let reply = send(router, Method::PUT, &path(), &body, &headers).await;
        assert_eq!(reply.status == StatusCode::FORBIDDEN, expected == 403, "{host}");
    }
}

#[tokio::test]
async fn the_routes_are_described() {
    let (_cluster, router) = start().await;
    let document = send(&router, Method::GET, "/openapi.json", &Value::Null, &[]).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!((paths.len(), described), (4, 8));
    let cluster = &paths["/api/v1/resources/cluster/{name}"]["put"];
    let parameters = cluster["parameters"].as_array().unwrap();
    let names: Vec<_> = parameters.iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["name", "If-Match", "If-None-Match", "lose"]);
    let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let ids: BTreeSet<_> = operations.map(|operation| operation["operationId"].as_str()).collect();
    assert_eq!(ids.len(), described, "no id comes twice");
}

#[tokio::test]
async fn the_story_is_what_a_new_cluster_replies() {
    let (cluster, _) = start().await;
    let store_nodes = Some(cluster.store.nodes());
    let operated = operated(cluster.journal.clone(), store_nodes);
    let router = admin_routes("127.0.0.1:8081".parse().unwrap(), &[], operated);
    for example in examples::read(openapi::STORY) {
        let reply = router.clone().oneshot(example.request("")).await.unwrap();
        example.check(&read_reply(reply).await.unwrap());
    }
}

#[test]
fn there_is_an_example_of_everything_and_it_is_as_described() {
    examples_of_each(&openapi::DOCUMENT);
}

/// What the description says of kinds is what is taken for one.
#[test]
fn a_kind_is_described_as_it_is_read() {
    let of = |path: &str| {
        let parameters = &openapi::DOCUMENT["paths"][path]["get"]["parameters"];
        let mut parameters = parameters.as_array().unwrap().iter();
        parameters.find(|parameter| parameter["name"] == "kind").unwrap()["schema"].clone()
    };
    let body =
        openapi::DOCUMENT["components"]["schemas"]["ResourceBody"]["properties"]["kind"].clone();
    let any = of("/api/v1/resources/{kind}");
    let of_app = of("/api/v1/resources/{kind}/{app}/{name}");
    for text in ["key", "Keys", "KEYS", "clusters", "rEpLiCaTiOn", "keyss", "s", "", "stream"] {
        let kind = text.parse::<Kind>().ok();
        let is_let_in =
            |schema: &Value| mismatch(&openapi::DOCUMENT, schema, &json!(text)).is_none();
        assert_eq!([is_let_in(&any), is_let_in(&body)], [kind.is_some(); 2], "{text}");
        let has_app = kind.is_some_and(|kind| kind != Kind::Cluster);
        assert_eq!(is_let_in(&of_app), has_app, "{text}");
    }
}

#[tokio::test]
async fn who_does_not_show_the_admin_key_sees_and_changes_nothing() {
    let (cluster, _) = start().await;
    let router = |operators| {
        let operated = Operated { operators, ..operated(cluster.journal.clone(), None) };
        admin_routes("127.0.0.1:8081".parse().unwrap(), &[], operated)
    };
    let draw = || ApiToken::draw("admin".parse().unwrap());
    let (token, other) = (draw(), draw());
    let [right, wrong] = [&token, &other].map(|token| format!("Bearer {}", token.reveal()));
    let (locked, closed) = (router(Operators::Holding(token)), router(Operators::Nobody));
    let body = replication("true");
    for (router, headers, is_let_in) in [
        (&locked, &[][..], false),
        (&locked, &[("authorization", wrong.as_str())], false),
        (&locked, &[("authorization", right.as_str())], true),
        (&closed, &[("authorization", right.as_str())], false),
    ] {
        for (method, path, body) in [
            (Method::GET, "/api/v1/resources".to_owned(), &Value::Null),
            (Method::GET, "/api/v1/resources/key".to_owned(), &Value::Null),
            (Method::PUT, path(), &body),
            (Method::GET, path(), &Value::Null),
            (Method::DELETE, path(), &Value::Null),
        ] {
            let reply = send(router, method.clone(), &path, body, headers).await;
            let is_in = reply.status != StatusCode::UNAUTHORIZED;
            assert_eq!(is_in, is_let_in, "{method} {path}: {}", reply.text);
        }
    }
    let reply = send(&locked, Method::GET, "/openapi.json", &Value::Null, &[]).await;
    assert_eq!(reply.status, StatusCode::OK);
}
