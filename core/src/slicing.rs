//! Random Slicing: which partition owns which part of the keyspace, and how that changes when
//! partitions come, go or change their weight.
//!
//! After A. Miranda, S. Effert, Y. Kang, E. L. Miller, I. Popov, A. Brinkmann, T. Friedetzky and
//! T. Cortes, "Random Slicing: Efficient and Scalable Data Placement for Large-Scale Storage
//! Systems", ACM Transactions on Storage 10(3), 2014, with their strategy Cut-Shift. Here it is done
//! in integers, in whole slices: shares are exact to one slice, nothing is left over and nothing is
//! owned twice. So whoever owns a document owns all of its slice, and what a round asks of a slice
//! can be decided as one. Everything goes by order of partition and of position, so whoever computes
//! it gets the same.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::keyspace::{Interval, Intervals, KEYSPACE, Position, SliceCount};

/// What a set of replicas owns together.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How large a partition is to be, in proportion to the others. One of 0 owns nothing.
pub type Weights = BTreeMap<PartitionId, u32>;

/// Weights by which nothing can be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at least one partition must have a weight above 0")]
pub struct NoWeight;

/// Who owns what: every position has exactly one owner, and neighbours differ in theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(Position, PartitionId)>", into = "Vec<(Position, PartitionId)>")]
pub struct Slicing {
    /// The first position of each interval, and its owner; the first is 0.
    starts: Vec<(u64, PartitionId)>,
}

/// Entries that are no [`Slicing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("intervals must begin at position 0, in order, and differ from their neighbours in owner")]
pub struct NoSlicing;

impl Slicing {
    /// One interval for each partition that gets a slice, in the order of their ids.
    ///
    /// # Errors
    /// [`NoWeight`] if no partition has a weight.
    pub fn new(weights: &Weights, slices: SliceCount) -> Result<Self, NoWeight> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (partition, share) in shares(weights, slices)? {
            pieces.push((start..start + share, partition));
            start += share;
        }
        Ok(Slicing::of(pieces))
    }

    /// The slicing by other weights that moves the least: exactly what shrinking partitions lose.
    ///
    /// # Errors
    /// [`NoWeight`] if no partition has a weight.
    pub fn shift(&self, weights: &Weights, slices: SliceCount) -> Result<Self, NoWeight> {
        let shares: BTreeMap<_, _> = shares(weights, slices)?.into_iter().collect();
        let mut cut = Cut::new(self, &shares);
        cut.take_whole();
        cut.take_rest();
        Ok(Slicing::of(cut.deal(&shares)))
    }

    /// Who owns a position.
    pub fn owner(&self, position: Position) -> PartitionId {
        let index = self.starts.partition_point(|(start, _)| *start <= position.0);
        self.starts[index - 1].1
    }

    /// Every interval with its owner, in order.
    pub fn intervals(&self) -> impl Iterator<Item = (Interval, PartitionId)> {
        let ends = self.starts[1..].iter().map(|(start, _)| u128::from(*start)).chain([KEYSPACE]);
        let starts = self.starts.iter();
        starts
            .zip(ends)
            .map(|((start, owner), end)| (Interval::of(u128::from(*start)..end), *owner))
    }

    /// What a partition owns, in order.
    pub fn owned_by(&self, partition: PartitionId) -> Intervals {
        self.intervals()
            .filter(|(_, owner)| *owner == partition)
            .map(|(interval, _)| interval)
            .collect()
    }

    /// From pieces that cover the keyspace, in order.
    fn of(pieces: Vec<(Range<u128>, PartitionId)>) -> Self {
        let mut starts: Vec<(u64, PartitionId)> = Vec::with_capacity(pieces.len());
        for (piece, owner) in pieces {
            let is_new = starts.last().is_none_or(|(_, last)| *last != owner);
            if !piece.is_empty() && is_new {
                let start = u64::try_from(piece.start).expect("a piece is in the keyspace");
                starts.push((start, owner));
            }
        }
        Slicing { starts }
    }
}

impl TryFrom<Vec<(Position, PartitionId)>> for Slicing {
    type Error = NoSlicing;

    fn try_from(entries: Vec<(Position, PartitionId)>) -> Result<Self, NoSlicing> {
        let are_sorted = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let do_differ = entries.windows(2).all(|pair| pair[0].1 != pair[1].1);
        if !are_sorted || !do_differ || entries.first().is_none_or(|(start, _)| start.0 != 0) {
            return Err(NoSlicing);
        }
        Ok(Slicing { starts: entries.into_iter().map(|(start, owner)| (start.0, owner)).collect() })
    }
}

impl From<Slicing> for Vec<(Position, PartitionId)> {
    fn from(slicing: Slicing) -> Self {
        slicing.starts.into_iter().map(|(start, owner)| (Position(start), owner)).collect()
    }
}

/// How many positions each partition is to own, in whole slices. Rounding never adds up: a share
/// reaches from where the ones before it end to where all up to it end.
fn shares(weights: &Weights, slices: SliceCount) -> Result<Vec<(PartitionId, u128)>, NoWeight> {
    let total: u128 = weights.values().copied().map(u128::from).sum();
    if total == 0 {
        return Err(NoWeight);
    }
    let count = u128::from(slices.get());
    // A sum of weights stays below 2^64.
    let end = |weight: u128| count * weight / total * (KEYSPACE / count);
    let mut before = 0;
    let share = |(partition, weight): (&PartitionId, &u32)| {
        let start = end(before);
        before += u128::from(*weight);
        (*partition, end(before) - start)
    };
    Ok(weights.iter().map(share).collect())
}

/// A slicing of which pieces are being taken from those that own too much.
struct Cut {
    /// In order; without an owner where a piece was taken.
    pieces: Vec<(Range<u128>, Option<PartitionId>)>,
    /// How much each partition has still to lose.
    surplus: BTreeMap<PartitionId, u128>,
}

impl Cut {
    fn new(slicing: &Slicing, shares: &BTreeMap<PartitionId, u128>) -> Self {
        let mut owned: BTreeMap<PartitionId, u128> = BTreeMap::new();
        let mut pieces = Vec::new();
        for (interval, owner) in slicing.intervals() {
            *owned.entry(owner).or_default() += interval.positions();
            pieces.push((interval.into_range(), Some(owner)));
        }
        let surplus = owned.into_iter().map(|(partition, owned)| {
            let share = shares.get(&partition).copied().unwrap_or(0);
            (partition, owned.saturating_sub(share))
        });
        Cut { pieces, surplus: surplus.collect() }
    }

    /// Takes whole intervals as long as they fit: that leaves fewer of them.
    fn take_whole(&mut self) {
        for (piece, owner) in &mut self.pieces {
            let Some(surplus) = owner.and_then(|owner| self.surplus.get_mut(&owner)) else {
                continue;
            };
            let positions = piece.end - piece.start;
            if positions <= *surplus {
                *surplus -= positions;
                *owner = None;
            }
        }
    }

    /// Takes what is left from one interval of each, where it touches a gap if it does: gaps that
    /// touch become one interval of a new owner.
    fn take_rest(&mut self) {
        let mut cut: Vec<(Range<u128>, Option<PartitionId>)> = Vec::new();
        for index in 0..self.pieces.len() {
            let (piece, owner) = self.pieces[index].clone();
            let surplus = owner.and_then(|owner| self.surplus.get_mut(&owner));
            let Some(surplus) = surplus.filter(|surplus| **surplus > 0) else {
                cut.push((piece, owner));
                continue;
            };
            let taken = std::mem::take(surplus);
            if cut.last().is_some_and(|(_, before)| before.is_none()) {
                let end = piece.start + taken;
                cut.extend([(piece.start..end, None), (end..piece.end, owner)]);
            } else {
                let start = piece.end - taken;
                cut.extend([(piece.start..start, owner), (start..piece.end, None)]);
            }
        }
        self.pieces = cut;
    }

    /// Gives what was taken to those that own too little, in order.
    fn deal(self, shares: &BTreeMap<PartitionId, u128>) -> Vec<(Range<u128>, PartitionId)> {
        let mut missing = shares.clone();
        for (piece, owner) in &self.pieces {
            if let Some(share) = owner.and_then(|owner| missing.get_mut(&owner)) {
                *share -= piece.end - piece.start;
            }
        }
        let mut missing = missing.into_iter().filter(|(_, positions)| *positions > 0);
        let mut next = missing.next();
        let mut dealt = Vec::new();
        for (mut piece, owner) in self.pieces {
            if let Some(owner) = owner {
                dealt.push((piece, owner));
                continue;
            }
            while !piece.is_empty() {
                let (receiver, positions) =
                    next.as_mut().expect("what some lose is what others lack");
                let end = piece.end.min(piece.start + *positions);
                dealt.push((piece.start..end, *receiver));
                *positions -= end - piece.start;
                piece.start = end;
                if *positions == 0 {
                    next = missing.next();
                }
            }
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equal(count: u32) -> Weights {
        (0..count).map(|id| (PartitionId(id), 1)).collect()
    }

    fn owned(slicing: &Slicing) -> BTreeMap<PartitionId, u128> {
        let mut owned = BTreeMap::new();
        for (interval, owner) in slicing.intervals() {
            *owned.entry(owner).or_default() += interval.positions();
        }
        owned
    }

    /// How many positions have another owner than before.
    fn moved(from: &Slicing, to: &Slicing) -> u128 {
        let mut moved = 0;
        for (before, old) in from.intervals() {
            for (after, _) in to.intervals().filter(|(_, new)| *new != old) {
                moved += before.common(&after).map_or(0, |common| common.positions());
            }
        }
        moved
    }

    #[test]
    fn three_equal_parts_become_four_in_five_intervals() {
        let slices = SliceCount::default();
        let three = Slicing::new(&equal(3), slices).unwrap();
        let four = three.shift(&equal(4), slices).unwrap();
        let owners: Vec<u32> = four.intervals().map(|(_, owner)| owner.0).collect();
        assert_eq!(owners, [0, 3, 1, 2, 3]);
        assert_eq!(owned(&four), BTreeMap::from_iter((0..4).map(|id| (PartitionId(id), 1 << 62))));
    }

    #[test]
    fn one_partition_owns_everything() {
        let one = Slicing::new(&equal(1), SliceCount::default()).unwrap();
        let all: Vec<_> = one.owned_by(PartitionId(0)).iter().cloned().collect();
        assert_eq!((all[0].first(), all[0].last()), (Position(0), Position(u64::MAX)));
        assert_eq!(all[0].positions(), KEYSPACE);
        assert_eq!(one.owner(Position(u64::MAX)), PartitionId(0));
    }

    #[test]
    fn nothing_is_divided_by_no_weight() {
        let slices = SliceCount::default();
        assert_eq!(Slicing::new(&Weights::new(), slices), Err(NoWeight));
        assert_eq!(Slicing::new(&Weights::from([(PartitionId(1), 0)]), slices), Err(NoWeight));
        let one = Slicing::new(&equal(1), slices).unwrap();
        assert_eq!(one.shift(&Weights::new(), slices), Err(NoWeight));
    }

    #[test]
    fn entries_with_a_hole_or_out_of_order_are_refused() {
        let entry = |start, owner| (Position(start), PartitionId(owner));
        for entries in [
            vec![],
            vec![entry(1, 0)],
            vec![entry(0, 0), entry(0, 1)],
            vec![entry(0, 0), entry(9, 1), entry(5, 0)],
            vec![entry(0, 0), entry(9, 0)],
        ] {
            assert_eq!(Slicing::try_from(entries), Err(NoSlicing));
        }
    }

    fn weights() -> impl Strategy<Value = Weights> {
        let weight = prop_oneof![Just(0), Just(1), 1_u32..10, Just(u32::MAX)];
        prop::collection::btree_map((0_u32..12).prop_map(PartitionId), weight, 1..12)
            .prop_filter("somebody owns something", |all| all.values().any(|weight| *weight > 0))
    }

    proptest! {
        /// Exact shares, no hole, no overlap, and no more moves than has to, over any history.
        #[test]
        fn shares_are_exact_and_the_least_moves(
            history in prop::collection::vec(weights(), 1..8),
            bits in 0_u32..=12,
        ) {
            let slices = SliceCount::try_from(1 << bits).unwrap();
            let slice = KEYSPACE >> bits;
            let mut slicing = Slicing::new(&history[0], slices).unwrap();
            for weights in &history {
                let next = slicing.shift(weights, slices).unwrap();
                let shares = shares(weights, slices).unwrap();
                let expected: BTreeMap<_, _> =
                    shares.into_iter().filter(|(_, share)| *share > 0).collect();
                prop_assert_eq!(owned(&next), expected.clone());
                let total: u128 = weights.values().copied().map(u128::from).sum();
                for (partition, share) in &expected {
                    let exact = KEYSPACE * u128::from(weights[partition]);
                    prop_assert_eq!(share % slice, 0);
                    prop_assert!((share / slice * total).abs_diff(exact / slice) < total);
                }
                let (before, after) = (owned(&slicing), owned(&next));
                let lost = before.iter().map(|(partition, positions)| {
                    positions.saturating_sub(after.get(partition).copied().unwrap_or(0))
                });
                prop_assert_eq!(moved(&slicing, &next), lost.sum::<u128>());
                let entries = Vec::from(next.clone());
                prop_assert_eq!(Slicing::try_from(entries), Ok(next.clone()));
                let text = serde_json::to_string(&next).unwrap();
                prop_assert_eq!(serde_json::from_str::<Slicing>(&text).unwrap(), next.clone());
                for (interval, owner) in next.intervals() {
                    prop_assert_eq!(u128::from(interval.first().0) % slice, 0);
                    for position in [interval.first(), interval.last()] {
                        prop_assert!(interval.contains(position));
                        prop_assert_eq!(next.owner(position), owner);
                    }
                }
                slicing = next;
            }
        }
    }
}
