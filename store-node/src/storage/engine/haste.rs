//! Reads on threads that may not wait for a disk.
//!
//! Handing a read to a thread that may wait takes longer than most reads of what is in memory do. So what
//! reads little is tried first where it is asked for: there RocksDB looks into its memory only, and says
//! so if that does not have it.

use std::cell::Cell;

use crate::error::Error;

/// What is larger takes a while to decode.
const LARGE: usize = 64 << 10;

thread_local! {
    static IN_HASTE: Cell<bool> = const { Cell::new(false) };
}

/// Ends the haste, also if what was done in it panics.
struct Haste;

impl Drop for Haste {
    fn drop(&mut self) {
        IN_HASTE.set(false);
    }
}

/// Does something for which this thread waits for no disk: what it reads of the store has to be in memory,
/// or it fails with an error for which [`crate::error::Error::is_of_haste`].
pub(crate) fn in_haste<T>(work: impl FnOnce() -> T) -> T {
    IN_HASTE.set(true);
    let _haste = Haste;
    work()
}

/// Whether this thread may not wait.
pub(in crate::storage) fn is_in_haste() -> bool {
    IN_HASTE.get()
}

/// Refuses what is too large for a thread that may not wait.
pub(in crate::storage) fn check_haste(bytes: usize) -> Result<(), Error> {
    if bytes > LARGE && is_in_haste() {
        return Err(Error::TooLargeForHaste(bytes));
    }
    Ok(())
}
