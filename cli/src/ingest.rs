//! `anabranch ingest`: the HTTP API of a cluster on Kafka.

use anabranch_ingest as ingest;
use anyhow::{Context, Result};

use crate::host;
use crate::service::{self, Admin};
use crate::settings::{Builder, KafkaFlags, SettingsFlags, StoreFlags};

/// Serve the HTTP API of a cluster on Kafka, and its resources on the admin address.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    store: StoreFlags,
    /// Where to serve the HTTP API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The file with the key that those show who declare resources; it is made if it is not there.
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<String>,
    /// The name of this server among those of the cluster, the same after a restart.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { kafka, store, listen, admin_key_file, server_name, settings } = args;
    let settings = Builder::new(settings)?
        .kafka(kafka)?
        .store(store)
        .flag("--listen", &["listen"], listen)
        .flag("--admin-key-file", &["admin_key_file"], admin_key_file)
        .flag("--server-name", &["ingest", "server_name"], server_name)
        .finish()?;
    let Some(settings) = settings else { return Ok(()) };
    let operators = settings.operators()?;
    let (listener, front) = host::twice(host::listen(settings.listen, "--listen").await?)?;
    service::run(settings, "ingest", Some(front), None, async |service| {
        let config = service.settings.ingest.clone();
        let store_node = service.store_nodes(&service.host.edge)?;
        let address = host::address(&listener)?;
        let (admin, hosts) = (service.settings.listen_admin, &config.allowed_hosts);
        let operated = ingest::Operated {
            operators,
            journal: service.journal.clone(),
            cluster: service.cluster.clone(),
            replications: None,
            store_nodes: Some(store_node.clone()),
        };
        let routes = ingest::admin_routes(admin, hosts, operated);
        let context = ingest::Context {
            journal: service.journal,
            cluster: service.cluster,
            store_node: store_node.clone(),
            readiness: service.readiness.clone(),
            ready: service.ready,
        };
        let listener = service.https.api(listener);
        ingest::run(config, listener, context, &service.host.edge).context("start ingest")?;
        tracing::info!(%address, "the HTTP API is served");
        Ok(Admin { routes, links: None, ingest: true, store_node })
    })
    .await
}
