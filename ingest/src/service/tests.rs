//! The whole service, on a real log.

use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::cluster_topics;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::doubles::{APP, Cluster};

const LIMIT: Duration = Duration::from_secs(20);

/// A reply's text.
async fn send(address: std::net::SocketAddr, head: &str, body: &str) -> String {
    send_to("localhost", address, head, body).await
}

async fn send_to(host: &str, address: std::net::SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_server_gets_ready_writes_and_ends() {
    // Of this cluster only the store node is used: reads have something to ask.
    let reads = Cluster::start().await;
    let directory = tempfile::tempdir().unwrap();
    let journal = EmbeddedJournal::open(EmbeddedConfig::new(directory.path())).unwrap();
    let cluster = ClusterIdentity {
        name: "east".parse().unwrap(),
        actor: ActorId(Uuid::from_u128(1)),
        slices: SliceCount::default(),
        created_ms: 0,
    };
    journal.ensure_topics(&cluster_topics(&cluster.name, cluster.slices, None)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, readiness) = (Tasks::new(Shutdown::new()), Readiness::new());
    let context = Context {
        journal: journal.clone(),
        cluster,
        store_node: reads.store.nodes(),
        ready: readiness.register("ingest"),
        readiness,
    };
    let config = IngestConfig { open_to_all: true, ..IngestConfig::default() };
    run(config, listener.into(), context, &tasks).unwrap();

    let ready = async {
        while !send(address, "GET /readyz", "").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.expect("it gets ready");
    let reply = send_to("evil.example", address, "GET /readyz", "").await;
    assert!(reply.starts_with("HTTP/1.1 403") && reply.contains("host_not_allowed"), "{reply}");
    reads.store.stop().await;
    let unready = async {
        while send(address, "GET /readyz", "").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, unready).await.expect("it says that the store node is away");

    let path = format!("POST /apps/{APP}/api/v1/collections/cars/documents");
    let lines: String = (0..1_500).map(|id| format!("{{\"_id\": {id}}}\n")).collect();
    let reply = send(address, &path, &lines).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("\"written\":1500"), "{reply}");
    let end = journal.bounds(&TopicPartition::new("east.txns", 0)).unwrap().end;
    assert!(end.0 >= 2, "two rounds are in the log");

    tasks.shutdown().begin();
    tasks.join(LIMIT).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    assert!(IngestConfig::default().check().is_ok());
    for config in [
        IngestConfig { max_requests: 0, ..IngestConfig::default() },
        IngestConfig { load_round_documents: 1_001, ..IngestConfig::default() },
        IngestConfig { max_buffered_bytes: 1, ..IngestConfig::default() },
        IngestConfig { server_name: String::new(), ..IngestConfig::default() },
        IngestConfig { allowed_hosts: vec!["a:80".to_owned()], ..IngestConfig::default() },
    ] {
        assert!(config.check().is_err());
    }
}
