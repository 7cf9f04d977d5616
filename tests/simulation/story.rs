//! What happens in a run, in order, and what went wrong first.

use std::hash::{DefaultHasher, Hash, Hasher};

use anabranch_runtime::simulation::World;
use parking_lot::Mutex;

/// What happens in a run.
pub(crate) struct Story {
    world: World,
    is_printed: bool,
    hash: Mutex<DefaultHasher>,
    violation: Mutex<Option<String>>,
}

impl Story {
    pub(crate) fn new(world: World, is_printed: bool) -> Self {
        Story { world, is_printed, hash: Mutex::default(), violation: Mutex::default() }
    }

    /// Notes what happens.
    pub(crate) fn tell(&self, what: &str) {
        let at_ms = self.world.elapsed_ms();
        (at_ms, what).hash(&mut *self.hash.lock());
        if self.is_printed {
            println!("{at_ms:>6} ms  {what}");
        }
    }

    /// Something that must never happen has happened. What comes first is told.
    pub(crate) fn violate(&self, what: &str) {
        self.tell(&format!("VIOLATION {what}"));
        self.violation.lock().get_or_insert_with(|| what.to_owned());
    }

    /// What went wrong, if anything did.
    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// All that happened, as a number.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hash.lock().finish()
    }
}
