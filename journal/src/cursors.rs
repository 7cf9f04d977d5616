//! Positions kept with what was written from them: records of the compacted topic `cursors`,
//! appended in the transaction that writes the output.
//!
//! Used by cdc and by the bridge's receiver. The order that makes it exactly once: open the
//! [`RotatingWriter`], which fences and ends whatever an older holder had under way; then
//! [`read_fenced`]; then write output and cursor together, from there on.
//!
//! All cursors of a cluster share one partition. A transaction that another holder has open there
//! hides what comes after it, the last cursor of an older holder of ours included: to read to the
//! end that is visible is not enough. [`read_fenced`] therefore appends a record of its own and
//! reads until it sees that one, when everything before it is decided.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{Record as Schema, decode, encode};
use bytes::Bytes;
use tokio::time::Instant;

use crate::error::Error;
use crate::log::{Journal, NewRecord, Offset, ReadFrom, Record, TopicPartition, Writer};
use crate::rotating::RotatingWriter;

/// How long to wait for the log to be read to its end: longer than a transaction may be open.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The key of the record that a holder appends to see where it stands.
const FENCE_KEY: &[u8] = b"fence";
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

/// The cursor that was committed last, if there is one, once nobody but the holder of `writer` can
/// move it. Reads the whole topic, which compaction keeps small.
///
/// # Errors
/// Those of the writer and of [`read`]. After any, open the writer anew.
pub fn read_fenced<C: Schema>(
    journal: &dyn Journal,
    writer: &mut RotatingWriter,
    cluster: &ClusterName,
    key: &str,
) -> Result<Option<C>, Error> {
    let at = partition(cluster);
    let offsets = writer.transaction(|writer| {
        let key = Bytes::from_static(FENCE_KEY);
        writer.append(NewRecord { at: at.clone(), key, value: None })?;
        writer.flush()
    })?;
    let fence =
        offsets.first().ok_or_else(|| Error::Corrupt("a record has no offset".to_owned()))?;
    read_until(journal, cluster, key, Offset(fence.0 + 1))
}

/// The cursor that was committed last and is visible, if there is one: enough to show where a
/// holder is, not enough to go on from (see [`read_fenced`]).
///
/// # Errors
/// [`Error::Unavailable`] if its end is not reached in time; [`Error::Corrupt`] if it does not
/// decode.
pub fn read<C: Schema>(
    journal: &dyn Journal,
    cluster: &ClusterName,
    key: &str,
) -> Result<Option<C>, Error> {
    let end = journal.bounds(&partition(cluster))?.end;
    read_until(journal, cluster, key, end)
}

fn read_until<C: Schema>(
    journal: &dyn Journal,
    cluster: &ClusterName,
    key: &str,
    end: Offset,
) -> Result<Option<C>, Error> {
    let mut newest = None;
    read_all(journal, &partition(cluster), end, |record| {
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
    let end = journal.bounds(&partition(cluster))?.end;
    let mut newest = BTreeMap::new();
    read_all(journal, &partition(cluster), end, |record| {
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

/// Gives all records of a partition up to `end`.
fn read_all(
    journal: &dyn Journal,
    at: &TopicPartition,
    end: Offset,
    mut each: impl FnMut(Record),
) -> Result<(), Error> {
    let mut deadline = Instant::now() + READ_TIMEOUT;
    let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)])?;
    while reader.position(at).is_none_or(|position| position < end) {
        if Instant::now() >= deadline {
            return Err(Error::Unavailable(format!("{at} was not read to its end in time")));
        }
        let records = reader.poll(POLL_TIMEOUT)?;
        if !records.is_empty() {
            deadline = Instant::now() + READ_TIMEOUT;
        }
        records.into_iter().for_each(&mut each);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anabranch_core::ids::TxnId;
    use anabranch_core::keyspace::SliceCount;
    use anabranch_schemas::records::ChangesCursor;

    use super::*;
    use crate::doubles::{Fate, FaultyJournal};
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

    /// An older holder committed its cursor behind a transaction that somebody else has open.
    #[test]
    fn a_cursor_behind_an_open_transaction_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let journal: Arc<dyn Journal> = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        journal.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let cursor = ChangesCursor { next: TxnId(7) };
        let mut other = journal.writer(&TransactionalId::from("bridge")).unwrap();
        other.begin().unwrap();
        append(other.as_mut(), &cluster, "remote", &cursor).unwrap();
        other.flush().unwrap();

        let id = TransactionalId::from("cdc");
        let mut older = RotatingWriter::open(&journal, &id).unwrap();
        older.transaction(|writer| append(writer, &cluster, "changes", &cursor)).unwrap();
        let visible: Option<ChangesCursor> =
            super::read(journal.as_ref(), &cluster, "changes").unwrap();
        assert_eq!(visible, None, "it is hidden");

        let mut newer = RotatingWriter::open(&journal, &id).unwrap();
        let (reads, reading) = std::sync::mpsc::channel();
        let tells = FaultyJournal::new(journal, |_| Fate::Done).with_readers(move |log, from| {
            let reader = log.reader(from);
            reads.send(()).unwrap();
            reader
        });
        let cluster = cluster.clone();
        let read = std::thread::spawn(move || {
            read_fenced::<ChangesCursor>(&tells, &mut newer, &cluster, "changes")
        });
        // It has appended its record, and now it reads.
        reading.recv().unwrap();
        other.commit().unwrap();
        assert_eq!(read.join().unwrap().unwrap(), Some(cursor));
    }
}
