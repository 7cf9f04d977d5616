//! `anabranch bench bridge`: from cluster to cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_bridge::identity;
use anabranch_core::ids::DocumentId;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::resources::Resource;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::store::{FeedRequest, StatusRequest};
use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::place::{ANYWHERE, Cluster, PATIENCE, Place, PlaceFlags};
use super::report::{Measurement, Steal, histogram, micros, table};
use super::requests::{Connection, bulk_loads};
use crate::apply;
use crate::client::{Client, EXAMPLE_APP, TrustFlags};
use crate::host::Host;
use crate::output::{print, say};
use crate::settings::Settings;

const REQUEST: u64 = 1_000;
/// A reply of the feed holds whole transactions.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Measure replication between two clusters on the same log server and machine: documents per
/// second, and how long a write takes from one to the other.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceFlags,
    /// Documents to replicate.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    documents: u64,
    /// Single writes whose way is timed.
    #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
    writes: u64,
    /// Single writes per second.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    rate: u32,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, writes, rate } = args;
    let place = Place::open(place)?;
    let host = Host::new();
    let (east, west) = clusters(&place, &host).await?;
    let arrivals = Arrivals::watch(west.store.clone()).await?;
    let mut results = Vec::new();

    say("warming up");
    declare(&east, &west).await?;
    copied(&east, &arrivals, "warm", documents / 4).await?;
    paced(&east, &arrivals, "warm-paced", writes / 4, rate).await?;

    say("measuring");
    results.push(copied(&east, &arrivals, "live", documents).await?);
    east.settle().await?;
    west.settle().await?;
    results.extend(paced(&east, &arrivals, "paced", writes, rate).await?);
    print("")?;
    print(table(&results))?;
    drop((east, west, arrivals));
    host.close(Settings::default().shutdown_timeout()).await
}

async fn clusters(place: &Place, host: &Host) -> Result<(Cluster, Cluster)> {
    let names = [place.name("east")?, place.name("west")?];
    let hosts = ["127.0.0.1".to_owned()];
    let files = names
        .each_ref()
        .map(|name| identity::write_files(&place.dir.0.join(format!("ca-{name}")), name, &hosts));
    let [east, west] = files;
    let (east, west) = (east?, west?);
    let trusted = vec![east.ca.clone(), west.ca.clone()];
    let settings = |tls| {
        let mut settings = Settings::default();
        settings.bridge.listen = ANYWHERE;
        settings.bridge.tls = Some(tls);
        settings
    };
    let [east_name, west_name] = &names;
    let east = place.cluster(host, east_name, &settings(east.tls(trusted.clone()))).await?;
    let west = place.cluster(host, west_name, &settings(west.tls(trusted))).await?;
    Ok((east, west))
}

/// West wants everything, and dials; east wants nothing.
async fn declare(east: &Cluster, west: &Cluster) -> Result<()> {
    let bridge = east.local.bridge.context("east has no bridge")?.to_string();
    for (cluster, connections, wanted) in
        [(east, vec![], json!({})), (west, vec![bridge], json!({ "bench": ["true"] }))]
    {
        let resource = Resource::from_value(&json!({
            "apiVersion": "anabranch/v1",
            "kind": "Replication",
            "metadata": { "name": "bench", "app": EXAMPLE_APP },
            "spec": {
                "connections": connections,
                "subscriptions": { "queriesByCollection": wanted },
            },
        }))?;
        let admin = Client::new(&cluster.local.admin_url, &TrustFlags::default())?;
        apply::put(&admin, &resource, false).await?;
    }
    Ok(())
}

/// Loads documents into east and waits until west has applied them all.
async fn copied(
    east: &Cluster,
    arrivals: &Arrivals,
    series: &str,
    count: u64,
) -> Result<Measurement> {
    let before = arrivals.count();
    let (steal, begun) = (Steal::start()?, Instant::now());
    let loaded = bulk_loads(&east.api, series, 4, count, REQUEST).await?;
    arrivals.wait_for(before + count).await?;
    Ok(Measurement {
        what: format!("from load to west (the load alone: {:.0}/s)", loaded.rate()),
        documents: count,
        elapsed: begun.elapsed(),
        latencies: histogram(),
        stolen: steal.share()?,
    })
}

/// Writes one by one at a steady pace and times their way.
async fn paced(
    east: &Cluster,
    arrivals: &Arrivals,
    series: &str,
    count: u64,
    rate: u32,
) -> Result<[Measurement; 2]> {
    let before = arrivals.count();
    let (steal, begun) = (Steal::start()?, Instant::now());
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    let mut writes = Vec::new();
    for number in 0..count {
        pace.tick().await;
        let (address, series) = (east.local.http, series.to_owned());
        writes.push(tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            let sent = Instant::now();
            connection.write_one(&series, number).await?;
            anyhow::Ok((format!("{series}-{number:09}"), sent, Instant::now()))
        }));
    }
    let (mut since_sent, mut since_acknowledged) = (histogram(), histogram());
    let mut times = Vec::new();
    for write in writes {
        times.push(write.await??);
    }
    arrivals.wait_for(before + count).await?;
    let (elapsed, stolen) = (begun.elapsed(), steal.share()?);
    let arrived = arrivals.times();
    for (id, sent, acknowledged) in times {
        let arrived = arrived.get(&id).with_context(|| format!("'{id}' did not arrive"))?;
        since_sent.saturating_record(micros(arrived.saturating_duration_since(sent)));
        since_acknowledged
            .saturating_record(micros(arrived.saturating_duration_since(acknowledged)));
    }
    let measurement = |what: &str, latencies| Measurement {
        what: format!("{what}, {rate} writes/s"),
        documents: count,
        elapsed,
        latencies,
        stolen,
    };
    Ok([
        measurement("lag from acknowledged in east to applied in west", since_acknowledged),
        measurement("lag from sent to east to applied in west", since_sent),
    ])
}

/// What a cluster's feed has shown.
struct Arrivals {
    count: watch::Receiver<u64>,
    times: Arc<std::sync::Mutex<HashMap<String, Instant>>>,
    /// Watching ends with this.
    _alive: mpsc::Sender<()>,
}

impl Arrivals {
    async fn watch(mut store: StoreNodeClient<AnyOf>) -> Result<Self> {
        let from = store.status(StatusRequest {}).await?.into_inner().applied_next;
        let mut store = store.max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = FeedRequest { slices: Vec::new(), from, has_part: false };
        let mut feed = store.feed(request).await?.into_inner();
        let (counted, count) = watch::channel(0);
        let times: Arc<std::sync::Mutex<HashMap<String, Instant>>> = Arc::default();
        let (alive, mut over) = mpsc::channel(1);
        let seen = times.clone();
        tokio::spawn(async move {
            loop {
                let reply = tokio::select! {
                    reply = feed.message() => reply,
                    _ = over.recv() => return,
                };
                let Ok(Some(reply)) = reply else { return };
                let now = Instant::now();
                let changes = reply.transactions.iter().flat_map(|txn| &txn.changes);
                let ids: Vec<_> = changes.map(|change| id_of(&change.document_id)).collect();
                let new = ids.len() as u64;
                let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                seen.extend(ids.into_iter().map(|id| (id, now)));
                counted.send_modify(|count| *count += new);
            }
        });
        Ok(Arrivals { count, times, _alive: alive })
    }

    fn count(&self) -> u64 {
        *self.count.borrow()
    }

    async fn wait_for(&self, count: u64) -> Result<()> {
        let mut receiver = self.count.clone();
        let arrived = receiver.wait_for(|seen| *seen >= count);
        let waited = tokio::time::timeout(PATIENCE, arrived).await;
        waited
            .with_context(|| format!("{} of {count} documents arrived", self.count()))?
            .context("the feed of the other cluster broke off")?;
        Ok(())
    }

    fn times(&self) -> HashMap<String, Instant> {
        self.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The `_id` in a canonical document id, which is text here.
fn id_of(bytes: &[u8]) -> String {
    let id = DocumentId::from_bytes(bytes).map(|id| id.key.as_str().trim_matches('"').to_owned());
    id.unwrap_or_default()
}
