//! Positions kept with what was written from them: records of the compacted topic `cursors`,
//! appended in the transaction that writes the output.
//!
//! Used by cdc and by the bridge's receiver. The order that makes it exactly once: open the
//! [`RotatingWriter`](crate::RotatingWriter), which fences and ends whatever an older holder had
//! under way; then [`read`]; then write output and cursor together, from there on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{Record as Schema, decode, encode};
use bytes::Bytes;

use crate::error::Error;
use crate::log::{Journal, NewRecord, ReadFrom, Record, TopicPartition, Writer};

/// How long to wait for the log to be read to its end.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the next records: short, since only markers may be left before the end.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);

/// Appends a cursor to the open transaction of `writer`. `key` names what it is the position of.
///
/// # Errors
/// Those of the writer.
pub fn append<C: Schema>(
    writer: &mut dyn Writer,
    cluster: &ClusterName,
    key: &str,
    cursor: &C,
) -> Result<(), Error> {
    writer.append(NewRecord {
        at: partition(cluster),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(encode(cursor)),
    })
}

/// Removes a cursor in the open transaction of `writer`.
///
/// # Errors
/// Those of the writer.
pub fn remove(writer: &mut dyn Writer, cluster: &ClusterName, key: &str) -> Result<(), Error> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    writer.append(NewRecord { at: partition(cluster), key, value: None })
}

/// The cursor that was committed last, if there is one. Reads the whole topic, which compaction
/// keeps small.
///
/// # Errors
/// [`Error::Unavailable`] if its end is not reached in time; [`Error::Corrupt`] if it does not
/// decode.
pub fn read<C: Schema>(
    journal: &dyn Journal,
    cluster: &ClusterName,
    key: &str,
) -> Result<Option<C>, Error> {
    let mut newest = None;
    read_to_end(journal, &partition(cluster), |record| {
        if record.key == key.as_bytes() {
            newest = record.value;
        }
    })?;
    let Some(value) = newest else { return Ok(None) };
    match decode(&value) {
        Ok(cursor) => Ok(Some(cursor)),
        Err(error) => Err(Error::Corrupt(format!("cursor '{key}': {error}"))),
    }
}

/// The cursors whose keys begin with `prefix`, by key.
///
/// # Errors
/// As [`read`].
pub fn list<C: Schema>(
    journal: &dyn Journal,
    cluster: &ClusterName,
    prefix: &str,
) -> Result<BTreeMap<String, C>, Error> {
    let mut newest = BTreeMap::new();
    read_to_end(journal, &partition(cluster), |record| {
        if let Ok(key) = std::str::from_utf8(&record.key)
            && key.starts_with(prefix)
        {
            newest.insert(key.to_owned(), record.value);
        }
    })?;
    let cursors = newest.into_iter().filter_map(|(key, value)| Some((key, value?)));
    cursors
        .map(|(key, value)| match decode(&value) {
            Ok(cursor) => Ok((key, cursor)),
            Err(error) => Err(Error::Corrupt(format!("cursor '{key}': {error}"))),
        })
        .collect()
}

fn partition(cluster: &ClusterName) -> TopicPartition {
    TopicPartition::new(cluster.cursors(), 0)
}

/// Gives all records of a partition up to its end as it is now.
fn read_to_end(
    journal: &dyn Journal,
    at: &TopicPartition,
    mut each: impl FnMut(Record),
) -> Result<(), Error> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let end = journal.bounds(at)?.end;
    let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
    while reader.position(at).is_none_or(|position| position < end) {
        if Instant::now() >= deadline {
            return Err(Error::Unavailable(format!("{at} was not read to its end in time")));
        }
        reader.poll(POLL_TIMEOUT)?.into_iter().for_each(&mut each);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::TxnId;
    use anabranch_core::keyspace::SliceCount;
    use anabranch_schemas::records::ChangesCursor;

    use super::*;
    use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
    use crate::log::TransactionalId;
    use crate::rotating::run_transaction;
    use crate::topics::cluster_topics;

    #[test]
    fn the_cursor_is_the_last_one_that_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let journal = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        journal.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let read = |key: &str| -> Option<ChangesCursor> {
            super::read(journal.as_ref(), &cluster, key).unwrap()
        };
        assert_eq!(read("changes"), None);

        let mut writer = journal.writer(&TransactionalId::from("cdc")).unwrap();
        for next in [3, 7].map(TxnId) {
            let cursor = ChangesCursor { next };
            run_transaction(writer.as_mut(), |writer| {
                append(writer, &cluster, "changes", &cursor)?;
                append(writer, &cluster, "other", &ChangesCursor { next: TxnId(1) })
            })
            .unwrap();
        }
        writer.begin().unwrap();
        append(writer.as_mut(), &cluster, "changes", &ChangesCursor { next: TxnId(9) }).unwrap();
        writer.flush().unwrap();
        writer.abort().unwrap();
        assert_eq!(read("changes"), Some(ChangesCursor { next: TxnId(7) }));
        assert_eq!(read("other"), Some(ChangesCursor { next: TxnId(1) }));
        let list = |prefix| super::list::<ChangesCursor>(journal.as_ref(), &cluster, prefix);
        let expected = [("changes".to_owned(), ChangesCursor { next: TxnId(7) })].into();
        assert_eq!((list("chan").unwrap(), list("").unwrap().len()), (expected, 2));

        let mut writer = journal.writer(&TransactionalId::from("cdc")).unwrap();
        run_transaction(writer.as_mut(), |writer| remove(writer, &cluster, "changes")).unwrap();
        assert_eq!(read("changes"), None);
        assert!(list("changes").unwrap().is_empty());
    }

    #[test]
    fn another_record_in_its_place_is_corruption() {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let journal = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        journal.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let mut writer = journal.writer(&TransactionalId::from("cdc")).unwrap();
        run_transaction(writer.as_mut(), |writer| {
            writer.append(NewRecord {
                at: partition(&cluster),
                key: "changes".into(),
                value: Some("nonsense".into()),
            })
        })
        .unwrap();
        let read = super::read::<ChangesCursor>(journal.as_ref(), &cluster, "changes");
        assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
    }
}
