//! What a run of transactions writes, in one batch.

use std::ops::Range;

use anabranch_core::ids::{RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_schemas::records::PartLocation;
use rocksdb::WriteBatch;

use super::timeline::Sample;
use super::values::{
    IndexedChange, Outcome, Progress, Version, encode_changes, encode_outcome, encode_progress,
    encode_txn, encode_version,
};
use super::{Bounds, CHANGES, ROUNDS, Storage, VERSIONS, keys};
use crate::error::Error;

/// Changes of one transaction are cut into chunks of about this size.
const CHUNK_BYTES: usize = 256 << 10;

/// A write batch under construction.
pub(crate) struct Batch<'a> {
    storage: &'a Storage,
    batch: WriteBatch,
    /// Buffers that are used again and again.
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> Batch<'a> {
    /// An empty batch.
    pub(crate) fn new(storage: &'a Storage) -> Self {
        Batch {
            storage,
            batch: WriteBatch::default(),
            key: Vec::with_capacity(128),
            value: Vec::with_capacity(1024),
        }
    }

    /// About how large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    /// A version of a document.
    pub(crate) fn put_version(&mut self, id: &[u8], txn: TxnId, version: Version<'_>) {
        keys::set_version(&mut self.key, id, txn);
        encode_version(version, &mut self.value);
        self.batch.put_cf(self.storage.table(VERSIONS), &self.key, &self.value);
    }

    /// What a transaction changed, and the slices that its commit record names.
    pub(crate) fn put_changes(&mut self, txn: TxnId, slices: &[Slice], changes: &[IndexedChange]) {
        for (number, chunk) in encode_changes(slices, changes, CHUNK_BYTES).iter().enumerate() {
            let number = u16::try_from(number).expect("a transaction is smaller than 16 GiB");
            self.batch.put_cf(self.storage.table(CHANGES), keys::change_key(txn, number), chunk);
        }
    }

    /// What became of a round.
    pub(crate) fn put_outcome(&mut self, round: RoundId, outcome: &Outcome) {
        let table = self.storage.table(ROUNDS);
        self.batch.put_cf(table, round.0.as_bytes(), encode_outcome(outcome));
    }

    /// That a part of a round was not there.
    pub(crate) fn put_lost(&mut self, txn: TxnId, round: RoundId, part: &PartLocation) {
        let key = keys::lost_key(txn, part.slice, part.offset);
        self.batch.put(key, [&[1][..], round.0.as_bytes()].concat());
    }

    /// A sample of the timeline.
    pub(crate) fn put_sample(&mut self, sample: Sample) {
        self.batch.put(keys::timeline_key(sample.hlc), encode_txn(sample.txn));
    }

    /// Samples that are no longer needed.
    pub(crate) fn delete_samples(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.batch.delete(keys::timeline_key(sample.hlc));
        }
    }

    /// Drops the changes of these transactions.
    pub(crate) fn drop_changes(&mut self, txns: Range<TxnId>) {
        let (from, to) = (keys::change_prefix(txns.start), keys::change_prefix(txns.end));
        self.batch.delete_range_cf(self.storage.table(CHANGES), from, to);
    }

    /// Writes it all, with the progress that it makes.
    pub(crate) fn write(mut self, progress: &Progress) -> Result<(), Error> {
        let storage = self.storage;
        self.batch.put(keys::PROGRESS, encode_progress(progress));
        storage.feed_start.store(progress.feed_start.0, std::sync::atomic::Ordering::Release);
        storage
            .db
            .write_opt(self.batch, &storage.write_options)
            .map_err(|error| storage.failed("write", error))?;
        *storage.written.lock() = Bounds {
            next: progress.next,
            oldest_readable: progress.oldest_readable,
            hlc: progress.hlc,
        };
        Ok(())
    }
}
