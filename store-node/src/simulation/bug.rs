//! Bugs that can be planted, one at a time.

use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// Progress says more than what was applied (ST-5).
    SpliceBeforeApply,
    /// The stable timestamp is the highest base and not the lowest (ST-3, ST-4).
    StableIsMaximum,
    /// A node that was started again does not care where the log ended when it was (ST-3).
    ForgetsItsPast,
    /// A read is answered before its timestamp is reached (ST-4).
    ReadsUnreached,
    /// What is handed over is of no snapshot, but as it is at the moment (ST-2).
    BackfillsMoving,
    /// What became of rounds is not handed over (ST-2).
    BackfillsWithoutRounds,
    /// Tombstones that are handed over are not listed (ST-2).
    BackfillsWithoutTombstones,
    /// Versions are dropped although somebody reads them (ST-4).
    CollectsHeld,
    /// A round is released although parts of it may still come (ST-5).
    ReleasesHalfRounds,
    /// A repeated round is applied again (ST-2).
    AppliesRepeated,
    /// A node that has copied says that its feed goes back as far as before (CDC-1).
    FeedClaimsTooMuch,
    /// What those replicas lack that answer is declared lost (ST-5).
    LosesUnasked,
    /// A flush says that all that was written is durable, and is not (ST-1).
    FlushesHalf,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::SpliceBeforeApply,
        Bug::StableIsMaximum,
        Bug::ForgetsItsPast,
        Bug::ReadsUnreached,
        Bug::BackfillsMoving,
        Bug::BackfillsWithoutRounds,
        Bug::BackfillsWithoutTombstones,
        Bug::CollectsHeld,
        Bug::ReleasesHalfRounds,
        Bug::AppliesRepeated,
        Bug::FeedClaimsTooMuch,
        Bug::LosesUnasked,
        Bug::FlushesHalf,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// From now on this thread has this bug, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// The bug that this thread has.
pub(crate) fn planted() -> Option<Bug> {
    PLANTED.get()
}

pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
