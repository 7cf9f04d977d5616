//! What a history can have that must not be.

use std::fmt;

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// ST-4: a read at t does not see exactly the rounds up to t: a register, or that a document is
    /// there, is of an older or a newer round.
    Snapshot,
    /// ST-4: a counter is not the sum of what the rounds up to t added.
    Count,
    /// Something was seen that nobody wrote.
    Invented,
    /// IN-2: a part of a round was seen and another part of it was not, in one read.
    Torn,
    /// A session that sent its token did not see what it wrote.
    ReadYourWrites,
    /// A session that sent its token saw an older snapshot than before.
    Monotonic,
    /// What was done after a transaction had been seen is before it: a round, or a read by another
    /// session that had been given the token.
    Causal,
    /// What was acknowledged or seen before a round began comes after that round.
    RealTime,
    /// ST-3: reads without a token went back, although one server answered them.
    Stable,
    /// IN-1: an acknowledged round could not be read in the end.
    Lost,
    /// Two rounds were acknowledged as one transaction.
    SameTransaction,
}

/// Something that must not be, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was violated.
    pub kind: Kind,
    /// What was done and seen.
    pub evidence: String,
}

impl Violation {
    pub(super) fn new(kind: Kind, evidence: impl Into<String>) -> Self {
        Violation { kind, evidence: evidence.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.evidence)
    }
}
