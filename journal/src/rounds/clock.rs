//! The clock of commit records.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::hlc::Hlc;
use anabranch_runtime::clock::now_millis;

/// Gives every round written by this process a later time than the one before, whatever the wall
/// clock does.
pub struct HlcClock {
    last: AtomicU64,
    now_ms: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl HlcClock {
    /// A clock that follows this machine's.
    pub fn system() -> Self {
        HlcClock::following(now_millis)
    }

    /// A clock that follows `now_ms`, which gives milliseconds since the Unix epoch.
    pub fn following(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        HlcClock { last: AtomicU64::new(0), now_ms: Box::new(now_ms) }
    }

    /// The next time.
    pub fn now(&self) -> Hlc {
        let now_ms = (self.now_ms)();
        let tick = |last| Some(Hlc(last).tick(now_ms).0);
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, tick);
        Hlc(last.expect("a tick is always given")).tick(now_ms)
    }
}

impl fmt::Debug for HlcClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HlcClock").field("last", &self.last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn no_time_is_given_twice() {
        let clock = Arc::new(HlcClock::following(|| 7));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let clock = Arc::clone(&clock);
                std::thread::spawn(move || (0..1_000).map(|_| clock.now()).collect::<Vec<_>>())
            })
            .collect();
        let mut times = BTreeSet::new();
        for thread in threads {
            let given = thread.join().unwrap();
            assert!(given.is_sorted());
            times.extend(given);
        }
        assert_eq!(times.len(), 4_000);
        assert_eq!(times.first().map(|first| first.millis()), Some(7));
    }
}
