//! Chance, for whoever does something in a simulation.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Throws numbers; the same ones from the same seed.
pub(crate) struct Dice(StdRng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(StdRng::seed_from_u64(seed))
    }

    /// A number from 0 on and below this.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0.random_range(0..count)
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.0.random_range(0..things.len())]
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// All the bits of a number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0.random()
    }
}
