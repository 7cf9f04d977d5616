//! What was handed on for writing on a link, and how much of it is in the log: so that whoever asks
//! the store node what is held sees everything that came before.

use anabranch_core::ids::TxnId;
use anabranch_runtime::threads::Signal;
use parking_lot::{Mutex, MutexGuard};

use crate::error::Error;

/// Counts batches by number.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Debug, Default)]
struct State {
    /// The last batch that was handed on.
    handed: u64,
    /// The last batch that is in the log.
    written: u64,
    last_txn: Option<TxnId>,
    /// Nothing more will be written.
    ended: bool,
}

impl Handed {
    /// A batch is handed on.
    pub(super) fn hand(&self, number: u64) {
        self.lock().handed = number;
    }

    /// The batches up to `number` are in the log, their last round as `last_txn`.
    pub(super) fn wrote(&self, number: u64, last_txn: Option<TxnId>) {
        let mut state = self.lock();
        state.written = number;
        state.last_txn = state.last_txn.max(last_txn);
        self.changed.notify_all();
    }

    /// The writer has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until all that was handed on is in the log, and gives the last transaction that this
    /// link wrote. Blocks.
    pub(crate) fn settle(&self) -> Result<Option<TxnId>, Error> {
        let mut state = self.lock();
        while state.written < state.handed && !state.ended {
            self.changed.wait(&mut state, None);
        }
        if state.written < state.handed { Err(Error::Closed) } else { Ok(state.last_txn) }
    }

    /// The last transaction that this link has written by now.
    pub(crate) fn last_txn(&self) -> Option<TxnId> {
        self.lock().last_txn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn it_settles_once_all_is_written_or_nothing_will_be() {
        let handed = Arc::new(Handed::default());
        assert_eq!(handed.settle().unwrap(), None);
        handed.hand(2);
        let waiting = std::thread::spawn({
            let handed = handed.clone();
            move || handed.settle()
        });
        handed.wrote(1, Some(TxnId(7)));
        assert_eq!(handed.last_txn(), Some(TxnId(7)), "it does not wait");
        handed.wrote(2, None);
        assert_eq!(waiting.join().unwrap().unwrap(), Some(TxnId(7)));
        handed.hand(3);
        handed.end();
        assert!(matches!(handed.settle(), Err(Error::Closed)));
    }
}
