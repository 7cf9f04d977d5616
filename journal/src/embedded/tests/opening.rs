//! Directories that are no log, or no longer one.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::DB;

use super::*;
use crate::embedded::layout::FORMAT_KEY;

fn refusal(path: &Path) -> Error {
    let config = config(path, &Clock::default());
    EmbeddedJournal::open(config).expect_err("this must not open")
}

fn assert_invalid(path: &Path, reason: &str) {
    let error = refusal(path);
    let text = error.to_string();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(text.contains(reason), "'{text}' does not say '{reason}'");
    assert!(text.contains(path.to_str().unwrap()), "'{text}' does not name the directory");
}

#[test]
fn a_log_is_opened_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    assert_invalid(dir.path(), "in use by another process");
    let writer = writer(&journal, "w");
    drop(journal);
    assert_invalid(dir.path(), "in use by another process");
    drop(writer);
    open(dir.path());
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::create_dir(&log).unwrap();
    fs::write(log.join("thesis.txt"), "do not touch").unwrap();
    assert_invalid(dir.path(), "thesis.txt");
    assert_eq!(fs::read_dir(&log).unwrap().count(), 1);
}

#[test]
fn a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), "a file").unwrap();
    assert_invalid(dir.path(), "Not a directory");
}

#[test]
fn another_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let database = DB::open_default(dir.path().join("log")).unwrap();
    database.put(b"somebody", b"else").unwrap();
    drop(database);
    assert_invalid(dir.path(), "database of something else");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let database = DB::open_default(dir.path().join("log")).unwrap();
    database.put(FORMAT_KEY, 77_u32.to_be_bytes()).unwrap();
    drop(database);
    assert_invalid(dir.path(), "format 77");
}

fn files(path: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.join("log")).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.to_str().unwrap().ends_with(ending))
        .filter(|file| file.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

/// A log with 200 records, closed.
fn written(path: &Path) {
    let journal = open(path);
    let at = kept(&journal);
    let mut writer = writer(&journal, "w");
    for number in 0..200 {
        write(writer.as_mut(), &at, &format!("record {number}")).unwrap();
    }
}

#[test]
fn damage_in_the_middle_is_corruption_and_not_an_earlier_end() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let wal = files(dir.path(), ".log").pop().expect("records are in the WAL");
    let mut bytes = fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&wal, bytes).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
}

#[test]
fn a_torn_end_is_no_corruption() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let wal = files(dir.path(), ".log").pop().expect("records are in the WAL");
    let bytes = fs::read(&wal).unwrap();
    fs::write(&wal, &bytes[..bytes.len() - 5]).unwrap();
    let journal = open(dir.path());
    let at = TopicPartition::new("kept", 0);
    assert_eq!(texts(&journal, &at).len(), 199);
}

#[test]
fn a_missing_file_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    // Opening and closing moves the records out of the WAL.
    drop(open(dir.path()));
    for file in files(dir.path(), ".sst") {
        fs::remove_file(file).unwrap();
    }
    let error = refusal(dir.path());
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
}
