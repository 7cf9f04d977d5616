//! The ends of partitions: transactions that take too long, holes, ages, keys.

use std::time::Instant;

use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[test]
fn a_stuck_writer_does_not_hide_the_log_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let journal = EmbeddedJournal::open(EmbeddedConfig {
        transaction_timeout: Duration::from_millis(50),
        ..config(dir.path(), &Clock::default())
    })
    .unwrap();
    let at = kept(&journal);
    let mut stuck = writer(&journal, "stuck");
    let mut other = writer(&journal, "other");
    let begun = Instant::now();
    begin(stuck.as_mut(), &at, "stuck").unwrap();
    write(other.as_mut(), &at, "behind it").unwrap();
    // Nobody but the reader is there to notice.
    let seen = reader(&journal, &at, ReadFrom::Start).poll(PATIENCE).unwrap();
    assert_eq!(seen[0].value.as_deref(), Some(&b"behind it"[..]));
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let late = stuck.append(record(&at, "k", None)).and_then(|()| stuck.commit());
    assert!(matches!(late, Err(Error::Aborted(_))), "{late:?}");
    drop(stuck);
    assert_eq!(texts(&journal, &at), ["behind it"]);
}

#[test]
fn an_end_that_was_shown_is_not_written_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let at = kept(&journal);
    let mut aborted = writer(&journal, "w");
    begin(aborted.as_mut(), &at, "aborted").unwrap();
    aborted.abort().unwrap();
    let mut following = reader(&journal, &at, ReadFrom::Start);
    assert!(following.poll(Duration::ZERO).unwrap().is_empty());
    let position = following.position(&at).unwrap();
    assert_eq!(position, journal.bounds(&at).unwrap().end);
    drop((aborted, following, journal));

    let journal = open(dir.path());
    let offset = write(writer(&journal, "w").as_mut(), &at, "next").unwrap();
    assert!(offset >= position, "a reader at {position} would miss the record at {offset}");
    let mut following = reader(&journal, &at, ReadFrom::Offset(position));
    assert_eq!(following.poll(PATIENCE).unwrap().len(), 1);
}

#[test]
fn offsets_that_nobody_saw_are_given_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let at = kept(&journal);
    write(writer(&journal, "w").as_mut(), &at, "first").unwrap();
    let mut open_one = writer(&journal, "w");
    let offset = begin(open_one.as_mut(), &at, "open").unwrap();
    drop((open_one, journal));

    let journal = open(dir.path());
    assert_eq!(write(writer(&journal, "w").as_mut(), &at, "second").unwrap(), offset);
    assert_eq!(texts(&journal, &at), ["first", "second"]);
}

#[test]
fn a_reader_of_another_log_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let at = kept(&journal);
    let refused = journal.reader(&[(at, ReadFrom::Offset(Offset(7)))]).map(|_| ());
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
}

#[test]
fn old_records_go_and_readers_of_them_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    let at = topic(&journal, "aged", Cleanup::Delete { retention_ms: Some(DAY_MS) });
    let mut writer = writer(&journal, "w");
    for (number, at_ms) in [(0, 0), (1, 10), (2, DAY_MS), (3, DAY_MS + 10)] {
        clock.set(at_ms);
        write(writer.as_mut(), &at, &format!("{number}")).unwrap();
    }
    let mut behind = reader(&journal, &at, ReadFrom::Start);
    journal.shared.retain().unwrap();
    assert_eq!(texts(&journal, &at), ["1", "2", "3"], "what is exactly a day old is kept");
    let told = behind.poll(Duration::ZERO);
    assert!(
        matches!(told, Err(Error::Trimmed { wanted: Offset(0), start: Offset(1), .. })),
        "{told:?}"
    );
    clock.set(10 * DAY_MS);
    journal.shared.retain().unwrap();
    assert_eq!(texts(&journal, &at), [""; 0]);
    let bounds = journal.bounds(&at).unwrap();
    drop((writer, behind, journal));

    let journal = open(dir.path());
    assert_eq!(journal.bounds(&at).unwrap(), bounds, "an empty partition keeps its ends");
}

#[test]
fn old_records_go_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    let at = topic(&journal, "aged", Cleanup::Delete { retention_ms: Some(DAY_MS) });
    write(writer(&journal, "w").as_mut(), &at, "old").unwrap();
    drop(journal);
    clock.set(2 * DAY_MS);
    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    assert_eq!(texts(&journal, &at), [""; 0]);
}

#[test]
fn a_compacted_topic_keeps_the_newest_of_each_key_through_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    let at = topic(&journal, "compacted", Cleanup::Compact);
    let mut first = writer(&journal, "w");
    put(first.as_mut(), &at, "a", Some("a1"));
    put(first.as_mut(), &at, "b", Some("b1"));
    put(first.as_mut(), &at, "a", Some("a2"));
    drop((first, journal));

    // The record that was superseded last is deleted with a write after the restart.
    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    let mut second = writer(&journal, "w");
    put(second.as_mut(), &at, "c", Some("c1"));
    assert_eq!(texts(&journal, &at), ["b1", "a2", "c1"]);
    put(second.as_mut(), &at, "b", None);
    put(second.as_mut(), &at, "d", Some("d1"));
    assert_eq!(texts(&journal, &at), ["a2", "c1", "(removed)", "d1"]);
    clock.set(3 * DAY_MS);
    journal.shared.retain().unwrap();
    put(second.as_mut(), &at, "d", Some("d2"));
    assert_eq!(texts(&journal, &at), ["a2", "c1", "d1", "d2"]);
    drop((second, journal));

    let journal = EmbeddedJournal::open(config(dir.path(), &clock)).unwrap();
    let mut third = writer(&journal, "w");
    put(third.as_mut(), &at, "d", None);
    put(third.as_mut(), &at, "a", None);
    assert_eq!(texts(&journal, &at), ["a2", "c1", "(removed)", "(removed)"]);
}
