//! What a store node answers: reads at timestamps, queries, scans, outcomes, the feed.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::document::Mutation;
use anabranch_core::ids::TxnId;
use anabranch_core::query::OnConflict;
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::store as proto;
use anabranch_schemas::{decode, state};
use anabranch_store_node::StoreNodeConfig;
use tempfile::TempDir;

use self::support::log::{APP, Log, Round, car, identity};
use self::support::{
    Node, PATIENCE_MS, at, code, config, exactly, increment, insert, journal, json, put, within,
};

/// A node over a log.
struct World {
    dir: TempDir,
    log: Log,
    node: Node,
    rounds: u128,
}

impl World {
    async fn new(change: impl FnOnce(&mut StoreNodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(journal(&dir.path().join("log")));
        let mut config = config(&dir.path().join("node"));
        change(&mut config);
        let node = Node::start(config, log.journal()).await;
        node.ready().await;
        World { dir, log, node, rounds: 0 }
    }

    fn write(&mut self, mutations: Vec<(i64, Mutation)>) -> TxnId {
        self.rounds += 1;
        let millis = 1_000_000 + u64::try_from(self.rounds).unwrap() * 1_000;
        let mutations =
            mutations.into_iter().map(|(number, mutation)| (car(number), mutation)).collect();
        self.log.write(&Round { id: self.rounds, millis, mutations })
    }
}

fn keys(replies: &[proto::QueryReply]) -> Vec<String> {
    replies.iter().flat_map(|reply| &reply.items).map(|item| item.key.clone()).collect()
}

#[tokio::test]
async fn an_empty_node_answers_that_nothing_is_there() {
    let world = World::new(|_| {}).await;
    let reply = world.node.get(&car(1), proto::ReadAt::default()).await.unwrap();
    assert_eq!(reply, proto::GetReply::default());
    let replies =
        world.node.query("SELECT * FROM cars", "", proto::ReadAt::default()).await.unwrap();
    assert_eq!(replies, [proto::QueryReply::default()]);
    world.node.stop().await;
}

#[tokio::test]
async fn a_read_sees_exactly_the_transactions_up_to_its_timestamp() {
    let mut world = World::new(|_| {}).await;
    let first = world.write(vec![(1, put(r#"{"n":1}"#)), (2, put(r#"{"n":1}"#))]);
    let second = world.write(vec![(1, put(r#"{"n":2}"#))]);
    let third = world.write(vec![(1, Mutation::Delete)]);
    let expected = [
        (first, Some(r#"{"_id":1,"n":1}"#), first),
        (second, Some(r#"{"_id":1,"n":2}"#), second),
        (third, None, third),
    ];
    for (txn, document, written) in expected {
        let reply = world.node.get(&car(1), exactly(txn)).await.unwrap();
        assert_eq!(reply.txn, Some(txn.0));
        assert_eq!(reply.document.as_deref(), document);
        assert_eq!(reply.document_txn, document.map(|_| written.0));
        let other = world.node.get(&car(2), exactly(txn)).await.unwrap();
        assert_eq!(other.document_txn, Some(first.0));
        let all = world.node.query("SELECT * FROM cars", "", exactly(txn)).await.unwrap();
        assert_eq!(keys(&all).len(), if document.is_some() { 2 } else { 1 });
    }
    world.node.stop().await;
}

#[tokio::test]
async fn a_timestamp_that_is_not_reached_or_no_longer_kept_is_an_error_of_its_own() {
    let mut world = World::new(|config| config.history_ms = 20_000).await;
    let first = world.write(vec![(1, put(r#"{"n":0}"#))]);
    let not_yet = proto::ReadAt { at_least: Some(first.0 + 1_000), exactly: None, wait_ms: 1 };
    let error = world.node.get(&car(1), not_yet).await.unwrap_err();
    assert_eq!((code(&error), error.code()), ("not_reached", tonic::Code::DeadlineExceeded));
    let mut last = first;
    for number in 1..60 {
        last = world.write(vec![(1, put(&format!("{{\"n\":{number}}}")))]);
    }
    assert_eq!(world.node.read(&car(1), last).await, Some(json(r#"{"_id":1,"n":59}"#)));
    let error = world.node.get(&car(1), exactly(first)).await.unwrap_err();
    assert_eq!((code(&error), error.code()), ("too_old", tonic::Code::OutOfRange));
    let status = world.node.client.clone().status(proto::StatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert!(status.oldest_readable > first.0 && status.oldest_readable < last.0);
    let oldest = TxnId(status.oldest_readable);
    assert!(world.node.get(&car(1), exactly(oldest)).await.unwrap().document.is_some());
    assert_eq!((status.applied_next, status.lost_parts), (last.0 + 1, 0));
    assert!(status.log_end >= status.applied_next);
    world.node.stop().await;
}

#[tokio::test]
async fn queries_filter_project_limit_and_pin() {
    let mut world = World::new(|_| {}).await;
    let mut last = TxnId(0);
    for start in (0..1_200).step_by(300) {
        let some = start..start + 300;
        last = world.write(
            some.map(|n| (n, put(&format!("{{\"n\":{n},\"even\":{}}}", n % 2 == 0)))).collect(),
        );
    }
    let query = async |statement: &str, args: &str| {
        world.node.query(statement, args, at(last)).await.unwrap()
    };
    let all = query("SELECT * FROM cars", "").await;
    assert!(all.len() > 1, "a large result comes in pages");
    assert!(all.iter().all(|reply| reply.txn == Some(last.0)));
    let found: BTreeSet<String> = keys(&all).into_iter().collect();
    assert_eq!((found.len(), keys(&all).len()), (1_200, 1_200));
    assert!(keys(&all).is_sorted(), "in order of id");

    let even = query("SELECT n AS number FROM cars WHERE even = :e", r#"{"e":true}"#).await;
    assert_eq!(keys(&even).len(), 600);
    assert_eq!(even[0].items[0].item, r#"{"number":0}"#);
    assert_eq!(keys(&query("SELECT * FROM cars WHERE even = true LIMIT 7", "").await).len(), 7);
    assert_eq!(keys(&query("SELECT * FROM cars LIMIT 0", "").await).len(), 0);

    let pinned = query("SELECT * FROM cars WHERE _id IN (1100, 3, 'x', 9000) AND n > 5", "").await;
    assert_eq!(keys(&pinned), ["1100"]);
    let none = query("SELECT * FROM cars WHERE n = 1.5", "").await;
    assert_eq!((none.len(), keys(&none).len()), (1, 0), "there is always a reply");
    assert_eq!(keys(&query("SELECT * FROM others", "").await).len(), 0);
    world.node.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_a_code() {
    let world = World::new(|_| {}).await;
    let cases = [
        ("SELEC * FROM cars", "", "syntax_error"),
        ("SELECT * FROM cars WHERE n = :n", "{}", "unknown_argument"),
        ("DELETE FROM cars WHERE n = 1", "", "invalid_request"),
        ("SELECT * FROM cars", "[1]", "invalid_request"),
        ("SELECT * FROM cars", "{", "invalid_request"),
    ];
    for (statement, args, expected) in cases {
        let error = world.node.query(statement, args, proto::ReadAt::default()).await.unwrap_err();
        assert_eq!(code(&error), expected, "{statement} {args}");
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
    let mut client = world.node.client.clone();
    for document_id in [&b"short"[..], &[&[0; 16][..], b"cars\0not json"].concat()] {
        let document_id = document_id.to_vec().into();
        let error =
            client.get(proto::GetRequest { document_id, ..Default::default() }).await.unwrap_err();
        assert_eq!(code(&error), "invalid_request");
    }
    let error = client
        .feed(proto::FeedRequest { slices: vec![16], from: 0, has_part: false })
        .await
        .unwrap_err();
    assert_eq!(code(&error), "invalid_request");
    world.node.stop().await;
}

#[tokio::test]
async fn a_scan_gives_every_state_and_goes_on_where_it_was_left() {
    let mut world = World::new(|_| {}).await;
    let last = world.write((0..900).map(|n| (n, put(r#"{"n":1}"#))).collect());
    let last = world.write(vec![(7, Mutation::Delete)]).max(last);
    let later = world.write(vec![(8, put(r#"{"n":2}"#))]);
    let scan = async |after: Vec<u8>| {
        let request = proto::ScanRequest {
            app: APP.0.as_bytes().to_vec().into(),
            collection: "cars".to_owned(),
            at: Some(exactly(last)),
            after: after.into(),
        };
        let mut stream = world.node.client.clone().scan(request).await.unwrap().into_inner();
        let mut items = Vec::new();
        while let Some(reply) = within("the scan ends", stream.message()).await.unwrap() {
            assert_eq!(reply.txn, Some(last.0));
            items.extend(reply.items);
        }
        items
    };
    let all = scan(Vec::new()).await;
    assert_eq!(all.len(), 900, "the deleted one too");
    let states: BTreeMap<_, _> = all
        .iter()
        .map(|item| (item.document_id.to_vec(), state::decode(&item.state).unwrap()))
        .collect();
    assert!(!states[&car(7).to_bytes()].is_visible());
    assert_eq!(states[&car(8).to_bytes()].value(), Some(json(r#"{"n":1}"#)), "before {later}");
    let rest = scan(all[449].document_id.to_vec()).await;
    assert_eq!(rest, all[450..]);
    assert!(scan(all[899].document_id.to_vec()).await.is_empty());
    world.node.stop().await;
}

fn scan_cars(at: proto::ReadAt) -> proto::ScanRequest {
    proto::ScanRequest {
        app: APP.0.as_bytes().to_vec().into(),
        collection: "cars".to_owned(),
        at: Some(at),
        after: Vec::new().into(),
    }
}

#[tokio::test]
async fn a_read_that_has_no_time_is_expired() {
    let mut world = World::new(|config| config.max_read_ms = 0).await;
    let last = world.write(vec![(1, put("{}"))]);
    let mut client = world.node.client.clone();
    let mut open = client.scan(scan_cars(at(last))).await.unwrap().into_inner();
    assert_eq!(code(&open.message().await.unwrap_err()), "read_expired");
    world.node.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_gives_up_its_place_when_its_time_is_over() {
    let mut world = World::new(|config| {
        config.max_streams = 1;
        config.max_read_ms = 1_000;
    })
    .await;
    // Far more than waits on the way to a client.
    let filler = put(&format!("{{\"filler\":\"{}\"}}", "x".repeat(200_000)));
    let last = world.write((0..100).map(|n| (n, filler.clone())).collect());
    let mut client = world.node.client.clone();
    let mut stalled = client.scan(scan_cars(at(last))).await.unwrap().into_inner();
    let error = client.scan(scan_cars(at(last))).await.unwrap_err();
    assert_eq!((code(&error), error.code()), ("overloaded", tonic::Code::ResourceExhausted));
    let accepted = async {
        while let Err(error) = client.scan(scan_cars(at(last))).await {
            assert_eq!(code(&error), "overloaded");
            tokio::task::yield_now().await;
        }
    };
    within("the place is free again", accepted).await;
    let error = async {
        loop {
            if let Err(error) = stalled.message().await.map(|reply| reply.expect("not the end")) {
                break error;
            }
        }
    };
    assert_eq!(code(&within("it is told", error).await), "read_expired");
    world.node.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_the_node_stops() {
    let mut world = World::new(|_| {}).await;
    let filler = put(&format!("{{\"filler\":\"{}\"}}", "x".repeat(200_000)));
    let last = world.write((0..100).map(|n| (n, filler.clone())).collect());
    let mut client = world.node.client.clone();
    let _stalled = client.scan(scan_cars(at(last))).await.unwrap().into_inner();
    within("the node stops", world.node.stop()).await;
}

#[tokio::test]
async fn an_outcome_says_which_transaction_was_applied_and_what_was_in_the_way() {
    let mut world = World::new(|_| {}).await;
    world.write(vec![(1, put("{}"))]);
    let round = Round {
        id: 77,
        millis: 2_000_000,
        mutations: vec![
            (car(1), insert(r#"{"a":1}"#, OnConflict::Fail)),
            (car(2), insert(r#"{"a":1}"#, OnConflict::Fail)),
            (car(2), increment("a", 1)),
        ],
    };
    let first = world.log.write(&round);
    let again = world.log.write(&round);
    let mut client = world.node.client.clone();
    let mut outcome = async |id: u128, txn: Option<TxnId>| {
        let round_id = uuid::Uuid::from_u128(id).as_bytes().to_vec().into();
        let txn = txn.map(|txn| txn.0);
        let request = proto::OutcomeRequest { round_id, txn, wait_ms: PATIENCE_MS, slices: vec![] };
        client.outcome(request).await.unwrap().into_inner().outcome
    };
    let found = outcome(77, Some(again)).await.expect("it was applied");
    assert_eq!(found.txn, first.0);
    assert_eq!(found.digest, 77_u128.to_be_bytes()[12..].to_vec());
    assert_eq!(found.conflicts[0].document_id, car(1).to_bytes());
    assert_eq!(outcome(78, None).await, None);
    assert_eq!(world.node.read(&car(2), again).await, Some(json(r#"{"_id":2,"a":2}"#)));
    let too_soon = proto::OutcomeRequest {
        round_id: vec![0; 16].into(),
        txn: Some(again.0 + 100),
        wait_ms: 0,
        slices: vec![],
    };
    let error = world.node.client.clone().outcome(too_soon).await.unwrap_err();
    assert_eq!(code(&error), "not_reached");
    world.node.stop().await;
}

#[tokio::test]
async fn the_feed_has_every_transaction_and_follows_what_happens() {
    let mut world = World::new(|_| {}).await;
    let first = world.write(vec![(1, put(r#"{"n":1}"#)), (2, put(r#"{"n":1}"#))]);
    let nothing = world.write(vec![(1, put(r#"{"n":1}"#))]);
    let request = proto::FeedRequest { slices: vec![], from: 0, has_part: false };
    let mut feed = world.node.client.clone().feed(request).await.unwrap().into_inner();
    let mut transactions = Vec::new();
    let mut next = 0;
    while next <= nothing.0 {
        let reply = within("the feed", feed.message()).await.unwrap().unwrap();
        transactions.extend(reply.transactions);
        next = reply.next;
    }
    assert_eq!(transactions.iter().map(|t| t.txn).collect::<Vec<_>>(), [first.0, nothing.0]);
    assert_eq!(transactions[0].changes.len(), 2);
    assert_eq!((transactions[1].changes.len(), transactions[1].slices.len()), (0, 1));
    // Now live.
    for number in 2..20 {
        let txn = world.write(vec![(1, put(&format!("{{\"n\":{number}}}")))]);
        let mut found = None;
        while found.is_none() {
            let reply = within("the feed", feed.message()).await.unwrap().unwrap();
            found = reply.transactions.into_iter().find(|t| t.txn == txn.0);
        }
        let change: Change = decode(&found.unwrap().changes[0].event).unwrap();
        assert_eq!((change.operation, change.txn), (Operation::Update, txn));
        assert_eq!(change.before, json(&format!("{{\"n\":{}}}", number - 1)));
    }
    // A feed of one slice has the transactions that name it, and its changes only.
    let slice = u32::from(identity().slices.slice_of(car(1).position()).0);
    let other = (0..16).find(|other| *other != slice).unwrap();
    let end = world.write(vec![(1, put(r#"{"n":100}"#))]).next();
    for (wanted, expected) in [(slice, 21), (other, 0)] {
        let replies = world.node.feed(&[wanted], TxnId(0), end).await;
        let named: Vec<_> = replies
            .iter()
            .flat_map(|reply| &reply.transactions)
            .filter(|transaction| transaction.txn != first.0)
            .collect();
        assert!(named.iter().all(|transaction| transaction.slices == [wanted]));
        assert!(expected == 0 || named.len() == expected - 1);
        let changes = replies.iter().flat_map(|reply| &reply.transactions);
        assert!(changes.flat_map(|t| &t.changes).all(|change| change.slice == wanted));
    }
    world.node.stop().await;
}

#[tokio::test]
async fn replies_of_the_feed_are_bounded_and_a_large_transaction_is_cut() {
    let mut world = World::new(|_| {}).await;
    let filler = "x".repeat(50_000);
    let large = put(&format!("{{\"filler\":\"{filler}\"}}"));
    let before = world.write(vec![(1, put("{}"))]);
    let huge = world.write((0..400).map(|n| (n, large.clone())).collect());
    let mut after = huge;
    for number in 0..60 {
        after = world.write(vec![(1_000 + number, large.clone())]);
    }
    let replies = world.node.feed(&[], TxnId(0), after.next()).await;
    let mut changes: BTreeMap<u64, usize> = BTreeMap::new();
    let mut slices = BTreeSet::new();
    for reply in &replies {
        for transaction in &reply.transactions {
            *changes.entry(transaction.txn).or_default() += transaction.changes.len();
            if transaction.txn == huge.0 {
                slices.insert(transaction.slices.clone());
                let bytes: usize = transaction.changes.iter().map(|c| c.event.len()).sum();
                assert!(bytes < 10 << 20);
            } else {
                assert!(reply.next > transaction.txn, "it came whole");
            }
        }
        assert!(reply.transactions.len() < 60, "60 of these are above a mebibyte");
    }
    assert_eq!((changes[&before.0], changes[&huge.0], changes.len()), (1, 400, 62));
    assert_eq!(slices.len(), 1, "each part names all slices");
    let parts = replies.iter().filter(|r| r.transactions.iter().any(|t| t.txn == huge.0));
    let positions: Vec<_> = parts.map(|reply| reply.next).collect();
    assert!(positions.len() > 1);
    let (last, cut) = positions.split_last().unwrap();
    assert!(cut.iter().all(|next| *next == huge.0) && *last > huge.0);
    world.node.stop().await;
}

#[tokio::test]
async fn changes_that_are_no_longer_kept_are_an_error_of_its_own() {
    let mut world = World::new(|config| {
        config.history_ms = 10_000;
        config.feed_retention_ms = 20_000;
    })
    .await;
    let mut last = TxnId(0);
    for number in 0..60 {
        last = world.write(vec![(1, put(&format!("{{\"n\":{number}}}")))]);
    }
    world.node.read(&car(1), last).await;
    let request = proto::FeedRequest { slices: vec![], from: 0, has_part: false };
    let error = world.node.client.clone().feed(request).await.unwrap_err();
    assert_eq!((code(&error), error.code()), ("feed_trimmed", tonic::Code::OutOfRange));
    world.node.stop().await;
}

#[tokio::test]
async fn a_node_goes_on_where_it_was() {
    let mut world = World::new(|_| {}).await;
    let mut expected = 0;
    for cycle in 0..3 {
        let mut last = TxnId(0);
        for _ in 0..20 {
            expected += 1;
            last = world.write(vec![(1, put("{}")), (1, increment("n", 1))]);
        }
        let found = world.node.read(&car(1), last).await;
        assert_eq!(found, Some(json(&format!("{{\"_id\":1,\"n\":{expected}}}"))), "{cycle}");
        world.node.stop().await;
        // Written while it is away.
        expected += 1;
        let away = world.log.write(&Round {
            id: 1_000 + cycle,
            millis: 1_000_000,
            mutations: vec![(car(1), increment("n", 1))],
        });
        world.node = Node::start(config(&world.dir.path().join("node")), world.log.journal()).await;
        world.node.ready().await;
        let reply = world.node.get(&car(1), proto::ReadAt::default()).await.unwrap();
        assert_eq!(reply.txn, Some(away.0), "ready means that all of the log is applied");
    }
    world.node.stop().await;
    assert!(Arc::strong_count(&world.log.journal()) >= 1);
}
