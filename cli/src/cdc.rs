//! `anabranch cdc`: captures the changes of a cluster on Kafka.

use anabranch_cdc as cdc;
use anyhow::Result;
use axum::Router;

use crate::service::{self, Admin};
use crate::settings::{Builder, KafkaFlags, SettingsFlags, StoreFlags};

/// Capture what changes in a cluster on Kafka into its topic 'changes', each change exactly once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { kafka, store, settings } = args;
    let Some(settings) = Builder::new(settings)?.kafka(kafka)?.store(store).finish()? else {
        return Ok(());
    };
    service::run(settings, "cdc", None, None, async |service| {
        let config = service.settings.cdc.clone();
        let tasks = &service.host.feed;
        let store_node = service.store_nodes(tasks)?;
        let nodes = store_node.clone();
        cdc::run(config, service.cluster, nodes, service.journal, tasks, service.ready);
        let routes = Router::new();
        Ok(Admin { routes, links: None, ingest: false, store_node })
    })
    .await
}
