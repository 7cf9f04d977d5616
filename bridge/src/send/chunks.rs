//! Cuts a snapshot into batches, one range of document ids after the other. Pure: documents go in,
//! in the order of their ids; rounds come out.
//!
//! Tombstones whose hidden fields are wanted are part of a snapshot: the receiver may have the
//! document.

use std::sync::Arc;

use bytes::Bytes;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, DocumentId, TxnId};
use anabranch_schemas::store::ScanItem;
use anabranch_schemas::{link, state};

use super::batch::{BatchLimits, actor_bytes, change_bytes};
use super::listed::Listed;
use super::select::{Selector, Share};
use crate::error::Error;
use crate::link::versions_bytes;

/// After this many documents the receiver is told how far the snapshot is, wanted or not.
const MAX_SCANNED: usize = 10_000;

/// A range of a snapshot being cut.
#[derive(Debug)]
pub(crate) struct Chunks {
    origin: ActorId,
    txn: TxnId,
    hlc: Hlc,
    /// What the receiver holds.
    listed: Arc<Listed>,
    limits: BatchLimits,
    changes: Vec<link::Change>,
    bytes: usize,
    scanned: usize,
    after: Bytes,
}

impl Chunks {
    /// Of the log of `origin`, read as of `txn` at `hlc`, from after `after` on, for a receiver
    /// that holds what is `listed`.
    pub(crate) fn new(
        origin: ActorId,
        txn: TxnId,
        hlc: Hlc,
        after: Bytes,
        listed: Arc<Listed>,
        limits: BatchLimits,
    ) -> Self {
        let (changes, bytes, scanned) = (Vec::new(), 0, 0);
        Chunks { origin, txn, hlc, listed, limits, changes, bytes, scanned, after }
    }

    /// The last document id that was added.
    pub(crate) fn after(&self) -> Bytes {
        self.after.clone()
    }

    /// The next document.
    pub(crate) fn add(&mut self, selector: &Selector, item: ScanItem) -> Result<(), Error> {
        let ScanItem { document_id, state } = item;
        let id = DocumentId::from_bytes(&document_id)
            .map_err(|error| Error::Corrupt(format!("a document id of a snapshot: {error}")))?;
        let document = state::decode(&state)
            .map_err(|error| Error::Corrupt(format!("the state of {id}: {error}")))?;
        self.scanned += 1;
        self.after = document_id.clone();
        let change = match selector.share(&id, &document, self.listed.held(&document_id)) {
            Share::State => link::Change { document_id, state, left: false },
            Share::Left(versions) => {
                link::Change { document_id, state: versions_bytes(versions), left: true }
            }
            Share::Nothing => return Ok(()),
        };
        self.bytes += change_bytes(&change);
        self.changes.push(change);
        Ok(())
    }

    /// Whether it is time to send.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.limits.max_bytes
            || self.changes.len() >= self.limits.max_documents
            || self.scanned >= MAX_SCANNED
    }

    /// What was gathered, as rounds, and the last document id in it.
    pub(crate) fn take(&mut self) -> (Vec<link::Round>, Bytes) {
        self.bytes = 0;
        self.scanned = 0;
        let changes = std::mem::take(&mut self.changes);
        let round = (!changes.is_empty()).then(|| link::Round {
            origin: actor_bytes(self.origin),
            origin_txn: self.txn.0,
            hlc: self.hlc.0,
            changes,
        });
        (round.into_iter().collect(), self.after.clone())
    }
}
