//! Values of the store. Each begins with a byte for its version; only the newest is written.

use anabranch_core::document::Document;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_schemas::state;
use bytes::{Buf, BufMut, Bytes, TryGetError};

use crate::error::Error;

/// The version of every value here.
const VERSION: u8 = 1;

const STATE: u8 = 0;
const EVICTED: u8 = 1;

/// What stands before the state in the stored form of a version: whoever encodes the state behind
/// it has that form at once.
pub(crate) const STATE_PREFIX: &[u8] = &[VERSION, STATE];
/// The stored form of the version of a document that was forgotten.
pub(crate) const FORGOTTEN: &[u8] = &[VERSION, EVICTED];

/// What a transaction did to one document, in the by-transaction index; or that what it did in a
/// slice is lost, in which case the id is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedChange {
    /// The document's slice.
    pub(crate) slice: Slice,
    /// Its canonical id.
    pub(crate) id: Bytes,
    /// The event, as it goes into `c.changes`.
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

/// Reads a version.
pub(crate) fn decode_version(value: &[u8]) -> Result<Version<'_>, Error> {
    match value {
        [VERSION, STATE, state @ ..] => Ok(Version::State(state)),
        [VERSION, EVICTED] => Ok(Version::Evicted),
        _ => Err(broken("a version of a document")),
    }
}

/// Reads the state of a version.
pub(crate) fn decode_state(state: &[u8]) -> Result<Document, Error> {
    state::decode(state).map_err(|error| Error::CorruptStore(error.to_string()))
}

/// Reads the state of a version without the fields that are not wanted.
pub(crate) fn decode_some(state: &[u8], wants: impl Fn(&str) -> bool) -> Result<Document, Error> {
    state::decode_some(state, wants).map_err(|error| Error::CorruptStore(error.to_string()))
}

/// A chunk of a transaction's changes under construction: about as long as it may be, or as long
/// as its one change. The first one names the slices of the commit record; there is always a first
/// one.
#[derive(Debug, Default)]
pub(super) struct ChunkWriter {
    chunk: Vec<u8>,
    has_changes: bool,
}

impl ChunkWriter {
    /// Begins the first chunk of a transaction.
    pub(super) fn begin(&mut self, slices: &[Slice]) {
        self.has_changes = false;
        self.chunk.clear();
        self.chunk.push(VERSION);
        let named = u16::try_from(slices.len()).expect("a cluster has at most 4096 slices");
        self.chunk.put_u16(named);
        slices.iter().for_each(|slice| self.chunk.put_u16(slice.0));
    }

    /// Adds a change, whose event is appended by `encode`. If it makes the chunk longer than
    /// `chunk_bytes`, gives what came before it to `full` and begins the next one.
    pub(super) fn add(
        &mut self,
        slice: Slice,
        id: &[u8],
        encode: impl FnOnce(&mut Vec<u8>),
        chunk_bytes: usize,
        full: impl FnOnce(&[u8]),
    ) {
        let start = self.chunk.len();
        self.chunk.put_u16(slice.0);
        put_bytes(&mut self.chunk, id);
        let length_at = self.chunk.len();
        self.chunk.put_u32(0);
        encode(&mut self.chunk);
        let length = count(self.chunk.len() - length_at - 4);
        self.chunk[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        if self.has_changes && self.chunk.len() > chunk_bytes {
            let rest = self.chunk.split_off(start);
            full(&self.chunk);
            self.begin(&[]);
            self.chunk.extend_from_slice(&rest);
        }
        self.has_changes = true;
    }

    /// The last chunk.
    pub(super) fn last(&self) -> &[u8] {
        &self.chunk
    }
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

pub(super) fn put_bytes(value: &mut Vec<u8>, bytes: &[u8]) {
    value.put_u32(count(bytes.len()));
    value.put_slice(bytes);
}

/// `None` if fewer bytes are left than it says.
pub(super) fn get_bytes(value: &mut Bytes) -> Result<Option<Bytes>, TryGetError> {
    let length = usize::try_from(value.try_get_u32()?).expect("32 bits fit an address");
    Ok((length <= value.len()).then(|| value.split_to(length)))
}

pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).expect("nothing stored comes near 4 GiB")
}

pub(super) fn broken(what: &str) -> Error {
    Error::CorruptStore(format!("{what} does not decode"))
}

#[cfg(test)]
mod tests {
    use anabranch_core::hlc::Hlc;
    use anabranch_core::ids::{ActorId, AppId};
    use anabranch_schemas::records::{ChangeRef, Operation};
    use uuid::Uuid;

    use super::*;

    /// An event of this collection; what it says does not matter here.
    fn event(collection: &str) -> ChangeRef<'_> {
        ChangeRef {
            txn: TxnId(1),
            app: AppId(Uuid::nil()),
            collection,
            key: "1",
            origin: ActorId(Uuid::nil()),
            origin_txn: TxnId(1),
            hlc: Hlc(1),
            operation: Operation::Insert,
            existed: false,
            before: "{}",
            added: &[],
            state: b"",
        }
    }

    fn encode_changes(
        slices: &[Slice],
        changes: &[(u16, &[u8], ChangeRef<'_>)],
        chunk_bytes: usize,
    ) -> Vec<Vec<u8>> {
        let (mut writer, mut chunks) = (ChunkWriter::default(), Vec::new());
        writer.begin(slices);
        for (slice, id, event) in changes {
            let encode = |chunk: &mut Vec<u8>| event.encode_into(chunk);
            writer.add(Slice(*slice), id, encode, chunk_bytes, |chunk| chunks.push(chunk.to_vec()));
        }
        chunks.push(writer.last().to_vec());
        chunks
    }

    #[test]
    fn changes_are_cut_into_chunks() {
        let slices = [Slice(3), Slice(9)];
        let long = "c".repeat(60);
        let changes =
            [(3, &b"a"[..], event(&long)), (9, b"b", event("short")), (9, b"c", event(&long))];
        let expected: Vec<_> = changes
            .iter()
            .map(|(slice, id, event)| {
                let id = Bytes::copy_from_slice(id);
                IndexedChange { slice: Slice(*slice), id, event: event.encode() }
            })
            .collect();
        for limit in [1, 150, 300, 10_000] {
            let chunks = encode_changes(&slices, &changes, limit);
            let read: Vec<_> = chunks.iter().map(|chunk| decode_changes(chunk).unwrap()).collect();
            assert_eq!(read[0].0, slices);
            assert!(read[1..].iter().all(|(slices, _)| slices.is_empty()));
            for (chunk, (_, changes)) in chunks.iter().zip(&read) {
                assert!(chunk.len() <= limit || changes.len() == 1, "limit {limit}");
            }
            let all: Vec<_> = read.into_iter().flat_map(|(_, changes)| changes).collect();
            assert_eq!(all, expected, "limit {limit}");
            assert!(limit < 10_000 || chunks.len() == 1);
        }
        let none = encode_changes(&slices, &[], 10);
        assert_eq!(none.len(), 1);
        assert_eq!(decode_changes(&none[0]).unwrap(), (slices.to_vec(), vec![]));
    }

    #[test]
    fn versions_and_samples_read_back() {
        let stored = [STATE_PREFIX, b"state"].concat();
        assert_eq!(decode_version(&stored).unwrap(), Version::State(b"state"));
        assert_eq!(decode_version(STATE_PREFIX).unwrap(), Version::State(b""));
        assert_eq!(decode_version(FORGOTTEN).unwrap(), Version::Evicted);
        assert!(decode_version(&[2, 0]).is_err());
        assert_eq!(decode_txn(&encode_txn(TxnId(6))).unwrap(), TxnId(6));
        assert!(decode_txn(&[1, 0]).is_err());
    }

    /// Bytes of each version, written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        let event = event("c");
        let encoded = event.encode();
        let length = u8::try_from(encoded.len()).unwrap();
        let chunk = encode_changes(&[Slice(1)], &[(1, b"i", event)], 1_000).remove(0);
        let head = b"\x01\x00\x01\x00\x01\x00\x01\x00\x00\x00\x01i\x00\x00\x00";
        assert_eq!(chunk, [&head[..], &[length], &encoded].concat());
        assert_eq!((STATE_PREFIX, FORGOTTEN), (&b"\x01\x00"[..], &b"\x01\x01"[..]));
        assert_eq!(encode_txn(TxnId(258)), b"\x01\0\0\0\0\0\0\x01\x02");
    }
}
