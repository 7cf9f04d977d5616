//! The whole pipe with real processes: an HTTP write in one cluster arrives, filtered, in another,
//! on Kafka and on the embedded log; and the commands of the program.

mod access;
mod away;
mod commands;
mod conditional;
mod console_consumer;
mod embedded;
mod indexes;
mod kafka;
mod live;
mod pages;
mod pipe;
mod tls;
mod tokens;

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_anabranch");
