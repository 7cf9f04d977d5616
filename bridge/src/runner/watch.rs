//! Follows the replications that are declared in the metadata store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::AppId;
use anabranch_journal::Journal;
use anabranch_journal::metadata::{MetadataError, MetadataStore};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::threads;
use anabranch_runtime::watched::Watched;
use anabranch_schemas::resources::{Kind, ReplicationSpec, Resource, ResourceName};
use anabranch_schemas::topics::ClusterName;

/// How often the shutdown is looked at.
const WAIT: Duration = Duration::from_millis(200);

/// Replications by app and name.
pub(super) type Declared = BTreeMap<(AppId, ResourceName), ReplicationSpec>;

/// Follows them until the shutdown begins. Blocks.
pub(super) fn follow(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    declared: &Watched<Declared>,
    ready: &ReadyFlag,
    shutdown: &Shutdown,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while !shutdown.has_begun() {
        let Err(error) = follow_store(journal, cluster, declared, ready, shutdown) else { return };
        tracing::warn!(%error, "declared replications cannot be read; trying again");
        ready.set_not_ready(format!("declared replications cannot be read: {error}"));
        threads::sleep(backoff.next_delay());
    }
}

fn follow_store(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    declared: &Watched<Declared>,
    ready: &ReadyFlag,
    shutdown: &Shutdown,
) -> Result<(), MetadataError> {
    let store = MetadataStore::open(journal.clone(), cluster)?;
    let now = read(&store)?;
    declared.change(|declared| *declared = now);
    ready.set_ready();
    while !shutdown.has_begun() {
        let changed = store.wait(WAIT)?;
        if changed.iter().any(|key| key.starts_with(Kind::Replication.prefix())) {
            let now = read(&store)?;
            declared.change(|declared| *declared = now);
        }
    }
    Ok(())
}

fn read(store: &MetadataStore) -> Result<Declared, MetadataError> {
    let mut declared = Declared::new();
    for (key, entry) in store.list(Kind::Replication.prefix())? {
        match Resource::from_json(entry.value.as_bytes()) {
            Ok(Resource::Replication { app, name, spec }) => {
                declared.insert((app, name), spec);
            }
            Ok(other) => tracing::error!(key, "a declared replication is {}", other.id()),
            Err(error) => tracing::error!(key, %error, "a declared replication cannot be used"),
        }
    }
    Ok(declared)
}
