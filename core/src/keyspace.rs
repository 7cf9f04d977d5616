//! The keyspace: positions, intervals of them, and the K equal slices it is cut into.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A point of the keyspace: the `xxh3_64` of a canonical document id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Of the document with these canonical id bytes.
    pub fn of(document_id: &[u8]) -> Self {
        Position(xxh3_64(document_id))
    }
}

/// How many positions there are. Ends of intervals reach up to here, so they are `u128`.
pub(crate) const KEYSPACE: u128 = 1 << 64;

/// Half-open interval of the keyspace; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval(Range<u128>);

impl Interval {
    /// All positions.
    pub const ALL: Interval = Interval(0..KEYSPACE);

    pub(crate) fn of(range: Range<u128>) -> Self {
        assert!(!range.is_empty() && range.end <= KEYSPACE, "an interval is not empty");
        Interval(range)
    }

    /// From one position to another, both included; `None` if that is nothing.
    pub fn between(first: Position, last: Position) -> Option<Self> {
        (first <= last).then(|| Interval(first.0.into()..u128::from(last.0) + 1))
    }

    pub(crate) fn into_range(self) -> Range<u128> {
        self.0
    }

    /// The first position.
    pub fn first(&self) -> Position {
        Position(u64::try_from(self.0.start).expect("an interval is not empty"))
    }

    /// The last position, included.
    pub fn last(&self) -> Position {
        Position(u64::try_from(self.0.end - 1).expect("an interval ends in the keyspace"))
    }

    /// Whether a position is in it.
    pub fn contains(&self, position: Position) -> bool {
        self.0.contains(&u128::from(position.0))
    }

    /// How many positions it has.
    pub fn positions(&self) -> u128 {
        self.0.end - self.0.start
    }

    /// What is in both.
    pub fn common(&self, other: &Interval) -> Option<Interval> {
        let range = self.0.start.max(other.0.start)..self.0.end.min(other.0.end);
        (!range.is_empty()).then_some(Interval(range))
    }
}

/// A part of the keyspace: intervals in order, of which none touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<Interval>);

impl Intervals {
    /// The whole keyspace.
    pub fn all() -> Self {
        Intervals(vec![Interval::ALL])
    }

    /// The intervals, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Interval> {
        self.0.iter()
    }

    /// Whether a position is in one of them.
    pub fn contains(&self, position: Position) -> bool {
        let next = self.0.partition_point(|interval| interval.last() < position);
        self.0.get(next).is_some_and(|interval| interval.contains(position))
    }

    /// Whether all of another part is in it.
    pub fn covers(&self, part: &Intervals) -> bool {
        part.iter().all(|interval| {
            let next = self.0.partition_point(|own| own.last() < interval.first());
            self.0.get(next).is_some_and(|own| own.common(interval).as_ref() == Some(interval))
        })
    }

    /// The slices that have a position in common with them, in order.
    pub fn slices(&self, count: SliceCount) -> Vec<Slice> {
        let ranges = self
            .0
            .iter()
            .map(|interval| count.slice_of(interval.first()).0..=count.slice_of(interval.last()).0);
        let mut slices: Vec<_> = ranges.flatten().map(Slice).collect();
        slices.dedup();
        slices
    }
}

impl FromIterator<Interval> for Intervals {
    /// Of intervals in order that do not overlap; those that touch become one.
    fn from_iter<I: IntoIterator<Item = Interval>>(intervals: I) -> Self {
        let mut joined: Vec<Interval> = Vec::new();
        for interval in intervals {
            match joined.last_mut() {
                Some(last) if last.0.end == interval.0.start => last.0.end = interval.0.end,
                Some(last) if last.0.end > interval.0.start => {
                    panic!("intervals come in order and do not overlap")
                }
                _ => joined.push(interval),
            }
        }
        Intervals(joined)
    }
}

/// One of the K equal parts of the keyspace; also the partition of every sliced topic.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Slice(pub u16);

/// K: a power of two from 1 to 4096, fixed when a cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct SliceCount(u16);

/// A count of slices that is not a power of two from 1 to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number of slices must be a power of two from 1 to 4096, not {0}")]
pub struct SliceCountError(u16);

impl SliceCount {
    /// The most that a cluster can have.
    pub const MOST: SliceCount = SliceCount(4096);

    /// The number of slices.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The slice that holds `position`.
    pub fn slice_of(self, position: Position) -> Slice {
        let bits = self.0.trailing_zeros();
        // A shift by 64 is not defined; with one slice everything is in slice 0.
        let index = if bits == 0 { 0 } else { position.0 >> (64 - bits) };
        Slice(u16::try_from(index).expect("at most 12 bits are left"))
    }

    /// The positions of a slice.
    pub fn interval(self, slice: Slice) -> Interval {
        assert!(slice.0 < self.0, "there is no such slice");
        let length = KEYSPACE / u128::from(self.0);
        let start = length * u128::from(slice.0);
        Interval(start..start + length)
    }

    /// Every slice, in order.
    pub fn all(self) -> impl Iterator<Item = Slice> {
        (0..self.0).map(Slice)
    }
}

impl Default for SliceCount {
    fn default() -> Self {
        SliceCount(16)
    }
}

impl TryFrom<u16> for SliceCount {
    type Error = SliceCountError;

    fn try_from(count: u16) -> Result<Self, SliceCountError> {
        if count.is_power_of_two() && count <= SliceCount::MOST.0 {
            Ok(SliceCount(count))
        } else {
            Err(SliceCountError(count))
        }
    }
}

impl From<SliceCount> for u16 {
    fn from(count: SliceCount) -> u16 {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_parts() {
        let k = SliceCount::try_from(16).unwrap();
        assert_eq!(k.slice_of(Position(0)), Slice(0));
        assert_eq!(k.slice_of(Position((1 << 60) - 1)), Slice(0));
        assert_eq!(k.slice_of(Position(1 << 60)), Slice(1));
        assert_eq!(k.slice_of(Position(u64::MAX)), Slice(15));
        assert_eq!(SliceCount::try_from(1).unwrap().slice_of(Position(u64::MAX)), Slice(0));
        for slice in k.all() {
            let interval = k.interval(slice);
            assert_eq!([interval.first(), interval.last()].map(|at| k.slice_of(at)), [slice; 2]);
        }
        assert_eq!(k.all().map(|slice| k.interval(slice)).collect::<Intervals>(), Intervals::all());
    }

    #[test]
    fn intervals_know_what_they_hold_and_which_slices_they_touch() {
        let k = SliceCount::try_from(4).unwrap();
        let quarter = 1_u128 << 62;
        let intervals: Intervals =
            [0..5, 5..quarter, 3 * quarter - 1..3 * quarter, 3 * quarter + 1..KEYSPACE]
                .map(Interval::of)
                .into_iter()
                .collect();
        assert_eq!(intervals.iter().count(), 3, "what touches is one");
        assert_eq!(intervals.slices(k), [Slice(0), Slice(2), Slice(3)]);
        assert_eq!(Intervals::all().slices(k), k.all().collect::<Vec<_>>());
        assert_eq!(Intervals::default().slices(k), []);
        let at = |position: u128| intervals.contains(Position(u64::try_from(position).unwrap()));
        for inside in [0, 5, quarter - 1, 3 * quarter - 1, 3 * quarter + 1, KEYSPACE - 1] {
            assert!(at(inside), "{inside}");
        }
        for outside in [quarter, 2 * quarter, 3 * quarter - 2, 3 * quarter] {
            assert!(!at(outside), "{outside}");
        }
    }

    #[test]
    fn counts_are_powers_of_two() {
        for count in [0, 3, 17, 8192] {
            assert!(SliceCount::try_from(count).is_err());
        }
    }
}
