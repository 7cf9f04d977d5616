//! Clients that speak TLS, that do not, and that say nothing.

use std::time::SystemTime;

use axum::Router;
use axum::routing::get;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client;

use super::*;
use crate::admin;
use crate::tasks::Shutdown;
use crate::tls::doubles::TestAuthority;
use crate::tls::{self, Trust};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const SECRET: &str = "what is served\n";

struct Server {
    authority: TestAuthority,
    certificate: ServedCertificate,
    address: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

/// A server that waits so long for handshakes.
async fn serve(handshake: Duration) -> Server {
    let authority = TestAuthority::new("localhost");
    let certificate = ServedCertificate::open(authority.files()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = Listener::new(socket, Some(certificate.clone()));
    listener.handshake = handshake;
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let routes = Router::new().route("/", get(|| async { SECRET }));
    let serving = tokio::spawn(admin::serve(listener, routes, shutdown.clone()));
    Server { authority, certificate, address, shutdown, serving }
}

impl Server {
    /// Calls it, trusting those.
    async fn call(&self, trusted: &TestAuthority) -> io::Result<client::TlsStream<TcpStream>> {
        let config = tls::http_client_config(Trust::Authorities(&trusted.file())).unwrap();
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await?
    }

    /// Asks for what it serves, and what it shows before.
    async fn ask(&self) -> io::Result<(String, Vec<u8>)> {
        let mut stream = self.call(&self.authority).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((get_root(&mut stream).await?, shown))
    }
}

async fn get_root(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
    Ok(text)
}

#[tokio::test]
async fn who_trusts_the_authority_is_served_over_http_1_1() {
    let server = serve(PATIENCE).await;
    let (text, _) = server.ask().await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(SECRET), "{text}");
    let stream = server.call(&server.authority).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn who_does_not_trust_the_authority_is_not() {
    let server = serve(PATIENCE).await;
    let other = TestAuthority::new("localhost");
    let error = server.call(&other).await.unwrap_err();
    let cause = tls::cause(&error).expect("it is one of TLS");
    assert!(matches!(cause, rustls::Error::InvalidCertificate(_)), "{cause}");
    server.ask().await.unwrap();
}

#[tokio::test]
async fn a_request_without_tls_is_told_so_and_nothing_else() {
    let server = serve(PATIENCE).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let text = get_root(&mut stream).await.unwrap();
    assert_eq!(text.as_bytes(), SPEAKS_TLS);
    // A large body is taken, so that the reply is read.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
    let mut text = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, SPEAKS_TLS);
}

#[tokio::test]
async fn what_is_no_handshake_is_hung_up_on() {
    let server = serve(PATIENCE).await;
    for bytes in [&b"\x00\x01\x02\x03\x04\x05\x06\x07"[..], b"\x16\x03\x01\x00\x05nothi"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut reply = Vec::new();
        // At most an alert; some systems reset what was not read.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("it closes");
        assert!(reply.len() < 16 && !reply.starts_with(b"HTTP"), "{reply:?}");
    }
    server.ask().await.unwrap();
}

#[tokio::test]
async fn handshakes_that_hang_keep_nobody_out() {
    let server = serve(PATIENCE).await;
    let mut hanging = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        hanging.push(stream);
    }
    server.ask().await.unwrap();
    // Nor does the server wait for them when it ends.
    server.shutdown.begin();
    timeout(PATIENCE / 2, server.serving).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_handshake_that_hangs_ends() {
    let server = serve(Duration::from_millis(50)).await;
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut reply = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("it closes");
        assert!(reply.len() < 16, "{reply:?}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let server = serve(PATIENCE).await;
    let (_, first) = server.ask().await.unwrap();
    let mut old = server.call(&server.authority).await.unwrap();
    server.authority.issue("localhost");
    server.certificate.look();
    let (_, second) = server.ask().await.unwrap();
    assert_ne!(second, first);
    assert!(get_root(&mut old).await.unwrap().ends_with(SECRET), "the old connection goes on");

    std::fs::write(server.authority.files().certificate, "nothing").unwrap();
    server.certificate.look();
    assert_eq!(server.ask().await.unwrap().1, second);
    server.authority.issue_until("localhost", SystemTime::now() - Duration::from_secs(60));
    server.certificate.look();
    assert_eq!(server.ask().await.unwrap().1, second);
}

#[tokio::test]
async fn a_renewal_is_noticed_without_a_restart() {
    let server = serve(PATIENCE).await;
    let (certificate, shutdown) = (server.certificate.clone(), server.shutdown.clone());
    let following =
        tokio::spawn(async move { certificate.follow(Duration::from_millis(5), &shutdown).await });
    let (_, first) = server.ask().await.unwrap();
    server.authority.issue("localhost");
    let renewed = async {
        while server.ask().await.unwrap().1 == first {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("the new one is shown");
    server.shutdown.begin();
    timeout(PATIENCE, following).await.expect("it ends").unwrap();
}

/// A server without a certificate.
async fn serve_plainly() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::from(socket);
    assert_eq!(listener.scheme(), "http");
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/", get(|| async { SECRET }));
    tokio::spawn(admin::serve(listener, routes, Shutdown::new()));
    address
}

#[tokio::test]
async fn without_a_certificate_it_is_plain_http() {
    let address = serve_plainly().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = get_root(&mut stream).await.unwrap();
    assert!(text.ends_with(SECRET), "{text}");
}

/// Waits until the server hangs up on who has sent nothing whole. The clock runs ahead as soon as
/// both wait.
async fn is_hung_up_on(stream: &mut (impl AsyncRead + Unpin)) {
    let begun = Instant::now();
    let mut reply = Vec::new();
    let reading = timeout(100 * PATIENCE, stream.read_to_end(&mut reply));
    // Over TLS it ends without a farewell.
    let _ = reading.await.expect("it closes");
    assert!(begun.elapsed() <= 2 * PATIENCE, "{:?}", begun.elapsed());
    assert!(!reply.starts_with(b"HTTP/1.1 200"), "{reply:?}");
}

#[tokio::test]
async fn who_is_silent_after_the_handshake_is_hung_up_on() {
    let server = serve(PATIENCE).await;
    let mut silent = server.call(&server.authority).await.unwrap();
    let mut idle = server.call(&server.authority).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    timeout(PATIENCE, idle.read_exact(&mut head)).await.expect("in time").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    tokio::time::pause();
    is_hung_up_on(&mut silent).await;
    is_hung_up_on(&mut idle).await;
}

#[tokio::test]
async fn who_is_silent_without_tls_is_hung_up_on() {
    let address = serve_plainly().await;
    for begun in ["", "G", "GET / HTTP/1.1\r\nhost: localhost\r\nslow: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        tokio::time::pause();
        is_hung_up_on(&mut stream).await;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let mut stream = TcpStream::connect(serve_plainly().await).await.unwrap();
    // The preface and empty settings, to which a server of HTTP/2 would answer with its own.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut reply = Vec::new();
    let reading = stream.read_to_end(&mut reply);
    let _ = timeout(PATIENCE, reading).await.expect("it closes");
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{reply:?}");
}
