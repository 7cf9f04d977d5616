//! What a store node does when something is wrong: with the log, with its data, with who asks.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_core::ids::{ActorId, TxnId};
use anabranch_journal::{Offset, TopicPartition};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use anabranch_store_node::{Error, run};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use uuid::Uuid;

use self::support::flaky;
use self::support::log::{Log, Round, car, identity};
use self::support::{
    Node, at, client, code, config, declared, increment, journal, json, put, until, within,
};

fn round(id: u128, numbers: impl IntoIterator<Item = i64>) -> Round {
    let mutations = numbers.into_iter().map(|number| (car(number), put(r#"{"n":1}"#))).collect();
    Round { id, millis: 1_000_000, mutations }
}

async fn status(node: &Node) -> proto::StatusReply {
    node.client.clone().status(proto::StatusRequest {}).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_lost_part_is_declared_and_the_rest_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let lost = identity().slices.slice_of(car(1).position());
    let other = (2..).find(|n| identity().slices.slice_of(car(*n).position()) != lost).unwrap();
    let torn = log.write_with(&[round(1, [1, other])], |parts, commit| {
        parts.insert(lost, None);
        commit
    })[0];
    let next = log.write(&round(2, [1]));
    let node = Node::start(config(&dir.path().join("node")), log.journal()).await;
    node.ready().await;
    assert!(node.read(&car(other), torn).await.is_some());
    let torn_read = proto::ReadAt { exactly: Some(torn.0), ..at(torn) };
    assert_eq!(node.get(&car(1), torn_read).await.unwrap().document, None);
    assert!(node.read(&car(1), next).await.is_some());
    assert_eq!(status(&node).await.lost_parts, 1);
    node.stop().await;
}

#[tokio::test]
async fn a_record_that_does_not_decode_halts_applying_and_reads_go_on() {
    for broken_commit in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(journal(&dir.path().join("log")));
        let good = log.write(&round(1, [1]));
        let node = Node::start(config(&dir.path().join("node")), log.journal()).await;
        node.ready().await;
        if broken_commit {
            log.write_raw_commit(Bytes::from_static(b"not a record"));
        } else {
            log.write_with(&[round(2, [1])], |parts, commit| {
                parts.values_mut().for_each(|part| *part = Some(Bytes::from_static(b"garbage")));
                commit
            });
        }
        let after = log.write(&round(3, [2]));
        until("the node has halted", || node.trouble().contains("cannot be applied")).await;
        assert_eq!(node.read(&car(1), good).await, Some(json(r#"{"_id":1,"n":1}"#)));
        let error = node.get(&car(2), at(after)).await.unwrap_err();
        assert_eq!((code(&error), error.code()), ("halted", tonic::Code::FailedPrecondition));
        assert_eq!(status(&node).await.applied_next, good.0 + 1);
        let request = proto::FeedRequest { slices: vec![], from: 0, has_part: false };
        let mut feed = node.client.clone().feed(request).await.unwrap().into_inner();
        assert_eq!(feed.message().await.unwrap().unwrap().transactions[0].txn, good.0);
        assert_eq!(code(&feed.message().await.unwrap_err()), "halted");
        node.stop().await;
    }
}

#[tokio::test]
async fn that_the_log_was_trimmed_too_far_is_said_before_it_is_declared_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    for id in 0..10 {
        log.write(&round(id, [1]));
    }
    let txns = TopicPartition::new(identity().name.txns(), 0);
    let end = log.journal().bounds(&txns).unwrap().end;
    log.journal().trim(&txns, Offset(end.0 - 2)).unwrap();
    let node = Node::start(config(&dir.path().join("node")), log.journal()).await;
    until("the node says so", || node.trouble().contains("it is declared lost in")).await;
    assert!(node.trouble().contains("east.txns/0 was trimmed to offset"), "{}", node.trouble());
    let error = node.get(&car(1), proto::ReadAt::default()).await.unwrap_err();
    assert_eq!(code(&error), "catching_up");
    node.stop().await;
}

#[tokio::test]
async fn a_journal_out_of_reach_is_waited_for_while_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let (flaky, down) = flaky::flaky(log.journal());
    let node = Node::start(config(&dir.path().join("node")), flaky).await;
    node.ready().await;
    let mut expected = 0;
    for cycle in 0..3 {
        expected += 1;
        let mutations = vec![(car(1), put("{}")), (car(1), increment("n", 1))];
        let before = log.write(&Round { id: cycle * 2, millis: 1_000_000, mutations });
        let value = |n: i32| Some(json(&format!("{{\"_id\":1,\"n\":{n}}}")));
        assert_eq!(node.read(&car(1), before).await, value(expected));
        down.store(true, Ordering::SeqCst);
        until("it is noticed", || node.trouble().contains("the switch is off")).await;
        expected += 1;
        let mutations = vec![(car(1), increment("n", 1))];
        let during = log.write(&Round { id: cycle * 2 + 1, millis: 1_000_000, mutations });
        assert_eq!(node.read(&car(1), before).await, value(expected - 1), "reads go on");
        down.store(false, Ordering::SeqCst);
        assert_eq!(node.read(&car(1), during).await, value(expected));
        node.ready().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_log_that_is_silent_since_it_is_out_of_reach_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let last = log.write(&round(1, [1]));
    let (silent, down) = flaky::silent(log.journal());
    let node = Node::start(config(&dir.path().join("node")), silent).await;
    node.ready().await;
    down.store(true, Ordering::SeqCst);
    until("it is noticed", || node.trouble().contains("the log cannot be reached")).await;
    assert!(node.read(&car(1), last).await.is_some(), "reads go on");
    down.store(false, Ordering::SeqCst);
    node.ready().await;
    node.stop().await;
}

#[tokio::test]
async fn little_memory_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(journal(&dir.path().join("log")));
    let mut last = TxnId(0);
    for id in 0..60 {
        last = log.write(&round(id, (0..30).map(|n| n + i64::try_from(id).unwrap() * 30)));
    }
    // Each single part is larger.
    let config = |bytes| {
        let mut config = config(&dir.path().join(format!("node{bytes}")));
        config.max_buffered_bytes = bytes;
        config
    };
    for bytes in [1, 2_000] {
        let node = Node::start(config(bytes), log.journal()).await;
        node.ready().await;
        let all = node.query("SELECT * FROM cars", "", at(last)).await.unwrap();
        assert_eq!(all.iter().map(|reply| reply.items.len()).sum::<usize>(), 1_800);
        node.stop().await;
    }
}

#[tokio::test]
async fn the_data_of_another_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(journal(&dir.path().join("log")));
    let node = Node::start(config(dir.path().join("node").as_path()), log.journal()).await;
    let start = async |change: fn(&mut anabranch_journal::metadata::ClusterIdentity),
                       dir: &Path| {
        let mut identity = identity();
        change(&mut identity);
        let tasks = Tasks::new(Shutdown::new());
        let ready = Readiness::new().register("store node");
        run(config(dir), identity, declared(None), log.journal(), &tasks, ready).await.unwrap_err()
    };
    let in_use = start(|_| {}, &dir.path().join("node")).await;
    assert!(matches!(&in_use, Error::DataDir(why) if why.contains("in use")), "{in_use}");
    node.stop().await;
    let path = dir.path().join("node");
    let anew = start(|identity| identity.actor = ActorId(Uuid::from_u128(9)), &path).await;
    assert!(matches!(&anew, Error::DataDir(why) if why.contains("made anew")), "{anew}");
}

#[tokio::test]
async fn an_address_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::open(journal(&dir.path().join("log")));
    let mut config = config(&dir.path().join("node"));
    config.listen = taken.local_addr().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let ready = Readiness::new().register("store node");
    let error =
        run(config, identity(), declared(None), log.journal(), &tasks, ready).await.unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
}

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Files of a certificate of this authority that trusts `trusted`.
    fn files(&self, dir: &Path, name: &str, trusted: &Authority) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let write = |kind: &str, text: String| {
            let path = dir.join(format!("{name}.{kind}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            certificate: write("certificate", certificate.pem()),
            key: write("key", key.serialize_pem()),
            trusted: vec![write("trusted", trusted.0.pem())],
        }
    }
}

#[tokio::test]
async fn over_tls_only_who_shows_a_certificate_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new(), Authority::new());
    let server = ours.files(dir.path(), "server", &ours);
    let friend = ours.files(dir.path(), "friend", &ours);
    let stranger = others.files(dir.path(), "stranger", &ours);
    let mut log = Log::open(journal(&dir.path().join("log")));
    let last = log.write(&round(1, [1]));
    let mut config = config(&dir.path().join("node"));
    config.tls = Some(server);
    let node = Node::start_with(config, log.journal(), Some(&friend)).await;
    node.ready().await;
    assert!(node.read(&car(1), last).await.is_some());
    for tls in [Some(&stranger), None] {
        let mut client = client(&node.address, tls);
        let call = client.status(proto::StatusRequest {});
        assert!(within("an answer", call).await.is_err());
    }
    node.stop().await;

    let mut broken = support::config(&dir.path().join("other"));
    broken.tls = Some(TlsFiles { key: dir.path().join("none.pem"), ..friend });
    let tasks = Tasks::new(Shutdown::new());
    let ready = Readiness::new().register("store node");
    let error =
        run(broken, identity(), declared(None), log.journal(), &tasks, ready).await.unwrap_err();
    assert!(
        matches!(&error, Error::Listen { reason, .. } if reason.contains("none.pem")),
        "{error}"
    );
    assert!(Arc::strong_count(&log.journal()) > 0);
}
