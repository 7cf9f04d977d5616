//! What can go wrong with a log, and what the caller must do.

use anabranch_core::ErrorKind;

use crate::log::{Offset, TopicPartition, TransactionalId};

/// An error of the journal. [`Error::kind`] says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be reached, or is too slow. Nothing happened.
    #[error("the journal is unavailable: {0}")]
    Unavailable(String),
    /// A commit or abort was sent and its answer did not come: it may have happened. The writer
    /// must be dropped and made anew, which fences what is still on its way.
    #[error("the outcome of a transaction is unknown: {0}")]
    Unknown(String),
    /// A newer writer with the same transactional id took over.
    #[error("writer '{0}' was fenced by a newer one")]
    Fenced(TransactionalId),
    /// The transaction was aborted: by its timeout, or since one of its records was refused.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// A reader's position is below the start of the log: what was there is gone.
    #[error("{at} was trimmed to offset {start}; offset {wanted} is gone")]
    Trimmed {
        /// Where.
        at: TopicPartition,
        /// The offset that was to be read.
        wanted: Offset,
        /// The first offset that is still there.
        start: Offset,
    },
    /// The topic or partition does not exist.
    #[error("unknown topic: {0}")]
    UnknownTopic(String),
    /// A record is larger than its topic takes.
    #[error("a record of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Size of the record.
        bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// A topic that exists has settings with which data would be lost or not found.
    #[error("topic '{topic}' has {setting}={found}; it must be {wanted}: {hint}")]
    WrongSetting {
        /// The topic.
        topic: String,
        /// Name of the setting.
        setting: String,
        /// Its value.
        found: String,
        /// The value it must have.
        wanted: String,
        /// What to do.
        hint: String,
    },
    /// A setting or an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The disk is full: nothing was written.
    #[error("no space is left for the embedded log in '{0}'; free some and retry")]
    DiskFull(String),
    /// Too many rounds wait to be written. Nothing happened.
    #[error("the journal is busy: {waiting} rounds are waiting to be written; retry later")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// Stored data makes no sense.
    #[error("the journal is corrupt: {0}")]
    Corrupt(String),
    /// The journal is being closed.
    #[error("the journal is shutting down")]
    Shutdown,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unavailable(_) | Error::Aborted(_) | Error::DiskFull(_) | Error::Busy { .. } => {
                ErrorKind::Retry
            }
            Error::Unknown(_) => ErrorKind::Unknown,
            Error::Fenced(_) => ErrorKind::Fenced,
            Error::UnknownTopic(_)
            | Error::TooLarge { .. }
            | Error::WrongSetting { .. }
            | Error::Invalid(_) => ErrorKind::Invalid,
            Error::Trimmed { .. } | Error::Corrupt(_) => ErrorKind::Corrupt,
            Error::Shutdown => ErrorKind::Shutdown,
        }
    }
}
