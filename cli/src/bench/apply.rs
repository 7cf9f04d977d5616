//! `anabranch bench apply`: a cold store node catches up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::document::Mutation;
use anabranch_journal::baseline::{self, Consumed, Pair};
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, ReadFrom};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::decode;
use anabranch_schemas::records::RoundPart;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_store_node::{self as store_node, StoreNodeConfig};
use anyhow::{Context, Result};

use super::place::{ANYWHERE, Cluster, PATIENCE, Place, PlaceFlags, applied};
use super::raw::{Mark, WrittenRound, partitions};
use super::report::{Measurement, Steal, histogram, spread, table};
use super::requests::bulk_loads;
use crate::host::Host;
use crate::output::{print, say};
use crate::settings::Settings;

const REQUEST: u64 = 1_000;

/// Measure how a cold store node catches up, next to a raw consumer of the same records and raw
/// RocksDB writing the same documents.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceFlags,
    /// Documents to catch up with.
    #[arg(long, value_name = "COUNT", default_value_t = 300_000)]
    documents: u64,
    /// How often it is measured. The table has the last time, the ratio has all.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeat: u32,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, repeat } = args;
    let place = Place::open(place)?;
    let host = Host::new();
    let name = place.name("east")?;
    let cluster = place.cluster(&host, &name, &Settings::default()).await?;
    say("loading");
    let log_start = Mark::now(cluster.journal.as_ref(), &cluster.local.cluster)?;
    bulk_loads(&cluster.api, "a", 4, documents, REQUEST).await?;
    cluster.settle().await?;
    let Cluster { journal, local, .. } = &cluster;
    let (journal, identity) = (journal.clone(), local.cluster.clone());
    // Only the one that is measured shall work.
    host.close(Settings::default().shutdown_timeout()).await?;

    let log = journal.clone();
    let reading = tokio::task::spawn_blocking(move || log_start.written_since(log.as_ref()));
    let batches = Arc::new(documents_of(&reading.await??)?);
    let (mut all, mut ratios) = (Vec::new(), Vec::new());
    for number in 0..repeat {
        say(format_args!("measuring, {} of {repeat}", number + 1));
        let ours = catch_up(&place, &journal, &identity, number, documents).await?;
        let consumed = consume(&place, &journal, &identity, documents).await?;
        let written = write(&place, &batches, number, documents).await?;
        let raw = consumed.elapsed + written.elapsed;
        ratios.push(raw.as_secs_f64() / ours.elapsed.as_secs_f64());
        all = vec![ours, consumed, written];
    }
    print("")?;
    print(table(&all))?;
    print("")?;
    print(format_args!(
        "cold store node / raw consumption, then raw writing: documents/s = {}",
        spread(ratios)
    ))
}

/// The documents of each round, by id, as a database without versions would have them.
fn documents_of(rounds: &[WrittenRound]) -> Result<Vec<Vec<Pair>>> {
    rounds
        .iter()
        .map(|round| {
            let mut pairs = Vec::new();
            // The last record is the commit record.
            let parts = round.records.split_last().map(|(_, parts)| parts).unwrap_or_default();
            for record in parts {
                let part: RoundPart = decode(record.value.as_deref().unwrap_or_default())?;
                for mutation in part.mutations {
                    let id = mutation.id(part.app).to_bytes();
                    if let Mutation::Insert { fields, .. } = &mutation.mutation {
                        pairs.push((id, fields.to_json().into_bytes()));
                    }
                }
            }
            Ok(pairs)
        })
        .collect()
}

async fn catch_up(
    place: &Place,
    journal: &Arc<dyn Journal>,
    cluster: &ClusterIdentity,
    number: u32,
    documents: u64,
) -> Result<Measurement> {
    let host = Host::new();
    let config = StoreNodeConfig {
        data_dir: place.dir.0.join(format!("cold-{number}")),
        listen: ANYWHERE,
        ..StoreNodeConfig::default()
    };
    let txns = partitions(cluster).pop().context("a cluster has commit records")?;
    let log = journal.clone();
    let end = tokio::task::spawn_blocking(move || log.bounds(&txns)).await??.end.0;
    let ready = Readiness::new().register("store-node");
    let (steal, begun) = (Steal::start()?, Instant::now());
    let running =
        store_node::run_here(config, cluster.clone(), journal.clone(), &host.store, ready);
    let mut store = StoreNodeClient::new(AnyOf::here(running.await?));
    applied(&mut store, end).await?;
    let (elapsed, stolen) = (begun.elapsed(), steal.share()?);
    drop(store);
    host.close(PATIENCE).await?;
    Ok(measurement("cold store node".to_owned(), documents, elapsed, stolen))
}

/// Reads the same records, without looking at them.
async fn consume(
    place: &Place,
    journal: &Arc<dyn Journal>,
    cluster: &ClusterIdentity,
    documents: u64,
) -> Result<Measurement> {
    let (kafka, journal, from) = (place.kafka.clone(), journal.clone(), partitions(cluster));
    let steal = Steal::start()?;
    let (what, reading) = match kafka {
        Some(kafka) => (
            "  raw: librdkafka consumer",
            tokio::task::spawn_blocking(move || Ok(baseline::kafka_read(&kafka, &from)?)),
        ),
        None => (
            "  raw: reader of the embedded log",
            tokio::task::spawn_blocking(move || read_all(journal.as_ref(), &from)),
        ),
    };
    let Consumed { elapsed, records, bytes } = reading.await??;
    let what = format!("{what}, {records} records, {} MB", bytes >> 20);
    Ok(measurement(what, documents, elapsed, steal.share()?))
}

fn read_all(journal: &dyn Journal, from: &[anabranch_journal::TopicPartition]) -> Result<Consumed> {
    let begun = Instant::now();
    let starts: Vec<_> = from.iter().map(|at| (at.clone(), ReadFrom::Start)).collect();
    let ends: Vec<_> =
        from.iter().map(|at| Ok((at, journal.bounds(at)?.end))).collect::<Result<_>>()?;
    let mut reader = journal.reader(&starts)?;
    let mut consumed = Consumed::default();
    while ends.iter().any(|(at, end)| reader.position(at).is_none_or(|next| next < *end)) {
        for record in reader.poll(Duration::from_millis(100))? {
            let value = record.value.as_ref().map_or(0, |value| value.len());
            consumed.records += 1;
            consumed.bytes += (record.key.len() + value) as u64;
        }
    }
    consumed.elapsed = begun.elapsed();
    Ok(consumed)
}

async fn write(
    place: &Place,
    batches: &Arc<Vec<Vec<Pair>>>,
    number: u32,
    documents: u64,
) -> Result<Measurement> {
    let (dir, batches) = (place.dir.0.join(format!("raw-{number}")), batches.clone());
    let steal = Steal::start()?;
    let writing =
        tokio::task::spawn_blocking(move || baseline::rocksdb_write(&dir, false, &batches));
    let elapsed = writing.await??.elapsed;
    let what = "  raw: RocksDB, a batch a round".to_owned();
    Ok(measurement(what, documents, elapsed, steal.share()?))
}

fn measurement(what: String, documents: u64, elapsed: Duration, stolen: f64) -> Measurement {
    Measurement { what, documents, elapsed, latencies: histogram(), stolen }
}
