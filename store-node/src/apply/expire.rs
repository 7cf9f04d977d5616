//! Drops what documents still hide that were deleted long ago, when a record of the log says so.
//!
//! What is due follows from the record, from the log's time and from the documents as of the
//! transaction before, which are the same on every replica (ST-2). What is left of a document is a
//! version like any other, of this transaction; who reads at an earlier one sees what was there. No
//! reader sees a difference, so the feed tells of none.
//!
//! It may be more than a batch holds. What the earlier ones write is of a transaction that nobody
//! can read yet, and progress stays before it: after a crash in between all of it is gone through
//! again, since it is listed until the last batch (ST-1).

use std::sync::Arc;
use std::time::Instant;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_schemas::state;

use super::applier::Applier;
use super::assembler::Expiring;
use super::run::{Done, log_time};
use crate::error::Error;
use crate::metrics;
use crate::storage::{Batch, STATE_PREFIX, Tombstone, Version, decode_state};

/// How many documents are dropped by one record. The rest waits for the next: nothing is applied
/// meanwhile, on any replica. No setting, since all replicas have to drop the same.
pub(super) const AT_MOST: usize = 50_000;
/// How many that are listed are looked at for a batch.
pub(super) const PAGE: usize = 1_000;

/// What one record does.
struct Expiry {
    txn: TxnId,
    /// What was deleted before this is due.
    before: Hlc,
    /// How many more documents may be dropped.
    left: usize,
    /// How many were.
    expired: u64,
}

impl Applier {
    /// Applies the expiry that is next.
    pub(super) fn apply_expiry(&mut self, expiring: Expiring) -> Result<(), Error> {
        let Expiring { txn, timestamp_ms, expiry } = expiring;
        let (began, storage) = (Instant::now(), Arc::clone(&self.storage));
        let time = log_time(self.progress.time, expiry.hlc, timestamp_ms);
        let before = Hlc::from_millis(time.millis().saturating_sub(expiry.time_to_live_ms));
        let mut expiry = Expiry { txn, before, left: self.expires_at_most, expired: 0 };
        let mut last = None;
        let batch = loop {
            let mut page = storage.tombstones(before, last.as_ref(), self.expires_at_once)?;
            let is_last_page = page.len() < self.expires_at_once;
            let mut batch = Batch::new(&storage, 128 * page.len() + 1024);
            let passed = self.expire(&mut batch, &mut expiry, &page)?;
            let is_all = is_last_page && passed == page.len();
            page.truncate(passed);
            last = page.pop().or(last);
            if is_all {
                batch.drop_tombstones(before);
                break batch;
            }
            if expiry.left == 0 {
                last.iter().for_each(|last| batch.drop_tombstones_through(last));
                break batch;
            }
            self.persistence.check()?;
            self.persistence.write(batch, &self.progress)?;
        };
        self.finish_expiry(batch, &expiry, time, began)
    }

    /// Goes through some that are listed, in order, for as long as one more may be dropped. Returns
    /// how many it came through.
    fn expire(
        &mut self,
        batch: &mut Batch<'_>,
        expiry: &mut Expiry,
        listed: &[Tombstone],
    ) -> Result<usize, Error> {
        let storage = Arc::clone(&self.storage);
        let mut newest = storage.newest_versions();
        for (passed, (deleted, id)) in listed.iter().enumerate() {
            if expiry.left == 0 {
                return Ok(passed);
            }
            let Some((writer, Version::State(state))) = newest.get(id)? else { continue };
            let mut document = decode_state(state)?;
            // Another is due by another delete, or not. What an earlier batch has done counts.
            let is_done =
                writer == expiry.txn && document.deleted.map(|at| at.hlc) == Some(*deleted);
            if document.tombstone() == Some(*deleted) && document.expire(expiry.before) {
                batch.put_version(id, expiry.txn, &state::encode_after(STATE_PREFIX, &document));
                self.recent.forget(id);
                expiry.expired += 1;
            } else if !is_done {
                continue;
            }
            expiry.left -= 1;
        }
        Ok(listed.len())
    }

    fn finish_expiry(
        &mut self,
        mut batch: Batch<'_>,
        expiry: &Expiry,
        time: Hlc,
        began: Instant,
    ) -> Result<(), Error> {
        let txn = expiry.txn;
        let mut done = Done { last: Some(txn), time, ..Done::default() };
        done.counts.transactions = 1;
        done.counts.expired = expiry.expired;
        if let Some(sample) = self.timeline.note(time, txn) {
            batch.put_sample(sample);
        }
        batch.begin_changes(txn, &[]);
        batch.end_changes();
        self.assembler.pass_expiring();
        let come = self.come_to(None);
        self.write(batch, &done, come)?;
        metrics::record_batch(done.counts, began.elapsed());
        Ok(())
    }
}
