//! Keys of the store.
//!
//! | table | key | value |
//! |---|---|---|
//! | `default` | kind (1 byte), then by kind | format, identity, progress, timeline, lost parts and ranges, an unfinished backfill, tombstones, whether versions were taken back, indexes |
//! | `versions` | canonical document id, 0, be64(!txn) | a version of the document |
//! | `changes` | be64(txn), be16(chunk) | slices of a transaction, and its changes in chunks |
//! | `rounds` | round id (16 bytes) | what became of the round |
//! | `rounds` | round id, 0 | what had become of it before it was repeated after it was forgotten |
//! | `indexes` | see [`super::indexes`] | which documents have some values |
//!
//! Versions of a document lie together, the newest first. No canonical `_id` holds a zero byte, so
//! the zero that follows it keeps the documents in the order of their ids and apart from those
//! whose id begins with theirs; the last nine bytes have a fixed form, so a key reads back.

use std::ops::Range;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;

/// Kinds of key in table `default`; one that is given up stays reserved.
pub(super) const FORMAT: &[u8] = b"\0format";
pub(super) const IDENTITY: &[u8] = &[1];
pub(super) const PROGRESS: &[u8] = &[2];
const TIMELINE: u8 = 3;
const LOST: u8 = 4;
pub(super) const UNFINISHED: &[u8] = &[5];
const LOST_RANGE: u8 = 6;
const TOMBSTONE: u8 = 7;
pub(super) const TAKEN_BACK: &[u8] = &[8];
const INDEX: u8 = 9;
pub(super) const NEXT_INDEX: &[u8] = &[10];

/// Bytes after the document id: a zero and the transaction.
const VERSION_SUFFIX: usize = 9;

/// The key of the version that `txn` wrote.
pub(super) fn version_key(id: &[u8], txn: TxnId) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len() + VERSION_SUFFIX);
    set_version(&mut key, id, txn);
    key
}

/// Turns the key of a version of a document into the one for `txn`.
pub(super) fn set_version(key: &mut Vec<u8>, id: &[u8], txn: TxnId) {
    key.clear();
    key.extend_from_slice(id);
    key.push(0);
    key.extend_from_slice(&(!txn.0).to_be_bytes());
}

/// Document id and transaction of a version.
pub(super) fn split_version_key(key: &[u8]) -> Option<(&[u8], TxnId)> {
    let (document, txn) = key.split_last_chunk::<8>()?;
    let (zero, id) = document.split_last()?;
    (*zero == 0).then_some((id, TxnId(!u64::from_be_bytes(*txn))))
}

/// What two versions of one document have in common: everything but the transaction. Bloom
/// filters are built over it.
pub(super) fn version_prefix(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(8)]
}

/// The first key past all that begin with `prefix`; `None` if there is none.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The key of a chunk of a transaction's changes.
pub(super) fn change_key(txn: TxnId, chunk: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&txn.0.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// What the keys of all changes of a transaction begin with, which is also the first of them.
pub(super) fn change_prefix(txn: TxnId) -> [u8; 8] {
    txn.0.to_be_bytes()
}

/// Transaction and number of a chunk of changes.
pub(super) fn split_change_key(key: &[u8]) -> Option<(TxnId, u16)> {
    let (txn, chunk) = key.split_first_chunk::<8>()?;
    Some((TxnId(u64::from_be_bytes(*txn)), u16::from_be_bytes(chunk.try_into().ok()?)))
}

/// The key of a sample of the timeline.
pub(super) fn timeline_key(hlc: Hlc) -> [u8; 9] {
    let mut key = [TIMELINE; 9];
    key[1..].copy_from_slice(&hlc.0.to_be_bytes());
    key
}

/// The time in the key of a sample.
pub(super) fn split_timeline_key(key: &[u8]) -> Option<Hlc> {
    let (kind, hlc) = key.split_first()?;
    (*kind == TIMELINE).then_some(Hlc(u64::from_be_bytes(hlc.try_into().ok()?)))
}

/// What the keys of all samples lie between.
pub(super) fn timeline_range() -> (Vec<u8>, Vec<u8>) {
    (vec![TIMELINE], vec![TIMELINE + 1])
}

/// How long a round id is.
const ROUND_ID: usize = 16;

/// The key of what had become of a round when it was applied the time before.
pub(super) fn earlier_round_key(round: &[u8]) -> Vec<u8> {
    let mut key = round.to_vec();
    key.push(0);
    key
}

/// Whether a key is such a one.
pub(super) fn is_earlier_round(key: &[u8]) -> bool {
    key.len() > ROUND_ID
}

/// The key under which a lost part is recorded.
pub(super) fn lost_key(txn: TxnId, slice: Slice, offset: u64) -> Vec<u8> {
    let mut key = vec![LOST];
    key.extend_from_slice(&txn.0.to_be_bytes());
    key.extend_from_slice(&slice.0.to_be_bytes());
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The key under which a lost range is recorded that begins with `from`.
pub(super) fn lost_range_key(from: TxnId) -> Vec<u8> {
    let mut key = vec![LOST_RANGE];
    key.extend_from_slice(&from.0.to_be_bytes());
    key
}

/// What the keys of all lost ranges lie between.
pub(super) fn lost_ranges() -> (Vec<u8>, Vec<u8>) {
    (vec![LOST_RANGE], vec![LOST_RANGE + 1])
}

/// The key under which a document is listed that was deleted at a time.
pub(super) fn tombstone_key(deleted: Hlc, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + id.len());
    key.push(TOMBSTONE);
    key.extend_from_slice(&deleted.0.to_be_bytes());
    key.extend_from_slice(id);
    key
}

/// Time and document of such a key.
pub(super) fn split_tombstone_key(key: &[u8]) -> Option<(Hlc, &[u8])> {
    let (deleted, id) = key.strip_prefix(&[TOMBSTONE])?.split_first_chunk::<8>()?;
    Some((Hlc(u64::from_be_bytes(*deleted)), id))
}

/// The first key past such a one.
pub(super) fn past_tombstone(deleted: Hlc, id: &[u8]) -> Vec<u8> {
    let mut key = tombstone_key(deleted, id);
    key.push(0);
    key
}

/// What the keys of all lie between that were deleted before a time.
pub(super) fn tombstones(before: Hlc) -> Range<Vec<u8>> {
    tombstone_key(Hlc(0), &[])..tombstone_key(before, &[])
}

/// The key under which it stands what an index is.
pub(super) fn index_key(number: u32) -> Vec<u8> {
    let mut key = vec![INDEX];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What the keys of all these lie between.
pub(super) fn indexes() -> (Vec<u8>, Vec<u8>) {
    (vec![INDEX], vec![INDEX + 1])
}

/// What the keys of all lost parts lie between.
#[cfg(test)]
pub(super) fn lost_range() -> (Vec<u8>, Vec<u8>) {
    (vec![LOST], vec![LOST + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_document_and_then_from_new_to_old() {
        let keys = [
            version_key(b"c\x001", TxnId(9)),
            version_key(b"c\x001", TxnId(8)),
            version_key(b"c\x001", TxnId(0)),
            version_key(b"c\x0012", TxnId(u64::MAX)),
            version_key(b"c\x0012", TxnId(3)),
            version_key(b"c\x002", TxnId(5)),
        ];
        assert!(keys.is_sorted());
    }

    #[test]
    fn keys_read_back() {
        for txn in [0, 1, 255, u64::MAX] {
            let key = version_key(b"app\x00c\x00\"x\"", TxnId(txn));
            assert_eq!(split_version_key(&key), Some((&b"app\x00c\x00\"x\""[..], TxnId(txn))));
            assert_eq!(version_prefix(&key), b"app\x00c\x00\"x\"\x00");
            assert_eq!(split_change_key(&change_key(TxnId(txn), 7)), Some((TxnId(txn), 7)));
            assert_eq!(split_timeline_key(&timeline_key(Hlc(txn))), Some(Hlc(txn)));
        }
        assert_eq!(split_tombstone_key(&tombstone_key(Hlc(3), b"id")), Some((Hlc(3), &b"id"[..])));
        let all = tombstones(Hlc(4));
        assert!(all.contains(&tombstone_key(Hlc(3), &[0xff; 9])));
        assert!(!all.contains(&tombstone_key(Hlc(4), b"")));
        assert_eq!(split_version_key(b"short"), None);
        assert_eq!(split_change_key(b"12345678"), None);
    }

    #[test]
    fn the_end_of_a_prefix_follows_all_its_keys() {
        assert_eq!(after_prefix(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[0xff]), None);
    }
}
