//! Chance: which of many that do the same does it when.

/// A number, all of them equally likely.
pub fn number() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(number) = crate::simulation::number() {
        return number;
    }
    rand::random()
}

/// A number from 0 on and below 1.
pub fn fraction() -> f64 {
    // As many bits as a double has for its digits.
    const STEPS: u64 = 1 << 53;
    (number() % STEPS) as f64 / STEPS as f64
}
