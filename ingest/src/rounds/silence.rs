//! Whether store nodes answer, for those who can do without.
//!
//! Who wrote documents that are merged into others waits a moment to be told which have become too
//! large. While no store node answers for their slices, each would wait in vain and hold its place
//! among the requests meanwhile: so now and then one asks, and the others are not told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_core::keyspace::Slice;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long nobody asks after somebody was not answered.
const PAUSE: Duration = Duration::from_secs(10);

/// Of which slices no store node tells anything.
#[derive(Debug, Default)]
pub(super) struct Silence {
    slices: Mutex<BTreeMap<Slice, Heard>>,
}

/// What is known of a slice.
#[derive(Clone, Copy, Debug)]
enum Heard {
    /// It was answered for then.
    At(Instant),
    /// Until then nobody asks.
    NothingUntil(Instant),
}

impl Silence {
    /// Whether to ask, and wait for so long. Of slices that were silent one does at a time.
    pub(super) fn may_ask(&self, slices: &BTreeSet<Slice>, patience: Duration) -> bool {
        let (mut heard, now) = (self.slices.lock(), Instant::now());
        let lasts =
            |slice| matches!(heard.get(slice), Some(Heard::NothingUntil(until)) if now < *until);
        if slices.iter().any(lasts) {
            return false;
        }
        for slice in slices {
            if let Some(Heard::NothingUntil(until)) = heard.get_mut(slice) {
                *until = now + patience;
            }
        }
        true
    }

    /// Who has asked at `asked` has waited in vain.
    pub(super) fn goes_on(&self, slices: &BTreeSet<Slice>, asked: Instant) {
        let (mut heard, until) = (self.slices.lock(), Instant::now() + PAUSE);
        for slice in slices {
            if !matches!(heard.get(slice), Some(Heard::At(answered)) if *answered > asked) {
                heard.insert(*slice, Heard::NothingUntil(until));
            }
        }
    }

    /// Somebody was answered.
    pub(super) fn is_over(&self, slices: &BTreeSet<Slice>) {
        let (mut heard, now) = (self.slices.lock(), Instant::now());
        heard.extend(slices.iter().map(|slice| (*slice, Heard::At(now))));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn slices<const N: usize>(numbers: [u16; N]) -> BTreeSet<Slice> {
        numbers.into_iter().map(Slice).collect()
    }

    /// How many of three may ask.
    fn asking(silence: &Silence, slices: &BTreeSet<Slice>) -> usize {
        (0..3).filter(|_| silence.may_ask(slices, PATIENCE)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_asks_whether_it_is_over() {
        let (silence, slices) = (Silence::default(), slices([1, 2]));
        assert_eq!(asking(&silence, &slices), 3, "all ask, as long as all are answered");
        silence.goes_on(&slices, Instant::now());
        assert_eq!(asking(&silence, &slices), 0);
        advance(PAUSE).await;
        assert_eq!(asking(&silence, &slices), 1);
        // Whoever asked may have gone away meanwhile.
        advance(PATIENCE).await;
        assert_eq!(asking(&silence, &slices), 1);
        silence.is_over(&slices);
        assert_eq!(asking(&silence, &slices), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn other_slices_are_asked_about() {
        let silence = Silence::default();
        silence.goes_on(&slices([1]), Instant::now());
        silence.is_over(&slices([2]));
        assert_eq!(asking(&silence, &slices([2, 3])), 3);
        assert_eq!(asking(&silence, &slices([1, 2])), 0, "of one of them nothing is told");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_before_an_answer_came_knows_less() {
        let (silence, slices) = (Silence::default(), slices([1]));
        let asked = Instant::now();
        advance(PATIENCE).await;
        silence.is_over(&slices);
        silence.goes_on(&slices, asked);
        assert_eq!(asking(&silence, &slices), 3);
    }
}
