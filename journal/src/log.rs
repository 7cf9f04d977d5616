//! The journal trait: topics of partitions of records, written in transactions that become visible
//! whole or not at all (IN-2), read in offset order.
//!
//! The calls block; whoever makes them does so on a thread of its own. What an implementation
//! promises is what [`crate::conformance`] checks:
//!
//! * A transaction covers any number of partitions. Its offsets are known once its records are
//!   flushed, before it commits; aborted records and markers leave holes in the offsets.
//! * Readers see committed records only, in offset order, and nothing past the first record of a
//!   transaction that is still open in that partition.
//! * A new writer fences the older one of the same transactional id: what that one left open is
//!   aborted, its appends and its commit fail.
//! * A committed transaction survives `kill -9`; one that was not committed is never seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;

/// A topic's full name. Every record carries one, so a copy costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for TopicName {
    fn from(name: String) -> Self {
        TopicName(name.into())
    }
}

impl From<&str> for TopicName {
    fn from(name: &str) -> Self {
        TopicName(name.into())
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A partition's number within its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<TopicName>, partition: u16) -> Self {
        TopicPartition { topic: topic.into(), partition: Partition(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition.0)
    }
}

/// A place in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which writers fence each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionalId(String);

impl TransactionalId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for TransactionalId {
    fn from(id: String) -> Self {
        TransactionalId(id)
    }
}

impl From<&str> for TransactionalId {
    fn from(id: &str) -> Self {
        TransactionalId(id.to_owned())
    }
}

impl fmt::Display for TransactionalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How old records of a topic go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// By age; `None` keeps them for ever.
    Delete {
        /// How long a record is kept at least, in milliseconds.
        retention_ms: Option<u64>,
    },
    /// All but the newest record of each key; a record without value removes its key.
    Compact,
}

/// A topic as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name.
    pub name: TopicName,
    /// The number of partitions.
    pub partitions: u16,
    /// How old records go away.
    pub cleanup: Cleanup,
    /// The largest record, key and value, in bytes.
    pub max_record_bytes: usize,
}

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Where.
    pub at: TopicPartition,
    /// Names what the record is about.
    pub key: Bytes,
    /// The content; `None` removes the key from a compacted topic.
    pub value: Option<Bytes>,
}

/// A record that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub at: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Names what the record is about.
    pub key: Bytes,
    /// The content.
    pub value: Option<Bytes>,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that can be read.
    pub start: Offset,
    /// The offset after the last one that readers may see now: the last stable offset.
    pub end: Offset,
}

/// A transaction that hides what comes after it in a partition from readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Where.
    pub at: TopicPartition,
    /// Its first record there.
    pub first: Offset,
    /// The offset after the last record of the partition, whoever sees that.
    pub end: Offset,
}

/// What a transaction says of its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its id.
    pub writer: TransactionalId,
    /// How often its process was fenced under this id within the last minute.
    pub fenced: u32,
}

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the oldest record.
    Start,
    /// At this offset or the first one after it.
    Offset(Offset),
    /// After the newest record.
    End,
}

/// A log.
pub trait Journal: Send + Sync + 'static {
    /// Creates the topics that are missing and checks the settings of those that are there.
    ///
    /// # Errors
    /// [`Error::WrongSetting`] if one has settings with which data would be lost or not found.
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error>;

    /// A writer that fences every older one of this id and aborts what it left open.
    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error>;

    /// A reader of these partitions.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], and [`Error::Trimmed`] here or at the first poll.
    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error>;

    /// The ends of a partition as they are now.
    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error>;

    /// Behind every record of a partition that was written by now, be its transaction still open: no
    /// transaction that was committed before the call stands there. Who asks has little patience.
    fn written(&self, at: &TopicPartition) -> Result<Offset, Error>;

    /// Of each of these partitions the oldest transaction that is open there, if there is one. A log
    /// of a single process has none: whatever was open ended with the process.
    fn open_transactions(&self, _: &[TopicPartition]) -> Result<Vec<OpenTransaction>, Error> {
        Ok(Vec::new())
    }

    /// Whose transaction it is, if it is still there and says so.
    fn writer_of(&self, _: &OpenTransaction) -> Result<Option<Signature>, Error> {
        Ok(None)
    }

    /// Gives up everything below `before`.
    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error>;

    /// How long a writer must rest after a commit for its next transaction to start at once. A
    /// writer of a sequence takes several writers in turn (see [`crate::RotatingWriter`]).
    fn rest_after_commit(&self) -> Duration;
}

/// Writes transactions, one after the other. Dropping it aborts an open one.
///
/// After an error of kind `Unknown` or `Fenced`, and after one from `commit` or `abort`, a writer
/// is of no more use: drop it and make a new one, which fences what may still be on its way.
pub trait Writer: Send {
    /// Begins a transaction. There must be none open.
    fn begin(&mut self) -> Result<(), Error>;

    /// Appends a record to the open transaction. Its offset comes from the next `flush`.
    fn append(&mut self, record: NewRecord) -> Result<(), Error>;

    /// Waits until all records appended since the last flush are in the log, and gives their
    /// offsets in the order they were appended. They stay invisible until the commit.
    fn flush(&mut self) -> Result<Vec<Offset>, Error>;

    /// Commits. When it returns, the transaction is durable and about to become visible.
    ///
    /// # Errors
    /// Of kind `Unknown` if it may have happened; of kinds `Retry` and `Fenced` if it did not.
    fn commit(&mut self) -> Result<(), Error>;

    /// Aborts the open transaction.
    fn abort(&mut self) -> Result<(), Error>;

    /// Whether this writer must be dropped although its last call succeeded: its next transaction
    /// could meet a straggler of an earlier one.
    fn is_spent(&self) -> bool;
}

/// Reads committed records of some partitions.
///
/// After an error a reader is of no more use: make a new one, from the positions of what was
/// returned.
pub trait Reader: Send {
    /// The next records, of each partition in offset order. Waits up to `timeout` for the first;
    /// empty if none came.
    ///
    /// # Errors
    /// [`Error::Trimmed`] if a position is below the start of the log.
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error>;

    /// Where the next record of this partition will be sought. Moves past holes: when it reaches
    /// an offset, every committed record below was returned.
    fn position(&self, at: &TopicPartition) -> Option<Offset>;
}
