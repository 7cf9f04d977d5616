//! Clients that hold on, and places that others wait for.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn who_takes_nothing_is_hung_up_on() {
    let (_client, server) = duplex(64);
    let pause = Duration::from_millis(20);
    let mut paced = Paced::new(server, pause);
    let error = paced.write_all(&[b'x'; 65]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn who_is_silent_gives_the_place_to_who_waits() {
    let head = Duration::from_millis(200);
    let limits = Limits { connections: 2, head, pause: PATIENCE, last_replies: PATIENCE };
    let listener = Listener::from(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let routes = Router::new().route("/", get(|| async { "served\n" }));
    let (open, most) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
    let (until, counts) = (shutdown.clone(), Arc::clone(&most));
    let counted = move || {
        let counted = Arc::clone(&open);
        counts.fetch_max(Arc::strong_count(&open) - 1, Ordering::Relaxed);
        counted
    };
    let serving =
        tokio::spawn(async move { serve(listener, routes, limits, &until, counted).await });

    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("in time").unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("served\n"), "{text}");
    assert_eq!(most.load(Ordering::Relaxed), limits.connections);
    shutdown.begin();
    timeout(PATIENCE, serving).await.expect("it ends").unwrap();
}
