//! The ends of partitions on disk: how old records go away, by their age or when asked to; and how
//! a partition's end moves past aborted transactions.
//!
//! The new start is written in the same batch as the delete, and set in memory before it: a reader
//! that finds the start unchanged after it read has missed nothing.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::Shared;
use super::state::PartitionIndex;
use super::store::Range;
use crate::error::Error;
use crate::log::Offset;

/// How often records are checked for their age.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a compacted topic keeps the record that removed a key, for readers that follow.
const REMOVAL_RETENTION_MS: u64 = 24 * 60 * 60 * 1000;
/// How many records one pass looks at in one partition, so that no writer waits long for it. If
/// there is more to drop, the next one comes at once.
const RECORDS_PER_PASS: usize = 10_000;

/// When the next pass is due.
#[derive(Debug, Default)]
pub(super) struct Retention {
    due: Mutex<Option<Instant>>,
    /// Held while an end of a partition is being stored: an older one must not overwrite a newer.
    storing_ends: Mutex<()>,
}

impl Retention {
    /// Whether a pass is due; if so the caller makes it.
    fn take_due(&self, now: Instant) -> bool {
        // Whoever makes a pass does so for all.
        let Some(mut due) = self.due.try_lock() else { return false };
        if due.is_some_and(|due| now < due) {
            return false;
        }
        *due = Some(now + INTERVAL);
        true
    }
}

impl Shared {
    /// Once a minute, drops what is older than its topic keeps it. A failure is not the caller's:
    /// it is tried again a minute later.
    pub(super) fn retain_if_due(&self) {
        if !self.retention.take_due(Instant::now()) {
            return;
        }
        match self.retain() {
            Ok(true) => {}
            Ok(false) => *self.retention.due.lock() = None,
            Err(error) => {
                tracing::warn!(%error, "old records of the embedded log were not dropped");
            }
        }
    }

    /// Drops what is older than its topic keeps it. False if that may not be all.
    pub(super) fn retain(&self) -> Result<bool, Error> {
        let mut all = true;
        let now_ms = (self.config.now_ms)();
        let mut by_age = Vec::new();
        {
            let mut state = self.state();
            let topics: Vec<_> = state
                .topics()
                .map(|(_, topic)| {
                    (topic.partitions(), topic.entry.compact, topic.entry.retention_ms)
                })
                .collect();
            for (partitions, compact, retention_ms) in topics {
                for index in partitions {
                    if compact {
                        let partition = state.partition_mut(index);
                        let last = partition.last();
                        if let Some(keys) = &mut partition.keys {
                            keys.forget_removed(now_ms.saturating_sub(REMOVAL_RETENTION_MS), last);
                        }
                    } else if let Some(retention_ms) = retention_ms {
                        by_age.push((index, now_ms.saturating_sub(retention_ms)));
                    }
                }
            }
        }
        for (index, before_ms) in by_age {
            let (at, key, bounds) = {
                let state = self.state();
                let partition = state.partition(index);
                (partition.at.clone(), partition.key, partition.bounds())
            };
            let range = Range { at: &at, key, from: bounds.start, to: bounds.end };
            let start = self.store.first_not_older(&range, before_ms, RECORDS_PER_PASS)?;
            if start > bounds.start {
                self.trim(index, start)?;
                all &= start.0 - bounds.start.0 < RECORDS_PER_PASS as u64;
            }
        }
        Ok(all)
    }

    /// Gives up what lies below `before`.
    pub(super) fn trim(&self, index: PartitionIndex, before: Offset) -> Result<(), Error> {
        let _turn = self.retention.storing_ends.lock();
        let key = {
            let mut state = self.state();
            state.check()?;
            let partition = state.partition_mut(index);
            let bounds = partition.bounds();
            if before > bounds.end {
                return Err(Error::Invalid(format!(
                    "{} ends at {}; it cannot be trimmed to {before}",
                    partition.at, bounds.end
                )));
            }
            if before <= bounds.start {
                return Ok(());
            }
            partition.trim(before);
            partition.key
        };
        // If this fails the start is in memory only: the records are there again after a restart.
        let mut batch = WriteBatch::default();
        batch.put(key.start(), before.0.to_be_bytes());
        batch.delete_range(key.record(0), key.record(before.0));
        self.write(batch)?;
        self.store.drop_files(key, before);
        Ok(())
    }

    /// Stores the ends of partitions at which nothing but aborted transactions followed the last
    /// record, so that readers may be shown them.
    pub(super) fn show_ends(&self, partitions: &[PartitionIndex]) -> Result<(), Error> {
        let _turn = self.retention.storing_ends.lock();
        let mut batch = WriteBatch::default();
        let hidden: Vec<_> = {
            let state = self.state();
            state.check()?;
            let ends = partitions.iter().filter_map(|index| {
                let partition = state.partition(*index);
                partition.hidden_end().map(|end| (*index, partition.key, end))
            });
            ends.collect()
        };
        if hidden.is_empty() {
            return Ok(());
        }
        for (_, key, end) in &hidden {
            batch.put(key.shown(), end.0.to_be_bytes());
        }
        self.write(batch)?;
        let mut state = self.state();
        for (index, _, end) in hidden {
            state.partition_mut(index).show(end);
        }
        Ok(())
    }
}
