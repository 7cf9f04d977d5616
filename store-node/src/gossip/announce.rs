//! What a store node says of itself: how far it is, in which configuration, and how new that is.
//!
//! Every [`TxnId`] in here is the end of a prefix: it stands for all transactions below it.

use std::ops::Range;

use anabranch_core::cluster::{Epoch, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::{Intervals, Position};

/// The most intervals that an announce tells apart, and the most detached ranges in all of them.
/// More would let the announce of one node that is far behind take the room of all others.
pub(super) const MAX_AHEAD: usize = 16;
pub(super) const MAX_DETACHED: usize = 16;
/// The most bytes of why a node is not ready.
const MAX_NOT_READY_BYTES: usize = 400;

/// One life of a process: a later one of the same node has a higher number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation(pub(crate) u64);

impl Incarnation {
    /// No clock makes a higher one, however wrong it is, and there is always one above those that
    /// clocks make. So of whatever is believed of a node the node itself can say something newer,
    /// and all others believe that, too: no clock decides what is believed.
    pub(super) const MAX: Incarnation = Incarnation(1 << 48);
}

/// Counts what a node says within one life, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(pub(crate) u64);

/// How new an announce is. The default is older than every announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) incarnation: Incarnation,
    pub(crate) sequence: Sequence,
}

impl Version {
    /// Of the first announce of a life.
    pub(super) fn first(incarnation: Incarnation) -> Self {
        Version { incarnation, sequence: Sequence(1) }
    }

    pub(super) fn next(self) -> Self {
        Version { sequence: Sequence(self.sequence.0 + 1), ..self }
    }
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announce {
    pub(crate) node: NodeId,
    pub(crate) version: Version,
    pub(crate) standing: Standing,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The configuration that the rest is about: what the node owns is what it owns there.
    pub(crate) epoch: Epoch,
    /// What may serve reads. A node that has not yet caught up with the log as it was when it
    /// started has nothing to offer and says the default (ST-3).
    pub(crate) applied: Applied,
    /// Every transaction below this survives a crash of the node.
    pub(crate) durable: TxnId,
    /// The oldest snapshot that the node reads, or about the newest that is stable if it reads
    /// none: the others keep what reads from here on see.
    pub(crate) gc_timestamp: TxnId,
    /// The node's feed of changes is complete from this transaction on.
    pub(crate) history_from: TxnId,
    /// While the node lacks something of what it owns and copies it from others: how many rounds
    /// and documents it has so far.
    pub(crate) copying: Option<u64>,
    /// Why the node is not ready, for people.
    pub(crate) not_ready: Option<NotReady>,
    /// It has durably all of what it owns that the log may no longer have, and goes on.
    pub(crate) is_whole: bool,
}

/// Why a node is not ready: text, of which so much is told that it takes no room from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotReady(String);

impl NotReady {
    /// Cut to the most that is told.
    pub(crate) fn new(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(MAX_NOT_READY_BYTES));
        NotReady(text)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a node has applied of what it owns: everywhere up to the base, and more in places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    base: TxnId,
    ahead: Vec<Ahead>,
    is_cut: bool,
}

/// A part of what a node owns in which it has more than its base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// The first position.
    pub(crate) first: Position,
    /// The last position, included.
    pub(crate) last: Position,
    /// Every transaction below it is applied here.
    pub(crate) base: TxnId,
    /// Ranges past the base, in order.
    pub(crate) detached: Vec<Range<TxnId>>,
}

/// Why parts make no [`Applied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppliedError {
    #[error("more than {MAX_AHEAD} intervals or {MAX_DETACHED} detached ranges")]
    TooMany,
    #[error("intervals that are empty, overlap or are out of order")]
    Intervals,
    #[error("an interval that has no more than the base")]
    NothingMore,
    #[error("detached ranges that are empty, touch or are out of order")]
    Detached,
}

impl Applied {
    /// What a map says about what a node owns. It may say less, and then knows so, never more.
    pub(crate) fn of(map: &IntervalMap, owned: &Intervals) -> Self {
        let pieces = pieces(map, owned);
        let base = pieces.iter().map(|piece| piece.base).min().unwrap_or_default();
        let has_more = |piece: &Ahead| piece.base > base || !piece.detached.is_empty();
        let mut applied = Applied { base, ..Applied::default() };
        let mut room = MAX_DETACHED;
        for mut piece in pieces.into_iter().filter(has_more) {
            applied.is_cut |= piece.detached.len() > room;
            piece.detached.truncate(room);
            if applied.ahead.len() == MAX_AHEAD || !has_more(&piece) {
                applied.is_cut = true;
                continue;
            }
            room -= piece.detached.len();
            applied.ahead.push(piece);
        }
        applied
    }

    /// Of what another node sent.
    pub(super) fn from_parts(
        base: TxnId,
        ahead: Vec<Ahead>,
        is_cut: bool,
    ) -> Result<Self, AppliedError> {
        let detached: usize = ahead.iter().map(|piece| piece.detached.len()).sum();
        if ahead.len() > MAX_AHEAD || detached > MAX_DETACHED {
            return Err(AppliedError::TooMany);
        }
        let is_ordered = ahead.windows(2).all(|pair| pair[0].last < pair[1].first);
        if !is_ordered || ahead.iter().any(|piece| piece.first > piece.last) {
            return Err(AppliedError::Intervals);
        }
        for Ahead { base: here, detached, .. } in &ahead {
            if *here < base || (*here == base && detached.is_empty()) {
                return Err(AppliedError::NothingMore);
            }
            let is_past = detached.first().is_none_or(|first| first.start > *here);
            let are_apart = detached.windows(2).all(|pair| pair[0].end < pair[1].start);
            if !is_past || !are_apart || detached.iter().any(Range::is_empty) {
                return Err(AppliedError::Detached);
            }
        }
        Ok(Applied { base, ahead, is_cut })
    }

    /// Every transaction below it is applied everywhere in what the node owns.
    pub(crate) fn base(&self) -> TxnId {
        self.base
    }

    /// Where there is more than the base, in order.
    pub(crate) fn ahead(&self) -> &[Ahead] {
        &self.ahead
    }

    /// Whether the node has yet more, which did not fit: only the node itself can say.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// The intervals of a map within what a node owns.
fn pieces(map: &IntervalMap, owned: &Intervals) -> Vec<Ahead> {
    let entries: Vec<_> = map.entries().collect();
    let ends = entries.iter().skip(1).map(|(next, _)| Position(next.0 - 1));
    let ends: Vec<_> = ends.chain([Position(u64::MAX)]).collect();
    let mut pieces = Vec::new();
    for interval in owned.iter() {
        let from = ends.partition_point(|end| *end < interval.first());
        let overlapping = entries[from..].iter().zip(&ends[from..]);
        for ((start, ranges), end) in
            overlapping.take_while(|((start, _), _)| *start <= interval.last())
        {
            pieces.push(Ahead {
                first: interval.first().max(*start),
                last: interval.last().min(*end),
                base: ranges.base(),
                detached: ranges.detached().to_vec(),
            });
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use anabranch_core::cluster::{ClusterSpec, Configuration, PartitionSpec};
    use anabranch_core::keyspace::SliceCount;
    use anabranch_core::slicing::PartitionId;
    use proptest::prelude::*;

    use super::*;

    const STEP: u64 = 1 << 60;

    fn owned(partitions: u32, mine: u32) -> Intervals {
        let partition = |id: u32| PartitionSpec {
            weight: 1,
            nodes: [(format!("n{id}").parse().unwrap(), format!("n{id}:7070"))].into(),
        };
        let spec =
            ClusterSpec { partitions: (0..partitions).map(partition).collect(), quorum: None };
        let configuration = Configuration::new(Epoch(1), SliceCount::default(), spec).unwrap();
        configuration.slicing().owned_by(PartitionId(mine))
    }

    fn map(splices: &[(u64, u64, u64, u64)]) -> IntervalMap {
        let mut map = IntervalMap::default();
        for (first, count, start, length) in splices {
            let last = (first + count).min(15) * STEP + (STEP - 1);
            let txns = TxnId(*start)..TxnId(start + length);
            map.splice(Position(first * STEP), Position(last), txns);
        }
        map
    }

    #[test]
    fn a_node_that_is_as_far_everywhere_says_one_number() {
        let applied = Applied::of(&map(&[(0, 15, 0, 9), (12, 3, 0, 20)]), &owned(4, 1));
        assert_eq!(applied, Applied { base: TxnId(9), ..Applied::default() });
        let applied = Applied::of(&map(&[(4, 3, 0, 9), (6, 9, 0, 20)]), &owned(4, 1));
        let [more] = applied.ahead() else { panic!("{applied:?}") };
        assert_eq!((more.first, more.last), (Position(6 * STEP), Position(8 * STEP - 1)));
        assert_eq!((applied.base(), more.base, applied.is_cut()), (TxnId(9), TxnId(20), false));
        assert_eq!(Applied::of(&IntervalMap::default(), &Intervals::default()), Applied::default());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_known_to_be() {
        let mut map = IntervalMap::default();
        for range in 1..=20 {
            map.splice_all(TxnId(range * 10)..TxnId(range * 10 + 1));
        }
        let applied = Applied::of(&map, &Intervals::all());
        assert!(applied.is_cut());
        assert_eq!(applied.ahead()[0].detached.len(), MAX_DETACHED);
        map.splice_all(TxnId(0)..TxnId(300));
        for interval in 0..20 {
            let first = interval * (1 << 58);
            map.splice(Position(first), Position(first + 7), TxnId(300)..TxnId(301));
        }
        let applied = Applied::of(&map, &Intervals::all());
        assert_eq!((applied.base(), applied.ahead().len()), (TxnId(300), MAX_AHEAD));
        assert!(applied.is_cut());
    }

    proptest! {
        #[test]
        fn it_never_says_more_than_the_map(
            splices in prop::collection::vec((0_u64..16, 0_u64..16, 0_u64..30, 1_u64..30), 0..30),
            mine in 0_u32..3,
        ) {
            let (map, owned) = (map(&splices), owned(3, mine));
            let applied = Applied::of(&map, &owned);
            let lowest = owned.iter().map(|part| map.base_over(part.first(), part.last())).min();
            prop_assert_eq!(applied.base(), lowest.unwrap());
            for Ahead { first, last, base, detached } in applied.ahead() {
                prop_assert!(owned.contains(*first) && owned.contains(*last));
                prop_assert_eq!(map.base_over(*first, *last), *base);
                for range in detached {
                    let mut with = map.clone();
                    with.splice(*first, *last, range.clone());
                    prop_assert_eq!(&with, &map, "it was there already");
                }
            }
            let Applied { base, ahead, is_cut } = applied.clone();
            prop_assert_eq!(Applied::from_parts(base, ahead, is_cut), Ok(applied));
        }
    }
}
