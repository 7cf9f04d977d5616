//! Rounds through the embedded log, with and without faults.

mod appending;
mod dispatching;
mod faults;
mod support;
mod writing;
