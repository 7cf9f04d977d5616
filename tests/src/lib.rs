//! What end-to-end tests need: a real Kafka and processes that end with the test.
//!
//! The library depends on none of our crates, so that any of them can use it in its own tests.

pub mod support;
