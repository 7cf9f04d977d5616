//! What is refused as a data directory, and helpers of other tests.

use std::ops::Range;
use std::path::Path;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::{Intervals, SliceCount};
use rocksdb::DB;
use uuid::Uuid;

use super::engine::{Family, Scope, is_in_haste};
use super::{
    Batch, FORGOTTEN, Opened, Progress, STATE_PREFIX, Storage, StoreOptions, in_haste, keys,
};
use crate::error::Error;
use crate::log::Log;

impl Storage {
    /// Writes a key as nothing else would, and makes it durable.
    fn put_for_test(&self, family: Family, key: &[u8], value: &[u8]) {
        let mut writes = self.engine.writes(64);
        writes.put(family, key, value);
        self.engine.write(writes).unwrap();
        self.engine.flush().unwrap();
    }

    /// The versions of a document, newest first.
    pub(crate) fn versions_for_test(&self, id: &[u8]) -> Vec<TxnId> {
        let mut found = self.engine.cursor(Family::Versions, Scope::Prefix);
        let mut versions = Vec::new();
        found.seek(keys::version_key(id, TxnId(u64::MAX)));
        while let Some((key, _)) = found.item() {
            versions.push(keys::split_version_key(key).unwrap().1);
            found.next();
        }
        versions
    }

    /// Makes the newest version of a document one that does not decode; or takes it away again.
    pub(crate) fn spoil_for_test(&self, id: &[u8], spoil: bool) {
        let key = keys::version_key(id, TxnId(u64::MAX));
        let mut writes = self.engine.writes(64);
        match spoil {
            true => writes.put(Family::Versions, key, b"spoilt"),
            false => writes.delete(Family::Versions, key),
        }
        self.engine.write(writes).unwrap();
    }

    /// Makes the store one of the first format.
    pub(crate) fn without_list_for_test(&self) {
        let mut writes = self.engine.writes(64);
        let Range { start, end } = keys::tombstones(Hlc(u64::MAX));
        writes.delete_range(Family::Default, &start, &end);
        writes.put(Family::Default, keys::FORMAT, 1_u32.to_be_bytes());
        self.engine.write(writes).unwrap();
        self.engine.flush().unwrap();
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
    opened.storage.put_for_test(Family::Default, keys::FORMAT, &4_u32.to_be_bytes());
    drop(opened);
    assert!(refusal(dir.path()).contains("has format 4; this program knows format 3"));
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
    opened.storage.put_for_test(Family::Default, keys::PROGRESS, b"\x01short");
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
        storage.compact();
        storage.versions_for_test(b"document").into_iter().map(|txn| txn.0).collect::<Vec<_>>()
    };
    assert_eq!(versions(), [5, 4, 3, 2, 1, 0]);
    storage.flush().unwrap();
    assert_eq!(versions(), [5, 4]);
}

#[test]
fn in_haste_only_what_is_in_memory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let read = |storage: &Storage| storage.document(b"document", TxnId(9), |txn, _| Ok(txn));
    {
        let Opened { storage, .. } = open(dir.path(), 1, 16).unwrap();
        let mut batch = Batch::new(&storage, 1024);
        batch.put_version(b"document", TxnId(1), &[STATE_PREFIX, b"state"].concat());
        batch.write(&Progress::start(16), Err).unwrap();
        assert_eq!(in_haste(|| read(&storage)).unwrap(), Some(TxnId(1)), "it was just written");
        let large = |storage: &Storage| storage.document(b"large", TxnId(9), |txn, _| Ok(txn));
        let mut batch = Batch::new(&storage, 1024);
        batch.put_version(b"large", TxnId(1), &[STATE_PREFIX, &vec![b'x'; 100_000]].concat());
        batch.write(&Progress::start(16), Err).unwrap();
        assert!(in_haste(|| large(&storage)).unwrap_err().is_of_haste(), "it is large");
        assert_eq!(large(&storage).unwrap(), Some(TxnId(1)));
        storage.flush().unwrap();
    }
    let Opened { storage, .. } = open(dir.path(), 1, 16).unwrap();
    let error = in_haste(|| read(&storage)).unwrap_err();
    assert!(error.is_of_haste(), "{error}");
    assert_eq!(read(&storage).unwrap(), Some(TxnId(1)), "there is no haste any more");
    assert_eq!(in_haste(|| read(&storage)).unwrap(), Some(TxnId(1)), "by now it is in memory");
    let haste = std::panic::catch_unwind(|| in_haste(|| panic!("within")));
    assert!(haste.is_err());
    assert!(!is_in_haste(), "it is over, whatever came of it");
}
