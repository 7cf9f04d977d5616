//! How much the threads that read the log may read: what bounds the memory of rounds in the making
//! without ever stopping the one partition that the next round waits for.

use std::time::Duration;

use anabranch_core::keyspace::Slice;
use parking_lot::{Condvar, Mutex};

/// How many commit records wait at most.
const MAX_COMMITS: usize = 50_000;

/// What the reader of parts is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Read all slices.
    All,
    /// Memory is full: read only these, which the next round waits for.
    Only(Vec<Slice>),
    /// Memory is full, and the next round is to be applied first.
    Nothing,
}

/// Shared by the reading threads, which ask, and the applying one, which tells.
#[derive(Debug)]
pub(super) struct Demand {
    max_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    commits: usize,
    missing: Vec<Slice>,
    /// Memory has been full and is not yet half empty.
    full: bool,
    /// Nothing more is taken.
    closed: bool,
}

impl Demand {
    pub(super) fn new(max_bytes: usize) -> Self {
        Demand { max_bytes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Parts of so many bytes were read.
    pub(super) fn parts_read(&self, bytes: usize) {
        self.state.lock().bytes += bytes;
    }

    /// So many commit records were read.
    pub(super) fn commits_read(&self, count: usize) {
        self.state.lock().commits += count;
    }

    /// Parts and commit records were released, and these slices are waited for.
    pub(super) fn released(&self, bytes: usize, commits: usize, missing: Vec<Slice>) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.commits = state.commits.saturating_sub(commits);
        state.missing = missing;
        drop(state);
        self.changed.notify_all();
    }

    /// What to read of the parts now.
    pub(super) fn parts(&self) -> Wanted {
        let mut state = self.state.lock();
        let limit = if state.full { self.max_bytes / 2 } else { self.max_bytes };
        state.full = state.bytes >= limit.max(1);
        if !state.full {
            Wanted::All
        } else if state.missing.is_empty() {
            Wanted::Nothing
        } else {
            Wanted::Only(state.missing.clone())
        }
    }

    /// Whether commit records are to be read now.
    pub(super) fn commits(&self) -> bool {
        self.state.lock().commits < MAX_COMMITS
    }

    /// Nothing more is taken: whoever reads ends.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether nothing more is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits until something was released, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_for(&mut state, timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_memory_narrows_reading_to_what_is_missing_until_it_is_half_empty() {
        let demand = Demand::new(100);
        demand.parts_read(99);
        assert_eq!(demand.parts(), Wanted::All);
        demand.parts_read(1);
        assert_eq!(demand.parts(), Wanted::Nothing);
        demand.released(10, 0, vec![Slice(3)]);
        assert_eq!(demand.parts(), Wanted::Only(vec![Slice(3)]));
        demand.released(41, 0, vec![]);
        assert_eq!(demand.parts(), Wanted::All);
    }

    #[test]
    fn commit_records_are_bounded_by_number() {
        let demand = Demand::new(1);
        assert!(demand.commits());
        demand.commits_read(MAX_COMMITS);
        assert!(!demand.commits());
        demand.released(0, 1, vec![]);
        assert!(demand.commits());
    }
}
