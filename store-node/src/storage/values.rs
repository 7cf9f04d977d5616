//! Values of the store. Each begins with a byte for its version; only the newest is written.

use std::ops::Range;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::{Position, Slice};
use anabranch_journal::Offset;
use bytes::{Buf, BufMut, Bytes, TryGetError};

use crate::error::Error;

/// The version of every value here.
const VERSION: u8 = 1;

const STATE: u8 = 0;
const EVICTED: u8 = 1;

/// How far the node has come. Written with the data that it is about (ST-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every transaction below this was applied or declared lost.
    pub(crate) next: TxnId,
    /// The last transaction that was applied.
    pub(crate) last: Option<TxnId>,
    /// The latest time of any transaction that was applied.
    pub(crate) hlc: Hlc,
    /// What was observed where.
    pub(crate) observed: IntervalMap,
    /// Where to read on in each slice.
    pub(crate) positions: Vec<Offset>,
    /// Every snapshot from this one on can be read.
    pub(crate) oldest_readable: TxnId,
    /// The first transaction whose changes are kept.
    pub(crate) feed_start: TxnId,
}

impl Progress {
    /// Of an empty store.
    pub(crate) fn start(slices: u16) -> Self {
        Progress {
            next: TxnId(0),
            last: None,
            hlc: Hlc(0),
            observed: IntervalMap::default(),
            positions: vec![Offset(0); usize::from(slices)],
            oldest_readable: TxnId(0),
            feed_start: TxnId(0),
        }
    }
}

/// What became of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The transaction that was applied.
    pub(crate) txn: TxnId,
    /// Its time.
    pub(crate) hlc: Hlc,
    /// Of the request.
    pub(crate) digest: Bytes,
    /// Canonical ids of documents that an insert found there.
    pub(crate) conflicts: Vec<Bytes>,
}

/// What a transaction did to one document, in the by-transaction index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedChange {
    /// The document's slice.
    pub(crate) slice: Slice,
    /// Its canonical id.
    pub(crate) id: Bytes,
    /// The change event, as it goes into `c.changes`.
    pub(crate) event: Bytes,
}

/// A version of a document: its state, or that it was forgotten here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version<'a> {
    /// A state, encoded.
    State(&'a [u8]),
    /// Forgotten.
    Evicted,
}

/// Writes the stored form of a version into `value`, which is cleared first.
pub(super) fn encode_version(version: Version<'_>, value: &mut Vec<u8>) {
    value.clear();
    match version {
        Version::Evicted => value.extend_from_slice(&[VERSION, EVICTED]),
        Version::State(state) => {
            value.extend_from_slice(&[VERSION, STATE]);
            value.extend_from_slice(state);
        }
    }
}

/// Reads a version.
pub(crate) fn decode_version(value: &[u8]) -> Result<Version<'_>, Error> {
    match value {
        [VERSION, STATE, state @ ..] => Ok(Version::State(state)),
        [VERSION, EVICTED] => Ok(Version::Evicted),
        _ => Err(broken("a version of a document")),
    }
}

pub(super) fn encode_progress(progress: &Progress) -> Vec<u8> {
    let Progress { next, last, hlc, observed, positions, oldest_readable, feed_start } = progress;
    let mut value = vec![VERSION];
    value.put_u64(next.0);
    value.put_u64(last.map_or(0, |last| last.next().0));
    value.put_u64(hlc.0);
    value.put_u64(oldest_readable.0);
    value.put_u64(feed_start.0);
    value.put_u32(count(positions.len()));
    positions.iter().for_each(|position| value.put_u64(position.0));
    value.put_u32(count(observed.entries().count()));
    for (start, ranges) in observed.entries() {
        value.put_u64(start.0);
        value.put_u32(count(ranges.iter().count()));
        for range in ranges.iter() {
            value.put_u64(range.start.0);
            value.put_u64(range.end.0);
        }
    }
    value
}

pub(super) fn decode_progress(value: &[u8]) -> Result<Progress, Error> {
    let read = || -> Result<Option<Progress>, TryGetError> {
        let mut value = value;
        if value.try_get_u8()? != VERSION {
            return Ok(None);
        }
        let next = TxnId(value.try_get_u64()?);
        let last = value.try_get_u64()?.checked_sub(1).map(TxnId);
        let hlc = Hlc(value.try_get_u64()?);
        let oldest_readable = TxnId(value.try_get_u64()?);
        let feed_start = TxnId(value.try_get_u64()?);
        let positions = (0..value.try_get_u32()?)
            .map(|_| value.try_get_u64().map(Offset))
            .collect::<Result<_, _>>()?;
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
        let progress =
            Progress { next, last, hlc, observed, positions, oldest_readable, feed_start };
        Ok(value.is_empty().then_some(progress))
    };
    read().ok().flatten().ok_or_else(|| broken("the node's progress"))
}

/// Only the time is at a fixed place, for whoever needs no more.
pub(super) fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let Outcome { txn, hlc, digest, conflicts } = outcome;
    let mut value = vec![VERSION];
    value.put_u64(hlc.0);
    value.put_u64(txn.0);
    put_bytes(&mut value, digest);
    value.put_u32(count(conflicts.len()));
    conflicts.iter().for_each(|conflict| put_bytes(&mut value, conflict));
    value
}

pub(super) fn decode_outcome(value: &[u8]) -> Result<Outcome, Error> {
    let read = || -> Result<Option<Outcome>, TryGetError> {
        let mut value = Bytes::copy_from_slice(value);
        if value.try_get_u8()? != VERSION {
            return Ok(None);
        }
        let hlc = Hlc(value.try_get_u64()?);
        let txn = TxnId(value.try_get_u64()?);
        let Some(digest) = get_bytes(&mut value)? else { return Ok(None) };
        let conflicts = (0..value.try_get_u32()?)
            .map(|_| get_bytes(&mut value))
            .collect::<Result<Option<Vec<_>>, _>>()?;
        let Some(conflicts) = conflicts else { return Ok(None) };
        Ok(value.is_empty().then_some(Outcome { txn, hlc, digest, conflicts }))
    };
    read().ok().flatten().ok_or_else(|| broken("the outcome of a round"))
}

/// The time of an outcome, `None` if the value does not decode.
pub(super) fn outcome_hlc(value: &[u8]) -> Option<Hlc> {
    let (version, mut rest) = value.split_first()?;
    (*version == VERSION).then(|| rest.try_get_u64().ok().map(Hlc))?
}

/// Chunks of a transaction's changes, each about `chunk_bytes` long or as long as its one change.
/// The first one names the slices of the commit record; there is always a first one.
pub(super) fn encode_changes(
    slices: &[Slice],
    changes: &[IndexedChange],
    chunk_bytes: usize,
) -> Vec<Vec<u8>> {
    let bytes: usize = changes.iter().map(change_bytes).sum();
    let begin = |slices: &[Slice], bytes: usize| {
        let mut chunk = Vec::with_capacity(3 + 2 * slices.len() + bytes);
        chunk.push(VERSION);
        chunk.put_u16(u16::try_from(slices.len()).expect("a cluster has at most 4096 slices"));
        slices.iter().for_each(|slice| chunk.put_u16(slice.0));
        chunk
    };
    let mut chunks = vec![begin(slices, bytes.min(chunk_bytes))];
    let mut has_changes = false;
    for change in changes {
        let IndexedChange { slice, id, event } = change;
        let full =
            chunks.last().is_some_and(|chunk| chunk.len() + change_bytes(change) > chunk_bytes);
        if has_changes && full {
            chunks.push(begin(&[], change_bytes(change)));
        }
        has_changes = true;
        let chunk = chunks.last_mut().expect("there is always a first one");
        chunk.put_u16(slice.0);
        put_bytes(chunk, id);
        put_bytes(chunk, event);
    }
    chunks
}

fn change_bytes(change: &IndexedChange) -> usize {
    2 + 4 + change.id.len() + 4 + change.event.len()
}

/// Slices named by a chunk of changes, and its changes.
type Chunk = (Vec<Slice>, Vec<IndexedChange>);

/// Reads a chunk of changes.
pub(super) fn decode_changes(value: &[u8]) -> Result<Chunk, Error> {
    let read = || -> Result<Option<Chunk>, TryGetError> {
        let mut value = Bytes::copy_from_slice(value);
        if value.try_get_u8()? != VERSION {
            return Ok(None);
        }
        let slices = (0..value.try_get_u16()?)
            .map(|_| value.try_get_u16().map(Slice))
            .collect::<Result<_, _>>()?;
        let mut changes = Vec::new();
        while !value.is_empty() {
            let slice = Slice(value.try_get_u16()?);
            let (Some(id), Some(event)) = (get_bytes(&mut value)?, get_bytes(&mut value)?) else {
                return Ok(None);
            };
            changes.push(IndexedChange { slice, id, event });
        }
        Ok(Some((slices, changes)))
    };
    read().ok().flatten().ok_or_else(|| broken("changes of a transaction"))
}

pub(super) fn encode_txn(txn: TxnId) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.put_u64(txn.0);
    value
}

pub(super) fn decode_txn(mut value: &[u8]) -> Result<TxnId, Error> {
    match (value.try_get_u8(), value.try_get_u64()) {
        (Ok(VERSION), Ok(txn)) if value.is_empty() => Ok(TxnId(txn)),
        _ => Err(broken("a sample of the timeline")),
    }
}

fn put_bytes(value: &mut Vec<u8>, bytes: &[u8]) {
    value.put_u32(count(bytes.len()));
    value.put_slice(bytes);
}

/// `None` if fewer bytes are left than it says.
fn get_bytes(value: &mut Bytes) -> Result<Option<Bytes>, TryGetError> {
    let length = usize::try_from(value.try_get_u32()?).expect("32 bits fit an address");
    Ok((length <= value.len()).then(|| value.split_to(length)))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("nothing stored comes near 4 GiB")
}

fn broken(what: &str) -> Error {
    Error::CorruptStore(format!("{what} does not decode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(slice: u16, id: &'static [u8], event: &'static [u8]) -> IndexedChange {
        let (id, event) = (Bytes::from_static(id), Bytes::from_static(event));
        IndexedChange { slice: Slice(slice), id, event }
    }

    #[test]
    fn progress_reads_back_and_broken_bytes_are_noticed() {
        let mut observed = IntervalMap::default();
        observed.splice_all(TxnId(0)..TxnId(7));
        observed.splice(Position(10), Position(20), TxnId(9)..TxnId(12));
        let progress = Progress {
            next: TxnId(7),
            last: Some(TxnId(0)),
            hlc: Hlc(99),
            observed,
            positions: vec![Offset(3), Offset(u64::MAX)],
            oldest_readable: TxnId(2),
            feed_start: TxnId(1),
        };
        let value = encode_progress(&progress);
        assert_eq!(decode_progress(&value).unwrap(), progress);
        for cut in 0..value.len() {
            assert!(decode_progress(&value[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = value;
        newer[0] = 2;
        assert!(decode_progress(&newer).is_err());
        let start = Progress::start(16);
        assert_eq!(decode_progress(&encode_progress(&start)).unwrap(), start);
    }

    #[test]
    fn outcomes_read_back() {
        let outcome = Outcome {
            txn: TxnId(4),
            hlc: Hlc(5),
            digest: Bytes::from_static(b"digest"),
            conflicts: vec![Bytes::from_static(b"a"), Bytes::new()],
        };
        let value = encode_outcome(&outcome);
        assert_eq!(outcome_hlc(&value), Some(Hlc(5)));
        assert_eq!(decode_outcome(&value).unwrap(), outcome);
        for cut in 0..value.len() {
            assert!(decode_outcome(&value[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn changes_are_cut_into_chunks() {
        let slices = [Slice(3), Slice(9)];
        let changes = [change(3, b"a", b"12345"), change(9, b"b", b""), change(9, b"c", b"1")];
        for limit in [1, 20, 40, 1000] {
            let chunks = encode_changes(&slices, &changes, limit);
            let read: Vec<_> = chunks.iter().map(|chunk| decode_changes(chunk).unwrap()).collect();
            assert_eq!(read[0].0, slices);
            assert!(read[1..].iter().all(|(slices, _)| slices.is_empty()));
            let all: Vec<_> = read.into_iter().flat_map(|(_, changes)| changes).collect();
            assert_eq!(all, changes, "limit {limit}");
            assert!(limit < 1000 || chunks.len() == 1);
        }
        let none = encode_changes(&slices, &[], 10);
        assert_eq!(none.len(), 1);
        assert_eq!(decode_changes(&none[0]).unwrap(), (slices.to_vec(), vec![]));
    }

    #[test]
    fn versions_and_samples_read_back() {
        let mut value = Vec::new();
        for version in [Version::State(b"state"), Version::Evicted, Version::State(b"")] {
            encode_version(version, &mut value);
            assert_eq!(decode_version(&value).unwrap(), version);
        }
        assert!(decode_version(&[2, 0]).is_err());
        assert_eq!(decode_txn(&encode_txn(TxnId(6))).unwrap(), TxnId(6));
        assert!(decode_txn(&[1, 0]).is_err());
    }

    /// Bytes of version 1, written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        assert_eq!(
            encode_changes(&[Slice(1)], &[change(1, b"i", b"ev")], 100)[0],
            b"\x01\x00\x01\x00\x01\x00\x01\x00\x00\x00\x01i\x00\x00\x00\x02ev"
        );
        let mut version = Vec::new();
        encode_version(Version::State(b"s"), &mut version);
        assert_eq!(version, b"\x01\x00s");
        assert_eq!(encode_txn(TxnId(258)), b"\x01\0\0\0\0\0\0\x01\x02");
        let outcome =
            Outcome { txn: TxnId(2), hlc: Hlc(1), digest: Bytes::new(), conflicts: vec![] };
        assert_eq!(
            encode_outcome(&outcome),
            b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0"
        );
        let mut progress = Progress::start(1);
        progress.observed.splice_all(TxnId(0)..TxnId(1));
        progress.last = Some(TxnId(0));
        let expected = [
            &[1][..],
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 24],
            &[0, 0, 0, 1],
            &[0; 8],
            &[0, 0, 0, 1],
            &[0; 8],
            &[0, 0, 0, 1],
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 1],
        ];
        assert_eq!(encode_progress(&progress), expected.concat());
    }
}
