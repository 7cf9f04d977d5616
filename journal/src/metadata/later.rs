//! A metadata store of a log that may not be there yet.

use std::sync::{Arc, OnceLock};

use anabranch_schemas::topics::ClusterName;

use super::{MetadataError, MetadataStore};
use crate::log::Journal;

/// Opened when it is first needed, and kept.
pub struct OpenedLater {
    journal: Arc<dyn Journal>,
    cluster: ClusterName,
    store: OnceLock<MetadataStore>,
}

impl OpenedLater {
    /// Of a cluster; does nothing yet.
    pub fn new(journal: Arc<dyn Journal>, cluster: ClusterName) -> Self {
        OpenedLater { journal, cluster, store: OnceLock::new() }
    }

    /// The store. Blocks if it is not open yet; who asks at the same time may open one in vain.
    ///
    /// # Errors
    /// As [`MetadataStore::open`]: then the next call tries again.
    pub fn get(&self) -> Result<&MetadataStore, MetadataError> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let opened = MetadataStore::open(Arc::clone(&self.journal), &self.cluster)?;
        Ok(self.store.get_or_init(|| opened))
    }
}
