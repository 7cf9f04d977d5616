//! What this cluster holds of what it asked a remote for: told to the remote that sends a snapshot,
//! so that it can tell what has left. Pure: documents go in, in the order of their ids; what is
//! said of a range of them comes out.

use std::sync::Arc;

use bytes::Bytes;

use anabranch_core::ids::DocumentId;
use anabranch_schemas::store::ScanItem;
use anabranch_schemas::{link, state};

use super::prepare::Preparer;
use crate::error::Error;
use crate::link::{MAX_HOLDINGS, MAX_VERSIONS_BYTES, versions_bytes};

/// Lists what is held from behind a document id on, for as long as it may go on. Blocks.
pub(crate) type List =
    Arc<dyn Fn(Bytes, &dyn Fn() -> bool) -> Result<link::Holdings, Error> + Send + Sync>;

/// How long a range may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListingLimits {
    pub(crate) max_documents: usize,
    pub(crate) max_bytes: usize,
    /// Listed or not.
    pub(crate) max_scanned: usize,
    /// Of ids and states, listed or not.
    pub(crate) max_scanned_bytes: usize,
}

impl Default for ListingLimits {
    fn default() -> Self {
        ListingLimits {
            max_documents: MAX_HOLDINGS,
            max_bytes: 1024 * 1024,
            max_scanned: 100_000,
            max_scanned_bytes: 64 * 1024 * 1024,
        }
    }
}

/// A range being listed.
pub(crate) struct Listing<'a> {
    preparer: &'a Preparer,
    limits: ListingLimits,
    after: Bytes,
    documents: Vec<link::Holding>,
    bytes: usize,
    scanned: usize,
    scanned_bytes: usize,
    last: Bytes,
}

impl<'a> Listing<'a> {
    /// From behind `after` on, for the remote of `preparer`.
    pub(crate) fn new(preparer: &'a Preparer, after: Bytes, limits: ListingLimits) -> Self {
        Listing {
            preparer,
            limits,
            last: after.clone(),
            after,
            documents: Vec::new(),
            bytes: 0,
            scanned: 0,
            scanned_bytes: 0,
        }
    }

    /// The last document id that was added.
    pub(crate) fn last(&self) -> Bytes {
        self.last.clone()
    }

    /// The next document, which may be deleted.
    pub(crate) fn add(&mut self, item: ScanItem) -> Result<(), Error> {
        let ScanItem { document_id, state } = item;
        let id = DocumentId::from_bytes(&document_id)
            .map_err(|error| Error::Corrupt(format!("a document id of a scan: {error}")))?;
        let document = state::decode(&state)
            .map_err(|error| Error::Corrupt(format!("the state of {id}: {error}")))?;
        self.scanned += 1;
        self.scanned_bytes += document_id.len() + state.len();
        self.last = document_id.clone();
        if self.preparer.lists(&id, &document) {
            let versions = versions_bytes(&document.versions);
            // The remote would refuse more, again and again. What is not listed is kept.
            if versions.len() <= MAX_VERSIONS_BYTES {
                self.bytes += document_id.len() + versions.len();
                self.documents.push(link::Holding { document_id, versions });
            }
        }
        Ok(())
    }

    /// Whether the range is to end here.
    pub(crate) fn is_full(&self) -> bool {
        self.documents.len() >= self.limits.max_documents
            || self.bytes >= self.limits.max_bytes
            || self.scanned >= self.limits.max_scanned
            || self.scanned_bytes >= self.limits.max_scanned_bytes
    }

    /// What to say. Without more documents the range has no end.
    pub(crate) fn finish(self, has_more: bool) -> link::Holdings {
        let through = has_more.then_some(self.last);
        link::Holdings { after: self.after, through, documents: self.documents }
    }
}

/// How far a remote was told on one link what is held here.
#[derive(Debug)]
pub(crate) struct Told {
    through: Option<Bytes>,
}

impl Told {
    /// Nothing yet, and the position is within a snapshot at `position`, if it is.
    pub(crate) fn new(position: Option<&[u8]>) -> Self {
        Told { through: position.map(Bytes::copy_from_slice) }
    }

    /// From where to list, now that the position is within a snapshot at `position`, if it is: at
    /// the beginning of a snapshot, and once what was listed last is done. The remote waits for it.
    pub(crate) fn due(&self, position: Option<&[u8]>) -> Option<Bytes> {
        let is_due =
            |position: &&[u8]| position.is_empty() || self.through.as_deref() == Some(*position);
        position.filter(is_due).map(Bytes::copy_from_slice)
    }

    /// This is said.
    pub(crate) fn tell(&mut self, holdings: &link::Holdings) {
        self.through = holdings.through.clone();
    }
}
