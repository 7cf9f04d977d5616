//! The newest states of documents: those of the batch under construction, those written lately,
//! the rest from the store.
//!
//! What is kept is the stored form, shared with what was written; two generations of bounded size
//! take turns, so that what is used again stays.

use std::collections::HashMap;

use anabranch_core::ids::TxnId;
use bytes::Bytes;
use foldhash::fast::RandomState;

use super::round::{Documents, NewVersion, Newest};
use crate::error::Error;
use crate::storage::{Batch, FORGOTTEN, NewestVersions, Version, decode_state, decode_version};

/// How many bytes of ids and states a generation holds before the next one begins.
const GENERATION_BYTES: usize = 16 << 20;

/// A version in its stored form, and who wrote it.
type Stored = (TxnId, Bytes);

/// Versions written lately.
#[derive(Debug, Default)]
pub(super) struct RecentStates {
    young: HashMap<Bytes, Stored, RandomState>,
    old: HashMap<Bytes, Stored, RandomState>,
    young_bytes: usize,
}

impl RecentStates {
    /// Keeps the newest version of a document. Until [`RecentStates::batch_written`] nothing is
    /// given up, so all of a batch is found.
    pub(super) fn put(&mut self, id: Bytes, stored: Stored) {
        self.young_bytes += id.len() + stored.1.len() + 72;
        self.young.insert(id, stored);
    }

    /// There is a newer version, which is not kept.
    pub(super) fn forget(&mut self, id: &[u8]) {
        self.young.remove(id);
        self.old.remove(id);
    }

    /// Everything that was put is in the store now.
    pub(super) fn batch_written(&mut self) {
        if self.young_bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn get(&mut self, id: &[u8]) -> Option<Stored> {
        if let Some(stored) = self.young.get(id) {
            return Some(stored.clone());
        }
        let (id, stored) = self.old.remove_entry(id)?;
        self.put(id, stored.clone());
        Some(stored)
    }
}

/// What one batch reads, and what its rounds write.
pub(super) struct BatchDocuments<'s, 'r> {
    pub(super) recent: &'r mut RecentStates,
    pub(super) stored: NewestVersions<'s>,
    pub(super) batch: Batch<'s>,
    /// The transaction that is being applied.
    pub(super) txn: TxnId,
    /// A batch this large is written before the next transaction: nobody asks for its states.
    pub(super) full_bytes: usize,
}

impl Documents for BatchDocuments<'_, '_> {
    fn newest(&mut self, id: &[u8]) -> Result<Newest, Error> {
        let decode = |writer, version| {
            let document = match version {
                Version::State(state) => Some(decode_state(state)?),
                Version::Evicted => None,
            };
            Ok(Newest { version: Some(writer), document })
        };
        if let Some((writer, stored)) = self.recent.get(id) {
            return decode(writer, decode_version(&stored)?);
        }
        match self.stored.get(id)? {
            Some((writer, version)) => decode(writer, version),
            None => Ok(Newest::default()),
        }
    }

    fn put(&mut self, new: NewVersion<'_>) {
        let NewVersion { slice, id, stored, tombstone, moves, event } = new;
        self.batch.put_change(slice, &id, &event);
        moves.iter().for_each(|moved| self.batch.move_entry(moved, event.key, self.txn));
        if let Some(deleted) = tombstone {
            self.batch.put_tombstone(deleted, &id);
        }
        let stored = stored.unwrap_or(Bytes::from_static(FORGOTTEN));
        self.batch.put_version(&id, self.txn, &stored);
        if self.batch.bytes() < self.full_bytes {
            self.recent.put(id, (self.txn, stored));
        } else {
            self.recent.forget(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_state_is_found_whichever_generation_it_is_in() {
        let mut recent = RecentStates::default();
        let big = (TxnId(1), Bytes::from(vec![7; GENERATION_BYTES]));
        let small = |text: &'static str| (TxnId(2), text.into());
        recent.put("a".into(), big.clone());
        recent.batch_written();
        recent.put("b".into(), small("b"));
        assert_eq!(recent.get(b"a"), Some(big));
        assert_eq!(recent.get(b"b"), Some(small("b")));
        recent.batch_written();
        recent.put("a".into(), small("new"));
        recent.batch_written();
        assert_eq!(recent.get(b"a"), Some(small("new")));
        assert_eq!(recent.get(b"c"), None);
        recent.forget(b"a");
        assert_eq!(recent.get(b"a"), None);
    }
}
