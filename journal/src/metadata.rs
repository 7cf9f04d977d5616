//! The metadata store: named JSON values with versions, in the compacted topic `meta`.
//!
//! [`MetadataStore::compare_and_set`] is linearizable on any journal. It fences (one transactional
//! id for the whole cluster), reads to the end, checks the version and writes, in this order: so
//! between its check and its commit nobody else can have written. After a commit whose outcome is
//! unknown it fences and reads once more: then the record is there or it never will be.
//!
//! Who is fenced meanwhile waits for what the other one sets and begins again. It reads before it
//! fences: a change that comes too late is refused without being in the way of others. So the
//! processes of a new cluster, which all set the same entry when they start, do not keep fencing
//! each other.
//!
//! What is on disk when the process stops: a change is there or not; there is nothing between.
//!
//! The calls block. A handle keeps what it has read, and reads go to the end of the topic first:
//! they show what was set before they were called. Whoever follows changes with
//! [`MetadataStore::wait`] does so on a handle of its own.

mod configuration;
mod follow;
mod indexes;
mod keys;
mod later;
mod lost;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::SliceCount;
use anabranch_runtime::retry::Backoff;
use anabranch_schemas::records::Metadata;
use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{decode, encode};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;
use crate::log::{
    Journal, NewRecord, Offset, ReadFrom, Reader, Record, TopicPartition, TransactionalId,
};
use crate::rotating::run_transaction;

pub use configuration::{declared, follow_configuration};
pub use indexes::{Created, DeclaredIndexes, MAX_INDEXES, follow_indexes};
pub use keys::{DeclaredKey, follow_keys};
pub use later::OpenedLater;
pub use lost::{Agreed, LostRange};

/// How long to wait for the log to be read to its end.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the next records: short, since only markers may be left before the end.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a change is tried while others fence it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the change of whoever fenced this one: about as long as one takes.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(1);
/// The entry that says whose log this is.
const CLUSTER_KEY: &str = "cluster";

/// How often an entry was changed, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What can go wrong with the metadata store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetadataError {
    /// The entry is not at the expected version; nothing was changed.
    #[error("'{key}' is at version {}, not at {}", show(*.found), show(*.expected))]
    Conflict {
        /// The entry.
        key: String,
        /// The version it was to have; `None` if there was to be no entry.
        expected: Option<Version>,
        /// The version it has.
        found: Option<Version>,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] Error),
}

impl MetadataError {
    /// What the caller must do. A conflict is `Invalid`: read again and decide anew.
    pub fn kind(&self) -> ErrorKind {
        match self {
            MetadataError::Conflict { .. } => ErrorKind::Invalid,
            MetadataError::Journal(error) => error.kind(),
        }
    }
}

fn show(version: Option<Version>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| version.to_string())
}

/// Whose log this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// The cluster's name.
    pub name: ClusterName,
    /// Who writes here: drawn when the log was made.
    pub actor: ActorId,
    /// The number of slices, for ever.
    pub slices: SliceCount,
    /// When the log was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its version.
    pub version: Version,
    /// JSON.
    pub value: String,
}

/// An entry as it was read.
#[derive(Clone, Debug)]
struct Stored {
    version: Version,
    /// `None` if it was removed. Its version goes on when it comes back.
    value: Option<String>,
    offset: Offset,
}

impl Stored {
    fn entry(&self) -> Option<Entry> {
        self.value.clone().map(|value| Entry { version: self.version, value })
    }
}

/// A change that is asked for.
struct Change<'a> {
    key: &'a str,
    expected: Option<Version>,
    value: Option<String>,
    /// Another entry, which has to be at this version.
    beside: Option<(&'a str, Option<Version>)>,
}

/// What was read so far.
struct View {
    journal: Arc<dyn Journal>,
    at: TopicPartition,
    /// None after an error: then all is read again, so that no entry is passed over.
    reader: Option<Box<dyn Reader>>,
    entries: BTreeMap<String, Stored>,
}

/// A handle of a cluster's metadata.
pub struct MetadataStore {
    journal: Arc<dyn Journal>,
    at: TopicPartition,
    id: TransactionalId,
    view: Mutex<View>,
    /// Held by whoever changes something, so that threads of one process do not fence each other.
    writing: Mutex<()>,
}

impl fmt::Debug for MetadataStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataStore").field("at", &self.at).finish_non_exhaustive()
    }
}

impl MetadataStore {
    /// Opens the metadata of a cluster and reads it to the end.
    ///
    /// # Errors
    /// Those of the journal; [`Error::Corrupt`] if an entry does not decode.
    pub fn open(journal: Arc<dyn Journal>, cluster: &ClusterName) -> Result<Self, MetadataError> {
        let at = TopicPartition::new(cluster.meta(), 0);
        let view = View {
            journal: Arc::clone(&journal),
            at: at.clone(),
            reader: None,
            entries: BTreeMap::new(),
        };
        let store = MetadataStore {
            journal,
            at,
            id: TransactionalId::from(format!("{cluster}-meta")),
            view: Mutex::new(view),
            writing: Mutex::new(()),
        };
        store.refresh()?;
        Ok(store)
    }

    /// Reads to the end as it is now: what was set before this call is then shown.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the end is not reached in time.
    pub fn refresh(&self) -> Result<(), MetadataError> {
        let end = self.journal.bounds(&self.at)?.end;
        self.read_to(end)
    }

    fn read_to(&self, end: Offset) -> Result<(), MetadataError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut view = self.view.lock();
        while view.position().is_none_or(|position| position < end) {
            if Instant::now() >= deadline {
                let text = format!("{} was not read to its end in time", self.at);
                return Err(Error::Unavailable(text).into());
            }
            view.poll(POLL_TIMEOUT)?;
        }
        Ok(())
    }

    /// Waits up to `timeout` for changes and shows them; returns the names of what changed. Calls
    /// of this handle from other threads wait meanwhile.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn wait(&self, timeout: Duration) -> Result<Vec<String>, MetadataError> {
        Ok(self.view.lock().poll(timeout)?)
    }

    /// An entry, if it is there.
    ///
    /// # Errors
    /// As [`MetadataStore::refresh`].
    pub fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.refresh()?;
        Ok(self.view.lock().entries.get(key).and_then(Stored::entry))
    }

    /// The entries whose names begin with `prefix`, by name.
    ///
    /// # Errors
    /// As [`MetadataStore::refresh`].
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetadataError> {
        self.refresh()?;
        let view = self.view.lock();
        let stored = view.entries.range(prefix.to_owned()..);
        let stored = stored.take_while(|(key, _)| key.starts_with(prefix));
        let entries = stored.filter_map(|(key, stored)| Some((key.clone(), stored.entry()?)));
        Ok(entries.collect())
    }

    /// Sets or removes an entry if it is at the expected version, `None` being no entry. Returns
    /// the new version.
    ///
    /// # Errors
    /// [`MetadataError::Conflict`] if it is at another one; those of the journal. Of kind
    /// `Unknown` only if the journal fails again when it is asked for the outcome.
    pub fn compare_and_set(
        &self,
        key: &str,
        expected: Option<Version>,
        value: Option<String>,
    ) -> Result<Version, MetadataError> {
        self.set(&Change { key, expected, value, beside: None })
    }

    /// The same as long as another entry is at this version: [`MetadataError::Conflict`] names the
    /// one that is not.
    ///
    /// # Errors
    /// As [`MetadataStore::compare_and_set`].
    pub fn compare_and_set_beside(
        &self,
        beside: (&str, Option<Version>),
        key: &str,
        expected: Option<Version>,
        value: Option<String>,
    ) -> Result<Version, MetadataError> {
        self.set(&Change { key, expected, value, beside: Some(beside) })
    }

    fn set(&self, change: &Change<'_>) -> Result<Version, MetadataError> {
        let key = change.key;
        let _turn = self.writing.lock();
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        loop {
            self.refresh()?;
            self.next_version(change)?;
            match self.try_set(change) {
                Err(MetadataError::Journal(error @ (Error::Fenced(_) | Error::Aborted(_)))) => {
                    if Instant::now() >= deadline {
                        let text = format!("'{key}' was not set, others set metadata: {error}");
                        return Err(Error::Unavailable(text).into());
                    }
                    // Whoever fenced this one is at work now, which brokers tell in several ways.
                    self.wait_for_change(backoff.next_delay())?;
                }
                result => return result,
            }
        }
    }

    /// Waits up to `timeout` until something was set. Of a change that was aborted a hole is left,
    /// which readers pass: it is none.
    fn wait_for_change(&self, timeout: Duration) -> Result<(), MetadataError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left)?.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whose log this is: what the first to call this created, the same for all.
    ///
    /// # Errors
    /// Those of [`MetadataStore::compare_and_set`]; [`Error::Corrupt`] if it does not decode.
    pub fn cluster_identity(
        &self,
        create: impl FnOnce() -> ClusterIdentity,
    ) -> Result<ClusterIdentity, MetadataError> {
        if let Some(identity) = self.identity()? {
            return Ok(identity);
        }
        let identity = create();
        let json = serde_json::to_string(&identity).expect("plain fields always encode");
        match self.compare_and_set(CLUSTER_KEY, None, Some(json)) {
            Ok(_) => Ok(identity),
            // Another process came first.
            Err(MetadataError::Conflict { .. }) => {
                let removed = || Error::Corrupt(format!("the entry '{CLUSTER_KEY}' was removed"));
                Ok(self.identity()?.ok_or_else(removed)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Whose log this is, if that was said.
    fn identity(&self) -> Result<Option<ClusterIdentity>, MetadataError> {
        let Some(entry) = self.get(CLUSTER_KEY)? else { return Ok(None) };
        let decoded = serde_json::from_str(&entry.value);
        let corrupt = |e| Error::Corrupt(format!("the entry that names the cluster: {e}"));
        Ok(Some(decoded.map_err(corrupt)?))
    }

    /// The version that a change makes, going by what was read.
    fn next_version(&self, change: &Change<'_>) -> Result<Version, MetadataError> {
        let Change { key, expected, value, beside } = change;
        let view = self.view.lock();
        for (key, expected) in beside.iter().chain([&(*key, *expected)]) {
            let stored = view.entries.get(*key).filter(|stored| stored.value.is_some());
            let found = stored.map(|stored| stored.version);
            if found != *expected {
                let (key, expected) = ((*key).to_owned(), *expected);
                return Err(MetadataError::Conflict { key, expected, found });
            }
        }
        let stored = view.entries.get(*key);
        if value.is_none() && expected.is_none() {
            let text = format!("'{key}' cannot be removed: it is not there");
            return Err(Error::Invalid(text).into());
        }
        // A removed entry goes on from its last version, so that no version comes twice.
        Ok(Version(stored.map_or(0, |stored| stored.version.0) + 1))
    }

    fn try_set(&self, change: &Change<'_>) -> Result<Version, MetadataError> {
        let mut writer = self.journal.writer(&self.id)?;
        self.refresh()?;
        let version = self.next_version(change)?;
        let Change { key, value, .. } = change;
        let record = NewRecord {
            at: self.at.clone(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Some(encode(&Metadata { version: version.0, value: value.clone() })),
        };
        let mut offset = Offset::default();
        let written = run_transaction(writer.as_mut(), |writer| {
            writer.append(record)?;
            let written = writer.flush()?.last().copied();
            offset = written.ok_or_else(|| Error::Corrupt("a record has no offset".to_owned()))?;
            Ok(())
        });
        drop(writer);
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Unknown => {
                self.find_out(key, version, offset, &error)?;
            }
            Err(error) => return Err(error.into()),
        }
        // It may become visible a little after the commit returned. It is there in any case.
        if let Err(error) = self.read_to(Offset(offset.0 + 1)) {
            tracing::warn!(key, %error, "metadata was set and is not read back yet");
        }
        Ok(version)
    }

    /// Whether a commit happened whose answer did not come. If not, it was aborted.
    fn find_out(
        &self,
        key: &str,
        version: Version,
        offset: Offset,
        error: &Error,
    ) -> Result<(), MetadataError> {
        tracing::warn!(key, %error, "a change of metadata has an unknown outcome; looking for it");
        // From here on the record is there or it never will be.
        let _fence = self.journal.writer(&self.id).map_err(|_| error.clone())?;
        self.refresh().map_err(|_| error.clone())?;
        let view = self.view.lock();
        match view.entries.get(key) {
            Some(entry) if entry.offset == offset => Ok(()),
            // Others may have changed it since; only they know from what.
            Some(entry) if entry.version > version => Err(error.clone().into()),
            _ => Err(Error::Aborted(format!("it is not there after {error}")).into()),
        }
    }
}

impl View {
    /// Takes in the next records; returns the names of their entries.
    fn poll(&mut self, timeout: Duration) -> Result<Vec<String>, Error> {
        let polled = self.try_poll(timeout);
        if polled.is_err() {
            self.reader = None;
        }
        polled
    }

    fn try_poll(&mut self, timeout: Duration) -> Result<Vec<String>, Error> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => {
                let reader = self.journal.reader(&[(self.at.clone(), ReadFrom::Start)])?;
                self.entries.clear();
                none.insert(reader)
            }
        };
        let records = reader.poll(timeout)?;
        records.into_iter().map(|record| self.take_in(&record)).collect()
    }

    fn position(&self) -> Option<Offset> {
        self.reader.as_ref()?.position(&self.at)
    }

    fn take_in(&mut self, record: &Record) -> Result<String, Error> {
        let broken = |reason: String| {
            Error::Corrupt(format!("metadata at {} of {}: {reason}", record.offset, record.at))
        };
        let key = String::from_utf8(record.key.to_vec()).map_err(|e| broken(e.to_string()))?;
        let value = record.value.as_deref().ok_or_else(|| broken("no value".to_owned()))?;
        let Metadata { version, value } = decode(value).map_err(|e| broken(e.to_string()))?;
        let stored = Stored { version: Version(version), value, offset: record.offset };
        self.entries.insert(key.clone(), stored);
        Ok(key)
    }
}
