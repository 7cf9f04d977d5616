//! RocksDB under the embedded log: how it is opened, what its errors mean.
//!
//! Every write is one batch and one WAL record, synced before it returns unless that was turned
//! off. Writes of several threads share one sync. When the disk is full a write fails before its
//! record is whole in the WAL, so it did not happen; RocksDB then refuses all writes, looks for
//! space every 5 seconds, and goes on by itself: unless a write comes while it does so. Therefore
//! few writes get through to it meanwhile. After any other failure of a write it is
//! not known whether the record will be found at the next opening.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use super::EmbeddedConfig;
use super::layout::{
    FORMAT, FORMAT_KEY, PartitionKey, TopicEntry, decode_record, offset_of_key, timestamp_of,
    topic_of_key, topic_range,
};
use crate::error::Error;
use crate::log::{Offset, Record, TopicName, TopicPartition};

/// File names, by how they begin or end, that RocksDB leaves behind when it is stopped while it
/// makes a new database.
const ROCKSDB_STARTS: [&str; 6] = ["LOCK", "LOG", "IDENTITY", "MANIFEST-", "OPTIONS-", "CURRENT"];
const ROCKSDB_ENDS: [&str; 3] = [".log", ".sst", ".dbtmp"];
/// What `mkfs` puts into an empty file system.
const LOST_FOUND: &str = "lost+found";

/// How often a write tries whether a full disk has space again: out of step with the 5 seconds at
/// which RocksDB looks, which a write at the same moment would disturb.
const PROBE_INTERVAL: Duration = Duration::from_millis(700);

/// A write that failed.
#[derive(Debug)]
pub(super) enum WriteFailure {
    /// It did not happen.
    Refused(Error),
    /// It may be found at the next opening.
    Unknown(String),
}

/// An open database.
pub(super) struct Store {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
    /// When the next write may try, if the disk was full.
    full_until: Mutex<Option<Instant>>,
}

/// Reads of one batch from one partition.
#[derive(Debug)]
pub(super) struct Range<'a> {
    pub(super) at: &'a TopicPartition,
    pub(super) key: PartitionKey,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

impl Store {
    /// Opens the database in `config.path`, or makes it.
    pub(super) fn open(config: &EmbeddedConfig) -> Result<Self, Error> {
        let path = config.path.clone();
        refuse_foreign(&path)?;
        let db = DB::open(&options(config), &path).map_err(|error| opening(&path, &error))?;
        let mut write_options = WriteOptions::default();
        write_options.set_sync(config.sync);
        let store = Store { db, path, write_options, full_until: Mutex::new(None) };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), Error> {
        let path = self.path.display();
        let stored = self.db.get(FORMAT_KEY).map_err(|error| self.reading(&error))?;
        match stored.as_deref().map(<[u8; 4]>::try_from) {
            Some(Ok(version)) if u32::from_be_bytes(version) == FORMAT => Ok(()),
            Some(Ok(version)) => Err(Error::Invalid(format!(
                "the embedded log in '{path}' has format {}; this program knows format {FORMAT}",
                u32::from_be_bytes(version)
            ))),
            Some(Err(_)) => {
                Err(Error::Corrupt(format!("the format of the log in '{path}' does not decode")))
            }
            None => {
                let mut all = self.db.raw_iterator();
                all.seek_to_first();
                if all.valid() {
                    return Err(Error::Invalid(format!(
                        "'{path}' holds a RocksDB database of something else; \
                         give the embedded log a directory of its own"
                    )));
                }
                all.status().map_err(|error| self.reading(&error))?;
                let mut batch = WriteBatch::default();
                batch.put(FORMAT_KEY, FORMAT.to_be_bytes());
                self.write(batch).map_err(|failure| match failure {
                    WriteFailure::Refused(error) => error,
                    WriteFailure::Unknown(error) => Error::Unavailable(error),
                })
            }
        }
    }

    /// Writes a batch, whole or not at all.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), WriteFailure> {
        if !self.may_try() {
            return Err(self.disk_full());
        }
        let written = self.db.write_opt(batch, &self.write_options);
        let Err(error) = written else {
            *self.full_until.lock() = None;
            return Ok(());
        };
        let text: &str = error.as_ref();
        // A failed sync leaves a whole record behind, even if it failed for lack of space. What
        // was tried stands before the path, which may hold any words.
        let tried = text.split('/').next().unwrap_or_default();
        if is_disk_full(text) && !tried.contains("sync") {
            *self.full_until.lock() = Some(Instant::now() + PROBE_INTERVAL);
            Err(self.disk_full())
        } else {
            Err(WriteFailure::Unknown(error.into_string()))
        }
    }

    /// How often the WAL was synced.
    #[cfg(test)]
    pub(super) fn wal_syncs(&self) -> u64 {
        let all = self.db.property_value("rocksdb.options-statistics");
        let all = all.ok().flatten().expect("tests collect statistics");
        let line = all.lines().find(|line| line.starts_with("rocksdb.wal.synced "));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.expect("syncs are counted")
    }

    /// Whether the disk is not full, or it is time to see if it still is.
    fn may_try(&self) -> bool {
        let mut full_until = self.full_until.lock();
        let Some(until) = *full_until else { return true };
        let now = Instant::now();
        if now < until {
            return false;
        }
        *full_until = Some(now + PROBE_INTERVAL);
        true
    }

    fn disk_full(&self) -> WriteFailure {
        WriteFailure::Refused(Error::DiskFull(self.path.display().to_string()))
    }

    /// Every topic.
    pub(super) fn topics(&self) -> Result<Vec<(TopicName, TopicEntry)>, Error> {
        let (from, to) = topic_range();
        let mut topics = Vec::new();
        let mut entries = self.iterate(from, to);
        entries.seek_to_first();
        while let Some((key, value)) = entries.item() {
            let name = topic_of_key(key).ok_or_else(|| corrupt("a topic's name"))?;
            let entry = serde_json::from_slice(value)
                .map_err(|error| corrupt(&format!("the entry of topic '{name}': {error}")))?;
            topics.push((name, entry));
            entries.next();
        }
        entries.status().map_err(|error| self.reading(&error))?;
        Ok(topics)
    }

    /// The stored ends of a partition: its first offset, and the one after its last.
    pub(super) fn ends(&self, partition: PartitionKey) -> Result<(Offset, Offset), Error> {
        let start = self.offset(&partition.start())?;
        let shown = self.offset(&partition.shown())?;
        let to = partition.record(u64::MAX).to_vec();
        let mut records = self.iterate(partition.record(start.0).to_vec(), to);
        records.seek_to_last();
        records.status().map_err(|error| self.reading(&error))?;
        let last = match records.key() {
            None => None,
            Some(key) => Some(offset_of_key(key).ok_or_else(|| corrupt("a record's key"))?),
        };
        let end = last.map_or(start, |last| Offset(last + 1));
        Ok((start, end.max(shown)))
    }

    fn offset(&self, key: &[u8]) -> Result<Offset, Error> {
        let stored = self.db.get(key).map_err(|error| self.reading(&error))?;
        match stored.as_deref().map(<[u8; 8]>::try_from) {
            None => Ok(Offset(0)),
            Some(Ok(offset)) => Ok(Offset(u64::from_be_bytes(offset))),
            Some(Err(_)) => Err(corrupt("an end of a partition")),
        }
    }

    /// Reads records until there are none left or they are together above `max_bytes`. Returns
    /// the offset up to which everything was read.
    pub(super) fn read(
        &self,
        range: &Range<'_>,
        max_bytes: usize,
        into: &mut Vec<Record>,
    ) -> Result<Offset, Error> {
        let Range { at, key, from, to } = range;
        let mut bytes = 0;
        let mut records = self.iterate(key.record(from.0).to_vec(), key.record(to.0).to_vec());
        records.seek_to_first();
        while let Some((stored_key, stored)) = records.item() {
            let offset = offset_of_key(stored_key).ok_or_else(|| corrupt("a record's key"))?;
            if bytes >= max_bytes {
                return Ok(Offset(offset));
            }
            bytes += stored.len();
            let (timestamp_ms, key, value) = decode_record(stored)
                .ok_or_else(|| corrupt(&format!("the record at {offset} of {at}")))?;
            into.push(Record {
                at: TopicPartition::clone(at),
                offset: Offset(offset),
                timestamp_ms,
                key,
                value,
            });
            records.next();
        }
        records.status().map_err(|error| self.reading(&error))?;
        Ok(*to)
    }

    /// The first offset of the range whose record is not older than `before_ms`, or the end of
    /// the range. Looks at `limit` records at most and returns how far it came.
    pub(super) fn first_not_older(
        &self,
        range: &Range<'_>,
        before_ms: u64,
        limit: usize,
    ) -> Result<Offset, Error> {
        let Range { at: _, key, from, to } = range;
        let mut records = self.iterate(key.record(from.0).to_vec(), key.record(to.0).to_vec());
        records.seek_to_first();
        let mut seen = 0;
        while let Some((stored_key, stored)) = records.item() {
            let offset = offset_of_key(stored_key).ok_or_else(|| corrupt("a record's key"))?;
            let timestamp_ms = timestamp_of(stored).ok_or_else(|| corrupt("a record's time"))?;
            if timestamp_ms >= before_ms || seen == limit {
                return Ok(Offset(offset));
            }
            seen += 1;
            records.next();
        }
        records.status().map_err(|error| self.reading(&error))?;
        Ok(*to)
    }

    /// Drops whole files of records below `before`, so that their space is free at once.
    pub(super) fn drop_files(&self, partition: PartitionKey, before: Offset) {
        let Some(last) = before.0.checked_sub(1) else { return };
        // The range includes its last key.
        let dropped = self.db.delete_file_in_range(partition.record(0), partition.record(last));
        if let Err(error) = dropped {
            tracing::debug!(%error, "files of trimmed records were not dropped; compaction will");
        }
    }

    fn iterate(&self, from: Vec<u8>, to: Vec<u8>) -> rocksdb::DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(from..to);
        self.db.raw_iterator_opt(options)
    }

    fn reading(&self, error: &rocksdb::Error) -> Error {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Error::Corrupt(error.to_string()),
            _ => Error::Unavailable(format!(
                "the embedded log in '{}' cannot be read: {error}",
                self.path.display()
            )),
        }
    }
}

fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("in the embedded log, {what} does not decode"))
}

/// Not so a quota that is exceeded: after that RocksDB does not go on by itself.
fn is_disk_full(text: &str) -> bool {
    text.contains("No space left on device")
}

/// Refuses a path that is there but is no database.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::Invalid(format!("'{shown}' cannot be the embedded log: {error}")));
        }
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::Unavailable(format!("'{shown}': {error}")))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = ROCKSDB_STARTS.iter().any(|start| name.starts_with(start))
            || ROCKSDB_ENDS.iter().any(|end| name.ends_with(end))
            || name == LOST_FOUND;
        if !known {
            return Err(Error::Invalid(format!(
                "'{shown}' is no embedded log: it holds '{name}'; give the log a directory of \
                 its own"
            )));
        }
    }
    Ok(())
}

/// What a failure to open means.
fn opening(path: &Path, error: &rocksdb::Error) -> Error {
    let text: &str = error.as_ref();
    let path = path.display();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        Error::Invalid(format!("the embedded log in '{path}' is in use by another process"))
    } else if is_disk_full(text) {
        Error::DiskFull(path.to_string())
    } else if error.kind() == rocksdb::ErrorKind::Corruption
        || text.contains("No such file or directory")
    {
        Error::Corrupt(format!("the embedded log in '{path}' cannot be opened: {text}"))
    } else {
        Error::Invalid(format!("the embedded log in '{path}' cannot be opened: {text}"))
    }
}

/// For what is written in order, read near its end, and sometimes from its start: modest memory
/// (three write buffers and one cache), files that move down the levels without being rewritten.
fn options(config: &EmbeddedConfig) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(16 << 20));
    blocks.set_block_size(16 << 10);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(config.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_max_total_wal_size(4 * config.write_buffer_bytes as u64);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_bytes_per_sync(1 << 20);
    options.set_enable_pipelined_write(true);
    // The default stops at the first record that does not decode and forgets all after it, which
    // would be acknowledged writes. This refuses to open unless it is the torn end of a file.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    #[cfg(test)]
    options.enable_statistics();
    options
}
