//! What is refused as a data directory, and helpers of other tests.

use std::path::Path;

use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::{Intervals, SliceCount};
use rocksdb::{DB, ReadOptions};
use uuid::Uuid;

use super::{
    Batch, CHANGES, FORGOTTEN, Opened, Progress, ROUNDS, Storage, StoreOptions, VERSIONS, keys,
};
use crate::error::Error;
use crate::log::Log;

impl Storage {
    /// Compacts everything.
    pub(crate) fn compact_for_test(&self) {
        for table in [VERSIONS, CHANGES, ROUNDS] {
            self.db.compact_range_cf(self.table(table), None::<&[u8]>, None::<&[u8]>);
        }
    }

    /// The versions of a document, newest first.
    pub(crate) fn versions_for_test(&self, id: &[u8]) -> Vec<TxnId> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let mut found = self.db.raw_iterator_cf_opt(self.table(VERSIONS), options);
        let mut versions = Vec::new();
        found.seek(keys::version_key(id, TxnId(u64::MAX)));
        while let Some(key) = found.key() {
            versions.push(keys::split_version_key(key).unwrap().1);
            found.next();
        }
        versions
    }

    /// Makes the newest version of a document one that does not decode; or takes it away again.
    pub(crate) fn spoil_for_test(&self, id: &[u8], spoil: bool) {
        let (table, key) = (self.table(VERSIONS), keys::version_key(id, TxnId(u64::MAX)));
        if spoil {
            self.db.put_cf_opt(table, key, b"spoilt", &self.write_options).unwrap();
        } else {
            self.db.delete_cf_opt(table, key, &self.write_options).unwrap();
        }
    }

    /// How many lost parts are recorded.
    pub(crate) fn lost_parts_for_test(&self) -> u64 {
        self.count_once(keys::lost_range()).unwrap()
    }
}

fn options(path: &Path) -> StoreOptions {
    StoreOptions {
        path: path.to_owned(),
        write_buffer_bytes: 1 << 20,
        block_cache_bytes: 1 << 20,
        round_retention_ms: 1,
    }
}

fn open(path: &Path, actor: u128, slices: u16) -> Result<Opened, Error> {
    let slices = SliceCount::try_from(slices).unwrap();
    let actor = ActorId(Uuid::from_u128(actor));
    Storage::open(&options(path), &Log::new(actor, slices, Intervals::all()))
}

fn refusal(path: &Path) -> String {
    match open(path, 1, 16) {
        Err(error @ Error::DataDir(_)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn a_new_store_is_at_the_start_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/yet/there");
    for _ in 0..2 {
        let opened = open(&path, 1, 16).unwrap();
        assert_eq!(opened.head.progress.next, TxnId(0));
        assert_eq!(opened.head.progress.slices.len(), 16);
    }
}

#[test]
fn the_store_of_another_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1, 16).unwrap());
    for (actor, slices) in [(2, 16), (1, 8)] {
        let error = open(dir.path(), actor, slices).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("belongs to log") && error.contains("empty data dir"), "{error}");
    }
    assert!(open(dir.path(), 1, 16).is_ok());
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _opened = open(dir.path(), 1, 16).unwrap();
    assert!(refusal(dir.path()).contains("in use"));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), 1, 16).unwrap();
    opened.storage.db.put(keys::FORMAT, 2_u32.to_be_bytes()).unwrap();
    drop(opened);
    assert!(refusal(dir.path()).contains("has format 2; this program knows format 1"));
}

#[test]
fn other_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    assert!(refusal(dir.path()).contains("a directory of its own"));

    let dir = tempfile::tempdir().unwrap();
    let db = DB::open_default(dir.path()).unwrap();
    db.put("a key", "of something else").unwrap();
    drop(db);
    assert!(refusal(dir.path()).contains("of something else"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refusal(&file).contains("cannot be the data directory"));
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(DB::open_default(dir.path()).unwrap());
    assert!(open(dir.path(), 1, 16).is_ok());
}

#[test]
fn broken_progress_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), 1, 16).unwrap();
    opened.storage.db.put(keys::PROGRESS, b"\x01short").unwrap();
    drop(opened);
    assert!(matches!(open(dir.path(), 1, 16), Err(Error::CorruptStore(_))));
}

/// Else a crash could bring back a time when it could still be read.
#[test]
fn a_version_is_dropped_only_once_what_gave_it_up_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { storage, .. } = open(dir.path(), 1, 16).unwrap();
    let mut progress = Progress::start(16);
    let mut write = |txn: u64, oldest: u64| {
        let mut batch = Batch::new(&storage, 1024);
        batch.put_version(b"document", TxnId(txn), FORGOTTEN);
        progress.next = TxnId(txn + 1);
        progress.oldest_readable = TxnId(oldest);
        batch.write(&progress, Err).unwrap();
    };
    (0..5).for_each(|txn| write(txn, 0));
    storage.flush().unwrap();
    write(5, 4);
    let versions = || {
        storage.compact_for_test();
        storage.versions_for_test(b"document").into_iter().map(|txn| txn.0).collect::<Vec<_>>()
    };
    assert_eq!(versions(), [5, 4, 3, 2, 1, 0]);
    storage.flush().unwrap();
    assert_eq!(versions(), [5, 4]);
}
