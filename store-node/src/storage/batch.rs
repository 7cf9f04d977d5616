//! What a run of transactions writes, in one batch.

use std::ops::Range;
use std::sync::atomic::Ordering;

use anabranch_core::ids::{RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_schemas::encode;
use anabranch_schemas::records::{ChangeRef, Lost, PartLocation};

use super::engine::{Family, Mark, Writes};
use super::outcome::{Outcome, encode_outcome};
use super::progress::{Progress, encode_progress};
use super::timeline::Sample;
use super::values::{ChunkWriter, encode_txn};
use super::{Storage, Written, keys};
use crate::error::Error;

/// Changes of one transaction are cut into chunks of about this size.
const CHUNK_BYTES: usize = 256 << 10;
/// A write takes its batch with it, also when it fails. Up to this size a copy is kept, with which
/// it is repeated; the one round that is larger than all this fails for good, and is read again
/// from the log when the node is started anew.
const REPEATABLE_BYTES: usize = 256 << 20;

/// A write batch under construction.
pub(crate) struct Batch<'a> {
    pub(super) storage: &'a Storage,
    pub(super) writes: Writes<'a>,
    chunks: Chunks,
    /// A buffer that is used again and again.
    key: Vec<u8>,
}

/// The changes of the transaction that is being applied.
#[derive(Debug, Default)]
struct Chunks {
    txn: TxnId,
    number: u16,
    writer: ChunkWriter,
}

impl<'a> Batch<'a> {
    /// An empty batch that is likely to become so large.
    pub(crate) fn new(storage: &'a Storage, capacity_bytes: usize) -> Self {
        Batch {
            storage,
            writes: storage.engine.writes(capacity_bytes),
            chunks: Chunks::default(),
            key: Vec::with_capacity(128),
        }
    }

    /// About how large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Where it is now.
    pub(crate) fn mark(&self) -> Mark {
        self.writes.mark()
    }

    /// Drops what came after a mark.
    pub(crate) fn go_back(&mut self, mark: Mark) {
        self.writes.go_back(mark);
    }

    /// A version of a document, in its stored form.
    pub(crate) fn put_version(&mut self, id: &[u8], txn: TxnId, stored: &[u8]) {
        keys::set_version(&mut self.key, id, txn);
        self.writes.put(Family::Versions, &self.key, stored);
    }

    /// Begins the changes of a transaction; its commit record names these slices.
    pub(crate) fn begin_changes(&mut self, txn: TxnId, slices: &[Slice]) {
        self.chunks.txn = txn;
        self.chunks.number = 0;
        self.chunks.writer.begin(slices);
    }

    /// A change of the transaction that was begun.
    pub(crate) fn put_change(&mut self, slice: Slice, id: &[u8], event: &ChangeRef<'_>) {
        self.put_event(slice, id, |chunk| event.encode_into(chunk));
    }

    /// That what the transaction changed in a slice is lost, with those from `from` on.
    pub(crate) fn put_lost_changes(&mut self, slice: Slice, from: TxnId) {
        let lost = Lost { slice, from, to: self.chunks.txn };
        self.put_event(slice, &[], |chunk| chunk.extend_from_slice(&encode(&lost)));
    }

    fn put_event(&mut self, slice: Slice, id: &[u8], encode: impl FnOnce(&mut Vec<u8>)) {
        let Chunks { txn, number, writer } = &mut self.chunks;
        let writes = &mut self.writes;
        writer.add(slice, id, encode, CHUNK_BYTES, |chunk| {
            writes.put(Family::Changes, keys::change_key(*txn, *number), chunk);
            *number = number.checked_add(1).expect("a transaction is smaller than 16 GiB");
        });
    }

    /// That was the last change of the transaction.
    pub(crate) fn end_changes(&mut self) {
        let Chunks { txn, number, writer } = &self.chunks;
        self.writes.put(Family::Changes, keys::change_key(*txn, *number), writer.last());
    }

    /// What had become of a round that is applied once more after it was forgotten. Whoever copies
    /// as of before that has to know it: at that time the round may not have been forgotten.
    pub(crate) fn put_earlier_outcome(&mut self, round: RoundId, outcome: &Outcome) {
        let key = keys::earlier_round_key(round.0.as_bytes());
        self.writes.put(Family::Rounds, key, encode_outcome(outcome));
    }

    /// What became of a round.
    pub(crate) fn put_outcome(&mut self, round: RoundId, outcome: &Outcome) {
        self.writes.put(Family::Rounds, round.0.as_bytes(), encode_outcome(outcome));
    }

    /// That a part of a round was not there.
    pub(crate) fn put_lost(&mut self, txn: TxnId, round: RoundId, part: &PartLocation) {
        let key = keys::lost_key(txn, part.slice, part.offset);
        self.writes.put(Family::Default, key, [&[1][..], round.0.as_bytes()].concat());
    }

    /// That all transactions of a range are lost here.
    pub(crate) fn put_lost_range(&mut self, txns: &Range<TxnId>) {
        self.writes.put(Family::Default, keys::lost_range_key(txns.start), encode_txn(txns.end));
    }

    /// A sample of the timeline.
    pub(crate) fn put_sample(&mut self, sample: Sample) {
        self.writes.put(Family::Default, keys::timeline_key(sample.time), encode_txn(sample.txn));
    }

    /// Samples that are no longer needed.
    pub(crate) fn delete_samples(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.writes.delete(Family::Default, keys::timeline_key(sample.time));
        }
    }

    /// Drops the changes of these transactions.
    pub(crate) fn drop_changes(&mut self, txns: Range<TxnId>) {
        let (from, to) = (keys::change_prefix(txns.start), keys::change_prefix(txns.end));
        self.writes.delete_range(Family::Changes, &from, &to);
    }

    /// Writes it all, with the progress that it makes. After a failure `again` is asked with the
    /// error whether to try once more, and waits before it says so.
    pub(crate) fn write(
        mut self,
        progress: &Progress,
        mut again: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let storage = self.storage;
        self.writes.put(Family::Default, keys::PROGRESS, encode_progress(progress));
        storage.feed_start.store(progress.feed_start.0, Ordering::Release);
        let mut writes = self.writes;
        loop {
            let copy = (writes.bytes() <= REPEATABLE_BYTES).then(|| writes.copy());
            let Err(error) = storage.engine.write(writes) else { break };
            let error = storage.failed("write", error);
            let Some(copy) = copy else { return Err(error) };
            again(error)?;
            writes = copy;
        }
        *storage.written.lock() = Written::of(progress);
        Ok(())
    }
}
