//! `anabranch bench write`: single writes and bulk loads over HTTP.
//!
//! It is measured twice: with a whole cluster, of which the store node and change data capture read
//! what is written while it is, on the cores that the writer has; and with ingest alone, which does
//! what the raw clients do.

use std::sync::Arc;

use anabranch_journal::baseline::Producers;
use anyhow::Result;

use super::documents::WITHOUT_IDS;
use super::place::{Cluster, PATIENCE, Place, PlaceFlags};
use super::raw::{self, Mark, Raw};
use super::report::{Measurement, spread, table};
use super::requests::{bulk_loads, single_writes};
use crate::host::Host;
use crate::output::{print, say};
use crate::settings::Settings;

/// The raw clients write this many rounds of a phase at most.
const RAW_ROUNDS: usize = 4_000;
/// While warming up.
const WARM_UP_ROUNDS: usize = 200;
/// How many producers take turns where one writes after the other, as many as ours does.
const TURNS: usize = 5;
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
    /// How often it is measured. The table has the last time, the ratios have all.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeat: u32,
}

/// What is measured.
#[derive(Clone, Copy)]
enum Phase {
    Single { clients: usize, count: u64 },
    Bulk { clients: usize, count: u64, size: u64 },
}

impl Phase {
    /// What to compare with: raw clients that put as much into a transaction as ours can.
    fn raws(self) -> Vec<Raw> {
        let at_once = |count, rounds| Raw { producers: Producers::AtOnce(count), rounds };
        match self {
            Phase::Single { clients: 1, .. } => {
                vec![at_once(1, 1), Raw { producers: Producers::InTurn(TURNS), rounds: 1 }]
            }
            Phase::Single { clients, .. } => vec![at_once(1, clients), at_once(4, clients / 4)],
            Phase::Bulk { .. } => vec![at_once(1, 5), at_once(4, 5)],
        }
    }
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, single, concurrent, warm_up, repeat } = args;
    let place = Place::open(place)?;
    let mut host = Host::new();
    let name = place.name("east")?;
    let cluster = place.cluster(&host, &name, &Settings::default()).await?;
    let mut bench = Bench { place: &place, cluster: &cluster, is_whole: true, phases: 0 };
    say("warming up");
    for phase in [
        Phase::Bulk { clients: 4, count: warm_up, size: REQUEST },
        Phase::Single { clients: 64, count: warm_up },
        Phase::Single { clients: 1, count: warm_up / 20 },
    ] {
        bench.measure(phase, WARM_UP_ROUNDS).await?;
    }
    let phases = [
        Phase::Single { clients: 1, count: single },
        Phase::Single { clients: 64, count: concurrent },
        Phase::Bulk { clients: 1, count: documents, size: documents },
        Phase::Bulk { clients: 4, count: documents, size: REQUEST },
    ];
    bench.measure_all(&phases, repeat).await?;
    host.close_readers(PATIENCE).await?;
    bench.is_whole = false;
    bench.measure_all(&phases, repeat).await?;
    drop(cluster);
    host.close(Settings::default().shutdown_timeout()).await
}

/// How we compare with the raw clients; each repeat is us first, then them.
fn ratios(phase: Phase, repeats: &[&[Measurement]]) -> Result<()> {
    let Some([ours, raws @ ..]) = repeats.first() else { return Ok(()) };
    let latency = matches!(phase, Phase::Single { clients: 1, .. });
    for (index, raw) in raws.iter().enumerate() {
        let ratio = |all: &&[Measurement]| {
            let (ours, raw) = (&all[0], &all[index + 1]);
            if latency {
                ours.quantile(0.5).as_secs_f64() / raw.quantile(0.5).as_secs_f64().max(1e-9)
            } else {
                ours.rate() / raw.rate()
            }
        };
        let of = if latency { "p50" } else { "documents/s" };
        let spread = spread(repeats.iter().map(ratio).collect());
        print(format_args!("{} / {}: {of} = {spread}", ours.what, raw.what.trim()))?;
    }
    Ok(())
}

struct Bench<'a> {
    place: &'a Place,
    cluster: &'a Cluster,
    /// There is more of it than ingest.
    is_whole: bool,
    phases: usize,
}

impl Bench<'_> {
    /// Measures phase after phase, as often as asked, and prints what came of it.
    async fn measure_all(&mut self, phases: &[Phase], repeat: u32) -> Result<()> {
        let who = if self.is_whole { "a whole cluster" } else { "ingest alone" };
        let mut repeats: Vec<Vec<Vec<Measurement>>> = Vec::new();
        for number in 1..=repeat {
            say(format_args!("measuring {who}, {number} of {repeat}"));
            let mut measured = Vec::new();
            for phase in phases {
                measured.push(self.measure(*phase, RAW_ROUNDS).await?);
            }
            repeats.push(measured);
        }
        let last = repeats.last().map(|phases| phases.concat()).unwrap_or_default();
        print(format_args!("\n{who}\n"))?;
        print(table(&last))?;
        print("")?;
        for (index, phase) in phases.iter().enumerate() {
            let measured: Vec<_> = repeats.iter().map(|phases| phases[index].as_slice()).collect();
            ratios(*phase, &measured)?;
        }
        Ok(())
    }

    /// Measures us, then the raw clients with the same records.
    async fn measure(&mut self, phase: Phase, raw_rounds: usize) -> Result<Vec<Measurement>> {
        self.phases += 1;
        // Documents that are merged into others the store node is asked about: without one there is none.
        let series = match self.is_whole {
            true => format!("p{}", self.phases),
            false => WITHOUT_IDS.to_owned(),
        };
        let Cluster { api, journal, local, .. } = self.cluster;
        let identity = local.cluster.clone();
        let (log, who) = (journal.clone(), identity.clone());
        let mark = blocking(move || Mark::now(log.as_ref(), &who)).await?;
        let ours = match phase {
            Phase::Single { clients, count } => {
                single_writes(local.http, &series, clients, count).await?
            }
            Phase::Bulk { clients, count, size } => {
                bulk_loads(api, &series, clients, count, size).await?
            }
        };
        let (journal, log) = (journal.clone(), journal.clone());
        // Neither we nor the raw clients shall pay for what the other left to do.
        if self.is_whole {
            self.cluster.settle().await?;
        }
        let written = blocking(move || mark.written_since(log.as_ref())).await?;
        let written = Arc::new(written[..written.len().min(raw_rounds)].to_vec());
        let mut all = vec![ours];
        for (number, raw) in (1..).zip(phase.raws()) {
            let (written, twin) = (written.clone(), format!("raw-{}-{number}", self.phases));
            all.push(match &self.place.kafka {
                None => raw::rocksdb(&self.place.dir.0.join(twin), raw, written).await?,
                Some(config) => {
                    let (journal, twin) = (journal.clone(), self.place.name(&twin)?);
                    raw::kafka(journal, config.clone(), &identity, twin, raw, written).await?
                }
            });
            if self.place.kafka.is_none() {
                // One RocksDB has one writer.
                break;
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
