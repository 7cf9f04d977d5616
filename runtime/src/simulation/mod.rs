//! What a process has around it, for simulations: network, wall time and chance.
//!
//! A simulation is one thread, in a runtime whose time is paused: time goes on only when nothing
//! else can. Within [`World::enter`] every channel of [`crate::grpc`], the wall time, chance and what
//! blocks are those of the world; so the same seed gives the same run. All else of a process is the
//! code that runs elsewhere, too.

mod network;
mod streams;
mod turns;

use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

pub use self::network::{Link, Network};
pub use self::streams::{Accepting, SimulatedStream};
pub use self::turns::{may_wait, on_thread};

pub(crate) use self::turns::wait_for;

/// A world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    network: Network,
    began: Instant,
    began_ms: u64,
    wall_speed: u64,
    jumped_ms: AtomicI64,
    bug: OnceLock<&'static str>,
    dice: Mutex<StdRng>,
}

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A thread is in a world until this is dropped.
#[must_use]
pub struct Entered(());

impl World {
    /// One in which it is `began_ms`, in milliseconds since the Unix epoch, and in which wall time
    /// goes so many times as fast as all other: what takes hours does not take long. Within a runtime.
    pub fn new(seed: u64, began_ms: u64, wall_speed: u64) -> Self {
        World(Arc::new(Shared {
            network: Network::default(),
            began: Instant::now(),
            began_ms,
            wall_speed,
            jumped_ms: AtomicI64::new(0),
            bug: OnceLock::new(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// All that runs in it has this bug, and no other one (see [`crate::planted!`]).
    pub fn plant(&self, bug: &'static str) {
        self.0.bug.get_or_init(|| bug);
    }

    /// From now on this thread is in it.
    pub fn enter(&self) -> Entered {
        CURRENT.set(Some(self.clone()));
        Entered(())
    }

    /// The network between all processes.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// A number, all of them equally likely.
    pub fn number(&self) -> u64 {
        self.0.dice.lock().random()
    }

    /// How long it has been, in milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.0.began.elapsed().as_millis());
        elapsed.expect("simulations are short")
    }

    /// Wall time, in milliseconds since the Unix epoch.
    pub fn now_millis(&self) -> u64 {
        let jumped_ms = self.0.jumped_ms.load(Ordering::Relaxed);
        (self.0.began_ms + self.elapsed_ms() * self.0.wall_speed).saturating_add_signed(jumped_ms)
    }

    /// Wall time jumps by so many milliseconds; all other time goes on.
    pub fn jump(&self, by_ms: i64) {
        self.0.jumped_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// The world that this thread is in.
pub fn current() -> Option<World> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether this thread is in a world.
pub fn is_on() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Whether a bug is planted in the world that this thread is in.
pub fn is_planted(bug: &str) -> bool {
    let has = |world: &World| world.0.bug.get().is_some_and(|planted| *planted == bug);
    CURRENT.with_borrow(|world| world.as_ref().is_some_and(has))
}

pub(crate) fn number() -> Option<u64> {
    CURRENT.with_borrow(|world| world.as_ref().map(World::number))
}

pub(crate) fn now_millis() -> Option<u64> {
    CURRENT.with_borrow(|world| world.as_ref().map(World::now_millis))
}

pub(crate) fn link(address: &str) -> Option<Link> {
    CURRENT.with_borrow(|world| world.as_ref().map(|world| world.network().link(address)))
}
