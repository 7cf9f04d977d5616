//! Where a receiver is in this cluster's log.

use bytes::Bytes;

use anabranch_core::ids::TxnId;
use anabranch_schemas::link;

/// Where a receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Within a snapshot: it has every document up to `after`, and the tail begins at `next`.
    Snapshot {
        /// The snapshot's timestamp plus one.
        next: TxnId,
        /// The last document id received; empty at the beginning.
        after: Bytes,
    },
    /// It has every document, some as they were later than this, and everything below this. What it
    /// is sent until the tail has come to where they were read may be older than what it has. To the
    /// receiver that is still the snapshot.
    Replay(TxnId),
    /// It has everything below this.
    Tail(TxnId),
}

/// Behind every document id: these begin with an app, and then comes text.
const BEHIND_ALL: &[u8] = &[0xff; 17];

impl At {
    /// What a receiver said, if it holds for the queries with this digest. Else it needs a snapshot
    /// from the beginning.
    pub(crate) fn of(position: Option<link::Position>, digest: u64) -> Option<At> {
        let link::Position { next, snapshot, queries } = position?;
        (queries == digest).then(|| match snapshot {
            Some(link::SnapshotPosition { after }) if after == BEHIND_ALL => {
                At::Replay(TxnId(next))
            }
            Some(link::SnapshotPosition { after }) => At::Snapshot { next: TxnId(next), after },
            None => At::Tail(TxnId(next)),
        })
    }

    /// As the receiver is told.
    pub(crate) fn to_wire(&self, digest: u64) -> link::Position {
        let (next, snapshot) = match self {
            At::Snapshot { next, after } => {
                (next.0, Some(link::SnapshotPosition { after: after.clone() }))
            }
            At::Replay(next) => {
                let after = Bytes::from_static(BEHIND_ALL);
                (next.0, Some(link::SnapshotPosition { after }))
            }
            At::Tail(next) => (next.0, None),
        };
        link::Position { next, snapshot, queries: digest }
    }
}
