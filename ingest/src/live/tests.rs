//! Live queries, with a store node that does what it is told.

mod rows;
mod served;
