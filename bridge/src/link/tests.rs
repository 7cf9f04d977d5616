//! Handshakes and links over TLS on loopback, between sides that do and do not fit together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::codec::{Decoder, Framed};
use uuid::Uuid;

use anabranch_core::ids::{ActorId, AppId};
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::tls::{TlsFiles, client_config, server_config};
use anabranch_schemas::link::{Batch, Hello, Holdings, Ping, Received, Refusal, message::Kind};

use super::codec::{MAX_HELLO_BYTES, MessageCodec};
use super::handshake::Stream;
use super::session::Timing;
use super::transport::{Dialler, Duplex, Listener};
use super::{Handlers, Incoming, Link, Local, RefusalCode, VERSION, dial, run};
use crate::doubles::Certificates;
use crate::error::Error;

const APP: AppId = AppId(Uuid::from_u128(7));
const DRIFT: Duration = Duration::from_secs(60);

fn local(name: &str, actor: u128) -> Local {
    Local {
        cluster: name.parse().unwrap(),
        actor: ActorId(Uuid::from_u128(actor)),
        max_clock_drift: DRIFT,
    }
}

/// What the listening side does with who dials.
type Accepted = Result<Incoming, Error>;

/// A side that listens for one connection, and its address.
async fn listening(tls: &TlsFiles) -> (String, tokio::task::JoinHandle<Accepted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = server_config(tls).unwrap();
    let task = tokio::spawn(async move {
        let caller = Listener::Tls(listener, config).accept().await.unwrap();
        Incoming::receive(caller, &local("east", 1)).await
    });
    (address, task)
}

/// The errors of a west that dials and an east that listens and does not refuse.
async fn errors(west: &TlsFiles, east: &TlsFiles) -> (Option<Error>, Option<Error>) {
    let (address, task) = listening(east).await;
    let config = Dialler::Tls(client_config(west).unwrap());
    let dialling =
        tokio::spawn(async move { dial(&address, &config, &local("west", 2), APP).await });
    let accepted = task.await.unwrap();
    let listened = match accepted {
        Ok(incoming) => incoming.admit(&local("east", 1)).await.err(),
        Err(error) => Some(error),
    };
    (dialling.await.unwrap().err(), listened)
}

fn text(error: Option<Error>) -> String {
    error.map(|error| error.to_string()).unwrap_or_default()
}

/// Certificates of two clusters that trust each other; they are files while the first is kept.
fn pair() -> (Certificates, TlsFiles, TlsFiles) {
    let all = ["east", "west"];
    let certificates = Certificates::new(&all);
    let [east, west] = all.map(|name| certificates.tls(name, &all));
    (certificates, east, west)
}

#[tokio::test]
async fn sides_that_trust_each_other_are_linked() {
    let certificates = Certificates::new(&["east", "west"]);
    let all = ["east", "west"];
    let (east, west) = (certificates.tls("east", &all), certificates.tls("west", &all));
    let (dialled, listened) = errors(&west, &east).await;
    assert!(dialled.is_none() && listened.is_none(), "{dialled:?} {listened:?}");
}

#[tokio::test]
async fn distrust_is_explained_on_both_sides() {
    let certificates = Certificates::new(&["east", "west"]);
    let all = ["east", "west"];
    let trusting = certificates.tls("west", &all);
    let (dialled, listened) = errors(&trusting, &certificates.tls("east", &["east"])).await;
    let (dialled, listened) = (text(dialled), text(listened));
    assert!(dialled.contains("does not trust the authority of this cluster's"), "{dialled}");
    assert!(listened.contains("signed by an authority that is not trusted"), "{listened}");
    assert!(listened.contains("trusted files of this bridge"), "{listened}");

    let trusting = certificates.tls("east", &all);
    let (dialled, listened) = errors(&certificates.tls("west", &["west"]), &trusting).await;
    let (dialled, listened) = (text(dialled), text(listened));
    assert!(dialled.contains("signed by an authority that is not trusted"), "{dialled}");
    assert!(listened.contains("does not trust the authority of this cluster's"), "{listened}");
    assert!(listened.contains("trusted files of the bridge there"), "{listened}");
}

#[tokio::test]
async fn a_dialler_without_certificate_or_tls_is_told_apart() {
    let certificates = Certificates::new(&["east"]);
    let (address, task) = listening(&certificates.tls("east", &["east"])).await;
    let mut tcp = TcpStream::connect(&address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = task.await.unwrap().err();
    assert!(text(error).contains("does not speak TLS"));

    let (address, task) = listening(&certificates.tls("east", &["east"])).await;
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(certificates.files("east").ca).unwrap();
    for certificate in rustls::pki_types::pem::PemObject::pem_slice_iter(&ca) {
        let certificate: rustls::pki_types::CertificateDer<'static> = certificate.unwrap();
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let dialled = dial(&address, &Dialler::Tls(Arc::new(config)), &local("west", 2), APP).await;
    assert!(text(dialled.err()).contains("requires a certificate of this cluster"));
    assert!(text(task.await.unwrap().err()).contains("shows no certificate"));
}

#[tokio::test]
async fn an_http_server_of_a_cluster_passes_for_no_bridge() {
    let all = ["east", "west"];
    let (certificates, east, west) = pair();
    let (dialled, listened) = errors(&certificates.tls_of_http_server("west", &all), &east).await;
    let listened = text(listened);
    assert!(listened.contains("cannot be accepted"), "{listened}");
    assert!(dialled.is_some());

    let (dialled, _) = errors(&west, &certificates.tls_of_http_server("east", &all)).await;
    let identity = RefusalCode::Identity;
    assert!(
        matches!(&dialled, Some(Error::Refusing { code, .. }) if *code == identity),
        "{dialled:?}"
    );
    assert!(text(dialled).contains("names no cluster"));
}

/// A TLS connection on which anything can be said.
async fn raw(address: &str, tls: &TlsFiles) -> Stream {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(client_config(tls).unwrap());
    let stream = connector.connect(name, tcp).await.unwrap();
    let stream: Box<dyn Duplex> = Box::new(stream);
    Framed::new(stream, MessageCodec::new())
}

fn hello() -> Hello {
    Hello {
        version: VERSION,
        cluster: "west".to_owned(),
        actor: Bytes::copy_from_slice(Uuid::from_u128(2).as_bytes()),
        app: Bytes::copy_from_slice(APP.0.as_bytes()),
        now_ms: now_millis(),
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_code() {
    let (_files, east, west) = pair();
    let drift_ms = u64::try_from(2 * DRIFT.as_millis()).unwrap();
    let same = Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes());
    let large = Batch {
        rounds: vec![anabranch_schemas::link::Round {
            origin: vec![0; MAX_HELLO_BYTES].into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let cases = [
        ("version", Kind::Hello(Hello { version: VERSION + 1, ..hello() })),
        ("version", Kind::Hello(Hello { version: VERSION - 1, ..hello() })),
        ("same_cluster", Kind::Hello(Hello { actor: same, ..hello() })),
        ("protocol", Kind::Hello(Hello { app: Bytes::new(), ..hello() })),
        ("protocol", Kind::Hello(Hello { cluster: "No\nName".to_owned(), ..hello() })),
        ("identity", Kind::Hello(Hello { cluster: "east".to_owned(), ..hello() })),
        ("clock_drift", Kind::Hello(Hello { now_ms: now_millis() - drift_ms, ..hello() })),
        ("clock_drift", Kind::Hello(Hello { now_ms: now_millis() + drift_ms, ..hello() })),
        ("protocol", Kind::Ping(Ping { now_ms: 0 })),
        ("too_large", Kind::Batch(large)),
    ];
    for (code, first) in cases {
        let (address, task) = listening(&east).await;
        let mut stream = raw(&address, &west).await;
        stream.send(first).await.unwrap();
        let answer = stream.next().await.unwrap().unwrap();
        let Kind::Refusal(Refusal { code: told, reason }) = answer else { panic!("{answer:?}") };
        assert_eq!(told, code, "{reason}");
        assert!(matches!(task.await.unwrap(), Err(Error::Refusing { .. })));
    }
}

#[tokio::test]
async fn an_answer_about_another_app_is_refused() {
    let (_files, east, west) = pair();
    let (address, task) = listening(&east).await;
    let config = Dialler::Tls(client_config(&west).unwrap());
    let dialling =
        tokio::spawn(async move { dial(&address, &config, &local("west", 2), APP).await.err() });
    let mut incoming = task.await.unwrap().unwrap();
    incoming.peer.app = AppId(Uuid::nil());
    let link = incoming.admit(&local("east", 1)).await.unwrap();
    let error = dialling.await.unwrap();
    let mismatch = RefusalCode::AppMismatch;
    assert!(matches!(&error, Some(Error::Refusing { code, .. }) if *code == mismatch), "{error:?}");
    let told = run_idle(link, std::future::pending()).await;
    assert!(matches!(&told, Error::Refused { code, .. } if code == "app_mismatch"), "{told}");
}

/// Runs a link that has nothing to do but `work`.
async fn run_idle(link: Link, work: impl Future<Output = Error>) -> Error {
    let (_outgoing, queue) = mpsc::channel(1);
    let handlers = Handlers {
        subscribe: |_| Ok(()),
        batch: |_: Batch| Ok(()),
        received: |_: Received| Ok(()),
        holdings: |_: Holdings| Ok(()),
    };
    run(link, queue, handlers, work).await
}

/// Both ends of a link.
async fn linked() -> (Link, Link) {
    let (_files, east, west) = pair();
    let (address, task) = listening(&east).await;
    let config = Dialler::Tls(client_config(&west).unwrap());
    let dialling =
        tokio::spawn(async move { dial(&address, &config, &local("west", 2), APP).await });
    let incoming = task.await.unwrap().unwrap();
    let east = incoming.admit(&local("east", 1)).await.unwrap();
    (dialling.await.unwrap().unwrap(), east)
}

#[tokio::test]
async fn why_a_side_ends_the_link_reaches_the_other() {
    let (west, east) = linked().await;
    assert_eq!(west.initiator, east.initiator);
    let refusing = async {
        Error::Refusing { code: RefusalCode::InvalidQuery, reason: "no such thing".to_owned() }
    };
    let (ended, told) =
        tokio::join!(run_idle(west, refusing), run_idle(east, std::future::pending()));
    assert!(matches!(ended, Error::Refusing { .. }));
    let told = told.to_string();
    assert!(told.contains("(invalid_query): no such thing"), "{told}");
}

#[tokio::test]
async fn last_words_come_after_the_frame_that_was_begun() {
    let (west, east) = linked().await;
    let mut east = east.stream.into_parts();
    let change = anabranch_schemas::link::Change {
        state: vec![7; 12 << 20].into(),
        ..anabranch_schemas::link::Change::default()
    };
    let round = anabranch_schemas::link::Round { changes: vec![change], ..Default::default() };
    let (outgoing, queue) = mpsc::channel(1);
    let large = Batch { rounds: vec![round], ..Batch::default() };
    outgoing.send(Kind::Batch(large)).await.unwrap();
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let refusing = async {
        is_begun.await.unwrap();
        Error::Refusing { code: RefusalCode::Restarting, reason: "enough".to_owned() }
    };
    let handlers = Handlers {
        subscribe: |_| Ok(()),
        batch: |_: Batch| Ok(()),
        received: |_: Received| Ok(()),
        holdings: |_: Holdings| Ok(()),
    };
    let reading = async {
        let mut bytes = BytesMut::zeroed(1_000);
        east.io.read_exact(&mut bytes).await.unwrap();
        begun.send(()).unwrap();
        while east.io.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {}
        bytes
    };
    let (_, mut bytes) = tokio::join!(run(west, queue, handlers, refusing), reading);
    let mut codec = MessageCodec::new();
    codec.allow_large_frames();
    assert!(matches!(codec.decode(&mut bytes), Ok(Some(Kind::Batch(_)))));
    let last = codec.decode(&mut bytes).unwrap();
    assert!(
        matches!(&last, Some(Kind::Refusal(refusal)) if refusal.reason == "enough"),
        "{last:?}"
    );
}

#[tokio::test]
async fn a_side_that_says_nothing_is_given_up_and_one_that_pings_is_not() {
    let silence = Duration::from_millis(300);
    let timing = Timing { ping_interval: Duration::from_millis(60), silence };
    let (west, mut east) = linked().await;
    east.timing = timing;
    // West is open, but nobody works on it.
    let error = run_idle(east, std::future::pending()).await;
    assert!(matches!(error, Error::Silent(_)), "{error}");
    drop(west);

    let (mut west, mut east) = linked().await;
    (west.timing, east.timing) = (timing, timing);
    // The link outlives the time after which silence ends it.
    let work = async {
        tokio::time::sleep(3 * silence).await;
        Error::Shutdown
    };
    let (ended, told) = tokio::join!(run_idle(west, work), run_idle(east, std::future::pending()));
    assert!(matches!(ended, Error::Shutdown), "{ended}");
    assert!(matches!(&told, Error::Refused { code, .. } if code == "shutting_down"), "{told}");
}

#[tokio::test]
async fn a_link_that_breaks_is_noticed_at_once() {
    let (west, east) = linked().await;
    drop(west);
    let error = run_idle(east, std::future::pending()).await;
    assert!(matches!(error, Error::Closed | Error::Connection { .. }), "{error}");
}

#[tokio::test]
async fn an_address_that_makes_no_sense_is_named() {
    let certificates = Certificates::new(&["east"]);
    let config = client_config(&certificates.tls("east", &["east"])).unwrap();
    let config = Dialler::Tls(config);
    for address in ["nowhere", "a b:1"] {
        let error = dial(address, &config, &local("west", 2), APP).await.err();
        assert!(matches!(&error, Some(Error::Address { .. })), "{error:?}");
    }
    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = dial(&free.to_string(), &config, &local("west", 2), APP).await.err();
    assert!(text(error).starts_with(&format!("dial {free}: ")));
    // Somebody listens there who does not answer.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let accepting = tokio::spawn(async move {
        let (mut tcp, _) = mute.accept().await.unwrap();
        let mut hello = [0; 16];
        tcp.read_exact(&mut hello).await.unwrap();
    });
    let error = dial(&address, &config, &local("west", 2), APP).await.err();
    assert!(error.is_some());
    accepting.await.unwrap();
}
