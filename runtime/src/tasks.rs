//! Named tasks and threads with one shutdown.
//!
//! A task ends by returning `Ok` or by seeing that the shutdown has begun. One that fails or
//! panics begins the shutdown of all: a service that has lost a part of itself is better started
//! anew than left half alive. Whoever may be retried retries inside its task.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a task fails with.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// The shutdown that all tasks of a process watch.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that has not begun.
    pub fn new() -> Self {
        Shutdown::default()
    }

    /// Begins it; all tasks are to finish what is in flight and end.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it begins.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

type Task = (&'static str, JoinHandle<Result<(), TaskError>>);

#[cfg(feature = "simulation")]
tokio::task_local! {
    /// Those of the simulated process that runs.
    static OWNER: Tasks;
}

/// Starts a task that is none of [`Tasks`]: whoever starts it sees to it.
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[cfg(feature = "simulation")]
    if let Ok(owner) = OWNER.try_with(Tasks::clone) {
        let task = tokio::spawn(OWNER.scope(owner.clone(), task));
        owner.alive.lock().push(task.abort_handle());
        return task;
    }
    tokio::spawn(task)
}

/// A task that is started by other means than [`spawn`].
pub fn owned<F: Future>(task: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "simulation")]
    let task = {
        let owner = OWNER.try_with(Tasks::clone).unwrap_or_default();
        OWNER.scope(owner, task)
    };
    task
}

/// By how many milliseconds the clock of the simulated process that runs is ahead.
#[cfg(feature = "simulation")]
pub(crate) fn clock_ahead_ms() -> i64 {
    OWNER.try_with(|owner| owner.clock_ahead_ms).unwrap_or_default()
}

/// Starts a simulated thread, of the simulated process that runs if there is one: that fails if the
/// thread panics.
#[cfg(feature = "simulation")]
pub(crate) fn start_simulated(body: impl FnOnce() + Send + 'static) {
    let thread = crate::simulation::on_thread(|| {
        body();
        Ok(())
    });
    OWNER.try_with(Tasks::clone).unwrap_or_default().spawn("a thread", thread);
}

/// Runs what blocks on a thread for that. In a simulation, where all happens in one order, it runs
/// at once.
///
/// # Errors
/// If the runtime is being shut down.
///
/// # Panics
/// If it panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ShuttingDown> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_on() {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ShuttingDown),
    }
}

/// Runs what itself waits, for a log or for others, on a thread for that.
///
/// # Errors
/// As [`blocking`].
///
/// # Panics
/// If it panics.
pub async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ShuttingDown> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_on() {
        return Ok(crate::simulation::on_thread(work).await);
    }
    blocking(work).await
}

/// The runtime is being shut down, and takes no more work.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the process is shutting down")]
pub struct ShuttingDown;

/// The tasks of a process.
#[derive(Clone, Default)]
pub struct Tasks {
    shutdown: Shutdown,
    running: Arc<Mutex<Vec<Task>>>,
    /// The task that failed first: those that fail after it mostly do so for its sake.
    failed: Arc<Mutex<Option<&'static str>>>,
    #[cfg(feature = "simulation")]
    alive: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    /// By how much the clock of the simulated process is ahead of the world's.
    #[cfg(feature = "simulation")]
    clock_ahead_ms: i64,
}

/// Why [`Tasks::join`] failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A task failed.
    #[error("task '{name}' failed: {source}")]
    Failed {
        /// Its name.
        name: &'static str,
        /// What it failed with.
        source: TaskError,
    },
    /// Tasks had not ended by the deadline.
    #[error("tasks did not end within {deadline:?}: {}", names.join(", "))]
    Late {
        /// Their names.
        names: Vec<&'static str>,
        /// The deadline.
        deadline: Duration,
    },
}

impl Tasks {
    /// No tasks yet.
    pub fn new(shutdown: Shutdown) -> Self {
        Tasks { shutdown, ..Tasks::default() }
    }

    /// The shutdown they watch.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let tasks = self.clone();
        #[cfg(feature = "simulation")]
        let task = OWNER.scope(self.clone(), task);
        let task = tokio::spawn(task);
        #[cfg(feature = "simulation")]
        self.alive.lock().push(task.abort_handle());
        let watched = async move {
            let result = match task.await {
                Ok(result) => result,
                // As a crash does.
                Err(ended) if ended.is_cancelled() => return Ok(()),
                Err(panic) => Err(TaskError::from(panic)),
            };
            tasks.report(name, &result);
            result
        };
        self.running.lock().push((name, tokio::spawn(watched)));
    }

    /// Starts a thread, for calls that block. It has to look at the shutdown now and then.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), TaskError> + Send + 'static,
    ) {
        #[cfg(feature = "simulation")]
        if crate::simulation::is_on() {
            return self.spawn(name, crate::simulation::on_thread(body));
        }
        let (done, wait) = tokio::sync::oneshot::channel();
        let tasks = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(body))
                .unwrap_or_else(|_| Err(TaskError::from("it panicked")));
            tasks.report(name, &result);
            // The receiver is gone only if the process is past waiting.
            let _ = done.send(result);
        });
        let watched = async move {
            thread?;
            wait.await?
        };
        self.running.lock().push((name, tokio::spawn(watched)));
    }

    /// Waits for the shutdown to begin, then until `deadline` has passed for all tasks to end.
    ///
    /// # Errors
    /// The first failure of a task, or the names of those that were late.
    pub async fn join(self, deadline: Duration) -> Result<(), JoinError> {
        self.shutdown.begun().await;
        let until = tokio::time::Instant::now() + deadline;
        let mut failures = Vec::new();
        let mut late = Vec::new();
        // Tasks may start others until they end.
        loop {
            let Some((name, task)) = self.running.lock().pop() else { break };
            match tokio::time::timeout_at(until, task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(source))) => failures.push((name, source)),
                Ok(Err(panic)) => failures.push((name, panic.into())),
                Err(_) => late.push(name),
            }
        }
        let first = *self.failed.lock();
        let at = failures.iter().position(|(name, _)| Some(*name) == first).unwrap_or_default();
        match failures.into_iter().nth(at) {
            Some((name, source)) => Err(JoinError::Failed { name, source }),
            None if late.is_empty() => Ok(()),
            None => Err(JoinError::Late { names: late, deadline }),
        }
    }

    /// Those of a simulated process whose clock is ahead by so many milliseconds.
    #[cfg(feature = "simulation")]
    pub fn of_simulated_process(clock_ahead_ms: i64) -> Self {
        Tasks { clock_ahead_ms, ..Tasks::default() }
    }

    /// Does something as a part of the simulated process.
    #[cfg(feature = "simulation")]
    pub fn run<F: Future>(&self, what: F) -> impl Future<Output = F::Output> {
        OWNER.scope(self.clone(), what)
    }

    /// Ends all tasks and threads where they are, as a crash does.
    #[cfg(feature = "simulation")]
    pub fn crash(&self) {
        self.alive.lock().drain(..).for_each(|task| task.abort());
        self.shutdown.begin();
    }

    /// Whether a task has failed, and which one first.
    #[cfg(feature = "simulation")]
    pub fn failed(&self) -> Option<&'static str> {
        *self.failed.lock()
    }

    fn report(&self, name: &'static str, result: &Result<(), TaskError>) {
        if let Err(error) = result {
            tracing::error!(task = name, %error, "a task failed; the process shuts down");
            self.failed.lock().get_or_insert(name);
            self.shutdown.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_ends_all_and_is_told() {
        let tasks = Tasks::new(Shutdown::new());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("waits", async move {
            shutdown.begun().await;
            Ok(())
        });
        tasks.spawn_thread("fails", || Err("no".into()));
        let error = tasks.join(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "task 'fails' failed: no");
    }

    #[tokio::test]
    async fn the_failure_that_came_first_is_told() {
        let tasks = Tasks::new(Shutdown::new());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_thread("cause", || Err("no".into()));
        tasks.spawn("consequence", async move {
            shutdown.begun().await;
            Err("the other is gone".into())
        });
        let error = tasks.join(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "task 'cause' failed: no");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("panics", async { panic!("on purpose") });
        assert!(matches!(
            tasks.join(Duration::from_secs(10)).await,
            Err(JoinError::Failed { name: "panics", .. })
        ));
    }

    #[tokio::test]
    async fn who_does_not_end_is_named() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("stuck", std::future::pending());
        tasks.shutdown().begin();
        let error = tasks.join(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, JoinError::Late { names, .. } if names == ["stuck"]));
    }
}
