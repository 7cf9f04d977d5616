//! What change data capture counts.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::batch::Batch;

const CHANGES: &str = "anabranch_cdc_changes_total";
const TRANSACTIONS: &str = "anabranch_cdc_transactions_total";
const POSITION: &str = "anabranch_cdc_position_txn";
const RESTARTS: &str = "anabranch_cdc_restarts_total";

/// Says what each metric means.
pub(crate) fn describe() {
    describe_counter!(CHANGES, Unit::Count, "change events written to topic changes");
    describe_counter!(TRANSACTIONS, Unit::Count, "transactions of the log written for them");
    describe_gauge!(POSITION, Unit::Count, "every transaction id below it is in topic changes");
    describe_counter!(RESTARTS, Unit::Count, "times it began anew from its stored position");
}

pub(crate) fn wrote(batch: &Batch) {
    counter!(CHANGES).increment(batch.changes().len() as u64);
    counter!(TRANSACTIONS).increment(1);
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
    gauge!(POSITION).set(batch.next().0 as f64);
}

pub(crate) fn restarted() {
    counter!(RESTARTS).increment(1);
}
