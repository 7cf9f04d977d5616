//! A thread that blocks, as a task: it and the simulation take turns, so that all still happens in
//! one order.

use std::any::Any;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anabranch_runtime::simulation;
use tokio::runtime::Handle;

use super::bug;

type Waited = Box<dyn Any + Send>;
type Waiting = Pin<Box<dyn Future<Output = Waited> + Send>>;

/// What a thread does at the end of its turn.
enum Turn<T> {
    /// It waits for this.
    Wait(Waiting),
    /// It is done.
    Done(T),
}

/// The thread's side of it.
#[derive(Clone)]
pub(crate) struct Thread {
    wait: Rc<dyn Fn(Waiting)>,
    waited: Rc<Receiver<Waited>>,
}

thread_local! {
    static THREAD: RefCell<Option<Thread>> = const { RefCell::new(None) };
}

/// The simulated thread that this is, if it is one.
pub(crate) fn thread() -> Option<Thread> {
    THREAD.with_borrow(Clone::clone)
}

impl Thread {
    /// Lets the simulation go on until this has happened. If the node crashes meanwhile the thread
    /// ends here.
    pub(crate) fn wait_for<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        (self.wait)(Box::pin(async move { Box::new(future.await) as Waited }));
        match self.waited.recv() {
            Ok(waited) => *waited.downcast().expect("it is what was waited for"),
            Err(_) => std::panic::resume_unwind(Box::new("the node has crashed")),
        }
    }
}

/// Runs what blocks on a thread, with which the caller takes turns. Dropped before it is done, it
/// ends the thread where that waits.
pub(crate) async fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (ended, turns) = channel::<Turn<T>>();
    let (answer, waited) = channel();
    let (runtime, world, bug) = (Handle::current(), simulation::current(), bug::planted());
    let thread = std::thread::spawn(move || {
        let _entered = (runtime.enter(), world.map(|world| world.enter()));
        bug::plant(bug);
        install(&ended, waited);
        let done = body();
        THREAD.set(None);
        // Nobody waits for it if the node has crashed.
        let _ = ended.send(Turn::Done(done));
    });
    let mut running = Running { answer: Some(answer), thread: Some(thread) };
    loop {
        // Nothing else runs during its turn.
        match turns.recv() {
            Ok(Turn::Wait(future)) => running.answer(future.await),
            Ok(Turn::Done(done)) => return done,
            Err(_) => running.propagate(),
        }
    }
}

/// A thread, and what it waits for the answers of.
struct Running {
    answer: Option<Sender<Waited>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn answer(&self, waited: Waited) {
        if let Some(answer) = &self.answer {
            // It has gone only if it has panicked, which the next turn tells.
            let _ = answer.send(waited);
        }
    }

    /// What the thread has panicked with.
    fn propagate(&mut self) -> ! {
        let ended = self.thread.take().map(JoinHandle::join);
        std::panic::resume_unwind(match ended {
            Some(Err(panic)) => panic,
            _ => Box::new("a thread has ended without a word"),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.answer = None;
        // All that it holds is gone before anything else happens.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn install<T: Send + 'static>(ended: &Sender<Turn<T>>, waited: Receiver<Waited>) {
    let ended = ended.clone();
    let wait = Rc::new(move |future| {
        let _ = ended.send(Turn::Wait(future));
    });
    THREAD.set(Some(Thread { wait, waited: Rc::new(waited) }));
}
