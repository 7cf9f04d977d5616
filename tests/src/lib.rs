//! What end-to-end tests need: a real Kafka, processes that end with the test, and whole clusters
//! of them.
//!
//! The library depends on none of our crates, so that any of them can use it in its own tests.

pub mod cluster;
pub mod support;
