//! Whether store nodes answer, for those who can do without.
//!
//! Who wrote documents that are merged into others waits a moment to be told which have become too
//! large. While no store node answers, each would wait in vain and hold its place among the requests
//! meanwhile: so now and then one asks, and the others are not told.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long nobody asks after somebody was not answered.
const PAUSE: Duration = Duration::from_secs(10);

/// A silence of the store nodes.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Until then nobody asks; `None` if they answer.
    until: Mutex<Option<Instant>>,
}

impl Silence {
    /// Whether nobody asks at the moment.
    pub(super) fn lasts(&self) -> bool {
        self.until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Whether to ask and wait for so long. While the silence is not known to be over, one does at a time.
    pub(super) fn may_ask(&self, patience: Duration) -> bool {
        let mut until = self.until.lock();
        let Some(end) = *until else { return true };
        let now = Instant::now();
        if now < end {
            return false;
        }
        *until = Some(now + patience);
        true
    }

    /// Somebody has waited in vain.
    pub(super) fn goes_on(&self) {
        *self.until.lock() = Some(Instant::now() + PAUSE);
    }

    /// A store node has answered.
    pub(super) fn is_over(&self) {
        *self.until.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_asks_whether_it_is_over() {
        let silence = Silence::default();
        let asking = || (0..3).filter(|_| silence.may_ask(PATIENCE)).count();
        assert_eq!((asking(), silence.lasts()), (3, false), "all ask, as long as all are answered");
        silence.goes_on();
        assert_eq!((asking(), silence.lasts()), (0, true));
        advance(PAUSE).await;
        assert!(!silence.lasts());
        assert_eq!((asking(), silence.lasts()), (1, true));
        // Whoever asked may have gone away meanwhile.
        advance(PATIENCE).await;
        assert_eq!(asking(), 1);
        silence.is_over();
        assert_eq!((asking(), silence.lasts()), (3, false));
    }
}
