//! How far the other cluster is behind this log, from what this side knows: where its own log ends,
//! and what the other side has confirmed. So it grows while a link is down, or stands still.
//!
//! A sender keeps no state. What was confirmed before the process started is known again once the
//! other side has said where it is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anabranch_core::ids::TxnId;

/// How many ends of the log are remembered. Of more, every other one is forgotten: what is said is
/// then a little too long ago.
const MOST_ENDS: usize = 512;

/// The lag of one replication's receiver.
#[derive(Debug, Default)]
pub(crate) struct Lag(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Everything below is confirmed.
    next: Option<TxnId>,
    /// When the snapshot was begun that the other side is being sent.
    snapshot_since_ms: Option<u64>,
    end: TxnId,
    /// Ends of the log past `next`, and until when what is below them was written.
    ends: VecDeque<(TxnId, u64)>,
    /// The end that was seen first. What is below it was written at any time before.
    first_end: Option<TxnId>,
}

/// How far behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Behind {
    pub(crate) transactions: u64,
    pub(crate) since: Duration,
}

impl Lag {
    /// A link begins: whether the other side wants anything is not known yet.
    pub(crate) fn begin(&self) {
        self.lock().next = None;
    }

    /// The other side has everything below `next`; or it is being sent a snapshot, and will be
    /// there at its end.
    pub(crate) fn reached(&self, next: TxnId, in_snapshot: bool, now_ms: u64) {
        let mut state = self.lock();
        state.next = Some(next);
        let since = state.snapshot_since_ms.unwrap_or(now_ms);
        state.snapshot_since_ms = in_snapshot.then_some(since);
        state.forget();
    }

    /// The log ends here now.
    pub(crate) fn log_ends(&self, end: TxnId, now_ms: u64) {
        let mut state = self.lock();
        state.first_end.get_or_insert(end);
        if end > state.end {
            state.end = end;
            state.ends.push_back((end, now_ms));
        }
        if state.ends.len() > MOST_ENDS {
            let mut index = 0;
            state.ends.retain(|_| {
                index += 1;
                index == 1 || index % 2 == 0
            });
        }
        state.forget();
    }

    /// The transaction of which it must be looked up when it was written, if that is not known.
    pub(crate) fn unknown(&self) -> Option<TxnId> {
        let state = self.lock();
        let next = state.next?;
        let (end, _) = state.ends.front()?;
        (next < state.end && Some(*end) == state.first_end).then_some(next)
    }

    /// A transaction was written then, or the first one after it.
    pub(crate) fn was_written(&self, txn: TxnId, at_ms: u64) {
        let mut state = self.lock();
        if state.ends.front().is_some_and(|(end, _)| *end > txn.next()) {
            state.ends.push_front((txn.next(), at_ms));
        }
        state.forget();
    }

    /// How far behind the other side is, if that is known.
    pub(crate) fn behind(&self, now_ms: u64) -> Option<Behind> {
        let state = self.lock();
        let mut transactions = state.end.0.saturating_sub(state.next?.0);
        let mut since = state.ends.front().filter(|_| transactions > 0).map(|(_, at_ms)| *at_ms);
        if let Some(begun) = state.snapshot_since_ms {
            // How many it lacks is not known; it is not none.
            transactions = transactions.max(1);
            since = Some(since.map_or(begun, |since| since.min(begun)));
        }
        let since_ms = since.map_or(0, |since| now_ms.saturating_sub(since));
        Some(Behind { transactions, since: Duration::from_millis(since_ms) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

impl State {
    fn forget(&mut self) {
        let Some(next) = self.next else { return };
        while self.ends.front().is_some_and(|(end, _)| *end <= next) {
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(lag: &Lag, now_ms: u64) -> (u64, u64) {
        let Behind { transactions, since } = lag.behind(now_ms).unwrap();
        (transactions, u64::try_from(since.as_millis()).unwrap())
    }

    #[test]
    fn it_grows_until_it_is_confirmed() {
        let lag = Lag::default();
        lag.log_ends(TxnId(10), 1_000);
        assert_eq!(lag.behind(1_000), None, "nobody has asked for anything");
        lag.reached(TxnId(10), false, 0);
        assert_eq!(behind(&lag, 2_000), (0, 0));
        lag.log_ends(TxnId(12), 3_000);
        lag.log_ends(TxnId(15), 4_000);
        assert_eq!(behind(&lag, 90_000), (5, 87_000));
        lag.reached(TxnId(12), false, 0);
        assert_eq!(behind(&lag, 90_000), (3, 86_000));
        lag.reached(TxnId(15), false, 0);
        assert_eq!(behind(&lag, 90_000), (0, 0));
        lag.begin();
        assert_eq!(lag.behind(90_000), None);
    }

    #[test]
    fn what_was_written_before_the_start_is_looked_up() {
        let lag = Lag::default();
        lag.log_ends(TxnId(10), 1_000);
        lag.reached(TxnId(4), false, 0);
        assert_eq!(lag.unknown(), Some(TxnId(4)));
        lag.was_written(TxnId(4), 300);
        assert_eq!(lag.unknown(), None);
        assert_eq!(behind(&lag, 1_000), (6, 700));
        lag.reached(TxnId(6), false, 0);
        assert_eq!(lag.unknown(), Some(TxnId(6)));
        lag.reached(TxnId(10), false, 0);
        assert_eq!(lag.unknown(), None);
        lag.log_ends(TxnId(11), 2_000);
        assert_eq!((lag.unknown(), behind(&lag, 2_500)), (None, (1, 500)));
    }

    #[test]
    fn whoever_is_sent_a_snapshot_is_behind_until_its_end() {
        let lag = Lag::default();
        lag.log_ends(TxnId(10), 1_000);
        lag.reached(TxnId(10), true, 2_000);
        assert_eq!(behind(&lag, 5_000), (1, 3_000));
        // The link is cut and made anew.
        lag.begin();
        lag.reached(TxnId(10), true, 8_000);
        assert_eq!(behind(&lag, 9_000), (1, 7_000));
        lag.reached(TxnId(10), false, 9_000);
        assert_eq!(behind(&lag, 9_000), (0, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let lag = Lag::default();
        lag.log_ends(TxnId(0), 0);
        lag.reached(TxnId(0), false, 0);
        for second in 1..10_000 {
            lag.log_ends(TxnId(second), second * 1_000);
        }
        assert!(lag.lock().ends.len() <= MOST_ENDS);
        assert_eq!(behind(&lag, 10_000_000), (9_999, 9_999_000));
    }
}
