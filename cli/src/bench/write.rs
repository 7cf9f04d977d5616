//! `anabranch bench write`: single writes and bulk loads over HTTP.

use std::sync::Arc;

use anyhow::Result;

use super::place::{Cluster, Place, PlaceFlags};
use super::raw::{self, Mark};
use super::report::{Measurement, millis, table};
use super::requests::{bulk_loads, single_writes};
use crate::host::Host;
use crate::output::{print, say};
use crate::settings::Settings;

/// How many raw producers write at once where several do: as many as one would take by hand.
const PRODUCERS: usize = 4;
/// Each raw producer writes this many rounds at most: with one after the other they take long.
const RAW_ROUNDS: usize = 500;
/// While warming up.
const WARM_UP_ROUNDS: usize = 100;
/// Documents of a request where several clients load at once: those of one round.
const REQUEST: u64 = 1_000;

/// Measure writes: one by one from one client and from 64, and in bulk; each next to a raw client
/// that writes the same records to the same log.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceFlags,
    /// Documents that are loaded in bulk, twice.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    documents: u64,
    /// Single writes of one client.
    #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
    single: u64,
    /// Single writes of 64 clients together.
    #[arg(long, value_name = "COUNT", default_value_t = 40_000)]
    concurrent: u64,
    /// Do everything once before, on the same log, so that a broker has compiled what it runs.
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    warm_up: u64,
}

/// What is measured.
#[derive(Clone, Copy)]
enum Phase {
    Single { clients: usize, count: u64 },
    Bulk { clients: usize, count: u64, size: u64 },
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, single, concurrent, warm_up } = args;
    let place = Place::open(place)?;
    let host = Host::new();
    let name = place.name("east")?;
    let mut cluster = place.cluster(&host, &name, &Settings::default()).await?;
    let mut bench = Bench { place: &place, cluster: &mut cluster, phases: 0 };
    say("warming up");
    for phase in [
        Phase::Bulk { clients: 4, count: warm_up, size: REQUEST },
        Phase::Single { clients: 64, count: warm_up },
        Phase::Single { clients: 1, count: warm_up / 20 },
    ] {
        bench.measure(phase, WARM_UP_ROUNDS).await?;
    }
    let mut results = Vec::new();
    for phase in [
        Phase::Single { clients: 1, count: single },
        Phase::Single { clients: 64, count: concurrent },
        Phase::Bulk { clients: 1, count: documents, size: documents },
        Phase::Bulk { clients: 4, count: documents, size: REQUEST },
    ] {
        say("measuring");
        results.push((phase, bench.measure(phase, RAW_ROUNDS).await?));
    }
    let all: Vec<Measurement> = results.iter().flat_map(|(_, all)| all.clone()).collect();
    print("")?;
    print(table(&all))?;
    print("")?;
    for (phase, measurements) in &results {
        ratios(*phase, measurements)?;
    }
    drop(cluster);
    host.close(Settings::default().shutdown_timeout()).await
}

/// How we compare with the raw clients.
fn ratios(phase: Phase, measurements: &[Measurement]) -> Result<()> {
    let [ours, raw @ ..] = measurements else { return Ok(()) };
    for raw in raw {
        let what = format!("{} / {}", ours.what, raw.what.trim());
        match phase {
            Phase::Single { clients: 1, .. } => {
                let (a, b) = (ours.quantile(0.5), raw.quantile(0.5));
                let ratio = a.as_secs_f64() / b.as_secs_f64().max(1e-9);
                print(format_args!("{what}: p50 {} / {} ms = {ratio:.2}", millis(a), millis(b)))?;
            }
            _ => {
                let ratio = ours.rate() / raw.rate();
                print(format_args!("{what}: documents/s = {ratio:.2}"))?;
            }
        }
    }
    Ok(())
}

struct Bench<'a> {
    place: &'a Place,
    cluster: &'a mut Cluster,
    phases: usize,
}

impl Bench<'_> {
    /// Measures us, then the raw clients with the same records.
    async fn measure(&mut self, phase: Phase, raw_rounds: usize) -> Result<Vec<Measurement>> {
        self.phases += 1;
        let series = format!("p{}", self.phases);
        let Cluster { api, journal, local, .. } = &*self.cluster;
        let identity = local.cluster.clone();
        let (log, who) = (journal.clone(), identity.clone());
        let mark = blocking(move || Mark::now(log.as_ref(), &who)).await?;
        let ours = match phase {
            Phase::Single { clients, count } => single_writes(api, &series, clients, count).await?,
            Phase::Bulk { clients, count, size } => {
                bulk_loads(api, &series, clients, count, size).await?
            }
        };
        let (journal, log) = (journal.clone(), journal.clone());
        // Neither we nor the raw clients shall pay for what the other left to do.
        self.cluster.settle().await?;
        let written = blocking(move || mark.written_since(log.as_ref())).await?;
        let part = |rounds: usize| Arc::new(written[..written.len().min(rounds)].to_vec());
        let mut all = vec![ours];
        match &self.place.kafka {
            None => {
                let dir = self.place.dir.0.join(format!("raw-{}", self.phases));
                all.push(raw::rocksdb(&dir, part(raw_rounds * PRODUCERS)).await?);
            }
            Some(config) => {
                for producers in [1, PRODUCERS] {
                    let twin = self.place.name(&format!("raw-{}", self.phases))?;
                    let (journal, written) = (journal.clone(), part(raw_rounds * producers));
                    let raw =
                        raw::kafka(journal, config.clone(), &identity, twin, producers, written);
                    all.push(raw.await?);
                }
            }
        }
        Ok(all)
    }
}

async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(body).await?
}
