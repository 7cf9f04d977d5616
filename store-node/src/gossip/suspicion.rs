//! How likely it is that a peer is gone, from how long it was silent before and is now.
//!
//! After B. Satzger, A. Pietzowski, W. Trumler and T. Ungerer, "A new adaptive accrual failure
//! detector for dependable distributed systems", SAC 2007. It gives a rank and no verdict.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// How many past gaps are remembered.
const WINDOW: usize = 100;
/// A gap shorter than this belongs to a burst and says nothing about how often the peer is heard:
/// without this bound one busy moment would make every pause after it look like a death.
const BURST: Duration = Duration::from_millis(20);
/// What is expected of a peer that was never heard.
const EXPECTED: Duration = Duration::from_millis(500);

/// A time: how long after some moment before everything else, on a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) Duration);

impl Moment {
    /// How long it is after another; nothing if it is before it.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) fn after(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(wait))
    }
}

/// From 0, as alive as ever, to 1: never before was the peer silent for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspicion(f64);

impl Suspicion {
    /// Of whom nothing can be known.
    pub(crate) const FULL: Suspicion = Suspicion(1.0);
    /// Of the node itself.
    pub(crate) const NONE: Suspicion = Suspicion(0.0);

    /// The share of gaps, from 0 to 1.
    pub(crate) fn share(self) -> f64 {
        self.0
    }
}

impl Ord for Suspicion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Suspicion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Suspicion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Suspicion {}

/// When a peer was heard.
#[derive(Clone, Debug)]
pub(super) struct Heartbeats {
    last: Moment,
    was_heard: bool,
    gaps: VecDeque<Duration>,
}

impl Heartbeats {
    /// Of a peer that is expected to be heard from now on.
    pub(super) fn new(now: Moment) -> Self {
        Heartbeats { last: now, was_heard: false, gaps: [EXPECTED].into() }
    }

    /// A sign of life.
    pub(super) fn hear(&mut self, now: Moment) {
        let gap = self.silence(now);
        self.last = self.last.max(now);
        self.was_heard = true;
        if gap < BURST {
            return;
        }
        if self.gaps.len() == WINDOW {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
    }

    /// Whether there ever was one.
    pub(super) fn was_heard(&self) -> bool {
        self.was_heard
    }

    /// How long there was none.
    pub(super) fn silence(&self, now: Moment) -> Duration {
        now.since(self.last)
    }

    /// The share of past gaps that are at most 0.9 times the silence.
    pub(super) fn suspicion(&self, now: Moment) -> Suspicion {
        let silence = self.silence(now);
        let shorter = self.gaps.iter().filter(|gap| **gap * 10 <= silence * 9).count();
        let count = |count: usize| f64::from(u32::try_from(count).expect("the window is small"));
        Suspicion(count(shorter) / count(self.gaps.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(Duration::from_millis(millis))
    }

    #[test]
    fn suspicion_is_the_share_of_gaps_that_were_shorter() {
        let mut heartbeats = Heartbeats::new(at(0));
        // Gaps of 500 (expected), 100, 200, 300.
        for moment in [100, 300, 600] {
            heartbeats.hear(at(moment));
        }
        let shares = [0, 111, 112, 223, 333, 334, 555, 556, 9_000]
            .map(|silence| heartbeats.suspicion(at(600 + silence)).share());
        assert_eq!(shares, [0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn it_grows_with_silence_and_falls_with_a_sign_of_life() {
        let mut heartbeats = Heartbeats::new(at(0));
        for beat in 1..=1_000 {
            heartbeats.hear(at(beat * 50 + beat % 7));
        }
        let ranks: Vec<_> =
            (0..200).map(|silence| heartbeats.suspicion(at(50_000 + 6 + silence))).collect();
        assert!(ranks.is_sorted());
        assert_eq!((ranks[0], ranks[199]), (Suspicion::NONE, Suspicion::FULL));
        heartbeats.hear(at(60_000));
        assert_eq!(heartbeats.suspicion(at(60_000)), Suspicion::NONE);
        assert!(heartbeats.suspicion(at(60_300)) < Suspicion::FULL, "it was silent for longer");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_adapts() {
        let mut heartbeats = Heartbeats::new(at(0));
        let mut now = 0;
        for gap in [1_000_u64, 100].into_iter().flat_map(|gap| std::iter::repeat_n(gap, WINDOW)) {
            now += gap;
            heartbeats.hear(at(now));
        }
        assert_eq!(heartbeats.gaps.len(), WINDOW);
        assert_eq!(heartbeats.suspicion(at(now + 120)), Suspicion::FULL);
    }

    #[test]
    fn a_burst_does_not_make_a_pause_look_like_a_death() {
        let mut heartbeats = Heartbeats::new(at(0));
        for moment in (0..20).map(|beat| beat * 250).chain(5_000..6_000) {
            heartbeats.hear(at(moment));
        }
        assert_eq!(heartbeats.suspicion(at(6_000 + 200)), Suspicion::NONE);
    }

    #[test]
    fn a_clock_that_stands_still_or_an_old_message_does_no_harm() {
        let mut heartbeats = Heartbeats::new(at(500));
        heartbeats.hear(at(100));
        assert_eq!(heartbeats.silence(at(500)), Duration::ZERO);
        assert_eq!(heartbeats.suspicion(at(0)), Suspicion::NONE);
    }
}
