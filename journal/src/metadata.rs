//! The metadata store: a small map from names to JSON in the compacted topic `meta`, the same for
//! all processes of a cluster, changed by compare-and-set.
//!
//! A change fences the one transactional id of the store, reads to the end, checks the version it
//! was made for, and writes. Whoever fences later reads what was committed before, or aborts it:
//! changes are linearizable on either journal. Reads go to the end of the topic first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::SliceCount;
use anabranch_schemas::records::Metadata;
use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{decode, encode};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::log::{
    Journal, NewRecord, ReadFrom, Reader, Record, TopicPartition, TransactionalId,
};
use crate::rotating::run_transaction;

const POLL: Duration = Duration::from_millis(100);
/// How often a change is tried again after another process fenced it.
const FENCED_TRIES: usize = 50;
/// The name of the cluster's own entry.
const CLUSTER_KEY: &str = "cluster";

/// The version of an entry: 1 at first, one more at each change. A removed entry keeps counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its version.
    pub version: Version,
    /// JSON.
    pub value: String,
}

/// Who a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// Its name, the first part of its topics' names.
    pub name: ClusterName,
    /// The actor that its log is.
    pub actor: ActorId,
    /// How many slices the keyspace has.
    pub slices: SliceCount,
    /// When its log was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Why the metadata store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The log failed.
    #[error("use the metadata store: {0}")]
    Journal(#[from] Error),
    /// The entry has another version than the change was made for.
    #[error("'{key}' was changed meanwhile: it is at version {}", version_text(*found))]
    Conflict {
        /// The entry.
        key: String,
        /// Its version; `None` if it is not there.
        found: Option<Version>,
    },
    /// An entry is not what it should be.
    #[error("entry '{key}' of the metadata store is broken: {reason}")]
    Broken {
        /// The entry.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

fn version_text(version: Option<Version>) -> String {
    version.map_or("none".to_owned(), |version| version.to_string())
}

impl MetadataError {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            MetadataError::Journal(error) => error.kind(),
            MetadataError::Conflict { .. } => ErrorKind::Invalid,
            MetadataError::Broken { .. } => ErrorKind::Corrupt,
        }
    }
}

/// A cluster's metadata store.
pub struct MetadataStore {
    journal: Arc<dyn Journal>,
    at: TopicPartition,
    id: TransactionalId,
    seen: Mutex<Seen>,
}

/// What was read so far.
struct Seen {
    reader: Box<dyn Reader>,
    entries: BTreeMap<String, Metadata>,
}

impl MetadataStore {
    /// The store of a cluster whose topics exist.
    pub fn open(journal: Arc<dyn Journal>, cluster: &ClusterName) -> Result<Self, MetadataError> {
        let at = TopicPartition::new(cluster.meta(), 0);
        let reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
        let seen = Mutex::new(Seen { reader, entries: BTreeMap::new() });
        let id = TransactionalId::from(cluster.meta());
        Ok(MetadataStore { journal, at, id, seen })
    }

    /// An entry, as of now.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        let mut seen = self.seen.lock();
        self.read_to_end(&mut seen)?;
        Ok(seen.entries.get(key).and_then(entry))
    }

    /// The entries whose names begin with `prefix`, by name, as of now.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetadataError> {
        let mut seen = self.seen.lock();
        self.read_to_end(&mut seen)?;
        let from = seen.entries.range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found
            .filter_map(|(key, stored)| entry(stored).map(|entry| (key.clone(), entry)))
            .collect())
    }

    /// Changes an entry if it is at version `expected`, `None` meaning that it is not there; a
    /// `value` of `None` removes it. Returns the new version.
    ///
    /// # Errors
    /// [`MetadataError::Conflict`] if it is at another version. An error of kind `Unknown` means
    /// that it may have happened: read it back.
    pub fn compare_and_set(
        &self,
        key: &str,
        expected: Option<Version>,
        value: Option<String>,
    ) -> Result<Version, MetadataError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_compare_and_set(key, expected, value.clone()) {
                Err(MetadataError::Journal(Error::Fenced(_))) if tries < FENCED_TRIES => {}
                result => return result,
            }
        }
    }

    fn try_compare_and_set(
        &self,
        key: &str,
        expected: Option<Version>,
        value: Option<String>,
    ) -> Result<Version, MetadataError> {
        let mut seen = self.seen.lock();
        let mut writer = self.journal.writer(&self.id)?;
        self.read_to_end(&mut seen)?;
        let stored = seen.entries.get(key);
        let found = stored.and_then(entry).map(|entry| entry.version);
        if found != expected {
            return Err(MetadataError::Conflict { key: key.to_owned(), found });
        }
        let version = Version(stored.map_or(0, |stored| stored.version) + 1);
        let metadata = Metadata { version: version.0, value };
        let record = NewRecord {
            at: self.at.clone(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Some(encode(&metadata)),
        };
        run_transaction(writer.as_mut(), |writer| writer.append(record))?;
        Ok(version)
    }

    /// Who this cluster is. The first process to ask decides, by `create`; all others are told.
    pub fn cluster_identity(
        &self,
        create: impl Fn() -> ClusterIdentity,
    ) -> Result<ClusterIdentity, MetadataError> {
        loop {
            if let Some(entry) = self.get(CLUSTER_KEY)? {
                let identity = serde_json::from_str(&entry.value);
                return identity.map_err(|error| MetadataError::Broken {
                    key: CLUSTER_KEY.to_owned(),
                    reason: error.to_string(),
                });
            }
            let identity =
                serde_json::to_string(&create()).expect("an identity has no keys but text");
            match self.compare_and_set(CLUSTER_KEY, None, Some(identity)) {
                Ok(_) | Err(MetadataError::Conflict { .. }) => {}
                Err(error) if error.kind() == ErrorKind::Unknown => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read_to_end(&self, seen: &mut Seen) -> Result<(), MetadataError> {
        let end = self.journal.bounds(&self.at)?.end;
        while seen.reader.position(&self.at).is_none_or(|position| position < end) {
            for record in seen.reader.poll(POLL)? {
                let (key, stored) = decode_entry(&record)?;
                seen.entries.insert(key, stored);
            }
        }
        Ok(())
    }
}

fn entry(stored: &Metadata) -> Option<Entry> {
    let value = stored.value.clone()?;
    Some(Entry { version: Version(stored.version), value })
}

fn decode_entry(record: &Record) -> Result<(String, Metadata), MetadataError> {
    let key = String::from_utf8_lossy(&record.key).into_owned();
    let value = record.value.as_deref().unwrap_or_default();
    match decode(value) {
        Ok(stored) => Ok((key, stored)),
        Err(error) => Err(MetadataError::Broken { key, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests;
