//! What can go wrong in a store node, what the caller must do, and the code that clients see.

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_core::query::QueryError;
use anabranch_journal as journal;

/// An error of the store node. [`Error::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// RocksDB failed.
    #[error("the store in '{path}' failed to {action}: {source}")]
    Storage {
        /// The data directory.
        path: String,
        /// What it was to do.
        action: &'static str,
        /// Why not.
        source: rocksdb::Error,
    },
    /// The data directory cannot be used.
    #[error("{0}")]
    DataDir(String),
    /// The node has applied what its partition has declared lost.
    #[error(
        "the store in '{path}' has applied transactions from {from} on, up to {next}, that its \
         partition has declared lost ('{declared_by}' did, when this node was not among its \
         replicas): it would answer what they do not. Move the directory away and start with an \
         empty one, so that the node copies from another replica. What is lost may be nowhere \
         else than in that directory: keep it if you need it"
    )]
    AppliedLost {
        /// The data directory.
        path: String,
        /// The first transaction that is lost.
        from: TxnId,
        /// Everything below this is applied.
        next: TxnId,
        /// The node that declared it.
        declared_by: String,
    },
    /// The cluster's configuration has no such node.
    #[error("{0}")]
    NoMember(String),
    /// Stored data does not decode.
    #[error("the store is corrupt: {0}")]
    CorruptStore(String),
    /// A record of the log does not decode.
    #[error("the record at offset {offset} of {at} cannot be applied: {reason}")]
    CorruptRecord {
        /// The partition.
        at: String,
        /// Its offset.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The address cannot be listened on, or TLS cannot be set up.
    #[error("the store node cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        reason: String,
    },
    /// Applying has stopped for good, and what is asked for was not applied before.
    #[error("this store node has stopped applying: {0}")]
    Halted(String),
    /// The timestamp was not reached in time.
    #[error("transaction {wanted} was not applied in time; everything below {next} is")]
    NotReached {
        /// The transaction that was to be applied.
        wanted: TxnId,
        /// The next one to apply.
        next: TxnId,
    },
    /// The node has not yet applied what was in the log when it started.
    #[error("the store node is catching up with the log: everything below {next} is applied")]
    CatchingUp {
        /// The next transaction to apply.
        next: TxnId,
    },
    /// The timestamp is older than the versions that are kept.
    #[error("timestamp {wanted} can no longer be read; the oldest is {oldest}")]
    TooOld {
        /// The timestamp that was to be read.
        wanted: TxnId,
        /// The oldest one that can be.
        oldest: TxnId,
    },
    /// The node lost other transactions than the snapshot that is copied lacks.
    #[error(
        "this node does not have that snapshot: of what is below transaction {until} it passed over \
         something else that was declared lost"
    )]
    OtherSnapshot {
        /// The end of the snapshot.
        until: TxnId,
    },
    /// The feed no longer has these changes.
    #[error("changes from transaction {wanted} on are no longer kept; the first is {start}")]
    FeedTrimmed {
        /// The first transaction that was asked for.
        wanted: TxnId,
        /// The first that is there.
        start: TxnId,
    },
    /// A read took longer than it may.
    #[error("the read took longer than {0} ms")]
    Expired(u64),
    /// Nobody took what a read had found.
    #[error("nothing that the read found was taken for {0} ms")]
    Untaken(u64),
    /// Too many reads run at once.
    #[error("{running} reads{whose} are running, as many as may at once")]
    Overloaded {
        /// How many.
        running: usize,
        /// Of whom, if not of all.
        whose: &'static str,
    },
    /// What a query has to keep before its first row takes too much memory.
    #[error("{what} take more than {limit} bytes")]
    QueryTooLarge {
        /// What it keeps.
        what: &'static str,
        /// How many bytes it may take.
        limit: usize,
    },
    /// The rows that groups become take too much memory, or too much work to make.
    #[error("the rows of all groups take more than {0} bytes, or too much work")]
    RowsTooLarge(usize),
    /// The statement cannot be run.
    #[error(transparent)]
    Statement(#[from] QueryError),
    /// No replica of a partition that is needed can be asked.
    #[error("no replica of a partition answers: {0}")]
    PartitionAway(String),
    /// The document belongs to another node.
    #[error("this store node does not hold that part of the keyspace")]
    NotHere,
    /// The request makes no sense.
    #[error("{0}")]
    InvalidRequest(String),
    /// What is to be read at once is too large for that. It never gets to a client.
    #[error("a document of {0} bytes is not read in haste")]
    TooLargeForHaste(usize),
    /// The node is stopping.
    #[error("the store node is shutting down")]
    Shutdown,
}

impl From<journal::metadata::MetadataError> for Error {
    fn from(error: journal::metadata::MetadataError) -> Self {
        use journal::metadata::MetadataError::{Conflict, Journal};
        match error {
            Journal(error) => error.into(),
            conflict @ Conflict { .. } => journal::Error::Unavailable(conflict.to_string()).into(),
        }
    }
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Storage { source, .. } => match source.kind() {
                rocksdb::ErrorKind::Corruption => ErrorKind::Corrupt,
                _ => ErrorKind::Retry,
            },
            Error::NotReached { .. }
            | Error::CatchingUp { .. }
            | Error::NotHere
            | Error::PartitionAway(_)
            | Error::Expired(_)
            | Error::Untaken(_)
            | Error::TooLargeForHaste(_)
            | Error::Overloaded { .. } => ErrorKind::Retry,
            Error::CorruptStore(_) | Error::CorruptRecord { .. } | Error::Halted(_) => {
                ErrorKind::Corrupt
            }
            Error::Journal(error) => error.kind(),
            Error::DataDir(_)
            | Error::AppliedLost { .. }
            | Error::NoMember(_)
            | Error::Listen { .. }
            | Error::TooOld { .. }
            | Error::OtherSnapshot { .. }
            | Error::FeedTrimmed { .. }
            | Error::QueryTooLarge { .. }
            | Error::RowsTooLarge(_)
            | Error::Statement(_)
            | Error::InvalidRequest(_) => ErrorKind::Invalid,
            Error::Shutdown => ErrorKind::Shutdown,
        }
    }

    /// Whether it is only that it was not to take long: where it may, it can be read.
    pub(crate) fn is_of_haste(&self) -> bool {
        match self {
            Error::TooLargeForHaste(_) => true,
            Error::Storage { source, .. } => source.kind() == rocksdb::ErrorKind::Incomplete,
            _ => false,
        }
    }

    /// The stable code that clients find in the metadata key `anabranch-code`.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Storage { .. } => "storage_failed",
            Error::DataDir(_) => "data_dir",
            Error::AppliedLost { .. } => "applied_lost",
            Error::NoMember(_) => "no_member",
            Error::CorruptStore(_) | Error::CorruptRecord { .. } => "corrupt",
            Error::Journal(_) => "journal",
            Error::Listen { .. } => "listen",
            Error::Halted(_) => "halted",
            Error::NotReached { .. } => "not_reached",
            Error::CatchingUp { .. } => "catching_up",
            Error::TooOld { .. } => "too_old",
            Error::OtherSnapshot { .. } => "other_snapshot",
            Error::FeedTrimmed { .. } => "feed_trimmed",
            Error::Expired(_) => "read_expired",
            Error::Untaken(_) => "read_untaken",
            Error::TooLargeForHaste(_) => "too_large_for_haste",
            Error::Overloaded { .. } => "overloaded",
            Error::QueryTooLarge { .. } | Error::RowsTooLarge(_) => "query_too_large",
            Error::Statement(error) => error.code(),
            Error::NotHere => "not_here",
            Error::PartitionAway(_) => "partition_away",
            Error::InvalidRequest(_) => "invalid_request",
            Error::Shutdown => "shutting_down",
        }
    }
}
