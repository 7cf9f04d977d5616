//! Fencing: of the writers of one transactional id only the newest writes (IN-4).

use super::Harness;
use super::support::{Bench, must, unique};
use crate::error::Error;
use crate::log::{Offset, TransactionalId, Writer};

fn id() -> TransactionalId {
    TransactionalId::from(unique("fenced"))
}

fn assert_fenced(result: Result<(), Error>, id: &TransactionalId, what: &str) {
    match result {
        Err(Error::Fenced(fenced)) => assert_eq!(fenced, *id, "the wrong id was fenced"),
        other => panic!("{what} gave {other:?} and not Fenced"),
    }
}

/// The newer writer goes on, and only what it wrote is there.
fn assert_only(bench: &Bench, newer: &mut dyn Writer, before: &[&str]) {
    let offset = bench.commit(newer, 0, &["newer"])[0];
    bench.wait_visible(0, offset);
    let mut wanted = before.to_vec();
    wanted.push("newer");
    assert_eq!(bench.texts(0), wanted, "a fenced writer's record was returned");
}

/// What the older writer left open is aborted when the newer one is there, not some time later.
pub fn a_new_writer_aborts_what_the_older_left_open(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let id = id();
    let mut older = bench.writer_of(&id);
    let open = bench.fill(older.as_mut(), 0, &["open"])[0];
    let mut newer = bench.writer_of(&id);
    let bounds = must(bench.journal.bounds(&bench.at(0)), "bounds");
    assert!(bounds.end > open, "the open transaction still holds readers up: {bounds:?}");
    assert_only(&bench, newer.as_mut(), &[]);
}

/// A writer that was fenced cannot add records to its transaction.
pub fn a_zombie_cannot_append(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let id = id();
    let mut zombie = bench.writer_of(&id);
    bench.fill(zombie.as_mut(), 0, &["before"]);
    let mut newer = bench.writer_of(&id);
    let appended = zombie
        .append(bench.record(0, "after"))
        .and_then(|()| zombie.flush().map(|_: Vec<Offset>| ()));
    assert_fenced(appended, &id, "appending by a fenced writer");
    let committed = zombie.commit();
    assert!(committed.is_err(), "a fenced writer committed");
    assert_only(&bench, newer.as_mut(), &[]);
}

/// A writer that was fenced cannot commit what it had flushed.
pub fn a_zombie_cannot_commit(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let id = id();
    let mut zombie = bench.writer_of(&id);
    bench.commit(zombie.as_mut(), 0, &["done"]);
    bench.fill(zombie.as_mut(), 0, &["open"]);
    let mut newer = bench.writer_of(&id);
    match zombie.commit() {
        // On a bad network the answer to a commit may be lost, and the second answer not say
        // whether the first attempt succeeded.
        Err(Error::Unknown(_)) => {}
        committed => assert_fenced(committed, &id, "a commit by a fenced writer"),
    }
    assert_only(&bench, newer.as_mut(), &["done"]);
}

/// A writer that was fenced while it had nothing open finds out in its next transaction, and
/// nothing of that is seen. Its death then does no harm to the newer one.
pub fn an_idle_zombie_cannot_write(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let id = id();
    let mut zombie = bench.writer_of(&id);
    bench.commit(zombie.as_mut(), 0, &["done"]);
    let mut newer = bench.writer_of(&id);
    let written = zombie
        .begin()
        .and_then(|()| zombie.append(bench.record(0, "late")))
        .and_then(|()| zombie.flush())
        .and_then(|_| zombie.commit());
    assert_fenced(written, &id, "a transaction of a fenced writer");
    bench.fill(newer.as_mut(), 0, &["newer, still open"]);
    drop(zombie);
    must(newer.commit(), "commit after the fenced writer was dropped");
    assert_only(&bench, newer.as_mut(), &["done", "newer, still open"]);
}

/// When a writer has been made, everything the older ones of its id committed is within the
/// bounds. So: fence, read to the end, decide, write.
pub fn a_new_writer_sees_all_of_the_older_one(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let id = id();
    for round in 0..10 {
        let mut writer = bench.writer_of(&id);
        let mut count = bench.texts(0).len();
        assert_eq!(count, round * 3, "a new writer does not see all that was committed before it");
        while count < (round + 1) * 3 {
            bench.commit(writer.as_mut(), 0, &["one more"]);
            count += 1;
        }
    }
}
