//! Where it is measured: the log, and clusters on it that nobody else uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_ingest::Operators;
use anabranch_journal::Journal;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::telemetry::{self, MetricsHandle};
use anabranch_schemas::store::StatusRequest;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use uuid::Uuid;

use super::report::machine;
use crate::board::{ClusterStatus, PATH};
use crate::client::{Client, TrustFlags};
use crate::failure::Failure;
use crate::host::{self, Host};
use crate::https::Https;
use crate::local::{Local, Start};
use crate::output::{print, say};
use crate::settings::Settings;

/// A free port of the loopback.
pub(super) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long anything may take to settle.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// While a store node catches up on cores that it shares with whoever asks.
const POLL: Duration = Duration::from_millis(10);
/// Asking costs a little.
const SETTLE_POLL: Duration = Duration::from_millis(100);

/// On which log.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct LogFlags {
    /// On Kafka; topics named bench-... are made and stay there.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// On the embedded log.
    #[arg(long)]
    embedded: bool,
}

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PlaceFlags {
    #[command(flatten)]
    log: LogFlags,
    /// A property of librdkafka, for us and for the raw client; repeat it for several.
    #[arg(long = "kafka-property", value_name = "NAME=VALUE", requires = "kafka")]
    properties: Vec<String>,
    /// Where to put data; it should be a real disk. A directory is made there and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
}

/// A place to measure in.
pub(super) struct Place {
    pub(super) kafka: Option<KafkaConfig>,
    pub(super) dir: ScratchDir,
    /// Different in each run.
    run: String,
    metrics: MetricsHandle,
}

impl Place {
    pub(super) fn open(flags: PlaceFlags) -> Result<Self> {
        let PlaceFlags { log, properties, data_dir } = flags;
        telemetry::init_tracing_at(false, "error");
        let metrics = telemetry::install_metrics()?;
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let mut kafka = log.kafka.map(|brokers| KafkaConfig::new(brokers, "anabranch-bench"));
        for property in &properties {
            let (name, value) = property.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--kafka-property '{property}' is not NAME=VALUE"))
            })?;
            if let Some(kafka) = &mut kafka {
                kafka.properties.insert(name.to_owned(), value.to_owned());
            }
        }
        let dir = ScratchDir::make(&data_dir.join(format!("anabranch-bench-{run}")))?;
        match &kafka {
            Some(kafka) => print(format_args!("log: Kafka at {}", kafka.bootstrap))?,
            None => print(format_args!("log: embedded, in {}", dir.0.display()))?,
        }
        print(format_args!("machine: {}", machine()))?;
        if cfg!(debug_assertions) {
            say("warning: this is not an optimised build; 'make build' makes one");
        }
        Ok(Place { kafka, dir, run, metrics })
    }

    /// A name that no other run uses.
    pub(super) fn name(&self, what: &str) -> Result<ClusterName> {
        Ok(format!("bench-{}-{what}", self.run).parse()?)
    }

    /// Opens the log of a cluster.
    pub(super) async fn journal(&self, name: &ClusterName) -> Result<Arc<dyn Journal>> {
        let (kafka, dir) = (self.kafka.clone(), self.dir.0.join(name.as_str()).join("log"));
        let opening = tokio::task::spawn_blocking(move || -> Result<Arc<dyn Journal>> {
            Ok(match kafka {
                Some(kafka) => Arc::new(KafkaJournal::connect(kafka)?),
                None => EmbeddedJournal::open(EmbeddedConfig::new(dir))?,
            })
        });
        opening.await?.context("open the log")
    }

    /// Starts a cluster and waits until it is ready.
    pub(super) async fn cluster(
        &self,
        host: &Host,
        name: &ClusterName,
        settings: &Settings,
    ) -> Result<Cluster> {
        let journal = self.journal(name).await?;
        // What a key costs is nothing beside a request.
        let mut settings = settings.clone();
        settings.ingest.open_to_all = true;
        let start = Start {
            host,
            settings: &settings,
            key: None,
            operators: Operators::Anyone,
            metrics: self.metrics.clone(),
            name: name.clone(),
            dir: &self.dir.0,
            http: host::listen(ANYWHERE, "").await?,
            admin: host::listen(ANYWHERE, "").await?,
            https: &Https::none(),
        };
        let local = start.start_on(journal.clone()).await?.context("told to end")?;
        ensure!(local.ready(host).await, "the cluster ended");
        let store = StoreNodeClient::new(local.store_node.clone());
        let api = Client::new(&local.api_url, &TrustFlags::default())?;
        Ok(Cluster { api, local, journal, store })
    }
}

/// A cluster to measure.
pub(super) struct Cluster {
    pub(super) local: Local,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) api: Client,
    pub(super) store: StoreNodeClient<AnyOf>,
}

impl Cluster {
    /// Waits until all that is in the log now was applied and captured.
    pub(super) async fn settle(&self) -> Result<()> {
        let admin = Client::new(&self.local.admin_url, &TrustFlags::default())?;
        let waiting = async {
            loop {
                let status: ClusterStatus = admin.json(admin.request(Method::GET, PATH)).await?;
                if status.parts.iter().all(|part| part.lag_transactions == Some(0)) {
                    return Ok(());
                }
                tokio::time::sleep(SETTLE_POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("the cluster does not catch up")?
    }
}

/// Waits until a store node has applied everything below `end`.
pub(super) async fn applied(store: &mut StoreNodeClient<AnyOf>, end: u64) -> Result<()> {
    let waiting = async {
        while store.status(StatusRequest {}).await?.into_inner().applied_next < end {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, waiting).await.context("the store node does not catch up")?
}

/// A directory that is removed in the end.
pub(super) struct ScratchDir(pub(super) PathBuf);

impl ScratchDir {
    fn make(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|error| Failure::usage(format!("make {}: {error}", path.display())))?;
        Ok(ScratchDir(path.to_owned()))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(format_args!("{} is left behind: {error}", self.0.display()));
        }
    }
}
