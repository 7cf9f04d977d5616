//! Finding a transaction in the topic of changes of an embedded log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal::embedded::EmbeddedJournal;
use anabranch_journal::{Journal, NewRecord, Offset, TopicPartition, TransactionalId, cursors};
use anabranch_schemas::encode;
use anabranch_schemas::records::{ChangesCursor, ChangesRecord, Resolved};
use anabranch_schemas::topics::ClusterName;

use crate::doubles::embedded_log;
use crate::send::locate::find_start;

const SLICES: u16 = 2;

struct Log {
    journal: Arc<EmbeddedJournal>,
    cluster: ClusterName,
    _dir: TempDir,
}

impl Log {
    fn new() -> Self {
        let cluster: ClusterName = "east".parse().unwrap();
        let (journal, dir) = embedded_log(&cluster, slices());
        Log { journal, cluster, _dir: dir }
    }

    fn at(&self, slice: u16) -> TopicPartition {
        TopicPartition::new(self.cluster.changes(), slice)
    }

    /// Writes a mark of each of these transactions into a slice, and the position after them.
    fn write(&self, slice: u16, txns: impl Iterator<Item = u64>) {
        let id = TransactionalId::from("changes");
        let mut writer = self.journal.writer(&id).unwrap();
        writer.begin().unwrap();
        for txn in txns {
            let mark = Resolved { slice: Slice(slice), txn: TxnId(txn) };
            let value = Some(encode(&mark));
            writer.append(NewRecord { at: self.at(slice), key: Bytes::new(), value }).unwrap();
            let cursor = ChangesCursor { next: TxnId(txn + 1) };
            let key = ChangesCursor::KEY;
            cursors::append(writer.as_mut(), &self.cluster, key, &cursor).unwrap();
        }
        writer.flush().unwrap();
        writer.commit().unwrap();
    }

    /// The transactions that are read from where `from` is found, by slice; `None` if some are
    /// gone.
    fn read_from(&self, from: u64) -> Option<Vec<Vec<u64>>> {
        let starts =
            find_start(&*self.journal, &self.cluster, slices(), TxnId(from), &|| true).unwrap()?;
        let mut found = vec![Vec::new(); usize::from(SLICES)];
        let mut reader = self.journal.reader(&starts).unwrap();
        loop {
            let records = reader.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                return Some(found);
            }
            for record in records {
                let value = record.value.unwrap();
                let ChangesRecord::Resolved(mark) = ChangesRecord::decode(&value).unwrap() else {
                    panic!("only marks were written");
                };
                found[usize::from(record.at.partition.0)].push(mark.txn.0);
            }
        }
    }
}

fn slices() -> SliceCount {
    SliceCount::try_from(SLICES).unwrap()
}

#[test]
fn everything_from_a_transaction_on_is_found() {
    let log = Log::new();
    log.write(0, (0..2_000).map(|txn| txn / 2));
    log.write(1, (0..10).map(|txn| txn * 100));
    for from in [0, 1, 7, 499, 500, 950, 999, 1_000, 5_000] {
        let found = log.read_from(from).unwrap();
        let later = |all: &[u64]| all.iter().copied().filter(|txn| *txn >= from).count();
        let expected = [(0..2_000_u64).filter(|txn| txn / 2 >= from).count(), {
            (0..10_u64).filter(|txn| txn * 100 >= from).count()
        }];
        assert_eq!([later(&found[0]), later(&found[1])], expected, "from {from}");
    }
    // One that is near the end is found there.
    assert!(log.read_from(990).unwrap()[0].len() <= 64);
}

#[test]
fn an_empty_topic_has_everything() {
    let log = Log::new();
    assert_eq!(log.read_from(0), Some(vec![vec![], vec![]]));
    assert_eq!(log.read_from(100), Some(vec![vec![], vec![]]));
}

#[test]
fn what_was_trimmed_is_missed() {
    let log = Log::new();
    log.write(0, 0..100);
    log.write(1, 0..100);
    log.journal.trim(&log.at(0), Offset(50)).unwrap();
    // The first record that is left is of transaction 50: of it, some may have been before.
    for (from, is_there) in [(0, false), (40, false), (50, false), (51, true), (99, true)] {
        assert_eq!(log.read_from(from).is_some(), is_there, "from {from}");
    }
    // All is gone, and all of it was earlier.
    let end = log.journal.bounds(&log.at(0)).unwrap().end;
    log.journal.trim(&log.at(0), end).unwrap();
    assert!(log.read_from(99).is_none());
    assert!(log.read_from(100).is_some());
}
