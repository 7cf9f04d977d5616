//! Bridges of two clusters on embedded logs, over TLS on loopback.

use std::sync::atomic::Ordering;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::query::FieldPath;

use crate::doubles::{NAME, Pair, Proxy, at, eventually, fateful, mutation, put, wants};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_arrives_leaves_and_goes() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    for key in 0..40 {
        east.put(key, &format!(r#"{{"w":{},"n":{key}}}"#, key % 2));
    }
    eventually("east applied it", || east.documents().len() == 40).await;
    let (b_east, b_west) = pair.linked().await;
    eventually("the snapshot arrives", || west.documents().len() == 20).await;
    assert!(west.documents().keys().all(|key| key.parse::<i64>().unwrap() % 2 == 1));

    east.write((100..110).map(|key| put(key, r#"{"w":1}"#)).collect());
    east.put(1, r#"{"n":-1}"#);
    east.put(3, r#"{"w":0}"#);
    east.write(vec![mutation(5, Mutation::Delete)]);
    east.put(2, r#"{"w":1}"#);
    eventually("the last change arrives", || west.document(2).is_some()).await;
    assert_eq!(west.document(1).as_deref(), Some(r#"{"n":-1,"w":1}"#));
    assert_eq!((west.document(3), west.document(5)), (None, None), "left and deleted");
    assert_eq!(west.documents().len(), 20 + 10 - 2 + 1);
    eventually("east knows", || {
        b_east.status(NAME).sent.is_some_and(|sent| sent.next >= east.rounds() as u64)
    })
    .await;
    let status = b_west.status(NAME);
    assert_eq!(status.connected.unwrap().cluster, "east");
    assert_eq!((status.dead_letters, status.last_error), (0, None));
    assert_eq!(east.documents().len(), 49, "nothing came back");

    // Nothing is sent again after a restart of either.
    let rounds = west.rounds();
    b_west.stop().await;
    let b_west = west.bridge(pair.tls("west")).await.unwrap();
    east.put(200, r#"{"w":1}"#);
    eventually("it goes on", || west.document(200).is_some()).await;
    assert_eq!(west.rounds(), rounds + 1);
    assert_eq!(east.scans().len(), 1, "one snapshot was enough");
    b_west.stop().await;
    b_east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_want_the_same_of_each_other_come_to_rest() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let (b_east, b_west) = pair.bridges().await;
    // Both dial: one link survives.
    east.declare(NAME, Some(wants(Some("w = 1"), &[at(&b_west)])));
    west.declare(NAME, Some(wants(Some("w = 1"), &[at(&b_east)])));
    for round in 0..20 {
        east.put(round, r#"{"w":1,"e":1}"#);
        west.put(round + 10, r#"{"w":1,"x":1}"#);
    }
    eventually("both have all", || {
        east.documents().len() == 30 && east.documents() == west.documents()
    })
    .await;
    eventually("both are linked", || {
        b_east.status(NAME).connected.is_some() && b_west.status(NAME).connected.is_some()
    })
    .await;
    east.put(99, r#"{"w":1}"#);
    eventually("it arrives", || west.document(99).is_some()).await;
    west.put(98, r#"{"w":1}"#);
    eventually("it arrives", || east.document(98).is_some()).await;
    let written = (east.rounds(), west.rounds());
    east.put(97, r#"{"w":1}"#);
    eventually("it arrives", || west.document(97).is_some()).await;
    assert_eq!((east.rounds(), west.rounds()), (written.0 + 1, written.1 + 1), "no loop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_authority_is_named_on_both_sides_and_nothing_is_lost() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    east.put(1, r#"{"w":1}"#);
    // East does not trust west, which dials.
    let b_east = east.bridge(pair.certificates.tls("east", &["east"])).await.unwrap();
    let b_west = west.bridge(pair.tls("west")).await.unwrap();
    east.declare(NAME, Some(wants(None, &[])));
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("west is told", || {
        let error = b_west.last_error(NAME);
        error.contains("does not trust the authority of this cluster's certificate")
            && error.contains("add this cluster's ca.pem to the trusted files of the bridge there")
    })
    .await;
    b_west.stop().await;
    // West does not trust east.
    let b_west = west.bridge(pair.certificates.tls("west", &["west"])).await.unwrap();
    eventually("west says so", || {
        let error = b_west.last_error(NAME);
        error.contains("is signed by an authority that is not trusted")
            && error.contains("add the ca.pem of its cluster to the trusted files of this bridge")
    })
    .await;
    b_west.stop().await;
    b_east.stop().await;
    assert_eq!(west.document(1), None);

    let (b_east, b_west) = pair.bridges().await;
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("it arrives in the end", || west.document(1).is_some()).await;
    drop((b_east, b_west));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_is_named() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    pair.certificates.add("elsewhere", "east", "east.example");
    let both = ["west", "elsewhere"];
    let b_east = east.bridge(pair.certificates.tls("elsewhere", &both)).await.unwrap();
    let b_west = west.bridge(pair.certificates.tls("west", &both)).await.unwrap();
    east.declare(NAME, Some(wants(None, &[])));
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("the host is named", || {
        let error = b_west.last_error(NAME);
        error.contains("is for another host") && error.contains("east.example")
    })
    .await;

    let mut tls = pair.certificates.tls("west", &both);
    std::fs::write(&tls.certificate, "nonsense").unwrap();
    let error = west.bridge(tls.clone()).await.err().unwrap().to_string();
    assert!(error.contains("cert.pem"), "{error}");
    tls.certificate = "/nowhere/cert.pem".into();
    let error = west.bridge(tls).await.err().unwrap().to_string();
    assert!(error.contains("/nowhere/cert.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_differs_is_refused_and_nothing_is_lost() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    east.put(1, r#"{"w":1}"#);
    let (b_east, b_west) = pair.bridges().await;
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("west is told", || {
        let error = b_west.last_error(NAME);
        error.contains("(unknown_app)") && error.contains("compare the app ids")
    })
    .await;
    east.declare(NAME, Some(wants(None, &[])));
    eventually("it arrives in the end", || west.document(1).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_on_where_it_was_cut() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let filler = "x".repeat(2_000);
    for chunk in 0..40 {
        let keys = chunk * 100..(chunk + 1) * 100;
        let fields = |key: i64| format!(r#"{{"w":{},"f":"{filler}"}}"#, key % 2);
        east.write(keys.map(|key| put(key, &fields(key))).collect());
    }
    eventually("east applied it", || east.documents().len() == 4_000).await;
    let (b_east, _b_west) = pair.bridges().await;
    // Each connection carries a part of it.
    let proxy = Proxy::to(b_east.bridge.address, 1_500_000).await;
    east.declare(NAME, Some(wants(None, &[])));
    eventually("east knows its part", || !b_east.bridge.status.all().is_empty()).await;
    west.declare(NAME, Some(wants(Some("w = 1"), &[proxy.address.to_string()])));
    eventually("all arrived", || west.documents().len() == 2_000).await;
    assert!(proxy.connections.load(Ordering::Relaxed) >= 3, "it was never cut");
    let scans = east.scans();
    let timestamps: Vec<_> = scans.iter().map(|scan| scan.at.and_then(|at| at.exactly)).collect();
    assert!(timestamps.iter().all(|at| *at == timestamps[0]), "another snapshot: {timestamps:?}");
    assert!(scans.iter().skip(1).any(|scan| !scan.after.is_empty()), "from the beginning again");
    proxy.limit.store(u64::MAX, Ordering::Relaxed);
    east.put(1, r#"{"w":0}"#);
    eventually("the tail follows", || west.document(1).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_round_arrives_once_whatever_becomes_of_commits() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let (fateful, met) = fateful(west.journal.clone(), "-bridge-", 20);
    let b_east = east.bridge(pair.tls("east")).await.unwrap();
    let b_west = west.bridge_on(fateful, pair.tls("west")).await.unwrap();
    pair.link(&b_east);
    east.put(0, r#"{"w":1}"#);
    eventually("the link stands", || west.document(0).is_some()).await;
    let before = (east.rounds(), west.rounds());
    let increment = |key| {
        let path = FieldPath::new(vec!["n".to_owned()]).unwrap();
        let increment = vec![(path, 1)];
        mutation(key, Mutation::Update { set: vec![], unset: vec![], increment })
    };
    // One at a time, so that there are many commits.
    for round in 0..100 {
        east.write(vec![increment(0)]);
        let arrived = format!(r#"{{"n":{},"w":1}}"#, round + 1);
        eventually("it arrives", || west.document(0).as_ref() == Some(&arrived)).await;
    }
    assert!(met.load(Ordering::Relaxed) >= 5, "too few commits met their fate");
    let written = (east.rounds() - before.0, west.rounds() - before.1);
    assert_eq!(written, (100, 100), "a round is missing or doubled");
    drop(b_west);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_outlives_its_timestamp() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let filler = "x".repeat(2_000);
    let fields = |n: i64| format!(r#"{{"w":1,"n":{n},"f":"{filler}"}}"#);
    for chunk in 0..10 {
        let keys = chunk * 100..(chunk + 1) * 100;
        east.write(keys.map(|key| put(key, &fields(0))).collect());
    }
    eventually("east applied it", || east.documents().len() == 1_000).await;
    let (b_east, _b_west) = pair.bridges().await;
    // The first connection carries a part of it.
    let proxy = Proxy::to(b_east.bridge.address, 1_500_000).await;
    east.declare(NAME, Some(wants(None, &[])));
    eventually("east knows its part", || !b_east.bridge.status.all().is_empty()).await;
    west.declare(NAME, Some(wants(Some("w = 1"), &[proxy.address.to_string()])));
    let connections = || proxy.connections.load(Ordering::Relaxed);
    eventually("it is dialled", || connections() > 0).await;
    proxy.limit.store(0, Ordering::Relaxed);
    eventually("a part arrives", || !west.documents().is_empty()).await;
    eventually("it is cut", || connections() > 1).await;
    assert!(west.documents().len() < 1_000);
    // Everything is changed, and what the snapshot read is forgotten.
    for chunk in 0..10 {
        let keys = chunk * 100..(chunk + 1) * 100;
        east.write(keys.map(|key| put(key, &fields(1))).collect());
    }
    east.forget_history();
    proxy.limit.store(u64::MAX, Ordering::Relaxed);
    let is_new = |value: &Value| value.get(&["n"]) == Some(&Value::Int(1));
    eventually("all arrived as they are now", || {
        let documents = west.documents();
        documents.len() == 1_000 && documents.values().all(is_new)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_that_is_changed_or_removed_acts_at_once() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    for key in 0..10 {
        east.put(key, &format!(r#"{{"w":{}}}"#, key % 2));
    }
    let (b_east, b_west) = pair.linked().await;
    eventually("the odd ones arrive", || west.documents().len() == 5).await;
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("all arrive", || west.documents().len() == 10).await;
    west.declare(NAME, None);
    eventually("it is gone", || b_west.bridge.status.all().is_empty()).await;
    east.put(77, r#"{"w":1}"#);
    west.declare(NAME, Some(wants(Some("true"), &[at(&b_east)])));
    eventually("it goes on from where it was", || west.document(77).is_some()).await;
    assert_eq!(east.scans().len(), 2);
}
