//! Which transactions were observed where: interval of the keyspace -> ranges of transaction ids.
//!
//! For each interval the map keeps `base`, the end of the contiguous prefix (every transaction
//! below it was observed there), and the `detached` ranges past it. Ranges are half-open ranges of
//! offsets, never lists of expected ids: the offsets of a log have holes. Neighbouring intervals
//! with the same ranges are one. A node splices what it applied in the same write as the data
//! (ST-1, ST-5).

use std::ops::Range;

use crate::ids::TxnId;
use crate::keyspace::{Intervals, Position};

/// Disjoint, sorted, non-empty ranges of transaction ids that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<TxnId>>);

impl Ranges {
    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<TxnId>> {
        self.0.iter()
    }

    /// The end of the prefix that starts at 0: every transaction below it was observed.
    pub fn base(&self) -> TxnId {
        self.0.first().filter(|first| first.start == TxnId(0)).map_or(TxnId(0), |first| first.end)
    }

    /// The ranges past the base.
    pub fn detached(&self) -> &[Range<TxnId>] {
        let attached = usize::from(self.base() > TxnId(0));
        &self.0[attached..]
    }

    fn insert(&mut self, mut range: Range<TxnId>) {
        let first = self.0.partition_point(|seen| seen.end < range.start);
        let last = self.0.partition_point(|seen| seen.start <= range.end);
        if let Some(seen) = self.0[first..last].first() {
            range.start = range.start.min(seen.start);
        }
        if let Some(seen) = self.0[first..last].last() {
            range.end = range.end.max(seen.end);
        }
        self.0.splice(first..last, [range]);
    }
}

/// The map. It covers the whole keyspace; where nothing was observed the ranges are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalMap {
    /// First position of each interval and its ranges; the first entry starts at 0.
    entries: Vec<(u64, Ranges)>,
}

impl Default for IntervalMap {
    fn default() -> Self {
        IntervalMap { entries: vec![(0, Ranges::default())] }
    }
}

impl IntervalMap {
    /// From (first position, ranges of each interval), as [`IntervalMap::entries`] gives them.
    /// `None` if they are not sorted, do not start at 0, or hold an empty or overlapping range.
    pub fn from_entries(entries: Vec<(Position, Vec<Range<TxnId>>)>) -> Option<Self> {
        let sorted = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !sorted || entries.first()?.0 != Position(0) {
            return None;
        }
        let mut map = IntervalMap { entries: Vec::with_capacity(entries.len()) };
        for (start, ranges) in entries {
            let apart = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
            if !apart || ranges.iter().any(|range| range.start >= range.end) {
                return None;
            }
            map.entries.push((start.0, Ranges(ranges)));
        }
        map.coalesce();
        Some(map)
    }

    /// First position and ranges of every interval, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Position, &Ranges)> {
        self.entries.iter().map(|(start, ranges)| (Position(*start), ranges))
    }

    /// Adds that the transactions `txns` were observed at positions `first..=last`.
    pub fn splice(&mut self, first: Position, last: Position, txns: Range<TxnId>) {
        if first > last || txns.start >= txns.end {
            return;
        }
        let from = self.split_at(first.0);
        let to = match last.0.checked_add(1) {
            Some(end) => self.split_at(end),
            None => self.entries.len(),
        };
        for (_, ranges) in &mut self.entries[from..to] {
            ranges.insert(txns.clone());
        }
        self.coalesce();
    }

    /// Adds that `txns` were observed in each of these intervals.
    pub fn splice_in(&mut self, intervals: &Intervals, txns: &Range<TxnId>) {
        for interval in intervals.iter() {
            self.splice(interval.first(), interval.last(), txns.clone());
        }
    }

    /// Adds that `txns` were observed everywhere.
    pub fn splice_all(&mut self, txns: Range<TxnId>) {
        self.splice(Position(0), Position(u64::MAX), txns);
    }

    /// The lowest base over positions `first..=last`.
    pub fn base_over(&self, first: Position, last: Position) -> TxnId {
        let from = self.entries.partition_point(|(start, _)| *start <= first.0) - 1;
        self.entries[from..]
            .iter()
            .take_while(|(start, _)| *start <= last.0)
            .map(|(_, ranges)| ranges.base())
            .min()
            .unwrap_or_default()
    }

    /// The lowest base of all.
    pub fn base(&self) -> TxnId {
        self.base_over(Position(0), Position(u64::MAX))
    }

    /// The index of the interval that starts at `position`, cut there if need be.
    fn split_at(&mut self, position: u64) -> usize {
        let index = self.entries.partition_point(|(start, _)| *start < position);
        if self.entries.get(index).is_none_or(|(start, _)| *start != position) {
            let ranges = self.entries[index - 1].1.clone();
            self.entries.insert(index, (position, ranges));
        }
        index
    }

    fn coalesce(&mut self) {
        self.entries.dedup_by(|next, kept| next.1 == kept.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::SizeRange;
    use proptest::prelude::*;

    fn txns(range: Range<u64>) -> Range<TxnId> {
        TxnId(range.start)..TxnId(range.end)
    }

    #[test]
    fn base_is_the_end_of_the_prefix_and_the_rest_is_detached() {
        let mut map = IntervalMap::default();
        map.splice_all(txns(0..5));
        map.splice(Position(10), Position(19), txns(7..9));
        assert_eq!(map.base(), TxnId(5));
        let detached: Vec<_> =
            map.entries().map(|(start, ranges)| (start.0, ranges.detached().to_vec())).collect();
        assert_eq!(detached, vec![(0, vec![]), (10, vec![txns(7..9)]), (20, vec![])]);
        map.splice_all(txns(5..9));
        assert_eq!(map.base(), TxnId(9));
        assert_eq!(map.entries().count(), 1);
    }

    #[test]
    fn broken_entries_are_refused() {
        let entry = |start, ranges| (Position(start), ranges);
        assert!(IntervalMap::from_entries(vec![]).is_none());
        assert!(IntervalMap::from_entries(vec![entry(1, vec![])]).is_none());
        assert!(IntervalMap::from_entries(vec![entry(0, vec![txns(3..3)])]).is_none());
        assert!(IntervalMap::from_entries(vec![entry(0, vec![txns(0..3), txns(3..4)])]).is_none());
    }

    /// A splice: rows, and transactions.
    type Splice = (Range<usize>, Range<u32>);

    /// Splices of at most so many rows each.
    fn splices(
        rows: usize,
        at_once: usize,
        count: impl Into<SizeRange>,
    ) -> impl Strategy<Value = Vec<Splice>> {
        let rows =
            (0..rows, 1..=at_once).prop_map(move |(first, count)| first..(first + count).min(rows));
        let txns = (0_u32..64, 0_u32..64).prop_map(|(one, two)| one.min(two)..one.max(two));
        prop::collection::vec((rows, txns), count)
    }

    /// The map of these splices, and the same as bits: a row for each part of the keyspace, and in it a
    /// bit for each of 64 transactions.
    fn map_and_bits(rows: usize, splices: &[Splice]) -> (IntervalMap, Vec<u64>) {
        let (mut map, mut bits) = (IntervalMap::default(), vec![0_u64; rows]);
        for (at, txns) in splices {
            let (first, last) = (position(rows, at.start), end_of(rows, at.end - 1));
            let observed = TxnId(txns.start.into())..TxnId(txns.end.into());
            map.splice(first, last, observed);
            bits[at.clone()].iter_mut().for_each(|row| *row |= ones(txns));
        }
        (map, bits)
    }

    fn position(rows: usize, row: usize) -> Position {
        Position(u64::MAX / rows as u64 * row as u64)
    }

    fn end_of(rows: usize, row: usize) -> Position {
        if row + 1 == rows { Position(u64::MAX) } else { Position(position(rows, row + 1).0 - 1) }
    }

    fn ones(txns: &Range<u32>) -> u64 {
        txns.clone().fold(0, |bits, txn| bits | 1 << txn)
    }

    fn ranges_of(bits: u64) -> Vec<Range<TxnId>> {
        let is_set = |txn: u64| txn < 64 && bits >> txn & 1 == 1;
        let starts = (0..64).filter(|txn| is_set(*txn) && (*txn == 0 || !is_set(txn - 1)));
        let end = |start: u64| (start..).find(|txn| !is_set(*txn)).expect("64 is not set");
        starts.map(|start| txns(start..end(start))).collect()
    }

    /// All that a map says is what the bits say.
    fn check(rows: usize, splices: &[Splice]) -> Result<usize, TestCaseError> {
        let (map, bits) = map_and_bits(rows, splices);
        let entries: Vec<_> = map.entries().collect();
        for (row, bits) in bits.iter().enumerate() {
            let (first, last) = (position(rows, row), end_of(rows, row));
            let entry = entries.partition_point(|(start, _)| *start <= first) - 1;
            let found = entries[entry].1;
            let expected = ranges_of(*bits);
            prop_assert_eq!(found.iter().cloned().collect::<Vec<_>>(), expected.clone());
            let base = TxnId(bits.trailing_ones().into());
            prop_assert_eq!(map.base_over(first, last), base);
            let detached: Vec<_> = expected.into_iter().filter(|one| one.start > base).collect();
            prop_assert_eq!(found.detached(), detached.as_slice());
        }
        let base = bits.iter().map(|row| u64::from(row.trailing_ones())).min();
        prop_assert_eq!(Some(map.base().0), base);
        prop_assert!(entries.windows(2).all(|pair| pair[0].1 != pair[1].1), "not coalesced");
        let count = entries.len();
        let copied = entries.into_iter().map(|(start, ranges)| (start, ranges.0.clone())).collect();
        prop_assert_eq!(IntervalMap::from_entries(copied), Some(map));
        Ok(count)
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(splices in splices(16, 16, 0..20)) {
            check(16, &splices)?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_a_bitmap_of_thousands_of_intervals(
            splices in splices(16_384, 8, 6_000)
        ) {
            let count = check(16_384, &splices)?;
            prop_assert!(count > 2_000, "{count} intervals");
        }
    }
}
