//! What can go wrong between the feed and topic `changes`.

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_journal::Error as JournalError;

/// An error of change data capture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error("write the changes: {0}")]
    Journal(#[from] JournalError),
    /// The store node does not give its feed now.
    #[error("read the feed of the store node: {0}")]
    Feed(String),
    /// The store node no longer has the changes that come next.
    #[error(
        "the store node no longer has the changes from transaction {next} on: {reason}. Nothing is \
         captured, since readers of topic 'changes' would take what follows for all there is. Start \
         the store node on a copy of its data that still has them, and keep changes longer than \
         change data capture may be away (the store node's feed_retention_ms)"
    )]
    FeedTrimmed {
        /// Where the feed should have gone on.
        next: TxnId,
        /// What the store node says.
        reason: String,
    },
    /// The feed makes no sense.
    #[error("the feed of the store node is broken: {0}")]
    Broken(String),
    /// The process is stopping.
    #[error("change data capture is shutting down")]
    Shutdown,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Journal(error) => error.kind(),
            Error::Feed(_) => ErrorKind::Retry,
            Error::FeedTrimmed { .. } | Error::Broken(_) => ErrorKind::Corrupt,
            Error::Shutdown => ErrorKind::Shutdown,
        }
    }
}
