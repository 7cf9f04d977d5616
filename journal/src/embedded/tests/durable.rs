//! IN-1 on the disk: `kill -9` leaves what the kernel has, and only a loss of power would show that
//! it was not synced. So the syncs are counted.

use super::*;

#[test]
fn every_commit_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { sync: true, ..config(dir.path(), &Clock::default()) };
    let journal = EmbeddedJournal::open(config).unwrap();
    let at = kept(&journal);
    let mut writer = writer(&journal, "w");
    let before = journal.shared.store.wal_syncs();
    for number in 0..10 {
        write(writer.as_mut(), &at, &number.to_string()).unwrap();
    }
    assert!(journal.shared.store.wal_syncs() >= before + 10);
}
