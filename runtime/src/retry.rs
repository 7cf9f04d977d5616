//! How long to wait before the next try, and how often to ask twice.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::chance;

/// Delays that double from `first` to `most`, each drawn evenly from zero up to that ("full
/// jitter"), so that many that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays of up to `first` at first, up to `most` in the end.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, next: first }
    }

    /// How long to wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.next;
        self.next = (ceiling * 2).min(self.most);
        ceiling.mul_f64(chance::fraction())
    }

    /// After a success: begin anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// How many calls may be made twice: one for so many that are made, and some that are saved up.
/// Where all are slow, asking twice would make all slower.
#[derive(Debug)]
pub struct Budget {
    calls_per_extra: i64,
    most: i64,
    saved: AtomicI64,
}

impl Budget {
    /// One extra call for so many calls; at first and at most `most_extra` are saved up.
    pub fn new(calls_per_extra: u32, most_extra: u32) -> Self {
        let calls_per_extra = i64::from(calls_per_extra);
        let most = calls_per_extra * i64::from(most_extra);
        Budget { calls_per_extra, most, saved: most.into() }
    }

    /// A call is made.
    pub fn save(&self) {
        let more = |saved: i64| (saved < self.most).then_some(saved + 1);
        // Nothing is added to what is full.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether one may be made beside those.
    pub fn spend(&self) -> bool {
        let less = |saved: i64| {
            let left = saved - self.calls_per_extra;
            (left >= 0).then_some(left)
        };
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_pay_for_one_that_is_made_twice() {
        let budget = Budget::new(3, 2);
        budget.save();
        assert_eq!([(); 3].map(|()| budget.spend()), [true, true, false], "no more was saved up");
        (0..2).for_each(|_| budget.save());
        assert!(!budget.spend());
        budget.save();
        assert_eq!([(); 2].map(|()| budget.spend()), [true, false]);
    }

    #[test]
    fn delays_double_up_to_the_most_and_begin_anew() {
        let (first, most) = (Duration::from_millis(10), Duration::from_millis(35));
        let mut backoff = Backoff::new(first, most);
        for ceiling in [10, 20, 35, 35] {
            assert_eq!(backoff.next, Duration::from_millis(ceiling));
            assert!(backoff.next_delay() <= Duration::from_millis(ceiling));
        }
        backoff.reset();
        assert_eq!(backoff.next, first);
    }
}
