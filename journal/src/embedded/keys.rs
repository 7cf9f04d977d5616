//! Which record of each key is the newest in a partition of a compacted topic, and which records
//! are therefore to be deleted.
//!
//! A record is deleted only after a newer one of its key was written, and only once its own write
//! is over: so a delete never overtakes the write it is meant for. What was not yet deleted when
//! the process stopped is found again at the next opening, when all records are noted anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use crate::log::Offset;

/// The newest record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    offset: Offset,
    /// When the key was removed, if it was: in milliseconds since the Unix epoch.
    removed_ms: Option<u64>,
}

/// The keys of one partition.
#[derive(Debug, Default)]
pub(super) struct Keys {
    newest: HashMap<Bytes, Newest>,
    superseded: Vec<Offset>,
}

impl Keys {
    /// Notes a record that has been written.
    pub(super) fn note(&mut self, key: Bytes, offset: Offset, removed_ms: Option<u64>) {
        let newest = Newest { offset, removed_ms };
        match self.newest.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(newest);
            }
            Entry::Occupied(mut entry) if entry.get().offset < offset => {
                self.superseded.push(entry.insert(newest).offset);
            }
            Entry::Occupied(_) => self.superseded.push(offset),
        }
    }

    /// The records to be deleted with the next write.
    pub(super) fn take_superseded(&mut self) -> Vec<Offset> {
        std::mem::take(&mut self.superseded)
    }

    /// Hands back what could not be deleted.
    pub(super) fn put_back(&mut self, superseded: Vec<Offset>) {
        self.superseded.extend(superseded);
    }

    /// Forgets keys removed before `before_ms`: their removals are to be deleted with the next
    /// write. The removal at `keep` stays.
    pub(super) fn forget_removed(&mut self, before_ms: u64, keep: Option<Offset>) {
        let superseded = &mut self.superseded;
        self.newest.retain(|_, newest| {
            let old = newest.removed_ms.is_some_and(|removed| removed < before_ms);
            let forget = old && Some(newest.offset) != keep;
            if forget {
                superseded.push(newest.offset);
            }
            !forget
        });
    }

    /// Forgets what lies below `start`, which is gone.
    pub(super) fn trim(&mut self, start: Offset) {
        self.newest.retain(|_, newest| newest.offset >= start);
        self.superseded.retain(|offset| *offset >= start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_record_of_a_key_goes_whatever_the_order_of_the_commits() {
        let mut keys = Keys::default();
        keys.note("a".into(), Offset(1), None);
        keys.note("b".into(), Offset(2), None);
        keys.note("a".into(), Offset(7), None);
        assert_eq!(keys.take_superseded(), [Offset(1)]);
        keys.note("a".into(), Offset(5), None);
        assert_eq!(keys.take_superseded(), [Offset(5)]);
    }

    #[test]
    fn old_removals_are_forgotten_but_for_the_one_at_the_end() {
        let mut keys = Keys::default();
        keys.note("a".into(), Offset(1), Some(10));
        keys.note("b".into(), Offset(2), Some(90));
        keys.note("c".into(), Offset(3), Some(10));
        keys.forget_removed(50, Some(Offset(3)));
        assert_eq!(keys.take_superseded(), [Offset(1)]);
        keys.note("a".into(), Offset(4), None);
        assert_eq!(keys.take_superseded(), []);
    }
}
