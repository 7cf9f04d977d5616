//! A thread that blocks, as a coroutine of a task: it and the simulation take turns, so that all
//! still happens in one order.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use generator::{Generator, Gn, co_yield_with};
use parking_lot::Mutex;

/// As much as a thread has, in words; only what is used costs memory.
const STACK_WORDS: usize = (2 << 20) / size_of::<usize>();

thread_local! {
    /// Wakes the simulated thread whose turn it is.
    static TURN: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// Whether this is a simulated thread, which can wait.
pub fn may_wait() -> bool {
    TURN.with_borrow(Option::is_some)
}

/// Lets the simulation go on until this has happened, on a simulated thread. If the process crashes
/// meanwhile the thread ends here.
pub(crate) fn wait_for<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let waker = TURN.with_borrow(Clone::clone).expect("it is the turn of a simulated thread");
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        co_yield_with(());
    }
}

/// Runs what blocks on a thread, with which the caller takes turns. Dropped before it is done, it
/// ends the thread where that waits.
pub async fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let done = Arc::new(Mutex::new(None));
    let result = Arc::clone(&done);
    let mut thread = Thread::new(move || {
        let returned = body();
        *result.lock() = Some(returned);
    });
    poll_fn(|context| thread.take_turn(context)).await;
    let returned = done.lock().take();
    returned.expect("a thread that has ended has returned")
}

/// A thread that runs only during its turns.
struct Thread(Generator<'static, (), ()>);

impl Thread {
    fn new(body: impl FnOnce() + Send + 'static) -> Self {
        let mut thread = Gn::new_opt(STACK_WORDS, body);
        // Makes it one of those of which the innermost waits, and which can be asked for a panic.
        thread.set_local_data(NonNull::dangling().as_ptr());
        Thread(thread)
    }

    /// Runs it until it waits or has ended. If it has panicked, so does this.
    fn take_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        let outer = TURN.replace(Some(context.waker().clone()));
        self.0.resume();
        TURN.set(outer);
        if !self.0.is_done() {
            return Poll::Pending;
        }
        match self.0.get_panic_data() {
            Some(panic) => resume_unwind(panic),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Thread {
    /// All that it holds is gone before anything else happens, also where a panic or the end of
    /// another one drops it. What is dropped must not wait: it is nobody's turn.
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::simulation::World;
    use crate::threads::{Signal, sleep};

    /// Tells that it is dropped.
    struct Held(Arc<Mutex<Vec<&'static str>>>, &'static str);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.lock().push(self.1);
        }
    }

    async fn in_world<T>(simulated: impl Future<Output = T>) -> T {
        let _entered = World::new(1, 1, 1).enter();
        simulated.await
    }

    #[tokio::test(start_paused = true)]
    async fn threads_and_tasks_take_turns() {
        in_world(async {
            let told = Arc::new(Mutex::new(Vec::new()));
            let run = |name, first_ms| {
                let told = Arc::clone(&told);
                on_thread(move || {
                    sleep(Duration::from_millis(first_ms));
                    told.lock().push((name, 1));
                    sleep(Duration::from_millis(10));
                    told.lock().push((name, 2));
                    name
                })
            };
            let began = Instant::now();
            assert_eq!(tokio::join!(run("a", 1), run("b", 2)), ("a", "b"));
            assert_eq!(began.elapsed(), Duration::from_millis(12));
            assert_eq!(*told.lock(), [("a", 1), ("b", 1), ("a", 2), ("b", 2)]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_ends_a_thread_where_it_waits_and_what_that_one_waits_for() {
        in_world(async {
            let dropped = Arc::new(Mutex::new(Vec::new()));
            let (outer, inner) =
                (Held(Arc::clone(&dropped), "outer"), Held(Arc::clone(&dropped), "inner"));
            let task = tokio::spawn(on_thread(move || {
                let _outer = outer;
                wait_for(on_thread(move || {
                    let _inner = inner;
                    let never = Mutex::new(());
                    Signal::new().wait(&mut never.lock(), None);
                }));
            }));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(dropped.lock().is_empty());
            task.abort();
            assert!(task.await.expect_err("it was ended").is_cancelled());
            assert_eq!(*dropped.lock(), ["inner", "outer"]);
            assert!(!may_wait());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_that_of_who_waits_for_the_thread() {
        in_world(async {
            let task = tokio::spawn(on_thread(|| {
                sleep(Duration::from_millis(1));
                panic!("on purpose");
            }));
            let panic = task.await.expect_err("it panicked").into_panic();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        })
        .await;
    }
}
