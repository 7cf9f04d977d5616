//! Has what was deleted long ago dropped: a record in the log every minute, by which every replica
//! does so at the same transaction. One record drops a bounded number of documents, so they are not
//! more seldom.

use std::sync::Arc;
use std::time::Duration;

use anabranch_journal::rounds::Expiries;
use anabranch_runtime::tasks::{Shutdown, waiting};
use tokio::time::sleep;

/// How often at most and at least.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);
/// Of how many parts of its time to live something may be dropped late by one.
const PARTS: u32 = 24;

/// How long the end of the process waits for a record that is being written.
const FINISH: Duration = Duration::from_secs(1);

/// Writes records until the shutdown begins.
pub(crate) async fn run(expiries: Expiries, time_to_live: Duration, shutdown: &Shutdown) {
    let expiries = Arc::new(expiries);
    let mut is_first = true;
    loop {
        let expiries = Arc::clone(&expiries);
        // What an earlier process has left open would else stay so until it times out.
        let recovers = std::mem::replace(&mut is_first, false);
        let writing = waiting(move || match recovers {
            true => expiries.recover().map(|()| None),
            false => expiries.write(),
        });
        let over = async {
            shutdown.begun().await;
            sleep(FINISH).await;
        };
        let written = tokio::select! {
            biased;
            written = writing => written,
            () = over => return,
        };
        match written {
            Ok(Ok(Some(txn))) => tracing::debug!(%txn, "what was deleted long ago is dropped"),
            Ok(Ok(None)) => {}
            // The next one does what this one would have done.
            Ok(Err(error)) => tracing::warn!(%error, "no expiry was written"),
            Err(error) => tracing::error!(%error, "no expiry was written"),
        }
        tokio::select! {
            biased;
            () = shutdown.begun() => return,
            () = sleep(period(time_to_live)) => {}
        }
    }
}

fn period(time_to_live: Duration) -> Duration {
    (time_to_live / PARTS).clamp(OFTEN, SELDOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_of_the_time_to_live_lies_between_two() {
        assert_eq!(period(Duration::from_millis(1)), OFTEN);
        assert_eq!(period(Duration::from_secs(240)), Duration::from_secs(10));
        assert_eq!(period(Duration::from_secs(30 * 24 * 60 * 60)), SELDOM);
    }
}
