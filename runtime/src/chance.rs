//! Chance: which of many that do the same does it when, and what nobody else has.

use uuid::Uuid;

/// A number, all of them equally likely.
pub fn number() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(number) = crate::simulation::number() {
        return number;
    }
    rand::random()
}

/// An id that nothing else has. Those of a process sort as they were made, but for a simulation's.
pub fn unique_id() -> Uuid {
    #[cfg(feature = "simulation")]
    if let Some(number) = crate::simulation::number() {
        let random = [[0; 2].as_slice(), &number.to_be_bytes()].concat();
        let random = random.try_into().expect("it is ten bytes long");
        let builder =
            uuid::Builder::from_unix_timestamp_millis(crate::clock::now_millis(), &random);
        return builder.into_uuid();
    }
    Uuid::now_v7()
}

/// A number from 0 on and below 1.
pub fn fraction() -> f64 {
    // As many bits as a double has for its digits.
    const STEPS: u64 = 1 << 53;
    (number() % STEPS) as f64 / STEPS as f64
}
