//! Change data capture: the store node's feed of applied changes into topic `changes`, each exactly
//! once and in order (CDC-1), with marks that say up to where that is complete (CDC-2).
//!
//! * `batch`: what goes into one transaction. Pure.
//! * `writer`: writes it, together with the position it ends at.
//! * `lag`: how far that is behind what the store node has applied.
//! * `runner`: feeds the one into the other, for as long as the process runs.
//!
//! The position is a record of topic `cursors` in the same transaction as the changes. Whatever
//! breaks, the runner begins anew: it fences every older writer, then reads the position, then
//! asks the feed from there. A transaction whose outcome is not known has by then either moved the
//! position or not happened.

mod batch;
mod config;
mod error;
mod lag;
mod metrics;
mod runner;
#[cfg(test)]
mod tests;
mod writer;

pub use config::CdcConfig;
pub use error::Error;
pub use runner::run;
pub use writer::CURSOR_KEY;
