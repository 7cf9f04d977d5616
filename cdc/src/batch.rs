//! What goes into one transaction: changes, marks of the slices they are in, and the position.
//!
//! A transaction of the feed that is cut over several replies is held back until it is whole: the
//! position can only lie between transactions, so a part that was written before a crash would be
//! written again after it.

use std::collections::BTreeMap;
use std::mem;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::records::Resolved;
use anabranch_schemas::store::FeedReply;
use bytes::Bytes;

use crate::error::Error;

/// A change event as it goes into the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) slice: Slice,
    /// Canonical bytes of the document id.
    pub(crate) key: Bytes,
    /// The encoded change.
    pub(crate) value: Bytes,
}

/// What is to be written at once.
#[derive(Debug)]
pub(crate) struct Batch {
    slices: SliceCount,
    events: Vec<Event>,
    bytes: usize,
    /// The last transaction of each slice that was touched.
    touched: BTreeMap<Slice, TxnId>,
    /// The last transaction that the feed named.
    last: Option<TxnId>,
    next: TxnId,
}

impl Batch {
    /// Nothing yet; everything below `next` was written.
    pub(crate) fn new(slices: SliceCount, next: TxnId) -> Self {
        let touched = BTreeMap::new();
        Batch { slices, events: Vec::new(), bytes: 0, touched, last: None, next }
    }

    /// Adds a reply of the feed.
    pub(crate) fn add(&mut self, reply: FeedReply) -> Result<(), Error> {
        for transaction in reply.transactions {
            let txn = TxnId(transaction.txn);
            // The parts of one that is cut have its number and the position that was before it.
            if txn < self.next || Some(txn) < self.last {
                return Err(Error::Broken(format!("transaction {txn} after {}", self.next)));
            }
            self.last = Some(txn);
            for slice in transaction.slices {
                self.touched.insert(self.slice(slice)?, txn);
            }
            for change in transaction.changes {
                self.bytes += change.document_id.len() + change.event.len();
                self.events.push(Event {
                    slice: self.slice(change.slice)?,
                    key: change.document_id,
                    value: change.event,
                });
            }
        }
        let next = TxnId(reply.next);
        if next < self.next || self.last.is_some_and(|last| next < last) {
            return Err(Error::Broken(format!("position {next} after {}", self.next)));
        }
        self.next = next;
        Ok(())
    }

    fn slice(&self, slice: u32) -> Result<Slice, Error> {
        let known = u16::try_from(slice).ok().filter(|slice| *slice < self.slices.get());
        known.map(Slice).ok_or_else(|| Error::Broken(format!("there is no slice {slice}")))
    }

    /// Whether the last transaction came whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.last.is_none_or(|last| last < self.next)
    }

    /// Whether a transaction is in it.
    pub(crate) fn has_transactions(&self) -> bool {
        self.last.is_some()
    }

    /// The changes, in order.
    pub(crate) fn changes(&self) -> &[Event] {
        &self.events
    }

    /// The size of the changes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything below it is in this batch or was written before.
    pub(crate) fn next(&self) -> TxnId {
        self.next
    }

    /// Marks for the slices that were touched; for all of them if `all` is set. A mark names the
    /// last transaction of a touched slice, since readers wait for that one; of another slice,
    /// the last that may be in the batch.
    pub(crate) fn marks(&self, all: bool) -> Vec<Resolved> {
        let Some(newest) = self.next.0.checked_sub(1).map(TxnId) else { return Vec::new() };
        if all {
            return self.slices.all().map(|slice| Resolved { slice, txn: newest }).collect();
        }
        let touched = self.touched.iter();
        touched.map(|(slice, txn)| Resolved { slice: *slice, txn: *txn }).collect()
    }

    /// The next batch, once this one is written.
    pub(crate) fn take(&mut self) -> Batch {
        let next = Batch::new(self.slices, self.next);
        mem::replace(self, next)
    }
}
