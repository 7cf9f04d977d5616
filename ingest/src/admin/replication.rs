//! How a replication is doing.

use anabranch_core::ids::AppId;
use anabranch_journal::cursors;
use anabranch_schemas::records::RemoteCursor;
use anabranch_schemas::resources::{ReplicationSpec, ResourceName};
use serde_json::{Value, json};

use super::Admin;

pub(super) fn status(
    admin: &Admin,
    app: AppId,
    name: &ResourceName,
    spec: &ReplicationSpec,
) -> Value {
    let prefix = RemoteCursor::key_prefix(app, name);
    let cursors =
        cursors::list::<RemoteCursor>(admin.journal.as_ref(), &admin.cluster.name, &prefix);
    let mut status = match cursors {
        Ok(cursors) => {
            let cursors: Vec<_> = cursors.into_values().collect();
            let state = if cursors.iter().any(|cursor| cursor.snapshot_after.is_some()) {
                "receiving a snapshot"
            } else if !cursors.is_empty() {
                "following"
            } else if spec.subscriptions.queries_by_collection.is_empty() {
                "wants nothing"
            } else {
                "nothing received yet"
            };
            json!({"state": state, "remotes": cursors.iter().map(remote).collect::<Vec<_>>()})
        }
        Err(error) => json!({"state": "unknown", "error": error.to_string()}),
    };
    if let Some(link) = admin.replications.as_ref().and_then(|probe| probe(app, name)) {
        status["link"] = link;
    }
    status
}

/// How far a replication has received from one cluster.
fn remote(cursor: &RemoteCursor) -> Value {
    json!({
        "actor": cursor.remote,
        "next": cursor.next,
        "inSnapshot": cursor.snapshot_after.is_some(),
        "lastRoundMs": cursor.hlc.millis(),
    })
}
