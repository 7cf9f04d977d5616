//! Where the store nodes of a cluster are: as it is set, else as its resource Cluster declares them,
//! now and whenever that changes.

use std::sync::Arc;

use anabranch_core::cluster::Configuration;
use anabranch_journal::Journal;
use anabranch_journal::metadata::follow_configuration;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::Tasks;
use anabranch_schemas::topics::ClusterName;
use anyhow::Result;
use tokio::runtime::Handle;

use crate::failure::Failure;
use crate::settings::Settings;

/// Where the only one is if nothing is set and nothing is declared.
const ALONE: &str = "127.0.0.1:7070";

/// A channel to the store nodes of a cluster.
pub(crate) fn find(
    settings: &Settings,
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    tasks: &Tasks,
) -> Result<AnyOf> {
    let tls = settings.store_node_tls.as_ref();
    if let Some(addresses) = &settings.store_node_address {
        let nodes = AnyOf::new(addresses, tls);
        return Ok(nodes.map_err(|error| Failure::usage(error.to_string()))?);
    }
    let nodes = AnyOf::later(tls);
    let (journal, cluster) = (Arc::clone(journal), cluster.clone());
    let (following, shutdown) = (nodes.clone(), tasks.shutdown().clone());
    let runtime = Handle::current();
    tasks.spawn_thread("store-nodes", move || {
        // Channels are made in it.
        let _runtime = runtime.enter();
        follow_configuration(&journal, &cluster, &shutdown, |configuration| {
            let addresses = configuration.as_ref().map_or(ALONE.to_owned(), addresses);
            match following.set(&addresses) {
                Ok(()) => tracing::info!(addresses, "the store nodes of the cluster"),
                Err(error) => tracing::error!(%error, "a store node cannot be asked"),
            }
        });
        Ok(())
    });
    Ok(nodes)
}

fn addresses(configuration: &Configuration) -> String {
    let members = configuration.members().values().map(|member| member.address.as_str());
    members.collect::<Vec<_>>().join(",")
}
