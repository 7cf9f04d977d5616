//! A connection that breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Passes connections on, each up to a number of bytes in either direction.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// How many bytes a connection that is made from now on may carry.
    pub(crate) limit: Arc<AtomicU64>,
    /// How many connections were made.
    pub(crate) connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// To `target`.
    pub(crate) async fn to(target: SocketAddr, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Arc::new(AtomicU64::new(limit));
        let connections = Arc::new(AtomicU64::new(0));
        let (limits, count) = (limit.clone(), connections.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let budget = Arc::new(AtomicU64::new(limits.load(Ordering::Relaxed)));
                count.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(target).await else { continue };
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    // When one direction ends, both do.
                    tokio::select! {
                        () = pass(from_client, to_server, &budget) => {}
                        () = pass(from_server, to_client, &budget) => {}
                    }
                });
            }
        });
        Proxy { address, limit, connections, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, budget: &AtomicU64) {
    let mut buffer = vec![0; 4096];
    while let Ok(count) = from.read(&mut buffer).await {
        let left = budget.fetch_sub(count as u64, Ordering::Relaxed);
        if count == 0 || left < count as u64 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
