//! Hybrid logical clocks (Kulkarni et al., 2014): 48 bits of milliseconds since the Unix epoch and
//! 16 bits of counter, so that stamps order like time and never repeat.

use std::fmt;

use serde::{Deserialize, Serialize};

const COUNTER_BITS: u32 = 16;

/// A hybrid logical time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first time within the millisecond `millis` since the Unix epoch.
    pub fn from_millis(millis: u64) -> Self {
        Hlc(millis << COUNTER_BITS)
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The next time. When the counter is used up it borrows from the next millisecond.
    #[must_use]
    pub fn next(self) -> Self {
        Hlc(self.0 + 1)
    }

    /// The time to give out at wall time `now_millis` when `self` was given out last.
    #[must_use]
    pub fn tick(self, now_millis: u64) -> Self {
        Hlc::from_millis(now_millis).max(self.next())
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_whatever_the_wall_clock_does() {
        let first = Hlc::from_millis(1_000);
        let same = first.tick(1_000);
        let back = same.tick(10);
        let on = back.tick(2_000);
        assert!(first < same && same < back && back < on);
        assert_eq!(on.millis(), 2_000);
    }

    #[test]
    fn a_full_counter_borrows_a_millisecond() {
        assert_eq!(Hlc(Hlc::from_millis(5).0 | 0xffff).next(), Hlc::from_millis(6));
    }
}
