//! `anabranch store-node`: keeps the documents of a cluster on Kafka.

use anabranch_journal::metadata::MetadataStore;
use anabranch_runtime::grpc::AnyOf;
use anabranch_store_node as store_node;
use anyhow::{Context, Result};
use axum::Router;

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
    service::run(settings, "store-node", None, async |service| {
        let config = service.settings.store_node.clone();
        let tls = config.tls.clone();
        let (journal, name) = (service.journal.clone(), service.cluster.name.clone());
        let reading = tokio::task::spawn_blocking(move || {
            MetadataStore::open(journal, &name)?.configuration(&name)
        });
        let configuration = reading.await?.context("read the cluster's configuration")?;
        let (journal, tasks) = (service.journal, &service.host.store);
        let started =
            store_node::run(config, service.cluster, configuration, journal, tasks, service.ready);
        let address = started.await.context("start the store node")?;
        let store_node = AnyOf::new(&address.to_string(), tls.as_ref())?;
        Ok(Admin { routes: Router::new(), links: None, ingest: false, store_node })
    })
    .await
}
