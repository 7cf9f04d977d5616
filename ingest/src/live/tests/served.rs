//! Live queries as they are served.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::config::IngestConfig;
use crate::doubles::followed::{Event, Followed, path, request};
use crate::doubles::{APP, Cluster, delete, insert};

async fn follow(cluster: &Cluster, query: &str, headers: &[(&str, &str)]) -> Followed {
    Followed::begin(cluster, request(query, headers)).await
}

async fn write(cluster: &Cluster, statement: &str, args: Value) -> u64 {
    let reply = cluster.execute(statement, args).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.txn().unwrap()
}

async fn put(cluster: &Cluster, document: Value) -> u64 {
    let statement = "INSERT INTO cars DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
    write(cluster, statement, json!({"d": document})).await
}

fn queries(cluster: &Cluster) -> usize {
    cluster.store.node.queries.lock().len()
}

#[tokio::test]
async fn first_comes_the_result_and_then_what_changes_it() {
    let cluster = Cluster::start().await;
    let mut empty = follow(&cluster, "SELECT * FROM cars", &[]).await;
    let first = empty.next().await.unwrap();
    let nothing = json!({"transactionId": null, "items": []});
    assert_eq!(first, Event { name: "result".to_owned(), id: None, data: nothing });
    let one = put(&cluster, json!({"_id": "a", "hp": 70, "color": "red"})).await;
    let mut followed = follow(&cluster, "SELECT _id, hp FROM cars WHERE hp > 60", &[]).await;
    assert_eq!(followed.result().await, json!([{"_id": "a", "hp": 70}]));
    assert_eq!(followed.last, Some(one));
    // What changes nothing in the rows is not told.
    put(&cluster, json!({"_id": "a", "color": "blue"})).await;
    put(&cluster, json!({"_id": "b", "hp": 50})).await;
    let two = json!([{"_id": "b", "hp": 80}, {"_id": "c", "hp": 61}]);
    let txn = put(&cluster, two).await;
    let set = |id: &str, hp: u64| json!({"type": "set", "_id": id, "item": {"_id": id, "hp": hp}});
    assert_eq!(followed.changes().await, json!([set("b", 80), set("c", 61)]));
    assert_eq!(followed.last, Some(txn), "a transaction comes as one event");
    let update = "UPDATE cars SET hp = 1 WHERE _id = 'a'";
    write(&cluster, update, json!({})).await;
    assert_eq!(followed.changes().await, json!([{"type": "remove", "_id": "a"}]));
    cluster.log.commit_now(&delete(&json!("b")));
    assert_eq!(followed.changes().await, json!([{"type": "remove", "_id": "b"}]));
    assert_eq!(empty.changes().await[0]["item"]["hp"], 70);
}

#[tokio::test]
async fn who_hears_nothing_is_told_how_far_that_is() {
    let cluster = Cluster::start().await;
    put(&cluster, json!({"_id": "a", "hp": 70})).await;
    let query = "SELECT _id FROM cars WHERE hp > 60";
    let mut followed = follow(&cluster, query, &[]).await;
    assert_eq!(followed.result().await, json!([{"_id": "a"}]));
    let read = queries(&cluster);
    let quiet = put(&cluster, json!({"_id": "b", "hp": 50})).await;
    assert_eq!(followed.progress().await, Some(quiet));
    // Whoever comes back with that is behind nothing, and nothing is read for it.
    let id = followed.id.clone();
    let mut back = follow(&cluster, query, &[("last-event-id", &id)]).await;
    put(&cluster, json!({"_id": "b", "hp": 80})).await;
    assert_eq!(back.changes().await[0]["_id"], "b");
    assert_eq!(queries(&cluster), read);
}

#[tokio::test]
async fn rows_that_are_ordered_say_behind_which_they_stand() {
    let cluster = Cluster::start().await;
    put(&cluster, json!([{"_id": 1, "hp": 10}, {"_id": 2, "hp": 20}, {"_id": 3, "hp": 30}])).await;
    let mut all = follow(&cluster, "SELECT _id FROM cars ORDER BY hp", &[]).await;
    let top = "SELECT _id FROM cars ORDER BY hp DESC LIMIT 2";
    let mut top = follow(&cluster, top, &[]).await;
    let count = "SELECT count(*) AS n, max(hp) AS most FROM cars";
    let mut count = follow(&cluster, count, &[]).await;
    let id = |id: u64| json!({"_id": id});
    assert_eq!(all.result().await, json!([id(1), id(2), id(3)]));
    assert_eq!(top.result().await, json!([id(3), id(2)]));
    assert_eq!(count.result().await, json!([{"n": 3, "most": 30}]));
    put(&cluster, json!([{"_id": 1, "hp": 25}])).await;
    let set = |id: u64, after: Value| json!({"type": "set", "_id": id, "after": after, "item": {"_id": id}});
    assert_eq!(all.changes().await, json!([set(1, json!(2))]));
    let removed = json!({"type": "remove", "_id": 2});
    assert_eq!(top.changes().await, json!([removed, set(1, json!(3))]));
    put(&cluster, json!([{"_id": 4, "hp": 1}])).await;
    assert_eq!(all.changes().await, json!([set(4, Value::Null)]));
    assert_eq!(count.result().await, json!([{"n": 4, "most": 30}]));
}

#[tokio::test]
async fn the_hundredth_subscriber_costs_the_store_nothing() {
    let cluster = Cluster::start().await;
    put(&cluster, json!({"_id": 0, "hp": 70})).await;
    let before = queries(&cluster);
    let mut all = Vec::new();
    for _ in 0..100 {
        let mut followed = follow(&cluster, "SELECT _id FROM cars", &[]).await;
        assert_eq!(followed.result().await, json!([{"_id": 0}]));
        all.push(followed);
    }
    put(&cluster, json!({"_id": 1, "hp": 70})).await;
    for followed in &mut all {
        assert_eq!(followed.changes().await[0]["_id"], 1);
    }
    assert_eq!(queries(&cluster) - before, 1);
    // One of another query, or who may read something else, is somebody else.
    follow(&cluster, "SELECT _id, hp FROM cars", &[]).await;
    assert_eq!(queries(&cluster) - before, 2);
}

#[tokio::test]
async fn who_comes_back_gets_what_came_since() {
    let cluster = Cluster::start().await;
    let first = put(&cluster, json!({"_id": "a"})).await;
    let mut followed = follow(&cluster, "SELECT * FROM cars", &[]).await;
    followed.result().await;
    let second = put(&cluster, json!({"_id": "b"})).await;
    let third = put(&cluster, json!({"_id": "c"})).await;
    followed.changes().await;
    followed.changes().await;
    drop(followed);
    for (last, ids) in [(first, vec!["b", "c"]), (second, vec!["c"])] {
        let headers = [("last-event-id", last.to_string())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut back = follow(&cluster, "SELECT * FROM cars", &headers).await;
        for id in ids {
            assert_eq!(back.changes().await[0]["_id"], id);
        }
        assert_eq!(back.last, Some(third));
    }
    // One that has nothing is sent the result, and nobody what is older than what he has.
    let mut anew = follow(&cluster, "SELECT * FROM cars", &[("last-event-id", "")]).await;
    assert_eq!(anew.result().await.as_array().unwrap().len(), 3);
    let far = [("last-event-id", "18446744073709551615"), ("x-anabranch-timeout-ms", "100")];
    let reply = cluster.send(request("SELECT * FROM cars", &far)).await;
    assert_eq!(reply.code(), "transaction_unknown");
}

#[tokio::test]
async fn who_comes_to_another_server_is_told_the_difference() {
    let cluster = Cluster::start().await;
    let other = cluster.beside(IngestConfig::default());
    put(&cluster, json!([{"_id": "a", "n": 1}, {"_id": "b", "n": 1}])).await;
    let query = "SELECT * FROM cars WHERE n > 0 ORDER BY n";
    let mut followed = follow(&cluster, query, &[]).await;
    followed.result().await;
    let last = followed.last.unwrap().to_string();
    put(&cluster, json!({"_id": "a", "n": 0})).await;
    put(&cluster, json!({"_id": "c", "n": 2})).await;
    let mut back = follow(&other, query, &[("last-event-id", &last)]).await;
    let removed = json!({"type": "remove", "_id": "a"});
    let set = json!({"type": "set", "_id": "c", "after": "b", "item": {"_id": "c", "n": 2}});
    assert_eq!(back.changes().await, json!([removed, set]));
    // What is too long ago cannot be compared.
    let mut newest = 0;
    for n in 0..20 {
        newest = put(&cluster, json!({"_id": "d", "n": n})).await;
    }
    let headers = [("last-event-id", &*last), ("x-anabranch-txn-id", &newest.to_string())];
    let mut back = follow(&other, query, &headers).await;
    assert_eq!(back.result().await.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_came_and_went_unseen_here_is_taken_from_who_saw_it() {
    let cluster = Cluster::start().await;
    put(&cluster, json!([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])).await;
    let [top, count] =
        ["SELECT _id FROM cars ORDER BY n LIMIT 2", "SELECT COUNT(*) AS n FROM cars"];
    let (mut kept, mut counted) =
        (follow(&cluster, top, &[]).await, follow(&cluster, count, &[]).await);
    kept.result().await;
    counted.result().await;
    // Both are seen at once: the rows are those of before.
    cluster.store.node.refuse(Some("overloaded"));
    cluster.log.commit_now(&insert(&json!({"_id": "x", "n": 0})));
    let seen = cluster.shared.world.lock().committed.last().unwrap().0.to_string();
    cluster.log.commit_now(&delete(&json!("x")));
    cluster.store.node.refuse(None);
    let headers = [("last-event-id", seen.as_str())];
    let mut back = follow(&cluster, top, &headers).await;
    let [removed, set] = [
        json!({"type": "remove", "_id": "x"}),
        json!({"type": "set", "_id": "b", "after": "a", "item": {"_id": "b"}}),
    ];
    assert_eq!(back.changes().await, json!([removed, set]));
    let mut back = follow(&cluster, count, &headers).await;
    assert_eq!(back.result().await, json!([{"n": 2}]));
}

#[tokio::test]
async fn who_comes_back_for_something_else_begins_anew() {
    let cluster = Cluster::start().await;
    put(&cluster, json!([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])).await;
    let (few, all) = ("SELECT * FROM cars WHERE n > 1", "SELECT * FROM cars");
    let mut followed = follow(&cluster, few, &[]).await;
    followed.result().await;
    let headers = [("last-event-id", followed.id.as_str())];
    let mut other = follow(&cluster, all, &headers).await;
    assert_eq!(other.result().await.as_array().unwrap().len(), 2);
    let mut same = follow(&cluster, few, &headers).await;
    put(&cluster, json!({"_id": "c", "n": 3})).await;
    assert_eq!(same.changes().await[0]["_id"], "c");
}

#[tokio::test]
async fn who_comes_back_with_the_tag_of_another_transaction_begins_anew() {
    let cluster = Cluster::start().await;
    let first = put(&cluster, json!({"_id": "a"})).await;
    let query = "SELECT * FROM cars";
    let mut followed = follow(&cluster, query, &[]).await;
    followed.result().await;
    let of_first = followed.id.clone();
    put(&cluster, json!({"_id": "b"})).await;
    followed.changes().await;
    let (_, tag) = followed.id.split_once('-').unwrap();
    let altered = format!("{first}-{tag}");
    assert_ne!(altered, of_first);
    // Nor does an id of an older server go on anywhere.
    for id in [altered, format!("{first}-0f86d081")] {
        let mut back = follow(&cluster, query, &[("last-event-id", &id)]).await;
        assert_eq!(back.result().await.as_array().unwrap().len(), 2);
    }
    let mut same = follow(&cluster, query, &[("last-event-id", &of_first)]).await;
    assert_eq!(same.changes().await[0]["_id"], "b");
}

#[tokio::test]
async fn what_is_sent_first_includes_the_transaction_asked_for() {
    let cluster = Cluster::start().await;
    put(&cluster, json!({"_id": "a"})).await;
    let mut kept = follow(&cluster, "SELECT * FROM cars", &[]).await;
    kept.result().await;
    // Of a transaction that changes nothing here, too.
    let statement = "INSERT INTO other DOCUMENTS (:d)";
    let txn = write(&cluster, statement, json!({"d": {"_id": "x"}})).await.to_string();
    let headers = [("x-anabranch-txn-id", txn.as_str())];
    let mut followed = follow(&cluster, "SELECT * FROM cars", &headers).await;
    followed.result().await;
    assert!(followed.last >= Some(txn.parse().unwrap()));
    let never = [("x-anabranch-txn-id", "1000000"), ("x-anabranch-timeout-ms", "100")];
    let reply = cluster.send(request("SELECT * FROM cars", &never)).await;
    assert_eq!(reply.code(), "transaction_unknown");
}

#[tokio::test]
async fn what_breaks_on_the_way_is_made_up_for() {
    let cluster = Cluster::start().await;
    put(&cluster, json!({"_id": 0})).await;
    let mut followed = follow(&cluster, "SELECT _id FROM cars", &[]).await;
    followed.result().await;
    let node = &cluster.store.node;
    let mut told = Vec::new();
    for number in 1..=30_u64 {
        match number % 5 {
            1 => node.break_feeds(),
            2 => {
                let newest = cluster.shared.world.lock().committed.last().map(|(txn, _)| *txn);
                node.trim_feed(newest.unwrap() + 3);
            }
            3 => cluster.store.stop().await,
            _ => {}
        }
        cluster.log.commit_now(&insert(&json!({"_id": number})));
        match number % 5 {
            3 => cluster.store.restart().await,
            4 => {
                let newest = cluster.shared.world.lock().committed.last().map(|(txn, _)| *txn);
                node.lose(newest.unwrap());
            }
            _ => {}
        }
        while told.len() < usize::try_from(number).unwrap() {
            for change in followed.changes().await.as_array().unwrap() {
                assert_eq!(change["type"], "set");
                told.push(change["_id"].as_u64().unwrap());
            }
        }
    }
    assert_eq!(told, (1..=30).collect::<Vec<_>>(), "each once and in order");
}

#[tokio::test]
async fn who_is_slow_is_sent_the_whole_result_again() {
    let cluster = Cluster::start().await;
    let mut slow = follow(&cluster, "SELECT * FROM cars", &[]).await;
    let mut quick = follow(&cluster, "SELECT * FROM cars", &[]).await;
    slow.result().await;
    quick.result().await;
    let text = "x".repeat(200_000);
    for number in 0..10 {
        put(&cluster, json!({"_id": 1, "text": text, "number": number})).await;
        assert_eq!(quick.changes().await[0]["item"]["number"], number);
    }
    let items = slow.result().await;
    assert_eq!(items.as_array().unwrap().len(), 1);
    assert_eq!(items[0]["number"], 9);
    let before = slow.last;
    put(&cluster, json!({"_id": 2})).await;
    assert_eq!(slow.changes().await[0]["_id"], 2);
    assert!(slow.last > before);
}

#[tokio::test]
async fn a_result_that_is_too_large_is_not_kept() {
    let cluster = Cluster::start().await;
    let documents: Vec<_> = (0..9_999).map(|id| json!({"_id": id})).collect();
    put(&cluster, documents.into()).await;
    let mut followed = follow(&cluster, "SELECT * FROM cars", &[]).await;
    assert_eq!(followed.result().await.as_array().unwrap().len(), 9_999);
    put(&cluster, json!([{"_id": "a"}, {"_id": "b"}])).await;
    // What made it too large may come before.
    let mut end = followed.next().await.unwrap();
    if end.name == "change" {
        end = followed.next().await.unwrap();
    }
    assert_eq!((&*end.name, &end.data["error"]["code"]), ("end", &json!("query_too_large")));
    assert_eq!(followed.next().await, None);
    let reply = cluster.send(request("SELECT * FROM cars", &[])).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (422, "query_too_large"));
    let mut some = follow(&cluster, "SELECT * FROM cars LIMIT 10", &[]).await;
    assert_eq!(some.result().await.as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn there_is_room_for_so_many_and_so_much() {
    let config =
        IngestConfig { max_subscriptions: 2, max_live_bytes: 100_000, ..Default::default() };
    let cluster = Cluster::with(config).await;
    put(&cluster, json!({"_id": 0, "text": "x".repeat(20_000)})).await;
    let first = follow(&cluster, "SELECT * FROM cars", &[]).await;
    // A request that is over has no place any more.
    let reply = cluster.send(request("SELECT * FROM cars WHERE true", &[])).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "overloaded"), "{}", reply.text);
    let second = follow(&cluster, "SELECT * FROM cars", &[]).await;
    let reply = cluster.send(request("SELECT * FROM cars", &[])).await;
    assert_eq!(reply.code(), "overloaded");
    drop(second);
    let mut second = follow(&cluster, "SELECT * FROM cars", &[]).await;
    second.result().await;
    // One that grows too large takes nothing from others.
    put(&cluster, json!({"_id": 1, "text": "x".repeat(20_000)})).await;
    while let Some(event) = second.next().await {
        assert!(event.name == "change" || event.data["error"]["code"] == "overloaded");
    }
    drop(first);
}

#[tokio::test]
async fn an_app_has_so_many_followers() {
    let config = IngestConfig { max_subscriptions: 4, ..Default::default() };
    let cluster = Cluster::with(config).await;
    put(&cluster, json!([{"_id": "a"}])).await;
    let [cars, other] = ["SELECT * FROM cars", "SELECT _id FROM cars"];
    let (one, two) = (follow(&cluster, cars, &[]).await, follow(&cluster, cars, &[]).await);
    let mut three = follow(&cluster, other, &[]).await;
    let reply = cluster.send(request(cars, &[])).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "overloaded"), "{}", reply.text);
    // There is a place left for another app.
    let mut other_app = request(cars, &[]);
    let uri = other_app.uri().to_string().replace(APP, &uuid::Uuid::nil().to_string());
    *other_app.uri_mut() = uri.parse().unwrap();
    let _other_app = Followed::begin(&cluster, other_app).await;
    drop(one);
    let mut again = follow(&cluster, cars, &[]).await;
    again.result().await;
    three.result().await;
    drop(two);
}

#[tokio::test]
async fn an_app_keeps_so_many_queries_and_those_that_nobody_follows_go_first() {
    let config = IngestConfig { max_live_queries: 4, ..Default::default() };
    let cluster = Cluster::with(config).await;
    put(&cluster, json!([{"_id": "a", "n": 1}])).await;
    let query = |n: u64| format!("SELECT * FROM cars WHERE n = {n}");
    let (mut one, two) =
        (follow(&cluster, &query(1), &[]).await, follow(&cluster, &query(2), &[]).await);
    let reply = cluster.send(request(&query(3), &[])).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "overloaded"), "{}", reply.text);
    drop(two);
    let mut three = follow(&cluster, &query(3), &[]).await;
    one.result().await;
    three.result().await;
    put(&cluster, json!({"_id": "b", "n": 3})).await;
    assert_eq!(three.changes().await[0]["_id"], "b");
    put(&cluster, json!({"_id": "c", "n": 1})).await;
    assert_eq!(one.changes().await[0]["_id"], "c");
}

#[tokio::test]
async fn what_takes_too_long_to_look_at_is_not_followed() {
    let cluster = Cluster::start().await;
    let terms: Vec<_> = (0..600).map(|n| format!("n = {n}")).collect();
    let reply =
        cluster.send(request(&format!("SELECT * FROM c WHERE {}", terms.join(" OR ")), &[]));
    assert_eq!(reply.await.code(), "query_too_large");
    let list: Vec<_> = (0..600).map(|n| n.to_string()).collect();
    let list = format!("SELECT * FROM c WHERE n IN ({})", list.join(", "));
    follow(&cluster, &list, &[]).await.result().await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_told() {
    let cluster = Cluster::start().await;
    for (query, code) in [
        ("INSERT INTO cars DOCUMENTS ({'_id': 1})", "unsupported"),
        ("EXPLAIN SELECT * FROM cars", "unsupported"),
        ("SELECT * FROM", "syntax_error"),
        ("SELECT * FROM cars WHERE a = :a", "unknown_argument"),
    ] {
        let reply = cluster.send(request(query, &[])).await;
        assert_eq!((reply.status.as_u16(), &*reply.code()), (400, code), "{query}: {}", reply.text);
    }
    for parameters in ["", "quer=SELECT", "query=SELECT%20*%20FROM%20c&args=1", "query=x&args={"] {
        let reply = cluster.send(path(parameters, &[])).await;
        assert_eq!(reply.code(), "invalid_parameter", "{parameters}: {}", reply.text);
    }
    let reply = cluster.send(request("SELECT * FROM c", &[("last-event-id", "x")])).await;
    assert_eq!(reply.code(), "invalid_header");
}

#[tokio::test]
async fn arguments_are_part_of_what_is_asked() {
    let cluster = Cluster::start().await;
    put(&cluster, json!([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])).await;
    for (n, id) in [(1, "a"), (2, "b")] {
        let parameters = format!("query=SELECT+_id+FROM+cars+WHERE+n=:n&args=%7B%22n%22:{n}%7D");
        let mut followed = Followed::begin(&cluster, path(&parameters, &[])).await;
        assert_eq!(followed.result().await, json!([{"_id": id}]));
    }
}

#[tokio::test]
async fn everybody_is_told_that_the_server_stops() {
    let cluster = Cluster::start().await;
    let mut followed = follow(&cluster, "SELECT * FROM cars", &[]).await;
    followed.result().await;
    cluster.shutdown.begin();
    let end = followed.next().await.unwrap();
    assert_eq!((&*end.name, &end.data["error"]["code"]), ("end", &json!("shutting_down")));
    assert_eq!(followed.next().await, None);
}

#[tokio::test]
async fn who_waits_for_a_store_that_is_away_is_told_why() {
    let cluster = Cluster::start().await;
    cluster.store.node.refuse(Some("overloaded"));
    let headers = [("x-anabranch-timeout-ms", "300")];
    let reply = cluster.send(request("SELECT * FROM cars", &headers)).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "overloaded"), "{}", reply.text);
    // The next one gets on as soon as it is back.
    cluster.store.node.refuse(None);
    follow(&cluster, "SELECT * FROM cars", &[]).await.result().await;
}

#[tokio::test]
async fn what_does_not_matter_to_a_query_is_not_read_again() {
    let cluster = Cluster::start().await;
    let [top, other] = ["TRUE", "n > 100"]
        .map(|filter| format!("SELECT _id FROM cars WHERE {filter} ORDER BY n DESC LIMIT 1"));
    let mut followed = follow(&cluster, &top, &[]).await;
    let mut untouched = follow(&cluster, &other, &[]).await;
    followed.result().await;
    untouched.result().await;
    for n in 1..=5 {
        put(&cluster, json!({"_id": n, "n": n})).await;
        let changes = followed.changes().await;
        assert_eq!(changes.as_array().unwrap().last().unwrap()["_id"], n);
    }
    let queries = cluster.store.node.queries.lock();
    let times = |statement: &str| queries.iter().filter(|it| it.statement == statement).count();
    assert_eq!((times(&top), times(&other)), (6, 1));
}
