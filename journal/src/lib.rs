//! The log: the only source of truth. [`Journal`] is modelled on exactly what Kafka promises, and
//! has two implementations that pass one [`conformance`] suite: [`kafka`] and [`embedded`]. On top
//! of it: the round writer with its group commit ([`rounds`]), the metadata store ([`metadata`]),
//! and positions kept with what was written from them ([`cursors`]).

pub mod baseline;
pub mod conformance;
pub mod cursors;
#[cfg(any(test, feature = "doubles"))]
pub mod doubles;
pub mod embedded;
mod error;
pub mod kafka;
mod log;
#[cfg(any(test, feature = "doubles"))]
pub mod memory;
pub mod metadata;
mod metrics;
mod rotating;
pub mod rounds;
mod topics;

pub use error::Error;
pub use log::{
    Bounds, Cleanup, Journal, NewRecord, Offset, OpenTransaction, Partition, ReadFrom, Reader,
    Record, Signature, TopicName, TopicPartition, TopicSpec, TransactionalId, Writer,
};
pub use metrics::describe_metrics;
pub use rotating::RotatingWriter;
pub use topics::cluster_topics;
