//! `anabranch bench cluster`: one store node, three and six, on the cores of this machine; and how
//! long a replica that lost its disk takes to be one again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::cluster::{ClusterSpec, Configuration, Epoch, Member, NodeId, PartitionSpec};
use anabranch_core::keyspace::SliceCount;
use anabranch_ingest as ingest;
use anabranch_journal::baseline;
use anabranch_journal::{Journal, metadata::ClusterIdentity};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_store_node::{self as store_node, StoreNodeConfig};
use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::place::{ANYWHERE, PATIENCE, Place, PlaceFlags};
use super::report::{Measurement, Steal, histogram, spread, table};
use super::requests::{bulk_loads, single_reads, single_writes, until_there};
use crate::client::{Client, TrustFlags};
use crate::cluster::Plan;
use crate::host::{self, Host};
use crate::output::{print, say};
use crate::settings::Settings;

/// Documents of a round: so few that an empty node copies what another one has, and does not read
/// the log instead.
const ROUND: u64 = 200;
const CLIENTS: usize = 16;
/// How often it is looked whether a node is ready.
const POLL: Duration = Duration::from_millis(5);

/// Measure reads and writes with one, three and six store nodes, and how long a wiped replica takes
/// to copy everything from another one, next to a checkpoint of RocksDB that is copied.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceFlags,
    /// Documents that the wiped replica has to copy.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    documents: u64,
    /// Single reads, and single writes, of 16 clients together.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    requests: u64,
    /// How often each is measured. The tables have the last time, the ratio has all.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeat: u32,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { place, documents, requests, repeat } = args;
    let place = Place::open(place)?;
    let mut measured = Vec::new();
    for (partitions, replicas) in [(1, 1), (3, 1), (3, 2)] {
        let cluster = Cluster::start(&place, partitions, replicas).await?;
        let name = format!("{partitions} x {replicas} nodes");
        say(format_args!("measuring {name}"));
        let mut last = Vec::new();
        for number in 0..=repeat {
            // The first time warms up.
            let series = format!("s{number}");
            let writes = single_writes(cluster.http, &series, CLIENTS, requests).await?;
            until_there(cluster.http, &series, requests).await?;
            let reads = single_reads(cluster.http, &series, CLIENTS, requests).await?;
            last = vec![writes, reads];
        }
        measured.extend(
            last.into_iter()
                .map(|one| Measurement { what: format!("{name}: {}", one.what), ..one }),
        );
        cluster.close().await?;
    }
    print("")?;
    print(table(&measured))?;
    rejoin(&place, documents, repeat).await
}

/// Wipes one of two replicas again and again.
async fn rejoin(place: &Place, documents: u64, repeat: u32) -> Result<()> {
    let mut cluster = Cluster::start(place, 1, 2).await?;
    say(format_args!("loading {documents} documents"));
    bulk_loads(&cluster.api, "a", 4, documents, ROUND).await?;
    let mut names = cluster.nodes.keys().cloned().collect::<Vec<_>>().into_iter();
    let (stays, wiped) = (names.next().context("two")?, names.next().context("two")?);
    cluster.restart(&stays).await?;
    let (mut all, mut ratios) = (Vec::new(), Vec::new());
    for number in 0..repeat {
        say(format_args!("measuring, {} of {repeat}", number + 1));
        cluster.stop(&wiped).await?;
        std::fs::remove_dir_all(cluster.data_dir(&wiped)).context("wipe a replica")?;
        let (steal, begun) = (Steal::start()?, Instant::now());
        cluster.begin(&wiped).await?;
        cluster.ready(&wiped).await?;
        let ours = measurement("a wiped replica, until it serves", documents, begun, &steal)?;

        // What it copied from is at rest meanwhile, so that it can be opened.
        cluster.stop(&stays).await?;
        let (from, to) = (cluster.data_dir(&stays), place.dir.0.join(format!("copy-{number}")));
        let (steal, begun) = (Steal::start()?, Instant::now());
        let copying = tokio::task::spawn_blocking(move || baseline::rocksdb_copy(&from, &to));
        let bytes = copying.await??;
        let what = format!("  raw: RocksDB checkpoint, its {} MB copied", bytes >> 20);
        let raw = measurement(&what, documents, begun, &steal)?;
        cluster.begin(&stays).await?;
        cluster.ready(&stays).await?;
        ratios.push(ours.elapsed.as_secs_f64() / raw.elapsed.as_secs_f64());
        all = vec![ours, raw];
    }
    cluster.close().await?;
    print("")?;
    print(table(&all))?;
    print("")?;
    print(format_args!("wiped replica / copied checkpoint: time = {}", spread(ratios)))
}

fn measurement(what: &str, documents: u64, begun: Instant, steal: &Steal) -> Result<Measurement> {
    let (elapsed, stolen) = (begun.elapsed(), steal.share()?);
    Ok(Measurement { what: what.to_owned(), documents, elapsed, latencies: histogram(), stolen })
}

/// Store nodes and ingest.
struct Cluster<'a> {
    place: &'a Place,
    host: Host,
    journal: Arc<dyn Journal>,
    identity: ClusterIdentity,
    configuration: Configuration,
    nodes: BTreeMap<NodeId, Running>,
    http: SocketAddr,
    api: Client,
}

/// A store node that runs.
struct Running {
    tasks: Tasks,
    readiness: Readiness,
}

impl<'a> Cluster<'a> {
    async fn start(place: &'a Place, partitions: usize, replicas: usize) -> Result<Self> {
        let host = Host::new();
        let name = place.name(&format!("{partitions}x{replicas}"))?;
        let journal = place.journal(&name).await?;
        let plan = Plan::new(name, &Settings::default())?;
        let ready = Readiness::new().register("log");
        let opened = plan.open(&journal, &ready, None, host.edge.shutdown()).await?;
        let identity = opened.context("told to end")?;
        let configuration = declared(partitions, replicas).await?;
        let http = host::listen(ANYWHERE, "").await?;
        let address = host::address(&http)?;
        let mut cluster = Cluster {
            place,
            host,
            journal,
            identity,
            configuration,
            nodes: BTreeMap::new(),
            http: address,
            api: Client::new(&format!("http://{address}"), &TrustFlags::default())?,
        };
        let names: Vec<_> = cluster.configuration.members().keys().cloned().collect();
        for node in &names {
            cluster.begin(node).await?;
        }
        for node in &names {
            cluster.ready(node).await?;
        }
        cluster.serve(http)?;
        Ok(cluster)
    }

    fn serve(&self, http: TcpListener) -> Result<()> {
        let members = self.configuration.members().values();
        let addresses: Vec<_> = members.map(|member: &Member| member.address.as_str()).collect();
        let readiness = Readiness::new();
        let context = ingest::Context {
            journal: self.journal.clone(),
            cluster: self.identity.clone(),
            store_node: AnyOf::new(&addresses.join(","), None)?,
            ready: readiness.register("ingest"),
            readiness,
        };
        let mut config = Settings::default().ingest;
        config.open_to_all = true;
        ingest::run(config, http.into(), context, &self.host.edge)?;
        Ok(())
    }

    fn data_dir(&self, node: &NodeId) -> PathBuf {
        self.place.dir.0.join(self.identity.name.as_str()).join(node.as_str())
    }

    /// Starts a node.
    async fn begin(&mut self, node: &NodeId) -> Result<()> {
        let member = self.configuration.member(node).context("it is a member")?;
        let config = StoreNodeConfig {
            node: Some(node.clone()),
            data_dir: self.data_dir(node),
            listen: member.address.parse()?,
            ..StoreNodeConfig::default()
        };
        let (tasks, readiness) = (Tasks::new(Shutdown::new()), Readiness::new());
        let configurations = watch::channel(Some(self.configuration.clone())).1;
        let (identity, journal) = (self.identity.clone(), self.journal.clone());
        let ready = readiness.register("store-node");
        store_node::run(config, identity, configurations, journal, &tasks, ready).await?;
        self.nodes.insert(node.clone(), Running { tasks, readiness });
        Ok(())
    }

    /// Waits until a node serves.
    async fn ready(&self, node: &NodeId) -> Result<()> {
        let node = self.nodes.get(node).context("it runs")?;
        let waiting = async {
            while !node.readiness.not_ready().is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("a store node does not come up")
    }

    /// Starts a node anew and waits until it has applied all that was written.
    async fn restart(&mut self, node: &NodeId) -> Result<()> {
        self.stop(node).await?;
        self.begin(node).await?;
        self.ready(node).await
    }

    async fn stop(&mut self, node: &NodeId) -> Result<()> {
        let running = self.nodes.remove(node).context("it runs")?;
        running.tasks.shutdown().begin();
        Ok(running.tasks.join(PATIENCE).await?)
    }

    async fn close(mut self) -> Result<()> {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for node in &names {
            self.stop(node).await?;
        }
        self.host.close(PATIENCE).await
    }
}

/// So many partitions of so many nodes, on free ports.
async fn declared(partitions: usize, replicas: usize) -> Result<Configuration> {
    let mut spec = ClusterSpec { partitions: Vec::new(), quorum: None };
    // All are held until each has one: else two could be given the same.
    let mut held = Vec::new();
    for partition in 0..partitions {
        let mut nodes = BTreeMap::new();
        for replica in 0..replicas {
            let listener = TcpListener::bind(ANYWHERE).await?;
            let name = format!("p{partition}-r{replica}").parse()?;
            nodes.insert(name, listener.local_addr()?.to_string());
            held.push(listener);
        }
        spec.partitions.push(PartitionSpec { weight: 1, nodes });
    }
    Ok(Configuration::new(Epoch(1), SliceCount::default(), spec)?)
}
