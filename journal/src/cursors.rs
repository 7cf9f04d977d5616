//! Positions kept with what was written from them: records of the compacted topic `cursors`, in
//! the same transaction as the output.
//!
//! Fence first, then [`read`], then write: between the fencing and the read nobody else can move
//! the position. A consumer group would do the same, but forgets a position after some days
//! without a consumer.

use std::time::Duration;

use anabranch_schemas::{Record, decode, encode};
use bytes::Bytes;

use crate::error::Error;
use crate::log::{Journal, NewRecord, ReadFrom, TopicName, TopicPartition, Writer};

const POLL: Duration = Duration::from_millis(100);

/// Appends a position to the open transaction.
pub fn append<R: Record>(
    writer: &mut dyn Writer,
    topic: &TopicName,
    key: &str,
    cursor: &R,
) -> Result<(), Error> {
    writer.append(NewRecord {
        at: TopicPartition::new(topic.clone(), 0),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(encode(cursor)),
    })
}

/// The newest committed position of this key.
///
/// # Errors
/// [`Error::Corrupt`] if it does not decode.
pub fn read<R: Record>(
    journal: &dyn Journal,
    topic: &TopicName,
    key: &str,
) -> Result<Option<R>, Error> {
    let mut newest = None;
    read_to_end(journal, topic, |found, value| {
        if found.as_ref() == key.as_bytes() {
            newest = value;
        }
    })?;
    let decoded = newest.map(|value| decode(&value)).transpose();
    decoded.map_err(|error| Error::Corrupt(format!("position '{key}' in '{topic}': {error}")))
}

/// Hands every record of a topic of one partition, up to its present end, to `each`.
fn read_to_end(
    journal: &dyn Journal,
    topic: &TopicName,
    mut each: impl FnMut(Bytes, Option<Bytes>),
) -> Result<(), Error> {
    let at = TopicPartition::new(topic.clone(), 0);
    let end = journal.bounds(&at)?.end;
    let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
    while reader.position(&at).is_none_or(|position| position < end) {
        for record in reader.poll(POLL)? {
            each(record.key, record.value);
        }
    }
    Ok(())
}
