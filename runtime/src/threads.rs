//! Threads, and how they wait: for what is async, for each other, and for time to pass.
//!
//! In a simulation a thread takes turns with everything else, and time is the simulated one.

use std::io;
use std::time::Duration;

use parking_lot::{Condvar, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, error::SendError};
use tokio::time::Instant;

/// Starts a thread that nobody waits for.
///
/// # Errors
/// If the operating system has none.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_on() {
        crate::tasks::start_simulated(body);
        return Ok(());
    }
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// How a thread of a simulation waits, or else any other.
macro_rules! wait {
    ($future:expr, else $blocking:expr) => {{
        #[cfg(feature = "simulation")]
        if crate::simulation::may_wait() {
            return crate::simulation::wait_for($future);
        }
        $blocking
    }};
}

/// Waits for what is async, on a thread that is not one of the runtime's.
pub fn block_on<F: Future>(runtime: &Handle, future: F) -> F::Output {
    wait!(future, else runtime.block_on(future))
}

/// Waits for some time.
pub fn sleep(time: Duration) {
    wait!(tokio::time::sleep(time), else std::thread::sleep(time))
}

/// Waits for the next item, on a thread that is not one of the runtime's; `None` if there will be
/// none.
pub fn receive<T>(items: &mut Receiver<T>) -> Option<T> {
    wait!(items.recv(), else items.blocking_recv())
}

/// Sends an item once there is room for it, on a thread that is not one of the runtime's.
///
/// # Errors
/// If nobody will receive it.
pub fn send<T>(items: &Sender<T>, item: T) -> Result<(), SendError<T>> {
    wait!(items.send(item), else items.blocking_send(item))
}

/// Tells threads that what they wait for may have happened: a condition variable.
#[derive(Debug, Default)]
pub struct Signal {
    told: Condvar,
    #[cfg(feature = "simulation")]
    simulated: tokio::sync::Notify,
}

impl Signal {
    /// One that nobody waits for.
    pub fn new() -> Self {
        Signal::default()
    }

    /// Lets go of the lock until this is told, or `until` if that is given. It may return earlier.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Instant>) {
        #[cfg(feature = "simulation")]
        if crate::simulation::may_wait() {
            use crate::simulation::wait_for;
            let told = self.simulated.notified();
            MutexGuard::unlocked(guard, || match until {
                None => wait_for(told),
                Some(until) => drop(wait_for(tokio::time::timeout_at(until, told))),
            });
            return;
        }
        match until {
            None => self.told.wait(guard),
            Some(until) => drop(self.told.wait_until(guard, until.into_std())),
        }
    }

    /// Tells one that waits, if one does. In a simulation all of them.
    pub fn notify_one(&self) {
        self.told.notify_one();
        #[cfg(feature = "simulation")]
        self.simulated.notify_waiters();
    }

    /// Tells all that wait.
    pub fn notify_all(&self) {
        self.told.notify_all();
        #[cfg(feature = "simulation")]
        self.simulated.notify_waiters();
    }
}
