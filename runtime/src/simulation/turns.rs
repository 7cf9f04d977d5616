//! A thread that blocks, as a task: it and the simulation take turns, so that all still happens in
//! one order.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::current;
use crate::tasks::owning;

/// What a thread does at the end of its turn.
enum Turn<T> {
    /// It waits to be woken.
    Wait,
    /// It is done.
    Done(T),
}

/// The thread's side of it.
#[derive(Clone)]
pub(crate) struct Thread(Rc<Side>);

struct Side {
    end_turn: Box<dyn Fn()>,
    /// Nothing comes any more once the process has crashed.
    next_turn: Receiver<()>,
    waker: Waker,
}

thread_local! {
    static THREAD: RefCell<Option<Thread>> = const { RefCell::new(None) };
}

/// The simulated thread that this is, if it is one.
pub(crate) fn thread() -> Option<Thread> {
    THREAD.with_borrow(Clone::clone)
}

impl Thread {
    /// Lets the simulation go on until this has happened. If the process crashes meanwhile the thread
    /// ends here.
    pub(crate) fn wait_for<F: Future>(&self, future: F) -> F::Output {
        let Side { end_turn, next_turn, waker } = &*self.0;
        let mut context = Context::from_waker(waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            end_turn();
            if next_turn.recv().is_err() {
                resume_unwind(Box::new("the process has crashed"));
            }
        }
    }
}

/// Wakes a thread that waits.
#[derive(Default)]
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// Runs what blocks on a thread, with which the caller takes turns. Dropped before it is done, it
/// ends the thread where that waits.
pub async fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (ended, turns) = channel::<Turn<T>>();
    let (begin, next_turn) = channel();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let (runtime, world) = (Handle::current(), current());
    let body = owning(body);
    let thread = std::thread::spawn(move || {
        let _entered = (runtime.enter(), world.map(|world| world.enter()));
        install(ended.clone(), next_turn, waker);
        let done = body();
        THREAD.set(None);
        // Nobody waits for it if the process has crashed.
        let _ = ended.send(Turn::Done(done));
    });
    let mut running = Running { begin: Some(begin), thread: Some(thread) };
    loop {
        // Nothing else runs during its turn.
        match turns.recv() {
            Ok(Turn::Wait) => woken.0.notified().await,
            Ok(Turn::Done(done)) => return done,
            Err(_) => running.propagate(),
        }
        running.begin_turn();
    }
}

/// A thread, and how it is told that it is its turn.
struct Running {
    begin: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn begin_turn(&self) {
        if let Some(begin) = &self.begin {
            // It has gone only if it has panicked, which the next turn tells.
            let _ = begin.send(());
        }
    }

    /// What the thread has panicked with.
    fn propagate(&mut self) -> ! {
        let ended = self.thread.take().map(JoinHandle::join);
        resume_unwind(match ended {
            Some(Err(panic)) => panic,
            _ => Box::new("a thread has ended without a word"),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin = None;
        // All that it holds is gone before anything else happens.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn install<T: Send + 'static>(ended: Sender<Turn<T>>, next_turn: Receiver<()>, waker: Waker) {
    let end_turn = Box::new(move || {
        let _ = ended.send(Turn::Wait);
    });
    THREAD.set(Some(Thread(Rc::new(Side { end_turn, next_turn, waker }))));
}
