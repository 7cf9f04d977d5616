//! The events of a live query, for those who have come somewhere. Pure.

use std::collections::VecDeque;

use anabranch_core::ids::TxnId;
use bytes::Bytes;

/// How many bytes of events are kept, unless the last one alone is larger.
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
    /// everything below `next`. Its text is empty if they are the same: who has something from in
    /// between, from another server, may have another one.
    ///
    /// # Panics
    /// If it is older than the last one.
    pub(super) fn push(&mut self, base: TxnId, next: TxnId, text: Bytes) {
        let last = self.entries.back().map_or(self.since, |entry| entry.next);
        assert!(last <= base && base <= next, "{base} to {next} comes after {last}");
        self.bytes += text.len() + ENTRY_BYTES;
        self.entries.push_back(Entry { base, next, text });
        while self.bytes > MAX_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.text.len() + ENTRY_BYTES;
            self.since = oldest.next;
        }
    }

    /// Adds an event that is the whole result, however large: whoever gets it needs none that came
    /// before.
    pub(super) fn push_whole(&mut self, base: TxnId, next: TxnId, text: Bytes) {
        self.entries.clear();
        self.bytes = 0;
        self.push(base, next, text);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(log: &Log, at: u64) -> Option<String> {
        let texts = log.after(TxnId(at))?.map(|(_, text)| text.to_vec());
        Some(String::from_utf8(texts.collect::<Vec<_>>().concat()).unwrap())
    }

    #[test]
    fn whoever_has_come_somewhere_gets_what_follows() {
        let mut log = Log::new(TxnId(5));
        for (base, next, text) in [(7, 8, "a"), (9, 12, "b"), (14, 16, ""), (16, 17, "c")] {
            log.push(TxnId(base), TxnId(next), Bytes::from_static(text.as_bytes()));
        }
        assert_eq!(after(&log, 4), None, "before its beginning");
        for (at, text) in [(5, "abc"), (7, "abc"), (8, "bc"), (9, "bc"), (12, "c"), (14, "c")] {
            assert_eq!(after(&log, at).as_deref(), Some(text), "{at}");
        }
        // The result was not looked at there, be it that nothing came of it.
        for at in [10, 11, 15] {
            assert_eq!(after(&log, at), None, "{at}");
        }
        assert_eq!(after(&log, 16).as_deref(), Some("c"));
        assert_eq!(after(&log, 20).as_deref(), Some(""));
    }

    #[test]
    fn of_whole_results_only_the_last_is_kept() {
        let mut log = Log::new(TxnId(5));
        let large = Bytes::from(vec![b'x'; 2 * MAX_BYTES]);
        log.push_whole(TxnId(7), TxnId(8), large.clone());
        log.push_whole(TxnId(8), TxnId(9), large.clone());
        assert_eq!(log.after(TxnId(5)).unwrap().count(), 1);
        assert_eq!(log.bytes(), large.len() + ENTRY_BYTES);
    }

    #[test]
    fn what_is_too_old_is_dropped() {
        let mut log = Log::new(TxnId(0));
        let text = Bytes::from(vec![b'x'; MAX_BYTES / 4]);
        for txn in 0..10 {
            log.push(TxnId(txn), TxnId(txn + 1), text.clone());
        }
        assert!(log.bytes() <= MAX_BYTES);
        assert!(log.after(TxnId(2)).is_none());
        assert_eq!(log.after(TxnId(8)).unwrap().count(), 2);
    }
}
