//! How far the node has come: one value, written with the data that it is about (ST-1).

use std::ops::Range;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::{Intervals, Position};
use anabranch_journal::Offset;
use bytes::{Buf, BufMut, TryGetError};

use crate::error::Error;

/// The newest version. The first one had where to read on in each slice and nothing about what
/// was read beyond that; the second one nothing about what was passed over.
const VERSION: u8 = 3;
const SECOND_VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;

/// How far the node has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every transaction below this was applied or declared lost.
    pub(crate) next: TxnId,
    /// The last transaction that was applied.
    pub(crate) last: Option<TxnId>,
    /// The log's time: it never goes back.
    pub(crate) time: Hlc,
    /// What was observed where.
    pub(crate) observed: IntervalMap,
    /// What was read of each slice.
    pub(crate) slices: Vec<SliceRead>,
    /// Every snapshot from this one on can be read.
    pub(crate) oldest_readable: TxnId,
    /// The first transaction whose changes are kept.
    pub(crate) feed_start: TxnId,
    /// What was passed over because it was declared lost, in order: here, or by the replica from
    /// which what came after it was copied.
    pub(crate) losses: Vec<Loss>,
}

/// Something that was passed over because the replicas agreed that it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The first transaction that is lost.
    pub(crate) from: TxnId,
    /// Everything below this is lost.
    pub(crate) to: TxnId,
    /// Which agreement it was of those from the same transaction on.
    pub(crate) number: u32,
}

/// What was read of one slice of topic `rounds`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SliceRead {
    /// Every part below this was read.
    pub(crate) end: Offset,
    /// Of those the ones that still wait for their commit record, in order. The others are done
    /// with: they are of no more use when they are read again.
    pub(crate) waiting: Vec<Offset>,
}

impl SliceRead {
    /// Where to read on.
    pub(crate) fn position(&self) -> Offset {
        self.waiting.first().copied().unwrap_or(self.end)
    }

    /// The part at `offset`, which was read, is not done with.
    pub(crate) fn wait_for(&mut self, offset: Offset) {
        if offset >= self.end {
            return;
        }
        if let Err(index) = self.waiting.binary_search(&offset) {
            self.waiting.insert(index, offset);
        }
    }

    /// Whether the part at `offset` was read and is done with.
    pub(crate) fn is_done(&self, offset: Offset) -> bool {
        offset < self.end && self.waiting.binary_search(&offset).is_err()
    }
}

impl Progress {
    /// Of an empty store.
    pub(crate) fn start(slices: u16) -> Self {
        Progress {
            next: TxnId(0),
            last: None,
            time: Hlc(0),
            observed: IntervalMap::default(),
            slices: vec![SliceRead::default(); usize::from(slices)],
            oldest_readable: TxnId(0),
            feed_start: TxnId(0),
            losses: Vec::new(),
        }
    }

    /// Everything below `next` was applied where it is owned.
    pub(crate) fn observe(&mut self, owned: &Intervals, next: TxnId) {
        self.observed.splice_in(owned, &(self.next..next));
        self.next = next;
    }

    /// Whether exactly what is owned was observed, up to where the node has come.
    pub(crate) fn is_of(&self, owned: &Intervals) -> bool {
        let mut expected = IntervalMap::default();
        expected.splice_in(owned, &(TxnId(0)..self.next));
        self.observed == expected
    }

    /// What was passed over of these transactions.
    pub(crate) fn losses_in(&self, txns: &Range<TxnId>) -> Vec<Loss> {
        self.losses.iter().filter(|loss| txns.contains(&loss.from)).copied().collect()
    }

    /// Where to read on in each slice.
    pub(crate) fn positions(&self) -> Vec<Offset> {
        self.slices.iter().map(SliceRead::position).collect()
    }
}

pub(super) fn encode_progress(progress: &Progress) -> Vec<u8> {
    let Progress { next, last, time, observed, slices, oldest_readable, feed_start, losses } =
        progress;
    let mut value = vec![VERSION];
    value.put_u64(next.0);
    value.put_u64(last.map_or(0, |last| last.next().0));
    value.put_u64(time.0);
    value.put_u64(oldest_readable.0);
    value.put_u64(feed_start.0);
    value.put_u32(count(slices.len()));
    for SliceRead { end, waiting } in slices {
        value.put_u64(end.0);
        value.put_u32(count(waiting.len()));
        waiting.iter().for_each(|offset| value.put_u64(offset.0));
    }
    value.put_u32(count(observed.entries().count()));
    for (start, ranges) in observed.entries() {
        value.put_u64(start.0);
        value.put_u32(count(ranges.iter().count()));
        for range in ranges.iter() {
            value.put_u64(range.start.0);
            value.put_u64(range.end.0);
        }
    }
    value.put_u32(count(losses.len()));
    for Loss { from, to, number } in losses {
        value.put_u64(from.0);
        value.put_u64(to.0);
        value.put_u32(*number);
    }
    value
}

pub(super) fn decode_progress(value: &[u8]) -> Result<Progress, Error> {
    let read = || -> Result<Option<Progress>, TryGetError> {
        let mut value = value;
        let version = value.try_get_u8()?;
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Ok(None);
        }
        let next = TxnId(value.try_get_u64()?);
        let last = value.try_get_u64()?.checked_sub(1).map(TxnId);
        let time = Hlc(value.try_get_u64()?);
        let oldest_readable = TxnId(value.try_get_u64()?);
        let feed_start = TxnId(value.try_get_u64()?);
        let slices = (0..value.try_get_u32()?)
            .map(|_| {
                let end = Offset(value.try_get_u64()?);
                let waiting = if version == FIRST_VERSION { 0 } else { value.try_get_u32()? };
                let waiting = (0..waiting).map(|_| value.try_get_u64().map(Offset));
                Ok(SliceRead { end, waiting: waiting.collect::<Result<_, TryGetError>>()? })
            })
            .collect::<Result<_, TryGetError>>()?;
        let entries = (0..value.try_get_u32()?)
            .map(|_| {
                let start = Position(value.try_get_u64()?);
                let ranges = (0..value.try_get_u32()?)
                    .map(|_| Ok(TxnId(value.try_get_u64()?)..TxnId(value.try_get_u64()?)))
                    .collect::<Result<Vec<Range<TxnId>>, TryGetError>>()?;
                Ok((start, ranges))
            })
            .collect::<Result<_, TryGetError>>()?;
        let Some(observed) = IntervalMap::from_entries(entries) else { return Ok(None) };
        let losses = if version <= SECOND_VERSION {
            // Whatever was lost by then it may have passed over: nobody wrote down what.
            vec![Loss { from: TxnId(0), to: next, number: 0 }]
        } else {
            (0..value.try_get_u32()?)
                .map(|_| {
                    let (from, to) = (TxnId(value.try_get_u64()?), TxnId(value.try_get_u64()?));
                    Ok(Loss { from, to, number: value.try_get_u32()? })
                })
                .collect::<Result<_, TryGetError>>()?
        };
        let progress =
            Progress { next, last, time, observed, slices, oldest_readable, feed_start, losses };
        Ok(value.is_empty().then_some(progress))
    };
    let broken = || Error::CorruptStore("the node's progress does not decode".to_owned());
    read().ok().flatten().ok_or_else(broken)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("nothing stored comes near 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn progress_reads_back_and_broken_bytes_are_noticed() {
        let mut observed = IntervalMap::default();
        observed.splice_all(TxnId(0)..TxnId(7));
        observed.splice(Position(10), Position(20), TxnId(9)..TxnId(12));
        let waiting = SliceRead { end: Offset(9), waiting: vec![Offset(3), Offset(8)] };
        let progress = Progress {
            next: TxnId(7),
            last: Some(TxnId(0)),
            time: Hlc(99),
            observed,
            slices: vec![waiting, SliceRead { end: Offset(u64::MAX), waiting: vec![] }],
            oldest_readable: TxnId(2),
            feed_start: TxnId(1),
            losses: vec![Loss { from: TxnId(3), to: TxnId(5), number: 1 }],
        };
        assert_eq!(progress.positions(), [Offset(3), Offset(u64::MAX)]);
        let value = encode_progress(&progress);
        assert_eq!(decode_progress(&value).unwrap(), progress);
        for cut in 0..value.len() {
            assert!(decode_progress(&value[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = value;
        newer[0] = VERSION + 1;
        assert!(decode_progress(&newer).is_err());
        let start = Progress::start(16);
        assert_eq!(decode_progress(&encode_progress(&start)).unwrap(), start);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_map_reads_back(
            splices in vec((any::<u64>(), any::<u64>(), 0..1_000_u64, 0..1_000_u64), 0..2_000)
        ) {
            let mut progress = Progress::start(2);
            for (first, last, start, end) in splices {
                progress.observed.splice(Position(first), Position(last), TxnId(start)..TxnId(end));
            }
            let decoded = decode_progress(&encode_progress(&progress));
            prop_assert_eq!(decoded.unwrap(), progress);
        }
    }

    #[test]
    fn what_was_read_and_does_not_wait_is_done_with() {
        let read = SliceRead { end: Offset(9), waiting: vec![Offset(3), Offset(8)] };
        let done: Vec<u64> = (0..12).filter(|offset| read.is_done(Offset(*offset))).collect();
        assert_eq!(done, [0, 1, 2, 4, 5, 6, 7]);
    }

    /// Bytes of each version, written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        let mut progress = Progress::start(1);
        progress.observed.splice_all(TxnId(0)..TxnId(1));
        progress.last = Some(TxnId(0));
        progress.slices[0].end = Offset(5);
        let first = |number| [0, 0, 0, 0, 0, 0, 0, number];
        let head = [&first(0)[..], &first(1), &[0; 24], &[0, 0, 0, 1], &first(5)].concat();
        let tail = [&[0, 0, 0, 1][..], &[0; 8], &[0, 0, 0, 1], &first(0), &first(1)].concat();
        let old = [&[1][..], &head, &tail].concat();
        // What was lost by then is not told apart from what was applied.
        progress.losses = vec![Loss { from: TxnId(0), to: TxnId(0), number: 0 }];
        assert_eq!(decode_progress(&old).unwrap(), progress);
        progress.slices[0].waiting = vec![Offset(2)];
        let waits = [&head[..], &[0, 0, 0, 1], &first(2), &tail].concat();
        assert_eq!(decode_progress(&[&[2][..], &waits].concat()).unwrap(), progress);
        progress.losses = vec![Loss { from: TxnId(3), to: TxnId(4), number: 5 }];
        let losses = [&[0, 0, 0, 1][..], &first(3), &first(4), &[0, 0, 0, 5]].concat();
        let new = [&[3][..], &waits, &losses].concat();
        assert_eq!(encode_progress(&progress), new);
    }
}
