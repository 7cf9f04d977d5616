//! The configuration of a cluster: declared before there is data, and changed after.

use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use anabranch_journal::metadata::Version;
use anabranch_journal::{Offset, TopicPartition, TransactionalId};
use anabranch_schemas::records::ChangesCursor;
use anabranch_schemas::store::NodeStatus;

use super::*;
use crate::doubles::insert;

const PATH: &str = "/api/v1/resources/cluster/east";

fn named(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": spec,
    })
}

fn declared(spec: &Value) -> Value {
    named("east", spec)
}

/// Two partitions, the first three times as large.
fn two() -> Value {
    json!({"partitions": [
        {"weight": 3, "nodes": {"a1": "a1:7070", "a2": "a2:7070"}},
        {"weight": 1, "nodes": {"b1": "b1:7070"}},
    ]})
}

/// A partition of these nodes.
fn one(nodes: &[&str]) -> Value {
    let nodes: serde_json::Map<_, _> =
        nodes.iter().map(|name| ((*name).to_owned(), json!(format!("{name}:7070")))).collect();
    json!({"partitions": [{"weight": 1, "nodes": nodes}]})
}

async fn put(router: &Router, body: &Value) -> Reply {
    send(router, Method::PUT, PATH, body, &[]).await
}

/// Somebody writes a document.
fn write(cluster: &Cluster) {
    cluster.log.commit_now(&insert(&json!({"_id": "mine"})));
}

/// The store nodes go by a configuration, and know that these have everything.
fn know(cluster: &Cluster, epoch: u64, names: &[&str]) {
    let known = |name: &&str| NodeStatus {
        name: (*name).to_owned(),
        silent_ms: Some(0),
        is_whole: true,
        history_from: Some(1),
        ..NodeStatus::default()
    };
    *cluster.store.node.known.lock() = names.iter().map(known).collect();
    cluster.store.node.epoch.store(epoch, Ordering::SeqCst);
}

/// The log gives up its oldest transaction, and one more is there.
fn trim(cluster: &Cluster) {
    let txns = TopicPartition::new(east().name.txns(), 0);
    write(cluster);
    cluster.journal.trim(&txns, Offset(1)).unwrap();
}

/// Changes were captured up to here.
fn capture(cluster: &Cluster, next: TxnId) {
    let mut writer = cluster.journal.writer(&TransactionalId::from("cdc")).unwrap();
    let cursor = ChangesCursor { next };
    writer.begin().unwrap();
    cursors::append(writer.as_mut(), &east().name, ChangesCursor::KEY, &cursor).unwrap();
    writer.commit().unwrap();
}

#[tokio::test]
async fn it_is_declared_changed_shown_and_removed() {
    let (_cluster, router) = start().await;
    let put = async |spec: &Value, headers: &[(&str, &str)]| {
        let reply = send(&router, Method::PUT, PATH, &declared(spec), headers).await;
        let tag = reply.headers.get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        (reply.status.as_u16(), tag.unwrap_or_default())
    };
    assert_eq!(put(&one(&["a"]), &[]).await, (201, "\"1\"".to_owned()));
    assert_eq!(put(&two(), &[]).await, (200, "\"2\"".to_owned()));
    assert_eq!(put(&two(), &[]).await, (200, "\"2\"".to_owned()), "it is so already");
    assert_eq!(put(&two(), &[("if-match", "\"2\"")]).await, (200, "\"2\"".to_owned()));
    for version in ["\"1\"", "\"3\""] {
        assert_eq!(put(&one(&["a"]), &[("if-match", version)]).await.0, 409, "{version}");
    }

    for path in [PATH, "/api/v1/resources/clusters/east"] {
        let mut shown = send(&router, Method::GET, path, &Value::Null, &[]).await.json();
        let status = shown.as_object_mut().unwrap().remove("status").unwrap();
        assert_eq!(shown, declared(&two()));
        let expected = json!({"epoch": 2, "partitions": [
            {"id": 0, "share": 0.75, "quorum": 1, "nodes": ["a1", "a2"]},
            {"id": 1, "share": 0.25, "quorum": 1, "nodes": ["b1"]},
        ]});
        assert_eq!(status, expected);
    }
    for (list, count) in [("", 1), ("/cluster", 1), ("/replications", 0)] {
        let list = format!("/api/v1/resources{list}");
        let listed = send(&router, Method::GET, &list, &Value::Null, &[]).await.json();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(count), "{list}");
    }

    let removed = send(&router, Method::DELETE, PATH, &Value::Null, &[]).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        let reply = send(&router, method, PATH, &Value::Null, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (404, "resource_not_found"));
    }
}

#[tokio::test]
async fn a_path_has_an_app_if_its_kind_has() {
    let (_cluster, router) = start().await;
    for (path, named) in [
        (format!("/api/v1/resources/cluster/{APP}/east"), "/cluster/NAME"),
        ("/api/v1/resources/replication/japanese".to_owned(), "/replication/APP/NAME"),
    ] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let reply = send(&router, method, &path, &Value::Null, &[]).await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "invalid_request"));
            let hint = reply.json()["error"]["hint"].as_str().unwrap().to_owned();
            assert!(hint.ends_with(named), "{hint}");
        }
    }
    let reply = send(&router, Method::GET, "/api/v1/resources/cluster/East", &Value::Null, &[]);
    assert_eq!(reply.await.code(), "invalid_request");
}

#[tokio::test]
async fn another_cluster_is_refused_and_told_the_name() {
    let (_cluster, router) = start().await;
    let west = named("west", &two());
    let reply = send(&router, Method::PUT, "/api/v1/resources/cluster/west", &west, &[]).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (422, "invalid_resource"));
    let expected = "metadata.name: 'west' is another cluster; this one is 'east'";
    assert_eq!(reply.json()["error"]["message"], expected);
    // Nor is it found, or put under our name.
    assert_eq!(put(&router, &west).await.code(), "invalid_resource");
    let reply = send(&router, Method::GET, "/api/v1/resources/cluster/west", &Value::Null, &[]);
    assert_eq!(reply.await.code(), "resource_not_found");
}

#[tokio::test]
async fn data_without_a_configuration_keeps_its_one_node() {
    let (cluster, router) = start().await;
    write(&cluster);
    let reply = put(&router, &declared(&one(&["a"]))).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "cluster_in_use"));
    let listed = send(&router, Method::GET, "/api/v1/resources", &Value::Null, &[]).await.json();
    assert_eq!(listed, json!({"items": []}));
}

#[tokio::test]
async fn data_stays_where_it_is() {
    let (cluster, router) = start().await;
    assert_eq!(put(&router, &declared(&two())).await.status, StatusCode::CREATED);
    write(&cluster);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut spec = two();
        change(&mut spec["partitions"]);
        spec
    };
    for (spec, told) in [
        (one(&["a1"]), "1 partitions instead of 2"),
        (
            changed(&|p| p[1]["weight"] = json!(2)),
            "partition 1 would have the weight 2 instead of 1",
        ),
        (
            changed(&|p| {
                p[0]["nodes"] = json!({"a1": "a1:7070"});
                p[1]["nodes"] = json!({"a2": "a2:7070", "b1": "b1:7070"});
            }),
            "node 'a2' would move from partition 0 to partition 1",
        ),
        (changed(&|p| p[1]["nodes"] = json!({"b2": "b2:1"})), "1 would keep 0 of its nodes"),
    ] {
        let reply = put(&router, &declared(&spec)).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "cluster_in_use"));
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(told) && message.contains("addresses, the quorum"), "{message}");
    }
    let reply = send(&router, Method::DELETE, PATH, &Value::Null, &[]).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "cluster_in_use"));
    let shown = send(&router, Method::GET, PATH, &Value::Null, &[]).await.json();
    assert_eq!((&shown["spec"], &shown["status"]["epoch"]), (&two(), &json!(1)));
}

#[tokio::test]
async fn what_moves_no_data_may_change() {
    let (cluster, router) = start().await;
    let mut spec = two();
    assert_eq!(put(&router, &declared(&spec)).await.status, StatusCode::CREATED);
    write(&cluster);
    let changes: [&dyn Fn(&mut Value); 5] = [
        &|_| {},
        &|spec| spec["partitions"][0]["nodes"]["a1"] = json!("elsewhere:7070"),
        &|spec| spec["quorum"] = json!(1),
        &|spec| spec["partitions"][1]["nodes"]["b2"] = json!("b2:7070"),
        &|spec| spec["partitions"][0]["nodes"] = json!({"a2": "a2:7070", "a3": "a3:7070"}),
    ];
    for (number, change) in changes.iter().enumerate() {
        change(&mut spec);
        let reply = put(&router, &declared(&spec)).await;
        assert_eq!(reply.status, StatusCode::OK, "{number}: {}", reply.text);
        assert_eq!(reply.json()["spec"], spec);
    }
    let shown = send(&router, Method::GET, PATH, &Value::Null, &[]).await.json();
    assert_eq!(shown["status"]["epoch"], 5, "the first changed nothing");
}

/// Partition {a1, a2}, of which a1 is away and was wiped: what a2 has would be lost without it.
#[tokio::test]
async fn the_only_node_that_is_known_to_have_its_data_stays() {
    let (cluster, router) = start().await;
    let spec = one(&["a1", "a2"]);
    assert_eq!(put(&router, &declared(&spec)).await.status, StatusCode::CREATED);
    let without = declared(&one(&["a1", "a3"]));
    let refused = async |told: &str| {
        let reply = put(&router, &without).await;
        let error = &reply.json()["error"];
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(told), "{}", reply.text);
        assert!(error["hint"].as_str().unwrap_or_default().contains("--lose"), "{}", reply.text);
        (reply.status.as_u16(), reply.code())
    };
    write(&cluster);
    let gone = declared(&one(&["a1", "a2", "a3"]));
    assert_eq!(put(&router, &gone).await.status, StatusCode::OK);
    let reply = put(&router, &declared(&spec)).await;
    assert_eq!(reply.status, StatusCode::OK, "the log has everything: {}", reply.text);

    trim(&cluster);
    know(&cluster, 2, &["a1", "a2"]);
    let unavailable = (503, "store_unavailable".to_owned());
    assert_eq!(refused("not heard yet of what was declared last").await, unavailable);
    know(&cluster, 3, &["a2"]);
    let expected = (409, "may_lose".to_owned());
    assert_eq!(refused("a2 would leave partition 0").await, expected);
    assert_eq!(refused("a1 is not known to the others").await, expected);
    let mut moved = spec.clone();
    moved["partitions"][0]["nodes"]["a2"] = json!("elsewhere:7070");
    assert_eq!(
        put(&router, &declared(&moved)).await.code(),
        "may_lose",
        "who is there has nothing"
    );
    know(&cluster, 3, &["a1", "a2"]);
    cluster.store.node.known.lock()[1].history_from = Some(0);
    capture(&cluster, TxnId(0));
    assert_eq!(refused("cdc has yet to capture those from 0 on").await, expected);
    cluster.store.stop().await;
    assert_eq!(refused("no store node says").await, unavailable);
    cluster.store.restart().await;
    let shown = send(&router, Method::GET, PATH, &Value::Null, &[]).await.json();
    assert_eq!(shown["spec"], spec, "nothing was changed");

    let path = format!("{PATH}?lose=true");
    let reply = send(&router, Method::PUT, &path, &without, &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    know(&cluster, 4, &["a1"]);
    capture(&cluster, TxnId(1));
    let reply = put(&router, &declared(&one(&["a1"]))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    for path in [format!("{PATH}?loose=true"), format!("{}?lose=true", super::path())] {
        let body = if path.starts_with(PATH) { without.clone() } else { replication("true") };
        let reply = send(&router, Method::PUT, &path, &body, &[]).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    }
}

/// Each for itself leaves the partition a node of those that it had; together they do not.
#[tokio::test]
async fn of_two_changes_the_second_is_admitted_on_what_the_first_left() {
    let (cluster, router) = start().await;
    assert_eq!(put(&router, &declared(&one(&["a", "b"]))).await.status, StatusCode::CREATED);
    write(&cluster);
    let (journal, first) = (cluster.journal.clone(), AtomicBool::new(true));
    let faulty = FaultyJournal::new(cluster.journal.clone(), move |step| {
        if matches!(step, Step::Writer(_)) && first.swap(false, Ordering::SeqCst) {
            let metadata = MetadataStore::open(journal.clone(), &"east".parse().unwrap()).unwrap();
            let text = declared(&one(&["a"])).to_string();
            metadata.compare_and_set("cluster/east", Some(Version(1)), Some(text)).unwrap();
        }
        Fate::Done
    });
    let loopback = "127.0.0.1:8081".parse().unwrap();
    let slow = admin_routes(loopback, &[], operated(Arc::new(faulty), Some(cluster.store.nodes())));
    let reply = put(&slow, &declared(&one(&["b"]))).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "cluster_in_use"));
    let shown = send(&router, Method::GET, PATH, &Value::Null, &[]).await.json();
    assert_eq!(shown["spec"], one(&["a"]));
}

/// Its store node would go on to have everything.
#[tokio::test]
async fn a_cluster_of_one_process_gets_no_other_nodes() {
    let (cluster, _) = start().await;
    let loopback = "127.0.0.1:8081".parse().unwrap();
    let whole = admin_routes(loopback, &[], operated(cluster.journal.clone(), None));
    let reply = put(&whole, &declared(&one(&["a"]))).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "cluster_in_use"));
    assert_eq!(send(&whole, Method::GET, PATH, &Value::Null, &[]).await.status.as_u16(), 404);
}
