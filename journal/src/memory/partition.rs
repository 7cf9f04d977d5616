//! One partition: records and the holes between them.

use std::collections::VecDeque;

use crate::log::{NewRecord, Offset, Record};

/// A partition of a log in memory.
#[derive(Debug, Default)]
pub(super) struct PartitionLog {
    start: u64,
    /// From `start` on.
    slots: VecDeque<Slot>,
}

/// What stands at an offset.
#[derive(Debug)]
enum Slot {
    /// A record of a transaction that has not ended.
    Open(Record),
    /// A record that can be read.
    Committed(Record),
    /// Nothing that is ever read: what was aborted, or the end of a transaction.
    Hole,
}

impl PartitionLog {
    /// The first offset that can be read.
    pub(super) fn start(&self) -> Offset {
        Offset(self.start)
    }

    /// The offset after the last one.
    pub(super) fn end(&self) -> Offset {
        Offset(self.start + self.slots.len() as u64)
    }

    /// The offset after the last one that readers may see: that of the first open record.
    pub(super) fn stable_end(&self) -> Offset {
        let open = self.slots.iter().position(|slot| matches!(slot, Slot::Open(_)));
        open.map_or(self.end(), |index| Offset(self.start + index as u64))
    }

    /// Appends a record to an open transaction.
    pub(super) fn append(&mut self, record: NewRecord, timestamp_ms: u64) -> Offset {
        let offset = self.end();
        let NewRecord { at, key, value } = record;
        self.slots.push_back(Slot::Open(Record { at, offset, timestamp_ms, key, value }));
        offset
    }

    /// A transaction has ended here.
    pub(super) fn append_marker(&mut self) {
        self.slots.push_back(Slot::Hole);
    }

    /// The transaction of the record at `offset` has ended.
    pub(super) fn end_record(&mut self, offset: Offset, commits: bool) {
        let Some(slot) = self.slot_mut(offset) else { return };
        *slot = match std::mem::replace(slot, Slot::Hole) {
            Slot::Open(record) if commits => Slot::Committed(record),
            Slot::Open(_) => Slot::Hole,
            ended => ended,
        };
    }

    fn slot_mut(&mut self, offset: Offset) -> Option<&mut Slot> {
        let index = usize::try_from(offset.0.checked_sub(self.start)?).ok()?;
        self.slots.get_mut(index)
    }

    /// Gives up everything below `before`.
    pub(super) fn trim(&mut self, before: Offset) {
        while self.start < before.0 && self.slots.pop_front().is_some() {
            self.start += 1;
        }
    }

    /// The committed records from an offset on, up to `most`, and where to read on.
    pub(super) fn read(&self, from: Offset, most: usize) -> (Vec<Record>, Offset) {
        let (mut records, mut next) = (Vec::new(), from);
        let stable = self.stable_end();
        let skipped = usize::try_from(from.0.saturating_sub(self.start)).unwrap_or(usize::MAX);
        for slot in self.slots.iter().skip(skipped) {
            if next >= stable || records.len() >= most {
                break;
            }
            if let Slot::Committed(record) = slot {
                records.push(record.clone());
            }
            next.0 += 1;
        }
        (records, next)
    }
}
