//! What a node reads for its clients on all nodes, and what it says of it to the others.
//!
//! A read is noted here for as long as it runs, but not longer than a read may take: a client that
//! has stopped taking what it asked for holds nothing for ever. The node says the snapshot of its
//! oldest read, and of those that it serves to other nodes; the others keep it (see `horizon`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::ids::TxnId;
use parking_lot::Mutex;

/// The reads that run.
#[derive(Debug)]
pub(crate) struct ActiveReads {
    max_read: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By snapshot, and as the how manieth they began; with when each is over at the latest.
    reads: BTreeMap<(TxnId, u64), Instant>,
    began: u64,
    /// The newest snapshot that was ever said to be the oldest which is needed.
    most_said: TxnId,
}

/// A read that has begun.
#[derive(Debug)]
pub(crate) struct Began {
    pub(crate) reading: Reading,
    /// Whether the others keep what it reads. If not they may know already that this node needs
    /// only what is newer: a read that may be newer is to begin anew.
    pub(crate) is_held: bool,
}

/// A read, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    reads: Arc<ActiveReads>,
    id: (TxnId, u64),
}

impl ActiveReads {
    /// None; each may take as long as this.
    pub(crate) fn new(max_read: Duration) -> Self {
        ActiveReads { max_read, state: Mutex::default() }
    }

    /// How long a read may take.
    pub(crate) fn max_read(&self) -> Duration {
        self.max_read
    }

    /// A read of this snapshot begins.
    pub(crate) fn begin(self: &Arc<Self>, txn: TxnId, now: Instant) -> Began {
        let mut state = self.state.lock();
        state.began += 1;
        let id = (txn, state.began);
        state.reads.insert(id, now + self.max_read);
        let is_held = state.most_said <= txn;
        Began { reading: Reading { reads: Arc::clone(self), id }, is_held }
    }

    /// The oldest snapshot that is read.
    #[cfg(feature = "simulation")]
    pub(crate) fn oldest(&self, now: Instant) -> Option<TxnId> {
        let state = self.state.lock();
        state.reads.iter().find_map(|((txn, _), over)| (*over > now).then_some(*txn))
    }

    /// What to say: the oldest snapshot that is read for clients, that is `served` to other nodes,
    /// or that the next read may begin with, which is `stable`.
    pub(crate) fn say(&self, served: Option<TxnId>, stable: TxnId, now: Instant) -> TxnId {
        let mut state = self.state.lock();
        state.reads.retain(|_, over| *over > now);
        let read = state.reads.first_key_value().map(|((txn, _), _)| *txn);
        let said = read.into_iter().chain(served).fold(stable, TxnId::min);
        state.most_said = state.most_said.max(said);
        said
    }
}

impl Reading {
    /// The snapshot that is read.
    #[cfg(test)]
    pub(crate) fn txn(&self) -> TxnId {
        self.id.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reads.state.lock().reads.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_READ: Duration = Duration::from_secs(10);

    #[test]
    fn the_oldest_read_is_said_until_it_ends_or_its_time_is_over() {
        let (reads, now) = (Arc::new(ActiveReads::new(MAX_READ)), Instant::now());
        assert_eq!(reads.say(None, TxnId(5), now), TxnId(5));
        let (first, second) = (reads.begin(TxnId(5), now), reads.begin(TxnId(7), now));
        let again = reads.begin(TxnId(5), now);
        assert_eq!(reads.say(None, TxnId(9), now), TxnId(5));
        assert_eq!(reads.say(Some(TxnId(4)), TxnId(9), now), TxnId(4), "and what is served");
        drop(first);
        assert_eq!(reads.say(None, TxnId(9), now), TxnId(5));
        drop(again);
        assert_eq!(reads.say(Some(TxnId(8)), TxnId(9), now), TxnId(7));
        assert_eq!(reads.say(None, TxnId(9), now + MAX_READ), TxnId(9), "it takes too long");
        drop(second);
    }

    #[test]
    fn a_read_older_than_what_was_said_is_not_held_by_all() {
        let (reads, now) = (Arc::new(ActiveReads::new(MAX_READ)), Instant::now());
        reads.say(None, TxnId(5), now);
        let old = reads.begin(TxnId(4), now);
        assert!(!old.is_held);
        assert_eq!(reads.say(None, TxnId(6), now), TxnId(4), "but by all who still can");
        assert!(!reads.begin(TxnId(4), now).is_held, "who has heard the 5 may have given it up");
        assert!(reads.begin(TxnId(5), now).is_held);
    }
}
