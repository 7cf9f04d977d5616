//! What is in an index.
//!
//! ```text
//! key    be32(number) values _id 00 be16(length of values)
//! value  01 00                  the document has these values
//!        01 01 be64(txn)        it had them in the snapshots before this transaction, or some of them
//! ```
//!
//! Where values end follows from their length, which stands at the end so that entries order by
//! values and then by `_id`. No canonical `_id` holds a zero byte.

use std::ops::Range;

use anabranch_core::ids::{DocumentKey, TxnId};
use anabranch_core::query::Span;
use anabranch_runtime::planted;

use super::IndexNumber;
use crate::error::Error;
use crate::storage::batch::Batch;
use crate::storage::engine::{Family, Scope};
use crate::storage::scan::Visit;
use crate::storage::{Storage, keys};

const VERSION: u8 = 1;
const HERE: &[u8] = &[VERSION, 0];
const GONE: [u8; 2] = [VERSION, 1];
/// Bytes behind an `_id`.
const SUFFIX: usize = 3;

/// How a document moves in an index: from one entry, if it had one, to another, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) index: IndexNumber,
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) to: Option<Vec<u8>>,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place(Vec<u8>);

impl Place {
    /// Of a document's entry.
    pub(crate) fn new(index: IndexNumber, values: &[u8], key: &DocumentKey) -> Self {
        Place(entry_key(index, values, key.as_str()))
    }

    /// Of the entry with this key.
    pub(crate) fn at(key: &[u8]) -> Self {
        Place(key.to_vec())
    }

    /// The document whose entry it is.
    pub(crate) fn document(&self) -> Option<DocumentKey> {
        split(&self.0).and_then(|(_, id)| document(id))
    }
}

impl Storage {
    /// Visits the entries of a part of an index, in order, those behind `after` if it is given: the key of
    /// each ([`Place::at`]), and the `_id`; `None` of one that is of nothing in the snapshot at `at`, since
    /// passing over it takes its time, too. Whether the index is still there: if not, nothing is visited.
    pub(crate) fn entries_of(
        &self,
        index: IndexNumber,
        span: &Span,
        after: Option<&Place>,
        at: TxnId,
        mut visit: impl FnMut(&[u8], Option<DocumentKey>) -> Visit,
    ) -> Result<bool, Error> {
        let (range, exactly) = match span {
            Span::Point(values) => {
                let start = values_key(index, values);
                let end = keys::after_prefix(&start).expect("a value begins with a small number");
                (start..end, Some(values.len()))
            }
            Span::Range(range) => {
                (values_key(index, &range.start)..values_key(index, &range.end), None)
            }
        };
        let mut entries = self.engine.cursor(Family::Indexes, Scope::Within(range));
        // Looked at after the cursor was made: see `Storage::indexes`.
        if !self.indexes().has(index) {
            return Ok(false);
        }
        match after {
            Some(Place(after)) => entries.seek([&after[..], &[0]].concat()),
            None => entries.seek_to_first(),
        }
        while let Some((key, value)) = entries.item() {
            let (values, id) = split(key).ok_or_else(broken)?;
            let is_asked_for = exactly.is_none_or(|length| length == values.len());
            let found = match is_asked_for && gone_from(value)?.is_none_or(|gone| at < gone) {
                true => Some(document(id).ok_or_else(broken)?),
                false => None,
            };
            if visit(key, found)?.is_break() {
                return Ok(true);
            }
            entries.next();
        }
        entries.status().map(|()| true).map_err(|error| self.failed("read", error))
    }
}

#[cfg(feature = "simulation")]
impl Storage {
    /// Whether a document is found where it has to be.
    pub(crate) fn has_entry(
        &self,
        index: IndexNumber,
        values: &[u8],
        key: &DocumentKey,
        at: TxnId,
    ) -> Result<bool, Error> {
        let entry = self.engine.get(Family::Indexes, &entry_key(index, values, key.as_str()));
        let entry = entry.map_err(|error| self.failed("read", error))?;
        let Some(entry) = entry else { return Ok(false) };
        Ok(gone_from(&entry)?.is_none_or(|gone| at < gone))
    }
}

impl Batch<'_> {
    /// A transaction moves a document in an index.
    pub(crate) fn move_entry(&mut self, moved: &Moved, key: &str, txn: TxnId) {
        let Moved { index, from, to } = moved;
        if let Some(values) = from {
            let gone = [&GONE[..], &txn.0.to_be_bytes()].concat();
            self.writes.put(Family::Indexes, entry_key(*index, values, key), gone);
        }
        if let Some(values) = to.as_ref().filter(|_| !planted!(ForgetsToIndex)) {
            self.writes.put(Family::Indexes, entry_key(*index, values, key), HERE);
        }
    }

    /// A document that was there before an index has an entry in it.
    pub(crate) fn add_entry(&mut self, index: IndexNumber, values: &[u8], key: &str) {
        self.writes.put(Family::Indexes, entry_key(index, values, key), HERE);
    }
}

/// What the keys of all entries of an index lie between.
pub(super) fn all_of(index: IndexNumber) -> Range<Vec<u8>> {
    index.0.to_be_bytes().to_vec()..(index.0 + 1).to_be_bytes().to_vec()
}

/// Whether an entry is of no snapshot from `oldest` on.
pub(in crate::storage) fn is_gone_before(value: &[u8], oldest: TxnId) -> bool {
    gone_from(value).is_ok_and(|gone| gone.is_some_and(|gone| gone <= oldest))
}

fn values_key(index: IndexNumber, values: &[u8]) -> Vec<u8> {
    [&index.0.to_be_bytes()[..], values].concat()
}

fn entry_key(index: IndexNumber, values: &[u8], id: &str) -> Vec<u8> {
    let length = u16::try_from(values.len()).expect("values are cut");
    let mut key = Vec::with_capacity(4 + values.len() + id.len() + SUFFIX);
    key.extend_from_slice(&index.0.to_be_bytes());
    key.extend_from_slice(values);
    key.extend_from_slice(id.as_bytes());
    key.push(0);
    key.extend_from_slice(&length.to_be_bytes());
    key
}

/// Values and `_id` of an entry.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = key.split_first_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<2>()?;
    let (_, rest) = rest.split_last()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn document(id: &[u8]) -> Option<DocumentKey> {
    DocumentKey::from_canonical(std::str::from_utf8(id).ok()?).ok()
}

/// From which transaction on a document is somewhere else.
fn gone_from(value: &[u8]) -> Result<Option<TxnId>, Error> {
    if value == HERE {
        return Ok(None);
    }
    let txn = value.strip_prefix(&GONE).and_then(|txn| txn.try_into().ok());
    txn.map(|txn| Some(TxnId(u64::from_be_bytes(txn)))).ok_or_else(broken)
}

fn broken() -> Error {
    Error::CorruptStore("an entry of an index does not decode".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        let key = entry_key(IndexNumber(258), b"values", "\"id\"");
        assert_eq!(key, b"\0\0\x01\x02values\"id\"\0\0\x06");
        assert_eq!(split(&key), Some((&b"values"[..], &b"\"id\""[..])));
        assert_eq!(gone_from(b"\x01\x00").unwrap(), None);
        assert_eq!(gone_from(b"\x01\x01\0\0\0\0\0\0\x01\x02").unwrap(), Some(TxnId(258)));
        assert!(gone_from(b"\x02\x00").is_err());
        assert!(gone_from(b"\x01\x01\0").is_err());
    }

    #[test]
    fn what_is_gone_is_dropped_once_nobody_can_read_what_was_before() {
        let gone = [&GONE[..], &7_u64.to_be_bytes()].concat();
        assert!(!is_gone_before(&gone, TxnId(6)));
        assert!(is_gone_before(&gone, TxnId(7)));
        assert!(!is_gone_before(HERE, TxnId(7)));
        assert!(!is_gone_before(b"spoilt", TxnId(7)));
    }
}
