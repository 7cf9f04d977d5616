//! Following the keys that are declared.

use std::sync::Arc;

use anabranch_core::ids::AppId;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::resources::{KeySpec, Kind, Resource, ResourceName};
use anabranch_schemas::topics::ClusterName;

use super::follow::follow;
use super::{MetadataError, MetadataStore, Version};
use crate::log::Journal;

/// A key as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredKey {
    /// Whose documents it is for.
    pub app: AppId,
    /// Its name within its app.
    pub name: ResourceName,
    /// How often it was changed.
    pub version: Version,
    /// What it declares.
    pub spec: KeySpec,
}

impl MetadataStore {
    /// The keys that are declared. One that cannot be read opens nothing, and is logged.
    ///
    /// # Errors
    /// As [`MetadataStore::refresh`].
    pub fn keys(&self) -> Result<Vec<DeclaredKey>, MetadataError> {
        let mut keys = Vec::new();
        for (place, entry) in self.list(Kind::Key.prefix())? {
            match Resource::from_json(entry.value.as_bytes()) {
                Ok(Resource::Key { app, name, spec }) => {
                    keys.push(DeclaredKey { app, name, version: entry.version, spec });
                }
                Ok(other) => tracing::error!(place, other = %other.id(), "an entry is no key"),
                Err(error) => tracing::error!(place, %error, "a key cannot be read"),
            }
        }
        Ok(keys)
    }
}

/// Gives the keys of a cluster as they are, and each time one has changed, until the shutdown begins.
/// Blocks.
pub fn follow_keys(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    shutdown: &Shutdown,
    give: impl FnMut(Vec<DeclaredKey>),
) {
    follow(journal, cluster, shutdown, Kind::Key.prefix(), MetadataStore::keys, give);
}

#[cfg(test)]
mod tests {
    use crate::metadata::tests::Bench;

    fn key(name: &str) -> String {
        format!(
            r#"{{"apiVersion": "anabranch/v1", "kind": "Key",
               "metadata": {{"name": "{name}", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"}},
               "spec": {{"apiKey": {{"hash": "$argon2id$x"}}, "permissions": {{}}}}}}"#
        )
    }

    #[test]
    fn a_key_that_cannot_be_read_is_in_nobodys_way() {
        let bench = Bench::new();
        let store = bench.store();
        let replication = r#"{"apiVersion": "anabranch/v1", "kind": "Replication", "spec": {},
            "metadata": {"name": "x", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"}}"#;
        for (place, value) in [
            ("key/1/good", key("good")),
            ("key/1/broken", "{".to_owned()),
            ("key/1/other", replication.to_owned()),
            ("key/2/good", key("better")),
        ] {
            store.compare_and_set(place, None, Some(value)).unwrap();
        }
        let names: Vec<_> =
            store.keys().unwrap().into_iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["good", "better"]);
    }
}
