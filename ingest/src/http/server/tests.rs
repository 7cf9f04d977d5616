//! Clients that are slow, and a server that ends, over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_runtime::tls::doubles::TestAuthority;
use anabranch_runtime::tls::{ServedCertificate, Trust, http_client_config};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::doubles::{Cluster, execute_path};

/// A server on a port of its own.
async fn start(config: IngestConfig) -> (Cluster, SocketAddr, JoinHandle<()>) {
    start_with(config, None).await
}

/// The same, with a certificate.
async fn start_with(
    config: IngestConfig,
    authority: Option<&TestAuthority>,
) -> (Cluster, SocketAddr, JoinHandle<()>) {
    let cluster = Cluster::with(config).await;
    let certificate = authority.map(|it| ServedCertificate::open(it.files()).unwrap());
    let listener = Listener::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), certificate);
    let address = listener.local_addr().unwrap();
    let (router, shutdown) = (cluster.router.clone(), cluster.shutdown.clone());
    let config = cluster.api.config.clone();
    let server =
        tokio::spawn(async move { super::serve(listener, router, &config, &shutdown).await });
    (cluster, address, server)
}

fn request(body: &str) -> String {
    let path = execute_path();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// A connection over TLS that trusts the server.
async fn connect(
    address: SocketAddr,
    authority: &TestAuthority,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = http_client_config(Trust::Authorities(&authority.file())).unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
    timeout(Duration::from_secs(10), connecting).await.expect("in time").unwrap()
}

/// Reads until the other side closes.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let reading = stream.read_to_end(&mut text);
    let _ = timeout(Duration::from_secs(10), reading).await.expect("it closes in time");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_not_waited_for() {
    let config = IngestConfig { header_timeout_ms: 50, ..IngestConfig::default() };
    let (_cluster, address, _server) = start(config).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "POST /healthz HTTP/1.1\r\nhost: x\r\nslow: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(!text.contains("200 OK"), "{begun}: {text}");
    }
}

#[tokio::test]
async fn a_refused_client_reads_why() {
    let config = IngestConfig { max_body_bytes: 1_000, ..IngestConfig::default() };
    let (_cluster, address, _server) = start(config).await;
    // More than any buffer on the way holds: a server that hung up would break the client off.
    let body = "x".repeat(20 << 20);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request(&body).as_bytes()).await.expect("all of it is taken");
    let mut text = vec![0; 4_096];
    let read = stream.read(&mut text).await.unwrap();
    let text = String::from_utf8_lossy(&text[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("1000 bytes"), "{text}");
}

#[tokio::test]
async fn who_is_turned_away_reads_so() {
    let config = IngestConfig { max_requests: 1, ..IngestConfig::default() };
    let (cluster, address, _server) = start(config).await;
    let _held = cluster.api.limits.request().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = "x".repeat(20 << 20);
    stream.write_all(request(&body).as_bytes()).await.expect("all of it is taken");
    let mut text = vec![0; 4_096];
    let read = stream.read(&mut text).await.unwrap();
    let text = String::from_utf8_lossy(&text[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1"), "{text}");
}

/// A statement that is followed stands in the address.
#[tokio::test]
async fn an_address_that_is_too_long_is_refused_as_such() {
    let (_cluster, address, _server) = start(IngestConfig::default()).await;
    let path = format!("/apps/{}/api/v1/store/subscribe", crate::doubles::APP);
    for (bytes, status) in [(60_000, "400"), (1 << 16, "414")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let query = "a".repeat(bytes);
        let get = format!("GET {path}?query={query} HTTP/1.1\r\nhost: x\r\n");
        let request = format!("{get}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{bytes}: {text}");
    }
}

/// Runs while a reply that is larger than any buffer on the way is not taken.
#[tokio::test]
async fn a_reply_that_is_not_taken_holds_its_place() {
    let (cluster, address, _server) = start(IngestConfig::default()).await;
    let document = json!({"_id": "a", "text": "x".repeat(5_000_000)}).to_string();
    cluster.load(document.clone(), &[]).await;
    let path = format!("/apps/{}/api/v1/collections/cars/documents/a", crate::doubles::APP);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut head = [0; 1_024];
    stream.read_exact(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = format!("content-length: {}", document.len());
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&length), "{head}");
    assert_eq!(cluster.api.limits.running(), 1);
    drop(stream);
    crate::doubles::until(|| cluster.api.limits.running() == 0).await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish() {
    let (cluster, address, server) = start(IngestConfig::default()).await;
    let body = json!({"statement": "SELECT * FROM cars"}).to_string();
    let text = request(&body);
    let (head, tail) = text.split_at(text.len() - 5);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    crate::doubles::until(|| cluster.api.limits.running() == 1).await;
    cluster.shutdown.begin();
    crate::doubles::until(|| std::net::TcpStream::connect(address).is_err()).await;
    stream.write_all(tail.as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    timeout(Duration::from_secs(10), server).await.expect("it ends in time").unwrap();
}

#[tokio::test]
async fn a_shutdown_breaks_loads_off() {
    let (cluster, address, server) = start(IngestConfig::default()).await;
    let path = format!("/apps/{}/api/v1/collections/cars/documents", crate::doubles::APP);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n\
         content-length: 1000\r\n\r\n{{\"_id\": 1}}\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    crate::doubles::until(|| cluster.api.limits.running() == 1).await;
    cluster.shutdown.begin();
    let mut text = vec![0; 4_096];
    let read = timeout(Duration::from_secs(10), stream.read(&mut text)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&text[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("shutting_down"), "{text}");
    drop(stream);
    timeout(Duration::from_secs(10), server).await.expect("it ends in time").unwrap();
}

#[tokio::test]
async fn a_reply_that_breaks_off_breaks_the_connection() {
    let (cluster, address, _server) = start(IngestConfig::default()).await;
    let text = "x".repeat(1_000);
    let lines: String =
        (0..1_000).map(|id| format!("{}\n", json!({"_id": id, "text": text}))).collect();
    cluster.load(lines, &[]).await;
    cluster.store.node.break_after(9);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = json!({"statement": "SELECT * FROM cars"}).to_string();
    stream.write_all(request(&body).as_bytes()).await.unwrap();
    let reply = rest(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("transfer-encoding: chunked"));
    assert!(!reply.ends_with("0\r\n\r\n"), "the last chunk is missing");
}

#[tokio::test]
async fn over_tls_it_is_the_same_api() {
    let authority = TestAuthority::new("localhost");
    let (cluster, address, server) = start_with(IngestConfig::default(), Some(&authority)).await;
    let mut stream = connect(address, &authority).await;
    // Larger than what TLS sends as one, in both directions.
    let text = "x".repeat(1_000_000);
    let statement = "INSERT INTO cars DOCUMENTS (:d)";
    let body = json!({"statement": statement, "args": {"d": {"_id": "a", "text": text}}});
    stream.write_all(request(&body.to_string()).as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut stream = connect(address, &authority).await;
    let path = format!("/apps/{}/api/v1/collections/cars/documents/a", crate::doubles::APP);
    let get = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let reply = rest(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains(&text));
    cluster.shutdown.begin();
    timeout(Duration::from_secs(10), server).await.expect("it ends in time").unwrap();
}

#[tokio::test]
async fn what_comes_without_tls_does_nothing() {
    let authority = TestAuthority::new("localhost");
    let (cluster, address, _server) = start_with(IngestConfig::default(), Some(&authority)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = json!({"statement": "INSERT INTO cars DOCUMENTS ({'_id': 1})"}).to_string();
    stream.write_all(request(&body).as_bytes()).await.unwrap();
    let reply = rest(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("https://"), "{reply}");
    assert!(cluster.shared.world.lock().committed.is_empty());
}

#[tokio::test]
async fn handshakes_that_hang_hold_a_place_for_as_long_as_a_head_may_take() {
    let authority = TestAuthority::new("localhost");
    let config =
        IngestConfig { max_connections: 4, header_timeout_ms: 300, ..IngestConfig::default() };
    let (_cluster, address, _server) = start_with(config, Some(&authority)).await;
    let mut hanging = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        hanging.push(stream);
    }
    // They have all places three times over, and it comes to who waits.
    let mut stream = connect(address, &authority).await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
    for stream in &mut hanging {
        assert!(!rest(stream).await.contains("HTTP"));
    }
}
