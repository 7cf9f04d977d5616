//! What has to hold of every text of the query language, whatever bytes it is.
//!
//! The property tests of `core` make statements that mean something and compare them with a model.
//! Here a fuzzer makes bytes, guided by which code they reach, and what is checked needs no model: two
//! ways to the same thing agree. Nothing may panic; that nothing takes long or much memory is for the
//! limits with which the fuzzer is run (`scripts/fuzz`).

mod condition;
mod input;
mod statement;

pub use condition::check_rule;
pub use input::Input;
pub use statement::check_statement;
