//! What change data capture counts.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::batch::Batch;

const CHANGES: &str = "anabranch_cdc_changes_total";
const TRANSACTIONS: &str = "anabranch_cdc_transactions_total";
const POSITION: &str = "anabranch_cdc_position_txn";
const LAG: &str = "anabranch_cdc_lag_transactions";
const LAG_SECONDS: &str = "anabranch_cdc_lag_seconds";
const LOST: &str = "anabranch_cdc_lost_transactions_total";
const RESTARTS: &str = "anabranch_cdc_restarts_total";

/// Says what each metric means.
pub(crate) fn describe() {
    describe_counter!(CHANGES, Unit::Count, "change events written to topic changes");
    describe_counter!(TRANSACTIONS, Unit::Count, "transactions of the log written for them");
    describe_gauge!(POSITION, Unit::Count, "every transaction id below it is in topic changes");
    describe_gauge!(LAG, Unit::Count, "transactions applied and not yet in topic changes, at most");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "time since all that was applied was in the topic");
    describe_counter!(LOST, Unit::Count, "transactions whose changes no store node has any more");
    counter!(LOST).absolute(0);
    describe_counter!(RESTARTS, Unit::Count, "times it began anew from its stored position");
}

pub(crate) fn wrote(batch: &Batch) {
    counter!(CHANGES).increment(batch.changes().len() as u64);
    counter!(TRANSACTIONS).increment(1);
    gauge!(POSITION).set(as_f64(batch.next().0));
}

pub(crate) fn set_lag(transactions: u64, time: Duration) {
    gauge!(LAG).set(as_f64(transactions));
    gauge!(LAG_SECONDS).set(time.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Changes of so many transactions, at most, are lost.
pub(crate) fn lost(transactions: u64) {
    counter!(LOST).increment(transactions);
}

pub(crate) fn restarted() {
    counter!(RESTARTS).increment(1);
}
