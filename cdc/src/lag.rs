//! How far the topic is behind what the store node has applied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::store::StatusRequest;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics;

/// How often the store node is asked where it is.
const ASK: Duration = Duration::from_secs(1);

/// Where the writer is.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    next: AtomicU64,
}

/// When the topic had all that was applied.
#[derive(Clone, Copy, Debug)]
struct CaughtUp(Instant);

impl Lag {
    /// Every transaction below `next` is in the topic.
    pub(crate) fn written(&self, next: TxnId) {
        self.next.store(next.0, Ordering::Release);
    }

    /// Sets the gauges until the shutdown begins. A store node that does not answer is taken to be
    /// where it was: the time goes on.
    pub(crate) async fn watch(&self, mut client: StoreNodeClient<AnyOf>, shutdown: Shutdown) {
        let (mut caught_up, mut applied) = (CaughtUp(Instant::now()), 0);
        while !shutdown.has_begun() {
            let asked = tokio::select! {
                biased;
                asked = timeout(ASK, client.status(StatusRequest {})) => asked,
                () = shutdown.begun() => return,
            };
            if let Ok(Ok(reply)) = asked {
                applied = reply.into_inner().applied_next.max(applied);
            }
            let next = self.next.load(Ordering::Acquire);
            let (transactions, time) = caught_up.behind(applied, next, Instant::now());
            metrics::set_lag(transactions, time);
            tokio::select! {
                biased;
                () = sleep(ASK) => {}
                () = shutdown.begun() => return,
            }
        }
    }
}

impl CaughtUp {
    /// How many transactions are missing at most, and for how long any has been.
    fn behind(&mut self, applied: u64, next: u64, now: Instant) -> (u64, Duration) {
        let missing = applied.saturating_sub(next);
        if missing == 0 {
            self.0 = now;
        }
        (missing, now - self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_counts_from_when_nothing_was_missing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut caught_up = CaughtUp(start);
        assert_eq!(caught_up.behind(10, 4, at(3)), (6, Duration::from_secs(3)));
        assert_eq!(caught_up.behind(10, 10, at(4)), (0, Duration::ZERO));
        assert_eq!(caught_up.behind(12, 10, at(6)), (2, Duration::from_secs(2)));
    }
}
