//! What a node says of itself that lacks something.

use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use anabranch_journal::Error as JournalError;
use tonic::Status as Refusal;

/// What a node says that is about to give up.
pub(super) fn will_be_lost(left: Duration, next: TxnId, trimmed: &JournalError) -> String {
    format!(
        "{trimmed}, nor has any replica what this node needs from transaction {next} on: it is \
         declared lost in {} s",
        left.as_secs()
    )
}

/// What a node says that waits for others.
pub(super) fn waits_for(
    silent: &[(NodeId, Refusal)],
    next: TxnId,
    trimmed: &JournalError,
) -> String {
    let name = |(node, why): &(NodeId, Refusal)| format!("{node} ({})", why.message());
    let names: Vec<_> = silent.iter().map(name).collect();
    format!(
        "{trimmed}, and no replica that answers has what this node needs from transaction {next} \
         on: waiting for {}. See to it, or remove it from the resource Cluster if it is gone for \
         good",
        names.join(", ")
    )
}
