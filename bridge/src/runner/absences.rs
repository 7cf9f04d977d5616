//! A receiver that was away for longer than the sender keeps its log: what it lacks arrives, and
//! what has left leaves, however often it is interrupted.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anabranch_core::document::{Document, Mutation};
use anabranch_journal::{Journal, Offset, TopicPartition};

use crate::doubles::{
    NAME, Pair, Proxy, TestBridge, TestCluster, at, eventually, fateful, mutation, put, wants,
};

/// More than a receiver says in one piece that it holds.
const MANY: i64 = 5_000;

/// The log of changes of a cluster is gone, but for the last record of each slice.
fn forget_changes(cluster: &TestCluster) {
    for slice in cluster.identity.slices.all() {
        let at = TopicPartition::new(cluster.identity.name.changes(), slice.0);
        let end = cluster.journal.bounds(&at).unwrap().end;
        let last = Offset(end.0.saturating_sub(1));
        cluster.journal.trim(&at, last).unwrap();
    }
}

/// East has documents, west receives those with `w = 1`, and stops.
async fn parted(pair: &Pair, keys: std::ops::Range<i64>, fields: &str) -> TestBridge {
    let (east, west) = (&pair.east, &pair.west);
    let keys: Vec<_> = keys.collect();
    for chunk in keys.chunks(1_000) {
        east.write(chunk.iter().map(|key| put(*key, fields)).collect());
    }
    eventually("east applied it", || east.documents().len() == keys.len()).await;
    let (b_east, b_west) = pair.linked().await;
    eventually("all arrive", || west.documents().len() == keys.len()).await;
    b_west.stop().await;
    b_east
}

/// The last change arrives: so did all before it.
async fn caught_up(pair: &Pair) {
    pair.east.put(-1, r#"{"w":1}"#);
    eventually("the tail arrives", || pair.west.document(-1).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_while_the_receiver_was_away_leaves() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let _b_east = parted(&pair, 0..20, r#"{"w":1,"n":0}"#).await;
    east.put(1, r#"{"w":0,"secret":1}"#);
    east.write(vec![mutation(2, Mutation::Delete)]);
    east.write(vec![put(3, r#"{"w":0}"#), mutation(3, Mutation::Delete)]);
    east.write(vec![mutation(
        4,
        Mutation::Evict(Document {
            // All that is known of it, as a client that evicts it does.
            versions: [(east.identity.actor, u64::MAX)].into_iter().collect(),
            ..Document::default()
        }),
    )]);
    east.put(5, r#"{"n":5}"#);
    east.put(20, r#"{"w":1}"#);
    // West writes too, and wants to keep what it wrote last.
    for key in [6, 7] {
        east.put(key, r#"{"w":0}"#);
    }
    west.put(7, r#"{"own":1}"#);
    west.put(100, r#"{"w":1}"#);
    eventually("east applied it", || east.document(20).is_some()).await;
    forget_changes(east);

    let b_west = west.bridge(pair.tls("west")).await.unwrap();
    caught_up(&pair).await;
    for key in [1, 2, 3, 6] {
        assert_eq!(west.document(key), None, "{key} left, or was deleted");
    }
    assert_eq!(west.document(4).as_deref(), Some(r#"{"n":0,"w":1}"#), "evictions stay there");
    assert_eq!(west.document(5).as_deref(), Some(r#"{"n":5,"w":1}"#));
    assert_eq!(west.document(7).as_deref(), Some(r#"{"n":0,"own":1,"w":1}"#), "east lacks it");
    assert!(west.document(20).is_some() && west.document(100).is_some());
    assert_eq!(west.documents().len(), 20 - 4 + 3);
    // Only what differs was sent, and that west forgets: 1, 2, 3, 5, 6, 20, and the last.
    assert_eq!(b_west.status(NAME).documents_received, 7);
    assert_eq!(b_west.status(NAME).dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_leaves_whatever_becomes_of_commits() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let _b_east = parted(&pair, 0..20, r#"{"w":1}"#).await;
    let (journal, met) = fateful(west.journal.clone(), "-bridge-", 20);
    for absence in 0..15 {
        east.put(absence, r#"{"w":0}"#);
        east.put(19, &format!(r#"{{"n":{absence}}}"#));
        let changed = format!(r#"{{"n":{absence},"w":1}}"#);
        eventually("east applied it", || east.document(19).as_ref() == Some(&changed)).await;
        forget_changes(east);
        let bridge = west.bridge_on(journal.clone(), pair.tls("west")).await.unwrap();
        eventually("it leaves", || west.document(absence).is_none()).await;
        eventually("it changes", || west.document(19).as_ref() == Some(&changed)).await;
        bridge.stop().await;
    }
    assert_eq!(west.documents().len(), 5);
    assert!(met.load(Ordering::Relaxed) > 1, "too few commits met their fate");
    assert!(east.scans().len() > 5, "too few snapshots");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_direction_goes_on_while_what_is_held_cannot_be_listed() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    east.declare(NAME, Some(wants(Some("w = 2"), &[])));
    west.declare(NAME, Some(wants(Some("w = 1"), &[])));
    let (b_east, b_west) = pair.bridges().await;
    east.declare(NAME, Some(wants(Some("w = 2"), &[at(&b_west)])));
    east.put(1, r#"{"w":1}"#);
    west.put(2, r#"{"w":2}"#);
    eventually("both are in the tail", || west.document(1).is_some() && east.document(2).is_some())
        .await;
    b_west.stop().await;
    east.put(1, r#"{"w":0}"#);
    east.put(3, r#"{"w":1}"#);
    eventually("east applied it", || east.document(3).is_some()).await;
    forget_changes(east);

    west.store_is_away(true);
    let b_west = west.bridge(pair.tls("west")).await.unwrap();
    east.declare(NAME, Some(wants(Some("w = 2"), &[at(&b_west)])));
    eventually("west says so", || b_west.last_error(NAME).contains("it is away")).await;
    let linked = b_west.status(NAME).connected;
    assert!(linked.is_some(), "the link ended");
    west.put(4, r#"{"w":2}"#);
    eventually("what west writes arrives", || east.document(4).is_some()).await;
    assert_eq!(b_west.status(NAME).connected, linked, "it is another link");
    assert!(west.document(1).is_some() && west.document(3).is_none());
    // It does not keep the bridge from ending.
    let begun = Instant::now();
    b_west.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());

    let b_west = west.bridge(pair.tls("west")).await.unwrap();
    east.declare(NAME, Some(wants(Some("w = 2"), &[at(&b_west)])));
    eventually("west says so", || b_west.last_error(NAME).contains("it is away")).await;
    west.store_is_away(false);
    eventually("it goes on", || west.document(1).is_none() && west.document(3).is_some()).await;
    assert_eq!(b_west.status(NAME).last_error, None);
    drop(b_east);
}

/// Connections carry what is held and one batch, until one has; those after it carry nothing. A
/// dial may be refused, while the other side has not noticed that the link before is gone.
async fn one_batch(west: &TestCluster, proxy: &Proxy) {
    let connections = || proxy.connections.load(Ordering::Relaxed);
    let before = west.documents().len();
    proxy.limit.store(1_700_000, Ordering::Relaxed);
    eventually("something left", || west.documents().len() < before).await;
    proxy.limit.store(0, Ordering::Relaxed);
    let made = connections();
    eventually("it is cut", || connections() > made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_holds_much_is_swept_in_pieces_and_across_restarts() {
    let pair = Pair::new().await;
    let (east, west) = (&pair.east, &pair.west);
    let b_east = parted(&pair, 0..MANY, r#"{"w":1}"#).await;
    let has_left = |key: i64| key % 3 == 0;
    let left: Vec<i64> = (0..MANY).filter(|key| has_left(*key)).collect();
    for chunk in left.chunks(1_000) {
        east.write(chunk.iter().map(|key| put(*key, r#"{"w":0}"#)).collect());
    }
    // So large that no connection carries all of it.
    let filler = "x".repeat(12_000);
    let grown: Vec<i64> = (0..MANY).filter(|key| key % 12 == 1).collect();
    for chunk in grown.chunks(50) {
        let fields = format!(r#"{{"w":1,"f":"{filler}"}}"#);
        east.write(chunk.iter().map(|key| put(*key, &fields)).collect());
    }
    let last = grown.last().copied().unwrap();
    eventually("east applied it", || east.document(last).is_some_and(|d| d.len() > 12_000)).await;
    forget_changes(east);

    let proxy = Proxy::to(b_east.bridge.address, 0).await;
    west.declare(NAME, Some(wants(Some("w = 1"), &[proxy.address.to_string()])));
    let bridge = west.bridge(pair.tls("west")).await.unwrap();
    one_batch(west, &proxy).await;
    // The next comes over a new link, and the one after that to a new process.
    one_batch(west, &proxy).await;
    bridge.stop().await;
    let _bridge = west.bridge(pair.tls("west")).await.unwrap();
    let kept = usize::try_from(MANY).unwrap() - left.len();
    assert!(west.documents().len() > kept, "it was done before it was interrupted");
    proxy.limit.store(u64::MAX, Ordering::Relaxed);
    caught_up(&pair).await;
    let documents = west.documents();
    assert!(left.iter().all(|key| !documents.contains_key(&key.to_string())), "some are left");
    assert_eq!(documents.len(), kept + 1);
    assert!(grown.iter().all(|key| west.document(*key) == east.document(*key)), "some are old");
    // The first was of the first snapshot.
    let scans = east.scans().split_off(1);
    let timestamps: BTreeSet<_> =
        scans.iter().map(|scan| scan.at.and_then(|at| at.exactly)).collect();
    assert_eq!(timestamps.len(), 1, "it was begun anew: {timestamps:?}");
    let from_the_start = scans.iter().filter(|scan| scan.after.is_empty()).count();
    assert!(from_the_start == 1 && scans.len() > 3, "{from_the_start} of {}", scans.len());
}
