//! How long to wait before the next try.

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

#[cfg(test)]
mod tests {
    use super::*;

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
