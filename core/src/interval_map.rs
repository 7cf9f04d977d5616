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

    // A keyspace of 16 positions, each 1/16 of the real one, and 24 transactions, as bits.
    const STEP: u64 = 1 << 60;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            splices in prop::collection::vec((0_usize..16, 0_usize..16, 0_usize..24, 0_usize..24), 0..20)
        ) {
            let mut map = IntervalMap::default();
            let mut model = [[false; 24]; 16];
            for (first, last, start, end) in splices {
                let end_position = Position(last as u64 * STEP + (STEP - 1));
                let observed = txns(start as u64..end as u64);
                map.splice(Position(first as u64 * STEP), end_position, observed);
                for row in model.iter_mut().take(last + 1).skip(first) {
                    for seen in row.iter_mut().take(end).skip(start) {
                        *seen = true;
                    }
                }
            }
            for (index, row) in model.iter().enumerate() {
                let at = Position(index as u64 * STEP);
                let base = row.iter().take_while(|seen| **seen).count() as u64;
                prop_assert_eq!(map.base_over(at, at), TxnId(base));
            }
            let lists: Vec<_> = map.entries().collect();
            prop_assert!(lists.windows(2).all(|pair| pair[0].1 != pair[1].1), "not coalesced");
            let copied = IntervalMap::from_entries(
                map.entries().map(|(start, ranges)| (start, ranges.iter().cloned().collect())).collect(),
            );
            prop_assert_eq!(copied, Some(map));
        }
    }
}
