//! Sums over all that a node holds at a snapshot, by interval of the keyspace: replicas that hold
//! the same give the same (ST-2), whatever else their files look like.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Position;
use anabranch_schemas::store as proto;
use bytes::Bytes;
use futures::Stream;
use xxhash_rust::xxh3::Xxh3;

use super::page::Page;
use super::{Kind, Reads, Snapshot};
use crate::error::Error;
use crate::log::Log;
use crate::storage::Storage;

/// How much is looked at for one page: whoever waits is to hear from the node within a second.
const PAGE_DOCUMENTS: usize = 20_000;
const PAGE_BYTES: usize = 32 << 20;

/// The most intervals.
const MOST_INTERVALS: u32 = 4096;

/// The sums of a node, page by page.
pub(crate) type ChecksumStream =
    Pin<Box<dyn Stream<Item = Result<proto::ChecksumReply, Error>> + Send>>;

/// The keyspace, cut into intervals of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// How many bits of a position say in which it is.
    bits: u32,
}

impl Cut {
    /// Into so many.
    ///
    /// # Errors
    /// If that is no power of two, or too many.
    pub(crate) fn new(intervals: u32) -> Result<Self, Error> {
        if intervals.is_power_of_two() && intervals <= MOST_INTERVALS {
            return Ok(Cut { bits: intervals.trailing_zeros() });
        }
        Err(Error::InvalidRequest(format!(
            "the keyspace is cut into a power of two of intervals, up to {MOST_INTERVALS}, and not \
             into {intervals}"
        )))
    }

    fn interval_of(self, position: Position) -> u32 {
        let interval = (u128::from(position.0) << self.bits) >> 64;
        u32::try_from(interval).expect("there are at most 4096")
    }

    /// An interval that somebody else has named.
    ///
    /// # Errors
    /// If there is none of this number.
    pub(crate) fn check(self, interval: u32) -> Result<u32, Error> {
        if interval >> self.bits == 0 {
            return Ok(interval);
        }
        Err(Error::InvalidRequest(format!("there is no interval {interval}")))
    }

    /// The first and the last position of an interval.
    pub(crate) fn bounds(self, interval: u32) -> (Position, Position) {
        let start = |interval: u32| (u128::from(interval) << 64) >> self.bits;
        let position = |at: u128| Position(u64::try_from(at).expect("it is in the keyspace"));
        (position(start(interval)), position(start(interval + 1) - 1))
    }
}

/// What lies somewhere, as a number that does not depend on the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) documents: u64,
    sum: u128,
}

impl Sum {
    /// Of one version of a document.
    fn of(hasher: &mut Xxh3, id: &[u8], txn: TxnId, state: &[u8]) -> Self {
        hasher.reset();
        hasher.update(&(id.len() as u64).to_be_bytes());
        hasher.update(id);
        hasher.update(&txn.0.to_be_bytes());
        hasher.update(state);
        Sum { documents: 1, sum: hasher.digest128() }
    }

    /// Of what is here and there.
    pub(crate) fn and(self, other: Sum) -> Self {
        Sum { documents: self.documents + other.documents, sum: self.sum.wrapping_add(other.sum) }
    }

    /// As it is sent.
    pub(crate) fn encode(self, interval: u32) -> proto::IntervalSum {
        let [high, low] = [self.sum >> 64, self.sum & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).expect("it is 64 bits"));
        proto::IntervalSum { interval, documents: self.documents, high, low }
    }

    /// As it was sent.
    pub(crate) fn decode(sent: &proto::IntervalSum) -> Self {
        let sum = (u128::from(sent.high) << 64) | u128::from(sent.low);
        Sum { documents: sent.documents, sum }
    }
}

/// Sums that have come somewhere.
struct ChecksumCursor {
    log: Arc<Log>,
    cut: Cut,
    after: Option<Vec<u8>>,
    at: TxnId,
}

impl ChecksumCursor {
    /// The next page; it has one item.
    fn next(&mut self, storage: &Storage) -> Result<Page<proto::ChecksumReply>, Error> {
        let start = self.after.take();
        let mut sums: BTreeMap<u32, Sum> = BTreeMap::new();
        let (mut documents, mut bytes, mut last) = (0, 0, Bytes::new());
        let mut hasher = Xxh3::new();
        storage.documents(&[], start.as_deref(), self.at, |id, txn, state| {
            let position = Position::of(id);
            if self.log.owned().contains(position) {
                let sum = sums.entry(self.cut.interval_of(position)).or_default();
                *sum = sum.and(Sum::of(&mut hasher, id, txn, state));
            }
            documents += 1;
            bytes += id.len() + state.len();
            if documents >= PAGE_DOCUMENTS || bytes >= PAGE_BYTES {
                self.after = Some(id.to_vec());
                last = Bytes::copy_from_slice(id);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let sums = sums.into_iter().map(|(interval, sum)| sum.encode(interval)).collect();
        let item = proto::ChecksumReply { txn: None, sums, last };
        Ok(Page { items: vec![item], is_last: self.after.is_none() })
    }
}

impl Reads {
    /// Sums of what is owned of a log, over the documents after `after` if it is set. There is
    /// always at least one reply; all but the last say how far they go.
    pub(crate) fn checksum(
        &self,
        log: Arc<Log>,
        cut: Cut,
        after: Option<Vec<u8>>,
        snapshot: Snapshot,
    ) -> Result<ChecksumStream, Error> {
        let cursor = snapshot.txn.map(|at| ChecksumCursor { log, cut, after, at });
        let reply = |txn, mut items: Vec<proto::ChecksumReply>| {
            let reply = items.pop().unwrap_or_default();
            proto::ChecksumReply { txn, ..reply }
        };
        self.open(Kind::Checksum, self.max_read, snapshot, cursor, ChecksumCursor::next, reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_equal_and_cover_the_keyspace() {
        for intervals in [1, 2, 256, MOST_INTERVALS] {
            let cut = Cut::new(intervals).unwrap();
            let mut next = 0_u128;
            for interval in 0..intervals {
                let (first, last) = cut.bounds(interval);
                assert_eq!(u128::from(first.0), next);
                assert_eq!([first, last].map(|end| cut.interval_of(end)), [interval; 2]);
                next = u128::from(last.0) + 1;
            }
            assert_eq!(next, 1 << 64);
        }
        for wrong in [0, 3, 8192] {
            assert!(Cut::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sum_depends_on_all_that_a_version_is_and_not_on_the_order() {
        let mut hasher = Xxh3::new();
        let mut sum = |id: &[u8], txn, state: &[u8]| Sum::of(&mut hasher, id, TxnId(txn), state);
        let one = sum(b"a", 1, b"state");
        let others = [
            sum(b"b", 1, b"state"),
            sum(b"a", 2, b"state"),
            sum(b"a", 1, b"states"),
            sum(b"as", 1, b"tate"),
        ];
        assert!(others.iter().all(|other| *other != one));
        assert_eq!(one.and(others[0]).and(others[1]), others[1].and(one).and(others[0]));
        assert_eq!(Sum::decode(&one.encode(7)), one);
        assert_eq!(one.and(one).documents, 2);
    }
}
