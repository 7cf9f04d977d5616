//! Writes over HTTP, timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::documents::{document, document_id, lines};
use super::place::PATIENCE;
use super::report::{Measurement, Steal, histogram, micros};
use crate::client::{Client, EXAMPLE_APP};

/// How often it is looked whether something is there.
const POLL: Duration = Duration::from_millis(5);

/// Writes `count` documents, each with a statement of its own, from so many clients at once.
pub(super) async fn single_writes(
    address: SocketAddr,
    series: &str,
    clients: usize,
    count: u64,
) -> Result<Measurement> {
    single(Kind::Write, address, series, clients, count).await
}

/// Reads `count` documents that were written like that.
pub(super) async fn single_reads(
    address: SocketAddr,
    series: &str,
    clients: usize,
    count: u64,
) -> Result<Measurement> {
    single(Kind::Read, address, series, clients, count).await
}

/// Waits until the last of `count` documents can be read: what was written becomes stable a little
/// later.
pub(super) async fn until_there(address: SocketAddr, series: &str, count: u64) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let reading = async {
        while !connection.finds(series, count.saturating_sub(1)).await? {
            tokio::time::sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.context("what was written is not there")?
}

/// What is asked, of documents of series `a`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// Whether the server lives.
    Health,
    /// A document by its id.
    ById,
    /// A document by its number, which is indexed.
    ByIndex,
}

/// Asks so often, from so many clients at once, for some of so many documents.
pub(super) async fn ask(
    address: SocketAddr,
    asked: Asked,
    clients: usize,
    count: u64,
    documents: u64,
) -> Result<Measurement> {
    single(Kind::Ask(asked, documents), address, "a", clients, count).await
}

#[derive(Clone, Copy)]
enum Kind {
    Write,
    Read,
    Ask(Asked, u64),
}

async fn single(
    kind: Kind,
    address: SocketAddr,
    series: &str,
    clients: usize,
    count: u64,
) -> Result<Measurement> {
    let next = Arc::new(AtomicU64::new(0));
    let (steal, begun) = (Steal::start()?, Instant::now());
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (address, next, series) = (address, next.clone(), series.to_owned());
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await?;
                let mut latencies = histogram();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(latencies);
                    }
                    let begun = Instant::now();
                    match kind {
                        Kind::Write => connection.write_one(&series, number).await?,
                        Kind::Read => connection.read_one(&series, number).await?,
                        Kind::Ask(asked, documents) => {
                            connection.ask(asked, number * 7_919 % documents).await?;
                        }
                    }
                    latencies.saturating_record(micros(begun.elapsed()));
                }
            })
        })
        .collect();
    let mut latencies = histogram();
    for task in tasks {
        latencies.add(task.await??).context("add up latencies")?;
    }
    let who = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    Ok(Measurement {
        what: match kind {
            Kind::Write => format!("single writes, {who}"),
            Kind::Read => format!("single reads, {who}"),
            Kind::Ask(Asked::Health, _) => format!("/healthz, {who}"),
            Kind::Ask(Asked::ById, _) => format!("a document by its id, {who}"),
            Kind::Ask(Asked::ByIndex, _) => format!("a document by an index, {who}"),
        },
        documents: count,
        elapsed: begun.elapsed(),
        latencies,
        stolen: steal.share()?,
    })
}

/// A connection for one request after the other. On a small machine the client shares the cores
/// with what is measured: this one does nothing that is not needed.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what breaks it shows in the request.
        tokio::spawn(connection);
        Ok(Connection { sender, host: HeaderValue::try_from(address.to_string())? })
    }

    /// Writes one document with a statement.
    pub(super) async fn write_one(&mut self, series: &str, number: u64) -> Result<()> {
        let document = document(series, number);
        self.execute(format!(
            r#"{{"statement":"INSERT INTO bench DOCUMENTS (:d) ON ID CONFLICT DO UPDATE","args":{{"d":{document}}}}}"#
        ))
        .await?;
        Ok(())
    }

    /// Reads that document.
    pub(super) async fn read_one(&mut self, series: &str, number: u64) -> Result<()> {
        let is_there = self.finds(series, number).await?;
        ensure!(is_there, "document {} is not there", document_id(series, number));
        Ok(())
    }

    /// Whether that document is there.
    async fn finds(&mut self, series: &str, number: u64) -> Result<bool> {
        let id = document_id(series, number);
        let body = self.execute(format!(
            r#"{{"statement":"SELECT * FROM bench WHERE _id = :id","args":{{"id":"{id}"}}}}"#
        ));
        let body = body.await?;
        Ok(body.windows(id.len()).any(|text| text == id.as_bytes()))
    }

    /// Asks for the document of this number.
    async fn ask(&mut self, asked: Asked, number: u64) -> Result<()> {
        let id = document_id("a", number);
        let body = match asked {
            Asked::Health => {
                let request = hyper::Request::get("/healthz").header(HOST, self.host.clone());
                self.send(request.body(Full::default())?).await?;
                return Ok(());
            }
            Asked::ById => return self.read_one("a", number).await,
            Asked::ByIndex => {
                let statement = "SELECT * FROM bench WHERE number = :n";
                format!(r#"{{"statement":"{statement}","args":{{"n":{number}}}}}"#)
            }
        };
        let body = self.execute(body).await?;
        let is_there = body.windows(id.len()).any(|text| text == id.as_bytes());
        ensure!(is_there, "document {id} is not found");
        Ok(())
    }

    async fn execute(&mut self, body: String) -> Result<Bytes> {
        let request = hyper::Request::post(format!("/apps/{EXAMPLE_APP}/api/v1/store/execute"))
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::from(body))?;
        self.send(request).await
    }

    async fn send(&mut self, request: hyper::Request<Full<Bytes>>) -> Result<Bytes> {
        self.sender.ready().await?;
        let reply = self.sender.send_request(request).await?;
        let status = reply.status();
        let body = reply.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

#[derive(Deserialize)]
struct Loaded {
    written: u64,
}

/// Loads `count` documents with requests of `size` documents each, from so many clients at once.
pub(super) async fn bulk_loads(
    api: &Client,
    series: &str,
    clients: usize,
    count: u64,
    size: u64,
) -> Result<Measurement> {
    // Prepared before: it is not the client that is measured.
    let starts: Vec<u64> = (0..count).step_by(usize::try_from(size)?).collect();
    let bodies: Arc<Vec<Bytes>> = Arc::new(
        starts.iter().map(|&from| lines(series, from, count.min(from + size)).into()).collect(),
    );
    let next = Arc::new(AtomicU64::new(0));
    let (steal, begun) = (Steal::start()?, Instant::now());
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (api, next, bodies) = (api.clone(), next.clone(), bodies.clone());
            tokio::spawn(async move {
                let (mut latencies, mut written) = (histogram(), 0);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(body) = usize::try_from(index).ok().and_then(|i| bodies.get(i)) else {
                        return anyhow::Ok((latencies, written));
                    };
                    let begun = Instant::now();
                    written += bulk_load(&api, body.clone()).await?;
                    latencies.saturating_record(micros(begun.elapsed()));
                }
            })
        })
        .collect();
    let (mut latencies, mut written) = (histogram(), 0);
    for task in tasks {
        let (one, documents) = task.await??;
        latencies.add(one).context("add up latencies")?;
        written += documents;
    }
    ensure!(written == count, "{written} of {count} documents were written");
    let elapsed = begun.elapsed();
    let what = if bodies.len() == 1 {
        "bulk load, 1 request".to_owned()
    } else {
        format!("bulk loads of {size}, {clients} clients")
    };
    Ok(Measurement { what, documents: count, elapsed, latencies, stolen: steal.share()? })
}

async fn bulk_load(api: &Client, body: Bytes) -> Result<u64> {
    let path = format!("/apps/{EXAMPLE_APP}/api/v1/collections/bench/documents");
    let request = api.request(Method::POST, &path).header(CONTENT_TYPE, "application/x-ndjson");
    let loaded: Loaded = api.json(request.body(body)).await?;
    Ok(loaded.written)
}
