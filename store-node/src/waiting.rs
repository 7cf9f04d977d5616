//! How a thread waits: for what is async, and for time to pass.

use std::time::Duration;

use tokio::runtime::Handle;

/// Waits for what is async, on a thread that is not one of the runtime's.
pub(crate) fn block_on<F>(runtime: &Handle, future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(feature = "simulation")]
    if let Some(thread) = crate::simulation::thread() {
        return thread.wait_for(future);
    }
    runtime.block_on(future)
}

/// Waits for some time.
pub(crate) fn sleep(time: Duration) {
    #[cfg(feature = "simulation")]
    if let Some(thread) = crate::simulation::thread() {
        return thread.wait_for(tokio::time::sleep(time));
    }
    std::thread::sleep(time);
}
