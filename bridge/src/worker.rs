//! Threads for calls that block, which belong to a link and end with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use anabranch_runtime::threads;

use crate::error::Error;

/// A thread. It is told to stop when this is dropped, or earlier by what it works on ending.
pub(crate) struct Worker<T> {
    /// Gone once it was heard that the thread has ended.
    done: Option<oneshot::Receiver<Result<T, Error>>>,
    stop: Arc<AtomicBool>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread. `body` looks at the flag it is given now and then.
    pub(crate) fn spawn(
        name: &'static str,
        body: impl FnOnce(Arc<AtomicBool>) -> Result<T, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (report, done) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(|| body(flag)))
                .unwrap_or_else(|_| Err(Error::Corrupt(format!("thread '{name}' panicked"))));
            // The receiver is gone if nobody waits any more.
            let _ = report.send(result);
        };
        threads::start(name, run)
            .map_err(|error| Error::Invalid(format!("thread '{name}' cannot start: {error}")))?;
        Ok(Worker { done: Some(done), stop })
    }

    /// Waits for the thread to end. What it ended with is told once.
    pub(crate) async fn ended(&mut self) -> Result<T, Error> {
        let Some(done) = &mut self.done else { return Err(Error::Closed) };
        let ended = done.await;
        self.done = None;
        ended.unwrap_or(Err(Error::Shutdown))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
