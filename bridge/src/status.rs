//! How the replications of a process are doing, for `anabranch status` and for people.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;

use anabranch_core::ids::{ActorId, AppId};
use anabranch_schemas::resources::ResourceName;

/// How one replication is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    /// The link, while there is one.
    pub connected: Option<Connected>,
    /// Since when there is none, in milliseconds since the Unix epoch.
    pub unlinked_since_ms: Option<u64>,
    /// Why there is none, or why nothing can be sent over it, or nothing told of what is held. None
    /// once that has passed.
    pub last_error: Option<String>,
    /// What was received over the link, and is in this cluster's log.
    pub received: Option<Progress>,
    /// What was sent over it, and is in the other cluster's log.
    pub sent: Option<Progress>,
    /// The end of this cluster's log: the next transaction will have this id at least.
    pub log_end: Option<u64>,
    /// How many transaction ids of this log the other cluster has not confirmed, wanted or not.
    /// Known once it has asked for something since the process started; kept while there is no
    /// link.
    pub lag_transactions: Option<u64>,
    /// How long ago the first of those was written, in seconds: 0 if there are none. Of a receiver
    /// that is sent a snapshot, for how long it has been.
    pub lag_seconds: Option<f64>,
    /// Documents received and written since the process started.
    pub documents_received: u64,
    /// Documents sent since the process started.
    pub documents_sent: u64,
    /// Documents that could not be applied since the process started.
    pub dead_letters: u64,
}

/// The other side of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// Its cluster's name.
    pub cluster: String,
    /// The actor of its log.
    pub actor: ActorId,
    /// Its network address.
    pub address: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// How far one direction of a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Every transaction of the sender below this is in the receiver's log; within a snapshot, the
    /// transaction from which the log will be followed.
    pub next: u64,
    /// Whether a snapshot is under way.
    pub snapshot: bool,
    /// When that was reached, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long after it was sent the last batch was in the receiver's log, in milliseconds. Of
    /// what is received, by two clocks.
    pub lag_ms: u64,
}

type Statuses = BTreeMap<(AppId, ResourceName), ReplicationStatus>;

/// Shows how replications are doing.
#[derive(Clone, Debug, Default)]
pub struct StatusHandle(Arc<Mutex<Statuses>>);

impl StatusHandle {
    /// The status of every replication, by app and name.
    pub fn all(&self) -> BTreeMap<(AppId, ResourceName), ReplicationStatus> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Statuses> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// For the task of a replication to report with.
    pub(crate) fn reporter(&self, app: AppId, name: &ResourceName) -> Reporter {
        let reporter = Reporter { statuses: self.clone(), key: (app, name.clone()) };
        reporter.update(|_| {});
        reporter
    }
}

/// Reports on one replication.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    statuses: StatusHandle,
    key: (AppId, ResourceName),
}

impl Reporter {
    /// Changes the status.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ReplicationStatus)) {
        change(self.statuses.lock().entry(self.key.clone()).or_default());
    }

    /// The replication is no more.
    pub(crate) fn remove(&self) {
        self.statuses.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_it_in_camel_case() {
        let progress = Progress { next: 1, snapshot: true, at_ms: 2, lag_ms: 3 };
        let connected = Connected {
            cluster: "east".to_owned(),
            actor: ActorId(uuid::Uuid::nil()),
            address: "x:1".to_owned(),
            since_ms: 4,
        };
        let status = ReplicationStatus {
            connected: Some(connected),
            received: Some(progress),
            ..ReplicationStatus::default()
        };
        let json = serde_json::to_string(&status).unwrap();
        assert!(!json.contains('_'), "{json}");
        for name in ["unlinkedSinceMs", "lastError", "sinceMs", "lagMs", "lagTransactions"] {
            assert!(json.contains(&format!("\"{name}\"")), "{name} in {json}");
        }
    }
}
