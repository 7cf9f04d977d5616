//! `anabranch bridge`: replicates a cluster on Kafka with others.

use std::sync::Arc;

use anabranch_bridge as bridge;
use anyhow::{Context, Result};
use axum::Router;

use crate::service::{self, Admin};
use crate::settings::{Builder, KafkaFlags, SettingsFlags, StoreFlags, TlsFlags};

/// Replicate a cluster on Kafka with other clusters, as its Replication resources declare.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    store: StoreFlags,
    /// Where bridges of other clusters dial this one [default: 127.0.0.1:4040].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    #[command(flatten)]
    tls: TlsFlags,
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { kafka, store, listen, tls, settings } = args;
    let settings = Builder::new(settings)?
        .kafka(kafka)?
        .store(store)
        .tls(tls)
        .flag("--listen", &["bridge", "listen"], listen)
        .finish()?;
    let Some(settings) = settings else { return Ok(()) };
    service::run(settings, "bridge", None, None, async |service| {
        let config = service.settings.bridge.clone();
        let tasks = &service.host.edge;
        let store_node = service.store_nodes(tasks)?;
        let (nodes, ready) = (store_node.clone(), service.ready);
        let started = bridge::run(config, service.cluster, nodes, service.journal, tasks, ready);
        let bridge::Bridge { status, .. } = started.await.context("start the bridge")?;
        let routes = Router::new();
        Ok(Admin { routes, links: Some(status), ingest: false, store_node })
    })
    .await
}

/// How the admin endpoint of a process with a bridge learns how a replication is doing.
pub(crate) fn probe(links: bridge::StatusHandle) -> anabranch_ingest::ReplicationProbe {
    Arc::new(move |app, name| {
        let status = links.all().remove(&(app, name.clone()))?;
        serde_json::to_value(status).ok()
    })
}
