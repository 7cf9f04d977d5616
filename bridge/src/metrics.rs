//! What the bridge counts, for each replication.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use anabranch_core::ErrorKind;
use anabranch_core::ids::AppId;
use anabranch_schemas::resources::ResourceName;

const CONNECTED: &str = "anabranch_bridge_connected";
const LINK_ERRORS: &str = "anabranch_bridge_link_errors_total";
const SEND_ERRORS: &str = "anabranch_bridge_send_errors_total";
const LAG_TRANSACTIONS: &str = "anabranch_bridge_link_lag_transactions";
const LAG_SECONDS: &str = "anabranch_bridge_link_lag_seconds";
const SENT_DOCUMENTS: &str = "anabranch_bridge_sent_documents_total";
const SENT_BATCHES: &str = "anabranch_bridge_sent_batches_total";
const UNDER_WAY: &str = "anabranch_bridge_sent_under_way_batches";
const CONFIRM: &str = "anabranch_bridge_sent_confirm_seconds";
const SNAPSHOTS: &str = "anabranch_bridge_snapshots_total";
const LISTED_DOCUMENTS: &str = "anabranch_bridge_listed_documents_total";
const RECEIVED_DOCUMENTS: &str = "anabranch_bridge_received_documents_total";
const RECEIVED_ROUNDS: &str = "anabranch_bridge_received_rounds_total";
const DEAD_LETTERS: &str = "anabranch_bridge_dead_letters_total";
const COMMIT: &str = "anabranch_bridge_receive_commit_seconds";
const QUEUE: &str = "anabranch_bridge_receive_queue_batches";
const LAG: &str = "anabranch_bridge_receive_lag_seconds";
const ROUND_LAG: &str = "anabranch_bridge_receive_round_lag_seconds";

/// Says what the metrics mean.
pub(crate) fn describe() {
    describe_gauge!(CONNECTED, "1 while a replication has a link");
    describe_counter!(LINK_ERRORS, "Links that broke or could not be made");
    describe_counter!(SEND_ERRORS, "Errors that interrupted sending, by what is to be done");
    describe_gauge!(
        LAG_TRANSACTIONS,
        "Transaction ids of this log that the other cluster has not confirmed"
    );
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "Since the first transaction that the other cluster has not confirmed"
    );
    describe_counter!(SENT_DOCUMENTS, "Documents sent");
    describe_counter!(SENT_BATCHES, "Batches sent");
    describe_gauge!(UNDER_WAY, "Batches sent that are not in the receiver's log yet");
    describe_histogram!(CONFIRM, Unit::Seconds, "From sending a batch to its confirmation");
    describe_counter!(SNAPSHOTS, "Snapshots begun for a receiver");
    describe_counter!(
        LISTED_DOCUMENTS,
        "Documents of which a remote that sends a snapshot was told that they are held here"
    );
    describe_counter!(RECEIVED_DOCUMENTS, "Documents received and written");
    describe_counter!(RECEIVED_ROUNDS, "Rounds received and written");
    describe_counter!(DEAD_LETTERS, "Documents that could not be applied");
    describe_histogram!(COMMIT, Unit::Seconds, "A transaction of received rounds");
    describe_gauge!(QUEUE, "Batches received that are not written yet");
    describe_histogram!(LAG, Unit::Seconds, "From sending to writing, by the clocks of both sides");
    describe_histogram!(
        ROUND_LAG,
        Unit::Seconds,
        "From a round's commit record at the sender to its commit here, by the clocks of both sides"
    );
}

/// The metrics of one replication.
#[derive(Clone)]
pub(crate) struct Meters {
    labels: [(&'static str, String); 2],
    pub(crate) connected: Gauge,
    pub(crate) link_errors: Counter,
    pub(crate) lag_transactions: Gauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) sent_documents: Counter,
    pub(crate) sent_batches: Counter,
    pub(crate) under_way: Gauge,
    pub(crate) confirm: Histogram,
    pub(crate) snapshots: Counter,
    pub(crate) listed_documents: Counter,
    pub(crate) received_documents: Counter,
    pub(crate) received_rounds: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) commit: Histogram,
    pub(crate) queue: Gauge,
    pub(crate) lag: Histogram,
    pub(crate) round_lag: Histogram,
}

impl Meters {
    /// Of the replication `name` of `app`.
    pub(crate) fn new(app: AppId, name: &ResourceName) -> Self {
        let labels = [("app", app.to_string()), ("replication", name.to_string())];
        Meters {
            connected: gauge!(CONNECTED, &labels),
            link_errors: counter!(LINK_ERRORS, &labels),
            lag_transactions: gauge!(LAG_TRANSACTIONS, &labels),
            lag_seconds: gauge!(LAG_SECONDS, &labels),
            sent_documents: counter!(SENT_DOCUMENTS, &labels),
            sent_batches: counter!(SENT_BATCHES, &labels),
            under_way: gauge!(UNDER_WAY, &labels),
            confirm: histogram!(CONFIRM, &labels),
            snapshots: counter!(SNAPSHOTS, &labels),
            listed_documents: counter!(LISTED_DOCUMENTS, &labels),
            received_documents: counter!(RECEIVED_DOCUMENTS, &labels),
            received_rounds: counter!(RECEIVED_ROUNDS, &labels),
            dead_letters: counter!(DEAD_LETTERS, &labels),
            commit: histogram!(COMMIT, &labels),
            queue: gauge!(QUEUE, &labels),
            lag: histogram!(LAG, &labels),
            round_lag: histogram!(ROUND_LAG, &labels),
            labels,
        }
    }

    /// An error interrupted sending.
    pub(crate) fn send_failed(&self, kind: ErrorKind) {
        let [app, replication] = self.labels.clone();
        let kind = ("kind", format!("{kind:?}").to_lowercase());
        counter!(SEND_ERRORS, &[app, replication, kind]).increment(1);
    }
}
