//! Writing to a store that may not be writable at the moment, on a full disk for example: it is
//! tried again for ever. Nothing is lost meanwhile, reads go on, and the node says what is wrong.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::threads;
use tokio::time::Instant;

use crate::error::Error;
use crate::status::{Status, Trouble};
use crate::storage::{Batch, Progress};

/// How often a store that cannot be written is tried: out of step with the 5 seconds at which
/// RocksDB looks whether a full disk has space again, which a write at that moment would disturb.
const WRITE_AGAIN: Duration = Duration::from_millis(700);
/// How long a shutdown takes to be seen meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes until it succeeds.
#[derive(Clone)]
pub(crate) struct Persistence {
    status: Arc<Status>,
    shutdown: Shutdown,
    /// After how many writes more the node dies, in a test.
    #[cfg(test)]
    dies_after: Option<Arc<std::sync::atomic::AtomicUsize>>,
}

impl Persistence {
    pub(crate) fn new(status: Arc<Status>, shutdown: Shutdown) -> Self {
        Persistence {
            status,
            shutdown,
            #[cfg(test)]
            dies_after: None,
        }
    }

    /// One that fails, as if the node died, instead of a write.
    #[cfg(test)]
    pub(crate) fn dying_after(self, writes: usize) -> Self {
        Persistence { dies_after: Some(Arc::new(writes.into())), ..self }
    }

    #[cfg(test)]
    fn die_if_it_is_time(&self) -> Result<(), Error> {
        use std::sync::atomic::Ordering;
        let less = |left: usize| left.checked_sub(1);
        match &self.dies_after {
            Some(left) => match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::Shutdown),
            },
            None => Ok(()),
        }
    }

    /// Writes a batch and the progress that it makes. Blocks.
    ///
    /// # Errors
    /// If the store is broken, or the node stops before it can be written.
    pub(crate) fn write(&self, batch: Batch<'_>, progress: &Progress) -> Result<(), Error> {
        #[cfg(test)]
        self.die_if_it_is_time()?;
        batch.write(progress, |error| self.pause_after(error))?;
        self.status.set_trouble(Trouble::Storage, None);
        Ok(())
    }

    /// After a failed write: says what is wrong and waits, if it may go better the next time.
    fn pause_after(&self, error: Error) -> Result<(), Error> {
        if error.kind() != ErrorKind::Retry {
            return Err(error);
        }
        let text = format!("{error}; trying again");
        if self.status.set_trouble(Trouble::Storage, Some(text)) {
            tracing::error!(%error, "the store cannot be written; trying again");
        }
        self.pause(WRITE_AGAIN)
    }

    /// Fails if the node stops.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.shutdown.has_begun() { Err(Error::Shutdown) } else { Ok(()) }
    }

    /// Waits, unless the node stops.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Error> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.check()?;
            threads::sleep(PAUSE);
        }
        Ok(())
    }
}
