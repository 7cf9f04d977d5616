//! The events of a live query, for those who have come somewhere. Pure.

use std::collections::VecDeque;

use anabranch_core::ids::TxnId;
use bytes::Bytes;

/// How many bytes of events are kept.
const MAX_BYTES: usize = 1 << 20;
/// About what an event takes beside its text.
const ENTRY_BYTES: usize = 64;

/// Events in order of their transactions.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Whoever has everything below this misses nothing that was dropped.
    since: TxnId,
}

#[derive(Debug)]
struct Entry {
    /// The result was the same as of every transaction from the event before on and below this.
    base: TxnId,
    /// Whoever has the event has everything below this.
    next: TxnId,
    /// As it is sent.
    text: Bytes,
}

impl Log {
    /// No events yet, behind everything below `since`.
    pub(super) fn new(since: TxnId) -> Self {
        Log { entries: VecDeque::new(), bytes: 0, since }
    }

    /// Adds an event, which leads from the result as of everything below `base` to that as of
    /// everything below `next`.
    pub(super) fn push(&mut self, base: TxnId, next: TxnId, text: Bytes) {
        self.bytes += text.len() + ENTRY_BYTES;
        self.entries.push_back(Entry { base, next, text });
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.text.len() + ENTRY_BYTES;
            self.since = oldest.next;
        }
    }

    /// Adds an event that is the whole result: whoever gets it needs none that came before.
    pub(super) fn push_whole(&mut self, next: TxnId, text: Bytes) {
        self.entries.clear();
        self.bytes = text.len() + ENTRY_BYTES;
        self.entries.push_back(Entry { base: TxnId(u64::MAX), next, text });
    }

    /// What came after everything below `at`: texts, and where whoever has them is. `None` if that can
    /// not be told any more, or if the result was not looked at there.
    pub(super) fn after(&self, at: TxnId) -> Option<impl Iterator<Item = (TxnId, &Bytes)>> {
        let first = self.entries.partition_point(|entry| entry.next <= at);
        let mut rest = self.entries.range(first..).peekable();
        let is_between = rest.peek().is_some_and(|entry| entry.base < at);
        let is_known = at >= self.since && !is_between;
        is_known.then(|| rest.map(|entry| (entry.next, &entry.text)))
    }

    /// How much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
