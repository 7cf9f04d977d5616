//! The pure heart of Anabranch: names, the keyspace, hybrid logical clocks, the document CRDT and
//! the query language. No IO, no clock, no randomness: time and identity come with the records.

pub mod cluster;
pub mod document;
mod error;
pub mod hlc;
pub mod ids;
pub mod interval_map;
pub mod keyspace;
pub mod query;
pub mod slicing;
mod value;

pub use error::ErrorKind;
pub use value::{JsonError, JsonFault, Value};
