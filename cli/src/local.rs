//! A whole cluster in this process: all its services over one log, asking each other as they would
//! between machines, but without a network.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_bridge as bridge;
use anabranch_cdc as cdc;
use anabranch_ingest as ingest;
use anabranch_ingest::{ApiToken, Operators};
use anabranch_journal::Journal;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::metadata::{ClusterIdentity, MetadataStore};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::telemetry::MetricsHandle;
use anabranch_schemas::topics::ClusterName;
use anabranch_store_node as store_node;
use anyhow::{Context, Result};
use tokio::net::TcpListener;

use crate::board::{self, Board};
use crate::client::EXAMPLE_APP;
use crate::cluster::Plan;
use crate::host::{self, Host};
use crate::https::Https;
use crate::key;
use crate::settings::Settings;

/// How often it is looked whether everything is ready.
const POLL: Duration = Duration::from_millis(10);

/// What a cluster is started with. It has a bridge if the settings have certificates for one.
pub(crate) struct Start<'a> {
    pub(crate) host: &'a Host,
    pub(crate) settings: &'a Settings,
    pub(crate) metrics: MetricsHandle,
    pub(crate) name: ClusterName,
    /// Where its data is, in a directory with its name.
    pub(crate) dir: &'a Path,
    /// A key that may do everything with the documents of the example app.
    pub(crate) key: Option<&'a ApiToken>,
    /// Who may declare resources.
    pub(crate) operators: Operators,
    pub(crate) http: TcpListener,
    pub(crate) admin: TcpListener,
    /// What both of them show.
    pub(crate) https: &'a Https,
}

/// A cluster that runs.
pub(crate) struct Local {
    pub(crate) cluster: ClusterIdentity,
    pub(crate) http: SocketAddr,
    pub(crate) api_url: String,
    pub(crate) admin_url: String,
    /// What the store node answers.
    pub(crate) store_node: AnyOf,
    pub(crate) bridge: Option<SocketAddr>,
    readiness: Readiness,
}

/// Opens the embedded log in `dir`, on a thread that may block.
async fn open_log(dir: &Path) -> Result<Arc<dyn Journal>> {
    let config = EmbeddedConfig::new(dir);
    let opening = tokio::task::spawn_blocking(move || EmbeddedJournal::open(config));
    let opened = opening.await.context("open the embedded log")?;
    let journal = opened.with_context(|| format!("open the embedded log in {}", dir.display()))?;
    Ok(journal)
}

/// Declares the key of whoever runs the cluster, on a thread that may block.
async fn declare_key(journal: Arc<dyn Journal>, name: ClusterName, token: ApiToken) -> Result<()> {
    let declaring = tokio::task::spawn_blocking(move || {
        let metadata = MetadataStore::open(journal, &name).context("open the metadata")?;
        key::declare_all(&metadata, EXAMPLE_APP, &token)
    });
    declaring.await.context("declare the key")?
}

impl Start<'_> {
    /// Starts a cluster on the embedded log. `None` if the process is told to end meanwhile.
    pub(crate) async fn start(self) -> Result<Option<Local>> {
        let journal = open_log(&self.dir.join(self.name.as_str()).join("log")).await?;
        self.start_on(journal).await
    }

    /// Starts the services of a cluster. `None` if the process is told to end meanwhile.
    pub(crate) async fn start_on(self, journal: Arc<dyn Journal>) -> Result<Option<Local>> {
        let Start { host, settings, metrics, name, dir, key, operators, http, admin, https } = self;
        let store_dir = dir.join(name.as_str()).join("store-node");
        let readiness = Readiness::new();
        let log_ready = readiness.register("journal");
        let plan = Plan::new(name, settings)?;
        let Some(cluster) = plan.open(&journal, &log_ready, None, host.edge.shutdown()).await?
        else {
            return Ok(None);
        };
        if let Some(token) = key {
            declare_key(journal.clone(), cluster.name.clone(), token.clone()).await?;
        }
        let mut config = settings.store_node.clone();
        config.data_dir = store_dir;
        let ready = readiness.register("store-node");
        let (identity, log) = (cluster.clone(), journal.clone());
        let store = store_node::run_here(config, identity, log, &host.store, ready);
        let store_node = AnyOf::here(store.await.context("start the store node")?);

        let (config, ready) = (settings.cdc.clone(), readiness.register("cdc"));
        let (identity, log) = (cluster.clone(), journal.clone());
        cdc::run(config, identity, store_node.clone(), log, &host.feed, ready);

        let addresses = (host::address(&http)?, host::address(&admin)?);
        let context = ingest::Context {
            journal: journal.clone(),
            cluster: cluster.clone(),
            store_node: store_node.clone(),
            readiness: readiness.clone(),
            ready: readiness.register("ingest"),
        };
        let (http, admin) = (https.api(http), https.admin(admin)?);
        let api_url = format!("{}://{}", http.scheme(), addresses.0);
        let admin_url = format!("{}://{}", admin.scheme(), addresses.1);
        ingest::run(settings.ingest.clone(), http, context, &host.edge).context("start ingest")?;

        let bridge = match &settings.bridge.tls {
            None => None,
            Some(_) => {
                let (config, ready) = (settings.bridge.clone(), readiness.register("bridge"));
                let (identity, log) = (cluster.clone(), journal.clone());
                let nodes = store_node.clone();
                let bridge = bridge::run(config, identity, nodes, log, &host.edge, ready);
                Some(bridge.await.context("start the bridge")?)
            }
        };
        let (links, bridge) = bridge.map(|bridge| (bridge.status, bridge.address)).unzip();

        let probe = links.clone().map(crate::bridge::probe);
        let hosts = &settings.ingest.allowed_hosts;
        let operated = ingest::Operated {
            operators,
            journal: journal.clone(),
            cluster: cluster.clone(),
            replications: probe,
            store_nodes: None,
        };
        let resources = ingest::admin_routes(addresses.1, hosts, operated);
        let board = Board::new(cluster.clone(), journal, readiness.clone(), links);
        let board = board.asking(store_node.clone()).with_ingest();
        let board = ingest::guarded(addresses.1, hosts, board::routes(board));
        let routes = resources.merge(board);
        host.serve_admin(admin, readiness.clone(), metrics, routes);
        let http = addresses.0;
        Ok(Some(Local { cluster, http, api_url, admin_url, store_node, bridge, readiness }))
    }
}

impl Local {
    /// Resolves when all services of the cluster can do their work; `false` if the process ends
    /// before.
    pub(crate) async fn ready(&self, host: &Host) -> bool {
        while !self.readiness.not_ready().is_empty() {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = host.ends() => return false,
            }
        }
        true
    }
}
