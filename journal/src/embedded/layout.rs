//! Keys and values of the embedded log in RocksDB.
//!
//! Kinds of key, by their first byte; one that is given up stays reserved:
//!
//! | byte | then | value |
//! |---|---|---|
//! | 0 | `format` | the format's version, be32 |
//! | 1 | topic name | [`TopicEntry`] as JSON |
//! | 2 | topic number be32, partition be16 | the partition's first offset, be64 |
//! | 3 | topic number be32, partition be16, offset be64 | a record |
//! | 4 | topic number be32, partition be16 | an offset that was shown to readers, be64 |

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::log::{Cleanup, NewRecord, TopicName, TopicSpec};

/// The version of this layout.
pub(super) const FORMAT: u32 = 1;
/// Where the version is kept.
pub(super) const FORMAT_KEY: &[u8] = b"\0format";

const TOPIC: u8 = 1;
const START: u8 = 2;
const RECORD: u8 = 3;
const SHOWN: u8 = 4;
/// Set in a record's key length when the record has a value.
const HAS_VALUE: u32 = 1 << 31;

/// A topic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicEntry {
    pub(super) number: u32,
    pub(super) partitions: u16,
    pub(super) compact: bool,
    pub(super) retention_ms: Option<u64>,
    pub(super) max_record_bytes: usize,
}

impl TopicEntry {
    pub(super) fn new(number: u32, spec: &TopicSpec) -> Self {
        let TopicSpec { name: _, partitions, cleanup, max_record_bytes } = spec;
        let (compact, retention_ms) = match cleanup {
            Cleanup::Delete { retention_ms } => (false, *retention_ms),
            Cleanup::Compact => (true, None),
        };
        TopicEntry {
            number,
            partitions: *partitions,
            compact,
            retention_ms,
            max_record_bytes: *max_record_bytes,
        }
    }

    /// The topic as it was asked for.
    pub(super) fn spec(&self, name: &TopicName) -> TopicSpec {
        let TopicEntry { number: _, partitions, compact, retention_ms, max_record_bytes } = *self;
        let cleanup = if compact { Cleanup::Compact } else { Cleanup::Delete { retention_ms } };
        TopicSpec { name: name.clone(), partitions, cleanup, max_record_bytes }
    }
}

/// The key of a topic's entry.
pub(super) fn topic_key(name: &TopicName) -> Vec<u8> {
    [&[TOPIC], name.as_str().as_bytes()].concat()
}

/// The name in the key of a topic's entry.
pub(super) fn topic_of_key(key: &[u8]) -> Option<TopicName> {
    let name = key.strip_prefix(&[TOPIC])?;
    std::str::from_utf8(name).ok().map(TopicName::from)
}

/// What the keys of all topics' entries lie between.
pub(super) fn topic_range() -> (Vec<u8>, Vec<u8>) {
    (vec![TOPIC], vec![TOPIC + 1])
}

/// A partition as keys name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionKey {
    pub(super) topic: u32,
    pub(super) partition: u16,
}

impl PartitionKey {
    /// The key under which the first offset is kept.
    pub(super) fn start(self) -> [u8; 7] {
        self.prefixed(START)
    }

    /// The key under which an offset is kept that has no record but was shown to readers.
    pub(super) fn shown(self) -> [u8; 7] {
        self.prefixed(SHOWN)
    }

    /// The key of the record at `offset`.
    pub(super) fn record(self, offset: u64) -> [u8; 15] {
        let mut key = [0; 15];
        key[..7].copy_from_slice(&self.prefixed(RECORD));
        key[7..].copy_from_slice(&offset.to_be_bytes());
        key
    }

    fn prefixed(self, kind: u8) -> [u8; 7] {
        let mut key = [kind; 7];
        key[1..5].copy_from_slice(&self.topic.to_be_bytes());
        key[5..].copy_from_slice(&self.partition.to_be_bytes());
        key
    }
}

/// The offset in the key of a record.
pub(super) fn offset_of_key(key: &[u8]) -> Option<u64> {
    key.get(7..)?.try_into().ok().map(u64::from_be_bytes)
}

/// A record as it is stored: time be64, length of the key be32 and whether there is a value, key,
/// value.
pub(super) fn encode_record(record: &NewRecord, timestamp_ms: u64, into: &mut Vec<u8>) {
    let NewRecord { at: _, key, value } = record;
    into.clear();
    into.put_u64(timestamp_ms);
    let length = u32::try_from(key.len()).expect("append refuses keys above 1 GiB");
    into.put_u32(length | if value.is_some() { HAS_VALUE } else { 0 });
    into.put_slice(key);
    into.put_slice(value.as_deref().unwrap_or_default());
}

/// Time, key and value of a stored record; `None` if it does not decode.
pub(super) fn decode_record(stored: &[u8]) -> Option<(u64, Bytes, Option<Bytes>)> {
    let mut bytes = Bytes::copy_from_slice(stored);
    let timestamp_ms = bytes.try_get_u64().ok()?;
    let length = bytes.try_get_u32().ok()?;
    let key_bytes = usize::try_from(length & !HAS_VALUE).ok()?;
    if bytes.len() < key_bytes {
        return None;
    }
    let key = bytes.split_to(key_bytes);
    match length & HAS_VALUE {
        0 if bytes.is_empty() => Some((timestamp_ms, key, None)),
        0 => None,
        _ => Some((timestamp_ms, key, Some(bytes))),
    }
}

/// The time of a stored record.
pub(super) fn timestamp_of(stored: &[u8]) -> Option<u64> {
    stored.first_chunk().map(|time| u64::from_be_bytes(*time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::TopicPartition;

    #[test]
    fn records_round_trip_and_broken_ones_are_noticed() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))] {
            let record = NewRecord {
                at: TopicPartition::new("t", 0),
                key: Bytes::from_static(b"key"),
                value: value.clone(),
            };
            let mut stored = Vec::new();
            encode_record(&record, 77, &mut stored);
            assert_eq!(decode_record(&stored), Some((77, record.key, value)));
            assert_eq!(timestamp_of(&stored), Some(77));
            for cut in 0..15 {
                assert_eq!(decode_record(&stored[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn keys_order_like_offsets_within_their_partition() {
        let first = PartitionKey { topic: 1, partition: 2 };
        let next = PartitionKey { topic: 1, partition: 3 };
        assert!(first.record(255) < first.record(256));
        assert!(first.record(u64::MAX) < next.record(0));
        assert_eq!(offset_of_key(&first.record(9)), Some(9));
    }
}
