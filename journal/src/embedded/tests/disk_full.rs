//! A full disk: `/dev/full`, which gives the real error, in place of the log's next WAL files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

/// How many of the next files are put onto the full disk.
const FILES: u64 = 60;

fn small_buffers(path: &Path) -> EmbeddedConfig {
    EmbeddedConfig { sync: true, write_buffer_bytes: 64 << 10, ..config(path, &Clock::default()) }
}

/// Fills the disk for files that are yet to be made; returns what frees it.
fn fill(log: &Path) -> Vec<PathBuf> {
    let number = |name: &str| -> Option<u64> { name.split_once('.')?.0.parse().ok() };
    let last = fs::read_dir(log)
        .unwrap()
        .filter_map(|entry| number(entry.unwrap().file_name().to_str()?))
        .max()
        .unwrap();
    let links = (last + 1..last + FILES).map(|number| log.join(format!("{number:06}.log")));
    let links: Vec<_> = links.collect();
    for link in &links {
        symlink("/dev/full", link).unwrap();
    }
    links
}

/// Writes until the disk is full; returns what was acknowledged.
fn write_until_full(
    writer: &mut dyn Writer,
    at: &TopicPartition,
    texts: impl Iterator<Item = String>,
) -> (Vec<String>, Error) {
    let mut acknowledged = Vec::new();
    for text in texts {
        match write(writer, at, &text) {
            Ok(_) => acknowledged.push(text),
            Err(error) => return (acknowledged, error),
        }
    }
    panic!("the disk never was full");
}

#[test]
fn a_full_disk_loses_nothing_and_ends_when_space_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = EmbeddedJournal::open(small_buffers(dir.path())).unwrap();
    let at = kept(&journal);
    let links = fill(&dir.path().join("log"));
    let padding = "x".repeat(1000);
    let mut numbers = (0..10_000).map(|number| format!("{number} {padding}"));

    let mut first = writer(&journal, "w");
    let (mut acknowledged, error) = write_until_full(first.as_mut(), &at, &mut numbers);
    let text = error.to_string();
    assert!(matches!(error, Error::DiskFull(_)), "{error:?}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    // What was refused is not there, and what is there can be read meanwhile.
    assert!(!acknowledged.is_empty());
    assert_eq!(texts(&journal, &at), acknowledged);

    for link in links {
        // Some were never opened; RocksDB removed others.
        let _ = fs::remove_file(link);
    }
    // RocksDB looks for space every 5 seconds.
    let deadline = Instant::now() + PATIENCE;
    let last = numbers.next().unwrap();
    let mut waiting = reader(&journal, &at, ReadFrom::End);
    loop {
        assert!(waiting.poll(Duration::from_millis(50)).unwrap().is_empty());
        match write(writer(&journal, "w").as_mut(), &at, &last) {
            Ok(_) => break,
            Err(Error::DiskFull(_)) => assert!(Instant::now() < deadline, "it never recovered"),
            Err(error) => panic!("{error:?}"),
        }
    }
    acknowledged.push(last);
    assert_eq!(texts(&journal, &at), acknowledged);

    drop((first, waiting, journal));
    let journal = EmbeddedJournal::open(small_buffers(dir.path())).unwrap();
    assert_eq!(texts(&journal, &at), acknowledged);
}
