//! More than two clusters, and what a bridge tells of itself, on embedded logs over TLS.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use anabranch_journal::{Journal, NewRecord, ReadFrom, TopicPartition, TransactionalId};
use anabranch_schemas::decode;
use anabranch_schemas::records::DeadLetter;

use crate::doubles::{Certificates, NAME, Pair, TestCluster, at, eventually, fateful, wants};

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_filter_leaves_the_clusters_behind_it_too() {
    let names = ["east", "middle", "west"];
    let certificates = Certificates::new(&names);
    let [east, middle, west] = [
        TestCluster::start("east", 1).await,
        TestCluster::start("middle", 2).await,
        TestCluster::start("west", 3).await,
    ];
    let b_east = east.bridge(certificates.tls("east", &names)).await.unwrap();
    let b_middle = middle.bridge(certificates.tls("middle", &names)).await.unwrap();
    let _b_west = west.bridge(certificates.tls("west", &names)).await.unwrap();
    east.declare(NAME, Some(wants(None, &[])));
    middle.declare("from-east", Some(wants(Some("w = 1"), &[at(&b_east)])));
    middle.declare("to-west", Some(wants(None, &[])));
    west.declare(NAME, Some(wants(Some("w = 1"), &[at(&b_middle)])));
    for key in 0..3 {
        east.put(key, r#"{"w":1}"#);
    }
    eventually("all arrive at the end", || west.documents().len() == 3).await;
    // Something is hidden as the document leaves: it is to go no further.
    east.put(1, r#"{"w":0,"secret":1}"#);
    eventually("the middle forgets it", || middle.document(1).is_none()).await;
    eventually("so does the end", || west.document(1).is_none()).await;
    assert_eq!((middle.documents().len(), west.documents().len()), (2, 2));
    assert!(east.document(1).is_some());
    // It comes back through both.
    east.put(1, r#"{"w":1}"#);
    eventually("it is there again", || west.document(1) == east.document(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_written_once_with_its_position() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let (fateful, met) = fateful(west.journal.clone(), "-bridge-", 30);
    let b_east = east.bridge(pair.tls("east")).await.unwrap();
    let b_west = west.bridge_on(fateful, pair.tls("west")).await.unwrap();
    pair.link(&b_east);
    let deep = format!(r#"{{"w":1,"d":{}1{}}}"#, r#"{"d":"#.repeat(70), "}".repeat(70));
    // One at a time, so that there are many commits.
    for key in 0..40 {
        east.put(key, &deep);
        east.put(1_000 + key, r#"{"w":1}"#);
        eventually("it blocks nothing", || west.document(1_000 + key).is_some()).await;
    }
    assert!(met.load(Ordering::Relaxed) > 3, "too few commits met their fate");
    let at = TopicPartition::new(west.identity.name.dead_letters(), 0);
    let mut reader = west.journal.reader(&[(at, ReadFrom::Start)]).unwrap();
    let mut letters = Vec::new();
    loop {
        let records = reader.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            break;
        }
        for record in records {
            let letter: DeadLetter = decode(&record.value.unwrap()).unwrap();
            assert_eq!(letter.code, "too_deep");
            assert_eq!(record.key, letter.document_id);
            letters.push(letter.document_id);
        }
    }
    assert_eq!(letters.len(), 40, "one is missing or doubled");
    letters.dedup();
    assert_eq!(letters.len(), 40);
    drop(b_west);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_a_link_that_is_cut_grows() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let (b_east, b_west) = pair.linked().await;
    east.put(1, r#"{"w":1}"#);
    eventually("nothing is missing", || {
        let status = b_east.status(NAME);
        status.lag_transactions == Some(0) && status.lag_seconds == Some(0.0)
    })
    .await;
    assert_eq!(b_east.status(NAME).unlinked_since_ms, None);
    b_west.stop().await;
    east.put(2, r#"{"w":1}"#);
    eventually("one is missing", || b_east.status(NAME).lag_transactions == Some(1)).await;
    let first = b_east.status(NAME).lag_seconds;
    eventually("it grows", || b_east.status(NAME).lag_seconds > first).await;
    let status = b_east.status(NAME);
    assert!(status.connected.is_none() && status.unlinked_since_ms.is_some());
    assert!(status.log_end.is_some_and(|end| end >= 2));
    let _b_west = west.bridge(pair.tls("west")).await.unwrap();
    eventually("nothing is missing again", || {
        let status = b_east.status(NAME);
        status.lag_transactions == Some(0) && status.last_error.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replications_of_one_app_to_the_same_cluster_are_told_apart() {
    let pair = Pair::new().await;
    let west = &pair.west;
    let (b_east, b_west) = pair.linked().await;
    eventually("the first is linked", || b_west.status(NAME).connected.is_some()).await;
    west.declare("second", Some(wants(Some("w = 2"), &[at(&b_east)])));
    eventually("the second is told why not", || {
        b_west.last_error("second").contains("put the queries of both into one")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_cannot_read_its_log_says_so_and_keeps_the_link() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let (b_east, _b_west) = pair.linked().await;
    east.put(1, r#"{"w":1}"#);
    eventually("it arrives", || west.document(1).is_some()).await;
    let mut writer = east.journal.writer(&TransactionalId::from("broken")).unwrap();
    writer.begin().unwrap();
    let (at, value) = (TopicPartition::new(east.identity.name.changes(), 0), Some("x".into()));
    writer.append(NewRecord { at, key: Bytes::new(), value }).unwrap();
    writer.flush().unwrap();
    writer.commit().unwrap();
    eventually("it says so", || b_east.last_error(NAME).starts_with("read ")).await;
    assert!(b_east.status(NAME).connected.is_some());
}
