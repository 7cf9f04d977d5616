//! How fast what is written reaches many who follow the same query, next to sending the same bytes to as
//! many connections and doing nothing else. The next is written when everybody has the last.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::documents::document;
use super::place::PATIENCE;
use super::report::{Measurement, Steal, histogram, micros};
use super::requests::Connection;
use crate::client::EXAMPLE_APP;

/// What is said before the number of an update.
const NUMBER: &str = r#""number":"#;

/// So many follow the documents of a series, of which so many are written.
pub(super) async fn measure(
    address: SocketAddr,
    series: &str,
    subscribers: usize,
    updates: usize,
) -> Result<Measurement> {
    let progress = Arc::new(Progress::new(subscribers, updates));
    let mut followers = JoinSet::new();
    for _ in 0..subscribers {
        followers.spawn(Arc::clone(&progress).follow(subscribe(address, series).await?));
    }
    let (steal, started) = (Steal::start()?, Instant::now());
    let mut writer = Connection::open(address).await?;
    for number in 0..updates {
        progress.begin(number);
        writer.write_one(series, number as u64).await?;
        progress.arrived(number).await?;
    }
    let elapsed = started.elapsed();
    let what = format!("what {subscribers} follow, since its write");
    progress.measured(what, elapsed, followers, &steal).await
}

/// The same events from a server that only sends them.
pub(super) async fn measure_raw(
    series: &str,
    subscribers: usize,
    updates: usize,
) -> Result<Measurement> {
    let progress = Arc::new(Progress::new(subscribers, updates));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (events, _) = broadcast::channel::<Bytes>(1);
    let mut followers = JoinSet::new();
    for _ in 0..subscribers {
        let client = TcpStream::connect(address).await?;
        let (mut server, _) = listener.accept().await?;
        server.set_nodelay(true)?;
        let mut events = events.subscribe();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if server.write_all(&event).await.is_err() {
                    return;
                }
            }
        });
        followers.spawn(Arc::clone(&progress).follow(BufReader::new(client)));
    }
    let (steal, started) = (Steal::start()?, Instant::now());
    for number in 0..updates {
        progress.begin(number);
        let document = document(series, number as u64);
        events.send(format!("data: {document}\n\n").into()).context("nobody follows")?;
        progress.arrived(number).await?;
    }
    let elapsed = started.elapsed();
    let what = format!("  raw: the same bytes over {subscribers} connections");
    progress.measured(what, elapsed, followers, &steal).await
}

/// How far the updates are.
struct Progress {
    subscribers: usize,
    /// When each was begun.
    begun: Vec<OnceLock<Instant>>,
    /// How often any has arrived.
    arrived: AtomicUsize,
    all_arrived: Notify,
}

impl Progress {
    fn new(subscribers: usize, updates: usize) -> Self {
        Progress {
            subscribers,
            begun: (0..updates).map(|_| OnceLock::new()).collect(),
            arrived: AtomicUsize::new(0),
            all_arrived: Notify::new(),
        }
    }

    fn begin(&self, number: usize) {
        self.begun[number].get_or_init(Instant::now);
    }

    /// Waits until everybody has an update.
    async fn arrived(&self, number: usize) -> Result<()> {
        let waiting = async {
            while self.arrived.load(Ordering::Acquire) < (number + 1) * self.subscribers {
                self.all_arrived.notified().await;
            }
        };
        timeout(PATIENCE, waiting).await.with_context(|| format!("update {number} does not come"))
    }

    /// How long each update took to come, all of which come in order.
    async fn follow(self: Arc<Self>, mut stream: BufReader<TcpStream>) -> Result<Histogram<u64>> {
        let (mut latencies, mut line) = (histogram(), String::new());
        for (next, begun) in self.begun.iter().enumerate() {
            let number = loop {
                line.clear();
                let read = stream.read_line(&mut line).await?;
                ensure!(read > 0, "the connection broke off before update {next}");
                if let Some((_, rest)) = line.split_once(NUMBER) {
                    let end = rest.find(|char: char| !char.is_ascii_digit());
                    break rest[..end.unwrap_or(rest.len())].parse::<usize>()?;
                }
            };
            ensure!(number == next, "update {number} came in place of {next}");
            let begun = begun.get().context("it came before it was written")?;
            latencies.saturating_record(micros(begun.elapsed()));
            let arrived = self.arrived.fetch_add(1, Ordering::AcqRel) + 1;
            if arrived.is_multiple_of(self.subscribers) {
                self.all_arrived.notify_one();
            }
        }
        Ok(latencies)
    }

    async fn measured(
        &self,
        what: String,
        elapsed: std::time::Duration,
        mut followers: JoinSet<Result<Histogram<u64>>>,
        steal: &Steal,
    ) -> Result<Measurement> {
        let mut latencies = histogram();
        while let Some(followed) = followers.join_next().await {
            latencies.add(followed??).context("add up latencies")?;
        }
        let documents = (self.subscribers * self.begun.len()) as u64;
        Ok(Measurement { what, documents, elapsed, latencies, stolen: steal.share()? })
    }
}

/// Follows the documents of a series, of which there are none yet.
async fn subscribe(address: SocketAddr, series: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    let query = format!("SELECT+*+FROM+bench+WHERE+_id+LIKE+'{series}-%25'");
    let path = format!("/apps/{EXAMPLE_APP}/api/v1/store/subscribe?query={query}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ]}") {
        line.clear();
        let read =
            timeout(PATIENCE, stream.read_line(&mut line)).await.context("no result came")?;
        ensure!(read? > 0, "the live query is refused");
    }
    Ok(stream)
}
