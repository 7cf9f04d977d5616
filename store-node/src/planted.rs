//! Bugs that are planted for a simulation to find. Nowhere else is there one.

/// Whether a bug is planted.
#[cfg(feature = "simulation")]
macro_rules! planted {
    ($bug:ident) => {
        crate::simulation::is_planted(crate::simulation::Bug::$bug)
    };
}

/// Whether a bug is planted: never.
#[cfg(not(feature = "simulation"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
