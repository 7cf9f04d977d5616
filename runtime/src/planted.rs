//! Bugs that are planted for a simulation to find. Nowhere else is there one.

/// Whether a bug is planted, by its name.
#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::simulation::is_planted(stringify!($bug))
    };
}

/// Whether a bug is planted: never.
#[cfg(not(feature = "simulation"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
