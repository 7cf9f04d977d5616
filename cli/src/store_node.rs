//! `anabranch store-node`: keeps the documents of a cluster on Kafka.

use std::sync::Arc;

use anabranch_core::ErrorKind;
use anabranch_core::cluster::Configuration;
use anabranch_journal::Journal;
use anabranch_journal::metadata::{MetadataStore, follow_configuration};
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::Tasks;
use anabranch_schemas::topics::ClusterName;
use anabranch_store_node::{self as store_node, Configurations, Known};
use anyhow::{Context, Result};
use axum::Router;
use tokio::sync::watch;

use crate::service::{self, Admin};
use crate::settings::{Builder, KafkaFlags, SettingsFlags};

/// Keep the documents of a cluster on Kafka, and answer reads of its other services.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaFlags,
    /// Which one it is of the nodes that the cluster's resource Cluster declares, if it does.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where to answer the other services of the cluster [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where to keep the documents [default: anabranch-data/store-node].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { kafka, node, listen, data_dir, settings } = args;
    let settings = Builder::new(settings)?
        .kafka(kafka)?
        .flag("--node", &["store_node", "node"], node)
        .flag("--listen", &["store_node", "listen"], listen)
        .flag("--data-dir", &["store_node", "data_dir"], data_dir)
        .finish()?;
    let Some(settings) = settings else { return Ok(()) };
    let known = Known::read(&settings.store_node.data_dir)?
        .filter(|known| Some(&known.identity.name) == settings.cluster.as_ref());
    let (cluster, last) = known.map(|known| (known.identity, known.configuration)).unzip();
    service::run(settings, "store-node", None, cluster, async |service| {
        let config = service.settings.store_node.clone();
        let (journal, name) = (service.journal.clone(), service.cluster.name.clone());
        let reading = tokio::task::spawn_blocking(move || {
            MetadataStore::open(journal, &name)?.configuration(&name)
        });
        let declared = match (reading.await?, last) {
            (Ok(declared), _) => declared,
            (Err(error), Some(last)) if error.kind() == ErrorKind::Retry => last,
            (Err(error), _) => return Err(error).context("read the cluster's configuration"),
        };
        let (journal, tasks) = (service.journal, &service.host.store);
        let configurations = follow(declared, &journal, &service.cluster.name, tasks);
        let started =
            store_node::run(config, service.cluster, configurations, journal, tasks, service.ready);
        let store_node::Running { here, .. } = started.await.context("start the store node")?;
        let store_node = AnyOf::here(here);
        Ok(Admin { routes: Router::new(), links: None, ingest: false, store_node })
    })
    .await
}

/// The configuration of the cluster as it was read first, and each that follows.
fn follow(
    first: Option<Configuration>,
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    tasks: &Tasks,
) -> Configurations {
    let (newest, configurations) = watch::channel(first);
    let (journal, cluster, shutdown) =
        (Arc::clone(journal), cluster.clone(), tasks.shutdown().clone());
    tasks.spawn_thread("store-node-configuration", move || {
        follow_configuration(&journal, &cluster, &shutdown, |declared| {
            newest.send_if_modified(|known| {
                let is_news = *known != declared;
                *known = declared;
                is_news
            });
        });
        Ok(())
    });
    configurations
}
