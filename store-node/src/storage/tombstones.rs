//! Which documents are deleted and still have what they were, by the time of the delete: so that
//! what is due is found without looking at anything else.
//!
//! Every version that is a tombstone is listed by the batch that writes it, here or copied (ST-1).
//! So all replicas have listed the same tombstones when they come to an expiry (ST-2). Some of what
//! is listed is none any more: the document is there again, or was deleted anew. Of that replicas
//! may have more or less.

use std::ops::Range;

use anabranch_core::hlc::Hlc;
use anabranch_schemas::state;
use bytes::Bytes;

use super::batch::Batch;
use super::engine::{Family, Scope};
use super::progress::Progress;
use super::values::{Version, decode_version};
use super::{Storage, keys};
use crate::error::Error;

/// How large a batch of what is listed afterwards may be.
const LISTED_BYTES: usize = 1 << 20;

/// A document that is listed, and when it was deleted.
pub(crate) type Tombstone = (Hlc, Bytes);

impl Batch<'_> {
    /// Lists a document that was deleted at a time.
    pub(crate) fn put_tombstone(&mut self, deleted: Hlc, id: &[u8]) {
        self.writes.put(Family::Default, keys::tombstone_key(deleted, id), []);
    }

    /// Lists a version of a document, as it is stored, if it is a tombstone.
    pub(super) fn list_version(&mut self, id: &[u8], stored: &[u8]) -> Result<(), Error> {
        let Version::State(state) = decode_version(stored)? else { return Ok(()) };
        let deleted = state::tombstone(state);
        if let Some(deleted) = deleted.map_err(|error| Error::CorruptStore(error.to_string()))? {
            self.put_tombstone(deleted, id);
        }
        Ok(())
    }

    /// Takes what was deleted before a time off the list.
    pub(crate) fn drop_tombstones(&mut self, before: Hlc) {
        let Range { start, end } = keys::tombstones(before);
        self.writes.delete_range(Family::Default, &start, &end);
    }

    /// Takes all up to one of them off the list.
    pub(crate) fn drop_tombstones_through(&mut self, (deleted, id): &Tombstone) {
        let start = keys::tombstones(*deleted).start;
        self.writes.delete_range(Family::Default, &start, &keys::past_tombstone(*deleted, id));
    }
}

impl Storage {
    /// What is listed as deleted before a time, in order, behind the last one of an earlier answer:
    /// at most so many.
    pub(crate) fn tombstones(
        &self,
        before: Hlc,
        behind: Option<&Tombstone>,
        most: usize,
    ) -> Result<Vec<Tombstone>, Error> {
        let Range { start, end } = keys::tombstones(before);
        let start = behind.map_or(start, |(deleted, id)| keys::past_tombstone(*deleted, id));
        let mut listed = self.engine.cursor(Family::Default, Scope::Within(start..end));
        listed.seek_to_first();
        let mut found = Vec::new();
        while let Some((key, _)) = listed.item().filter(|_| found.len() < most) {
            let (deleted, id) = keys::split_tombstone_key(key).ok_or_else(|| {
                Error::CorruptStore("the key of a tombstone does not decode".to_owned())
            })?;
            found.push((deleted, Bytes::copy_from_slice(id)));
            listed.next();
        }
        listed.status().map_err(|error| self.failed("read", error))?;
        Ok(found)
    }

    /// Lists the tombstones of a store whose format had no list: of all of its versions, since one
    /// that is the newest now may be taken back with a backfill.
    pub(super) fn list_tombstones(&self, progress: &Progress) -> Result<(), Error> {
        let path = self.path.display();
        tracing::info!(%path, "looking for deleted documents in a store of an older format");
        let mut versions = self.engine.cursor(Family::Versions, Scope::Below(None));
        versions.seek_to_first();
        let mut batch = Batch::new(self, LISTED_BYTES);
        while let Some((key, stored)) = versions.item() {
            let (id, _) = super::scan::split(key)?;
            batch.list_version(id, stored)?;
            if batch.bytes() >= LISTED_BYTES {
                let full = std::mem::replace(&mut batch, Batch::new(self, LISTED_BYTES));
                full.write(progress, Err)?;
            }
            versions.next();
        }
        versions.status().map_err(|error| self.failed("read", error))?;
        batch.write(progress, Err)
    }
}
