//! Has what was deleted long ago dropped: a record in the log every minute, by which every replica
//! does so at the same transaction. One record drops a bounded number of documents, so they are not
//! more seldom.

use std::sync::Arc;
use std::time::Duration;

use anabranch_journal::rounds::Expiries;
use anabranch_runtime::tasks::Shutdown;
use tokio::time::sleep;

/// How often at most and at least.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);
/// Of how many parts of its time to live something may be dropped late by one.
const PARTS: u32 = 24;

/// Writes records until the shutdown begins; one that is being written is waited for.
pub(crate) async fn run(expiries: Expiries, time_to_live: Duration, shutdown: &Shutdown) {
    let expiries = Arc::new(expiries);
    let earlier = Arc::clone(&expiries);
    match tokio::task::spawn_blocking(move || earlier.recover()).await {
        Ok(Ok(())) => {}
        // It times out, or another server ends it.
        Ok(Err(error)) => tracing::warn!(%error, "an earlier expiry may be open"),
        Err(error) => tracing::error!(%error, "an earlier expiry may be open"),
    }
    loop {
        tokio::select! {
            biased;
            () = shutdown.begun() => return,
            () = sleep(period(time_to_live)) => {}
        }
        let expiries = Arc::clone(&expiries);
        match tokio::task::spawn_blocking(move || expiries.write()).await {
            Ok(Ok(Some(txn))) => tracing::debug!(%txn, "what was deleted long ago is dropped"),
            Ok(Ok(None)) => {}
            // The next one does what this one would have done.
            Ok(Err(error)) => tracing::warn!(%error, "no expiry was written"),
            Err(error) => tracing::error!(%error, "no expiry was written"),
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
