//! Tests of applying: the pure parts alone, then the applying thread over a store of its own.

mod assembler;
mod backfilled;
mod expired;
mod failing;
mod indexed;
mod partitions;
mod permitted;
mod repeated;
mod round;
mod support;
mod whole;
