//! The configuration of a cluster, as the resource that declares it.

use std::sync::Arc;

use anabranch_core::cluster::{Configuration, Epoch};
use anabranch_core::keyspace::SliceCount;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::resources::{Resource, ResourceId};
use anabranch_schemas::topics::ClusterName;

use super::follow::follow;
use super::{Entry, MetadataError, MetadataStore};
use crate::error::Error;
use crate::log::Journal;

impl MetadataStore {
    /// What a cluster's configuration is now; `None` if nobody declared one. Its epoch is the
    /// version of the entry, which goes on even when the entry is removed and comes back.
    ///
    /// # Errors
    /// As [`MetadataStore::refresh`]; [`Error::Corrupt`] if the entry is no configuration, or nobody
    /// said whose log this is.
    pub fn configuration(
        &self,
        cluster: &ClusterName,
    ) -> Result<Option<Configuration>, MetadataError> {
        let key = ResourceId::Cluster(cluster.clone()).key();
        let Some(entry) = self.get(&key)? else { return Ok(None) };
        let nobodys = || Error::Corrupt(format!("'{key}' is declared in a log that is nobody's"));
        let identity = self.identity()?.ok_or_else(nobodys)?;
        Ok(Some(declared(&key, &entry, identity.slices)?))
    }
}

/// Gives the configuration of a cluster as it is, and each time it has changed, until the shutdown
/// begins. Blocks.
pub fn follow_configuration(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    shutdown: &Shutdown,
    give: impl FnMut(Option<Configuration>),
) {
    let key = ResourceId::Cluster(cluster.clone()).key();
    let read = |store: &MetadataStore| store.configuration(cluster);
    follow(journal, cluster, shutdown, &key, read, give);
}

/// The configuration that the entry of a cluster declares, which has so many slices.
///
/// # Errors
/// [`Error::Corrupt`] if it declares none.
pub fn declared(key: &str, entry: &Entry, slices: SliceCount) -> Result<Configuration, Error> {
    let corrupt = |why: String| Error::Corrupt(format!("the entry '{key}': {why}"));
    match Resource::from_json(entry.value.as_bytes()) {
        Ok(Resource::Cluster { spec, .. }) => {
            Configuration::new(Epoch(entry.version.0), slices, spec)
                .map_err(|error| corrupt(error.to_string()))
        }
        Ok(other) => Err(corrupt(format!("it is {}", other.id()))),
        Err(error) => Err(corrupt(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::ActorId;
    use uuid::Uuid;

    use super::*;
    use crate::metadata::tests::Bench;
    use crate::metadata::{ClusterIdentity, Version};

    const EAST: &str = r#"{"apiVersion": "anabranch/v1", "kind": "Cluster",
        "metadata": {"name": "east"},
        "spec": {"partitions": [{"nodes": {"a": "a:7070"}}, {"nodes": {"b": "b:7070"}}]}}"#;

    fn set(store: &MetadataStore, expected: Option<u64>, value: Option<&str>) {
        let (expected, value) = (expected.map(Version), value.map(str::to_owned));
        store.compare_and_set("cluster/east", expected, value).unwrap();
    }

    /// Metadata that say whose log it is.
    fn named() -> (Bench, MetadataStore) {
        let bench = Bench::new();
        let store = bench.store();
        let (name, slices) = (bench.cluster.clone(), SliceCount::try_from(2).unwrap());
        let actor = ActorId(Uuid::from_u128(1));
        let identity = ClusterIdentity { name, actor, slices, created_ms: 5 };
        store.cluster_identity(|| identity).unwrap();
        (bench, store)
    }

    #[test]
    fn its_epoch_is_the_version_of_its_entry() {
        let (bench, store) = named();
        let epoch = || {
            let configuration = store.configuration(&bench.cluster).unwrap();
            configuration.map(|configuration| configuration.epoch())
        };
        assert_eq!(epoch(), None);
        set(&store, None, Some(EAST));
        assert_eq!(epoch(), Some(Epoch(1)));
        set(&store, Some(1), Some(&EAST.replace("a:7070", "c:7070")));
        let configuration = store.configuration(&bench.cluster).unwrap().unwrap();
        assert_eq!(configuration.epoch(), Epoch(2));
        assert_eq!(configuration.members()[&"a".parse().unwrap()].address, "c:7070");
        set(&store, Some(2), None);
        assert_eq!(epoch(), None);
        set(&store, None, Some(EAST));
        assert_eq!(epoch(), Some(Epoch(4)), "no epoch comes twice");
    }

    #[test]
    fn that_of_another_cluster_is_not_ours() {
        let (_bench, store) = named();
        set(&store, None, Some(EAST));
        assert_eq!(store.configuration(&"eas".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn what_is_declared_in_a_log_of_nobody_is_corrupt() {
        let bench = Bench::new();
        let store = bench.store();
        set(&store, None, Some(EAST));
        let error = store.configuration(&bench.cluster).unwrap_err();
        assert!(matches!(error, MetadataError::Journal(Error::Corrupt(_))), "{error:?}");
    }

    #[test]
    fn what_is_no_configuration_is_corrupt() {
        let replication = r#"{"apiVersion": "anabranch/v1", "kind": "Replication", "spec": {},
            "metadata": {"name": "x", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"}}"#;
        let three = EAST.replace("}}]", "}}, {\"nodes\": {\"c\": \"c:7070\"}}]");
        for broken in ["{", replication, &EAST.replace("b:7070", "a:7070"), &three] {
            let (bench, store) = named();
            set(&store, None, Some(broken));
            let error = store.configuration(&bench.cluster).unwrap_err();
            assert!(matches!(error, MetadataError::Journal(Error::Corrupt(_))), "{error:?}");
        }
    }
}
