//! When transactions were applied, by the log's own time, coarsely: which transaction was the
//! first of each ten seconds. Retention asks it what lies further back than some time.

use std::collections::VecDeque;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;

/// How far samples are apart, in milliseconds.
const STEP_MS: u64 = 10_000;

/// One sample: every transaction below `txn` has a time of at most about `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) time: Hlc,
    pub(crate) txn: TxnId,
}

/// Samples, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeline {
    samples: VecDeque<Sample>,
}

impl Timeline {
    /// From samples in order.
    pub(super) fn new(samples: impl IntoIterator<Item = Sample>) -> Self {
        Timeline { samples: samples.into_iter().collect() }
    }

    /// Notes that `txn` was applied at `time`, the latest time so far. Returns the sample that is
    /// to be stored, if this begins a new one.
    pub(crate) fn note(&mut self, time: Hlc, txn: TxnId) -> Option<Sample> {
        let last = self.samples.back().map(|sample| sample.time.millis());
        if last.is_some_and(|last| time.millis() < last.saturating_add(STEP_MS)) {
            return None;
        }
        let sample = Sample { time, txn };
        self.samples.push_back(sample);
        Some(sample)
    }

    /// The newest sample that is at least `age_ms` older than `now`.
    pub(crate) fn before(&self, now: Hlc, age_ms: u64) -> Option<Sample> {
        let limit = now.millis().checked_sub(age_ms)?;
        let older = self.samples.partition_point(|sample| sample.time.millis() <= limit);
        older.checked_sub(1).map(|index| self.samples[index])
    }

    /// Of one sample.
    pub(crate) fn of(sample: Sample) -> Self {
        Timeline::new([sample])
    }

    /// Forgets all samples; returns them.
    pub(crate) fn forget(&mut self) -> Vec<Sample> {
        self.samples.drain(..).collect()
    }

    /// Forgets samples older than this one; returns them.
    pub(crate) fn forget_before(&mut self, sample: Sample) -> Vec<Sample> {
        let older = self.samples.partition_point(|other| other.time < sample.time);
        self.samples.drain(..older).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_apart_and_found_by_age() {
        let mut timeline = Timeline::default();
        let at = |second: u64| Hlc::from_millis(1_000_000 + second * 1000);
        let noted: Vec<u64> = (0..100)
            .filter(|second| timeline.note(at(*second), TxnId(*second)).is_some())
            .collect();
        assert_eq!(noted, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        let sample = timeline.before(at(99), 35_000).unwrap();
        assert_eq!(sample.txn, TxnId(60));
        assert_eq!(timeline.before(at(99), 100_000), None);
        let forgotten = timeline.forget_before(sample);
        assert_eq!(forgotten.len(), 6);
        assert_eq!(timeline.before(at(99), 40_000), None);
        assert_eq!(timeline.before(at(99), 35_000), Some(sample));
    }
}
