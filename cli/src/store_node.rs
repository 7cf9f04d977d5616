//! `anabranch store-node`: keeps the documents of a cluster on Kafka.

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
    let Args { kafka, listen, data_dir, settings } = args;
    let settings = Builder::new(settings)?
        .kafka(kafka)?
        .flag("--listen", &["store_node", "listen"], listen)
        .flag("--data-dir", &["store_node", "data_dir"], data_dir)
        .finish()?;
    let Some(settings) = settings else { return Ok(()) };
    service::run(settings, "store-node", None, async |service| {
        let config = service.settings.store_node.clone();
        let tls = config.tls.clone();
        let tasks = &service.host.store;
        let started =
            store_node::run(config, service.cluster, None, service.journal, tasks, service.ready)
                .await;
        let address = started.context("start the store node")?;
        Ok(Admin {
            routes: Router::new(),
            links: None,
            ingest: false,
            store_node: address.to_string(),
            store_node_tls: tls,
        })
    })
    .await
}
