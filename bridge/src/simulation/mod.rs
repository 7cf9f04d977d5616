//! Two clusters in memory, joined by the pure cores of the bridge: random histories, links that are
//! cut and processes that crash between any two steps.

mod direction;
mod properties;
