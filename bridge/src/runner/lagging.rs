//! Tells now and then how far the other cluster is behind this log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use anabranch_core::ids::TxnId;
use anabranch_journal::{Error as JournalError, Journal, Offset, ReadFrom, TopicPartition};
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::tasks::{ShuttingDown, waiting};

use super::Context;
use super::replication::Wanted;

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for a commit record.
const POLL: Duration = Duration::from_millis(500);

/// Tells until it is dropped.
pub(super) async fn tell(context: Arc<Context>, wanted: Arc<Wanted>) {
    loop {
        let (journal, looked) = (context.journal.clone(), wanted.clone());
        let txns = TopicPartition::new(context.cluster.name.txns(), 0);
        let look = move || look(&*journal, txns, &looked);
        match AssertUnwindSafe(waiting(look)).catch_unwind().await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                let (app, name) = (wanted.app, &wanted.name);
                tracing::debug!(%app, replication = %name, %error, "the lag is not known");
            }
            // The link goes on without.
            Err(_) => {
                tracing::error!("it panicked: the lag is not told any more");
                return std::future::pending().await;
            }
            Ok(Err(ShuttingDown)) => return std::future::pending().await,
        }
        tell_once(&wanted);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks where the log ends and, if need be, when what is missed first was written.
fn look(journal: &dyn Journal, txns: TopicPartition, wanted: &Wanted) -> Result<(), JournalError> {
    let end = journal.bounds(&txns)?.end;
    wanted.lag.log_ends(TxnId(end.0), now_millis());
    wanted.reporter.update(|status| status.log_end = Some(end.0));
    if let Some(txn) = wanted.lag.unknown() {
        let mut reader = journal.reader(&[(txns, ReadFrom::Offset(Offset(txn.0)))])?;
        if let Some(first) = reader.poll(POLL)?.first() {
            wanted.lag.was_written(txn, first.timestamp_ms);
        }
    }
    Ok(())
}

fn tell_once(wanted: &Wanted) {
    let behind = wanted.lag.behind(now_millis());
    wanted.reporter.update(|status| {
        status.lag_transactions = behind.map(|behind| behind.transactions);
        status.lag_seconds = behind.map(|behind| behind.since.as_secs_f64());
    });
    if let Some(behind) = behind {
        wanted.meters.lag_transactions.set(behind.transactions as f64);
        wanted.meters.lag_seconds.set(behind.since.as_secs_f64());
    }
}
