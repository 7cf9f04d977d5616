//! What goes into one transaction of the log: changes, marks of the slices they are in, and the
//! position.
//!
//! A transaction of the feed that is cut over several replies may take several transactions of the
//! log, since the log takes only so much in one. The position then says how many of its changes
//! were written; its slices are marked when it is whole (CDC-2). The feed gives the changes of a
//! transaction in the same order each time, so after a crash that many are passed over (CDC-1).

use std::collections::BTreeMap;
use std::mem;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_runtime::planted;
use anabranch_schemas::decode;
use anabranch_schemas::records::{ChangesCursor, Lost, PartialChanges, Resolved};
use anabranch_schemas::store::{FeedReply, FeedTransaction};
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

/// How far the topic is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Every transaction below was written.
    pub(crate) next: TxnId,
    /// And so many changes of this one.
    pub(crate) written: u64,
}

impl Position {
    /// From what is stored; what is said about another transaction than the next is outdated.
    pub(crate) fn new(cursor: Option<ChangesCursor>, partial: Option<PartialChanges>) -> Self {
        let next = cursor.map_or(TxnId(0), |cursor| cursor.next);
        let written = partial.filter(|partial| partial.txn == next);
        Position { next, written: written.map_or(0, |partial| partial.written) }
    }
}

/// What is to be written at once.
#[derive(Debug)]
pub(crate) struct Batch {
    slices: SliceCount,
    events: Vec<Event>,
    bytes: usize,
    /// The last transaction of each slice that was touched, of those that are whole.
    touched: BTreeMap<Slice, TxnId>,
    /// Whether a transaction became whole in it.
    has_whole: bool,
    /// The transaction that is coming in.
    open: Option<Open>,
    /// By slice the last transaction that is lost to it.
    lost: BTreeMap<Slice, TxnId>,
    /// What was written when reading began.
    start: Position,
    next: TxnId,
}

/// A transaction of which more may come.
#[derive(Debug)]
struct Open {
    txn: TxnId,
    slices: Vec<Slice>,
    /// How many of its changes came, those included that were written before.
    changes: u64,
}

impl Batch {
    /// Nothing yet; what `start` says was written.
    pub(crate) fn new(slices: SliceCount, start: Position) -> Self {
        Batch {
            slices,
            events: Vec::new(),
            bytes: 0,
            touched: BTreeMap::new(),
            has_whole: false,
            open: None,
            lost: BTreeMap::new(),
            start,
            next: start.next,
        }
    }

    /// Adds a reply of the feed.
    pub(crate) fn add(&mut self, reply: FeedReply) -> Result<(), Error> {
        for transaction in reply.transactions {
            self.add_transaction(transaction)?;
        }
        let next = TxnId(reply.next);
        if next < self.next || self.open.as_ref().is_some_and(|open| next < open.txn) {
            return Err(Error::Broken(format!("position {next} after {}", self.next)));
        }
        self.next = next;
        if self.open.as_ref().is_some_and(|open| open.txn < next) {
            self.close();
        }
        Ok(())
    }

    fn add_transaction(&mut self, transaction: FeedTransaction) -> Result<(), Error> {
        let txn = TxnId(transaction.txn);
        let open_txn = self.open.as_ref().map(|open| open.txn);
        // The parts of one that is cut have its number and the position that was before it.
        if txn < self.next || Some(txn) < open_txn {
            return Err(Error::Broken(format!("transaction {txn} after {}", self.next)));
        }
        let slices = transaction.slices.iter().map(|slice| self.slice(*slice));
        let slices = slices.collect::<Result<Vec<_>, _>>()?;
        if open_txn != Some(txn) {
            self.close();
            self.open = Some(Open { txn, slices, changes: 0 });
        } else if let Some(open) = &mut self.open {
            // Its parts may come from several partitions, each of which names its own slices.
            open.slices.extend(slices);
        }
        let written = if txn == self.start.next { self.start.written } else { 0 };
        for change in transaction.changes {
            let slice = self.slice(change.slice)?;
            if change.document_id.is_empty() {
                self.note_lost(slice, &change.event)?;
            }
            let open = self.open.as_mut().expect("it was opened above");
            open.changes += 1;
            if open.changes <= written {
                continue;
            }
            self.bytes += change.document_id.len() + change.event.len();
            self.events.push(Event { slice, key: change.document_id, value: change.event });
        }
        Ok(())
    }

    /// What is no change of a document says what of a slice is lost. Until all of that is passed the
    /// slice gets no marks: whoever reads on from within has to come upon it.
    fn note_lost(&mut self, slice: Slice, event: &[u8]) -> Result<(), Error> {
        let lost: Lost = decode(event).map_err(|error| Error::Broken(error.to_string()))?;
        let until = self.lost.entry(slice).or_insert(lost.to);
        *until = lost.to.max(*until);
        Ok(())
    }

    /// All of the open transaction has come.
    fn close(&mut self) {
        let Some(Open { txn, slices, .. }) = self.open.take() else { return };
        self.touched.extend(slices.into_iter().map(|slice| (slice, txn)));
        self.has_whole = true;
    }

    fn slice(&self, slice: u32) -> Result<Slice, Error> {
        let known = u16::try_from(slice).ok().filter(|slice| *slice < self.slices.get());
        known.map(Slice).ok_or_else(|| Error::Broken(format!("there is no slice {slice}")))
    }

    /// Whether there is anything that is not yet written.
    pub(crate) fn has_news(&self) -> bool {
        self.has_whole || !self.events.is_empty()
    }

    /// Whether the last transaction came whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.open.is_none()
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

    /// How much of the next transaction is, if any is.
    pub(crate) fn partial(&self) -> Option<PartialChanges> {
        let open = self.open.as_ref()?;
        let before = if open.txn == self.start.next { self.start.written } else { 0 };
        // What was written before may not have come again yet.
        Some(PartialChanges { txn: open.txn, written: open.changes.max(before) })
    }

    /// Marks for the slices that were touched; for all of them if `all` is set. A mark names the
    /// last transaction of a touched slice, since readers wait for that one; of another slice,
    /// the last that may be in the batch.
    pub(crate) fn marks(&self, all: bool) -> Vec<Resolved> {
        let next = self.next.0 + u64::from(planted!(MarksEarly));
        let Some(newest) = next.checked_sub(1).map(TxnId) else { return Vec::new() };
        let marks: Vec<_> = match all {
            true => self.slices.all().map(|slice| (slice, newest)).collect(),
            false => self.touched.iter().map(|(slice, txn)| (*slice, *txn)).collect(),
        };
        let is_past_loss =
            |(slice, txn): &(Slice, TxnId)| self.lost.get(slice).is_none_or(|lost| txn >= lost);
        let marks = marks.into_iter().filter(is_past_loss);
        marks.map(|(slice, txn)| Resolved { slice, txn }).collect()
    }

    /// The next batch, once this one is written.
    pub(crate) fn take(&mut self) -> Batch {
        let mut next = Batch::new(self.slices, self.start);
        next.next = self.next;
        next.lost.clone_from(&self.lost);
        next.open = self.open.as_ref().map(|Open { txn, slices, changes }| Open {
            txn: *txn,
            slices: slices.clone(),
            changes: *changes,
        });
        mem::replace(self, next)
    }
}
