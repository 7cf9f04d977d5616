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
    /// No store node has the changes any more that come next.
    #[error("no store node has the changes any more from transaction {next} to below {start}")]
    FeedTrimmed {
        /// Where the feed should have gone on.
        next: TxnId,
        /// Where it can go on.
        start: TxnId,
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
            Error::Feed(_) | Error::FeedTrimmed { .. } => ErrorKind::Retry,
            Error::Broken(_) => ErrorKind::Corrupt,
            Error::Shutdown => ErrorKind::Shutdown,
        }
    }
}
