//! The sending side of a replication. It keeps no state: the receiver says what it wants and where
//! it is; from there on it is sent rounds in the order of the log, after a snapshot if the log does
//! not reach back that far.
//!
//! * [`select`]: which changes a receiver is sent. Pure.
//! * [`rounds`]: rebuilds rounds from the topics. Pure.
//! * [`chunks`]: cuts a snapshot into batches, by what the receiver has [`listed`]. Pure.
//! * [`tail`]: the thread that reads the topics, from where [`locate`] finds a transaction.
//! * [`window`]: batches under way.
//! * [`serve`]: the task of one subscription, with its [`snapshot`].

mod batch;
mod chunks;
mod listed;
mod locate;
mod position;
mod rounds;
mod select;
mod serve;
mod snapshot;
mod tail;
#[cfg(test)]
mod tests;
mod window;

#[cfg(test)]
pub(crate) use batch::BatchLimits;
#[cfg(test)]
pub(crate) use {
    chunks::Chunks, listed::Listed, position::At, rounds::Rounds, rounds::Source, select::Selector,
};
pub(crate) use {serve::Sender, window::Window};
