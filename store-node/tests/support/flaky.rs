//! A journal that can be out of reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use anabranch_journal::{Error, Journal, Offset, Reader, Record, TopicPartition};

/// A journal, and the switch that takes it down.
pub fn flaky(inner: Arc<dyn Journal>) -> (Arc<dyn Journal>, Arc<AtomicBool>) {
    make(inner, false)
}

/// One whose readers say nothing when it is down, as those of Kafka do.
pub fn silent(inner: Arc<dyn Journal>) -> (Arc<dyn Journal>, Arc<AtomicBool>) {
    make(inner, true)
}

fn make(inner: Arc<dyn Journal>, is_silent: bool) -> (Arc<dyn Journal>, Arc<AtomicBool>) {
    let down = Arc::new(AtomicBool::new(false));
    let (of_steps, of_readers) = (Arc::clone(&down), Arc::clone(&down));
    let journal = FaultyJournal::new(inner, move |step| match step {
        Step::Bounds(_) | Step::Written(_) => {
            check(&of_steps).map_or_else(Fate::Fails, |()| Fate::Done)
        }
        _ => Fate::Done,
    });
    let journal = journal.with_readers(move |inner, from| {
        if !is_silent {
            check(&of_readers)?;
        }
        let (inner, down) = (inner.reader(from)?, Arc::clone(&of_readers));
        Ok(Box::new(FlakyReader { inner, down, is_silent }))
    });
    (Arc::new(journal), down)
}

fn check(down: &AtomicBool) -> Result<(), Error> {
    if down.load(Ordering::SeqCst) {
        Err(Error::Unavailable("the switch is off".to_owned()))
    } else {
        Ok(())
    }
}

struct FlakyReader {
    inner: Box<dyn Reader>,
    down: Arc<AtomicBool>,
    is_silent: bool,
}

impl Reader for FlakyReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        if self.is_silent && self.down.load(Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        check(&self.down)?;
        self.inner.poll(timeout.min(Duration::from_millis(5)))
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}
