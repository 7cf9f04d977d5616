//! What end-to-end tests need: a real Kafka, processes that end with the test, whole clusters of
//! them, and a judge of what clients saw.
//!
//! The library depends on none of our crates, so that any of them can use it in its own tests.

pub mod cluster;
pub mod followed;
pub mod history;
pub mod support;
