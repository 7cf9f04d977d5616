//! `anabranch bench read`: documents by id, by an index, by a scan, and as they change.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch_journal::baseline::{self, Measured, Pair};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::documents::{document, document_id};
use super::fan_out;
use super::place::{Cluster, Place, PlaceFlags};
use super::report::{Measurement, Steal, histogram_of, spread, table};
use super::requests::{Asked, ask, bulk_loads};
use crate::client::{Client, EXAMPLE_APP};
use crate::host::Host;
use crate::output::{print, say};
use crate::settings::Settings;

/// Documents of a round.
const ROUND: u64 = 1_000;
const CLIENTS: usize = 16;
/// How often it is looked whether the index is built.
const POLL: Duration = Duration::from_millis(50);
/// How often all is scanned each time.
const SCANS: usize = 5;
/// What is scanned for: about one in a hundred.
const FILTER: &str = "price > 9900 AND open = true";

/// Measure reads of documents by id, by an index and by a scan over HTTP, next to raw RocksDB over the
/// same documents, to SQLite with the same index, and to the same server doing nothing; and how fast
/// what is written reaches those who follow it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceFlags,
    /// How many documents there are.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    documents: u64,
    /// How many requests 16 clients make together.
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    requests: u64,
    /// How many clients follow a live query.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    subscribers: usize,
    /// How many documents are written that they follow.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    updates: usize,
    /// How often each is measured. The table has the last time, the ratios have all.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeat: u32,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, requests, subscribers, updates, repeat } = args;
    let place = Place::open(place)?;
    let host = Host::new();
    let name = place.name("east")?;
    let cluster = place.cluster(&host, &name, &Settings::default()).await?;
    say(format_args!("loading {documents} documents"));
    bulk_loads(&cluster.api, "a", 4, documents, ROUND).await?;
    cluster.settle().await?;
    create_index(&cluster.api).await?;
    let raw = Raw::make(&place.dir.0, documents).await?;

    let (mut all, mut scans, mut queries, mut sent) = (vec![], vec![], vec![], vec![]);
    for number in 0..=repeat {
        // The first time warms up.
        say(format_args!("measuring, {number} of {repeat}"));
        let http = cluster.local.http;
        let nothing = ask(http, Asked::Health, CLIENTS, requests, documents).await?;
        let by_id = ask(http, Asked::ById, CLIENTS, requests, documents).await?;
        let by_index = ask(http, Asked::ByIndex, CLIENTS, requests, documents).await?;
        let scan = scan(&cluster, documents).await?;
        let raw = raw.measure(requests, documents).await?;
        let series = format!("followed{number}");
        let live = fan_out::measure(http, &series, subscribers, updates).await?;
        let raw_live = fan_out::measure_raw(&series, subscribers, updates).await?;
        if number > 0 {
            sent.push(live.rate() / raw_live.rate());
            queries.push(by_index.rate() / nothing.rate());
            scans.push(scan.rate() / raw[1].rate());
        }
        all = vec![nothing, by_id, by_index, scan];
        all.extend(raw);
        all.extend([live, raw_live]);
    }
    host.close(Settings::default().shutdown_timeout()).await?;
    print("")?;
    print(table(&all))?;
    print("")?;
    print(format_args!("queries by index / the same server doing nothing = {}", spread(queries)))?;
    print(format_args!("scan / raw RocksDB iteration: documents/s = {}", spread(scans)))?;
    print(format_args!("events of a live query / the same bytes = {}", spread(sent)))
}

async fn execute(api: &Client, statement: &str) -> Result<Value> {
    let path = format!("/apps/{EXAMPLE_APP}/api/v1/store/execute");
    let request = api.request(reqwest::Method::POST, &path);
    api.json(request.json(&json!({ "statement": statement }))).await
}

/// Declares the index, and waits until it is used.
async fn create_index(api: &Client) -> Result<()> {
    execute(api, "CREATE INDEX by_number ON bench (number)").await?;
    loop {
        let reply = execute(api, "EXPLAIN SELECT * FROM bench WHERE number = 1").await?;
        if reply["items"][0]["partitions"][0]["access"] == "index" {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Scans of all documents, one after the other.
async fn scan(cluster: &Cluster, documents: u64) -> Result<Measurement> {
    let statement = format!("SELECT COUNT(*) AS n FROM bench WHERE {FILTER}");
    let expected = expected(documents);
    let (steal, begun, mut latencies) = (Steal::start()?, Instant::now(), Vec::new());
    for _ in 0..SCANS {
        let begun = Instant::now();
        let reply = execute(&cluster.api, &statement).await?;
        latencies.push(begun.elapsed());
        let found = reply["items"][0]["n"].as_u64().context("a count")?;
        ensure!(found == expected, "{found} documents were found");
    }
    let scans = Measured { elapsed: begun.elapsed(), latencies };
    Ok(measurement("scan with a filter", scanned(documents), &scans, steal.share()?))
}

/// How many documents all scans look at.
fn scanned(documents: u64) -> u64 {
    documents * SCANS as u64
}

/// How many documents the scan finds.
fn expected(documents: u64) -> u64 {
    let matches = |number: &u64| number % 9973 > 9900 && number.is_multiple_of(3);
    (0..documents).filter(matches).count() as u64
}

/// The same documents, in others' hands.
struct Raw {
    rocksdb: PathBuf,
    #[cfg(feature = "sqlite")]
    sqlite: PathBuf,
}

impl Raw {
    async fn make(dir: &Path, documents: u64) -> Result<Self> {
        say("the same documents into raw RocksDB and SQLite");
        let rocksdb = dir.join("raw-rocksdb");
        let at = rocksdb.clone();
        let pair = |number: u64| -> Pair {
            (document_id("a", number).into_bytes(), document("a", number).into_bytes())
        };
        let making = tokio::task::spawn_blocking(move || {
            let starts = (0..documents).step_by(1_000);
            let batch = |from: u64| (from..documents.min(from + 1_000)).map(pair).collect();
            baseline::rocksdb_write(&at, false, &starts.map(batch).collect::<Vec<_>>())
        });
        making.await??;
        Ok(Raw {
            rocksdb,
            #[cfg(feature = "sqlite")]
            sqlite: sqlite::make(&dir.join("raw-sqlite"), documents).await?,
        })
    }

    /// Gets of RocksDB, an iteration over all of it; with SQLite the same queries.
    async fn measure(&self, requests: u64, documents: u64) -> Result<Vec<Measurement>> {
        let (at, steal) = (self.rocksdb.clone(), Steal::start()?);
        let reading = tokio::task::spawn_blocking(move || {
            let id = |number: u64| document_id("a", number * 7_919 % documents).into_bytes();
            let ids: Vec<_> = (0..requests).map(id).collect();
            baseline::rocksdb_read(&at, &ids, SCANS)
        });
        let (gets, iteration) = reading.await??;
        let stolen = steal.share()?;
        #[cfg_attr(not(feature = "sqlite"), expect(unused_mut, reason = "there is no more"))]
        let mut all = vec![
            measurement("  raw: RocksDB get, 1 thread", requests, &gets, stolen),
            measurement("  raw: RocksDB iteration", scanned(documents), &iteration, stolen),
        ];
        #[cfg(feature = "sqlite")]
        all.extend(sqlite::measure(&self.sqlite, requests, documents).await?);
        Ok(all)
    }
}

fn measurement(what: &str, documents: u64, measured: &Measured, stolen: f64) -> Measurement {
    let Measured { elapsed, latencies } = measured;
    let latencies = histogram_of(latencies);
    Measurement { what: what.to_owned(), documents, elapsed: *elapsed, latencies, stolen }
}

/// SQLite, with the documents as text and the same index.
#[cfg(feature = "sqlite")]
mod sqlite {
    use rusqlite::Connection;

    use super::*;

    pub(super) async fn make(path: &Path, documents: u64) -> Result<PathBuf> {
        let path = path.to_owned();
        let making = tokio::task::spawn_blocking(move || {
            let mut connection = Connection::open(&path)?;
            connection.execute_batch("CREATE TABLE bench (id TEXT PRIMARY KEY, doc TEXT)")?;
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare("INSERT INTO bench VALUES (?1, ?2)")?;
                for number in 0..documents {
                    insert.execute([document_id("a", number), document("a", number)])?;
                }
            }
            transaction.commit()?;
            let index = "CREATE INDEX by_number ON bench (json_extract(doc, '$.number'))";
            connection.execute_batch(index)?;
            anyhow::Ok(path)
        });
        making.await?
    }

    pub(super) async fn measure(
        path: &Path,
        requests: u64,
        documents: u64,
    ) -> Result<Vec<Measurement>> {
        let (path, steal) = (path.to_owned(), Steal::start()?);
        let reading = tokio::task::spawn_blocking(move || {
            let connection = Connection::open(&path)?;
            let statement = "SELECT doc FROM bench WHERE json_extract(doc, '$.number') = ?1";
            let mut by_index = connection.prepare(statement)?;
            let mut latencies = Vec::new();
            let begun = Instant::now();
            for number in (0..requests).map(|number| number * 7_919 % documents) {
                let begun = Instant::now();
                let number = i64::try_from(number)?;
                let found: String = by_index.query_row([number], |row| row.get(0))?;
                ensure!(!found.is_empty(), "document {number} is empty");
                latencies.push(begun.elapsed());
            }
            let queries = Measured { elapsed: begun.elapsed(), latencies };
            let statement = "SELECT COUNT(*) FROM bench WHERE json_extract(doc, '$.price') > 9900 \
                             AND json_extract(doc, '$.open')";
            let expected = expected(documents);
            let (begun, mut latencies) = (Instant::now(), Vec::new());
            for _ in 0..SCANS {
                let begun = Instant::now();
                let found: i64 = connection.query_row(statement, [], |row| row.get(0))?;
                let is_all = u64::try_from(found).is_ok_and(|found| found == expected);
                ensure!(is_all, "SQLite finds {found} documents");
                latencies.push(begun.elapsed());
            }
            anyhow::Ok((queries, Measured { elapsed: begun.elapsed(), latencies }))
        });
        let (queries, scan) = reading.await??;
        let stolen = steal.share()?;
        Ok(vec![
            measurement("  SQLite in this process, by its index", requests, &queries, stolen),
            measurement("  SQLite in this process, scan", scanned(documents), &scan, stolen),
        ])
    }
}
