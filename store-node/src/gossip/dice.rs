//! Chance, from a seed: the same seed gives the same throws, so a simulation can be repeated.
//!
//! After G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators",
//! OOPSLA 2014 (SplitMix64). It only has to spread evenly, not to keep a secret.

/// Throws numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `count - 1`. Its bias, for counts this small, does not matter.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let thrown = u128::from(self.throw()) * count as u128;
        usize::try_from(thrown >> 64).expect("it is less than the count")
    }

    /// Puts things in any order.
    pub(super) fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            things.swap(place, self.below(place + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_even_and_repeat_with_their_seed() {
        let mut dice = Dice::new(7);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[dice.below(10)] += 1;
        }
        assert!(seen.iter().all(|count| (850..1_150).contains(count)), "{seen:?}");
        let shuffled = |seed| {
            let mut things: Vec<_> = (0..20).collect();
            Dice::new(seed).shuffle(&mut things);
            things
        };
        assert_eq!(shuffled(3), shuffled(3));
        assert_ne!(shuffled(3), shuffled(4));
        let mut sorted = shuffled(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
