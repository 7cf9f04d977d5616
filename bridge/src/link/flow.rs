//! Flow control: how many batches, and how many bytes, a sender may have under way. Both sides
//! count alike; the receiver confirms on its side before the sender hears of it, so it never counts
//! more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// How many batches a sender may have under way; a receiver keeps room for them.
pub(crate) const WINDOW: usize = 16;
/// How many bytes they may have together. A batch that is larger goes alone.
pub(crate) const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// How many documents a receiver may say at a time that it holds.
pub(crate) const MAX_HOLDINGS: usize = 2_000;
/// How many bytes their ids and versions may have together. A receiver stays well below.
pub(crate) const MAX_HOLDINGS_BYTES: usize = 2 * 1024 * 1024;
/// How many bytes the versions of one of them may have: those of a few hundred actors.
pub(crate) const MAX_VERSIONS_BYTES: usize = 16 * 1024;

/// Batches under way, by number.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    under_way: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Flow {
    /// Whether there is room for a batch of so many bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let fits = self.under_way.is_empty() || self.bytes + bytes <= WINDOW_BYTES;
        self.under_way.len() < WINDOW && fits
    }

    /// A batch gets under way.
    pub(crate) fn add(&mut self, number: u64, bytes: usize) {
        self.under_way.push_back((number, bytes));
        self.bytes += bytes;
    }

    /// The batches up to `number` have arrived.
    pub(crate) fn confirm(&mut self, number: u64) {
        while let Some((_, bytes)) = self.under_way.front().filter(|(first, _)| *first <= number) {
            self.bytes -= bytes;
            self.under_way.pop_front();
        }
    }
}

/// What a receiver has been sent and has not written yet.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Flow>);

impl Arrivals {
    /// A batch arrives. Whether the sender was free to send it.
    pub(crate) fn arrive(&self, number: u64, bytes: usize) -> bool {
        let mut flow = self.lock();
        let has_room = flow.has_room(bytes);
        flow.add(number, bytes);
        has_room
    }

    /// The batches up to `number` are written.
    pub(crate) fn confirm(&self, number: u64) {
        self.lock().confirm(number);
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_and_bytes_are_bounded() {
        let mut flow = Flow::default();
        assert!(flow.has_room(2 * WINDOW_BYTES), "a batch that is too large goes alone");
        flow.add(1, WINDOW_BYTES - 1);
        assert!(flow.has_room(1) && !flow.has_room(2));
        flow.confirm(1);
        for number in 2..2 + WINDOW as u64 {
            assert!(flow.has_room(1));
            flow.add(number, 1);
        }
        assert!(!flow.has_room(0));
        flow.confirm(2);
        assert!(flow.has_room(WINDOW_BYTES - WINDOW + 1));
        assert!(!flow.has_room(WINDOW_BYTES));
    }

    #[test]
    fn what_arrives_against_the_rules_is_noticed() {
        let arrivals = Arrivals::default();
        assert!(arrivals.arrive(1, WINDOW_BYTES));
        arrivals.confirm(1);
        assert!(arrivals.arrive(2, WINDOW_BYTES));
        assert!(!arrivals.arrive(3, 1));
    }
}
