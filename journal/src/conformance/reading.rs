//! Reading: order, holes, positions, trimming.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::Harness;
use super::support::{Bench, by_partition, must, read, read_to_end, text, wait};
use crate::error::Error;
use crate::log::{Cleanup, NewRecord, Offset, ReadFrom};

/// Keys, values and their absence come back as they were written, with the time of the append.
pub fn records_are_returned_as_written(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let written = [
        (Bytes::from_static(b"key"), Some(Bytes::from_static(b"value"))),
        (Bytes::from_static(b"\0\xff"), Some(Bytes::from((0..=255).collect::<Vec<u8>>()))),
        (Bytes::from_static(b"removed"), None),
        (Bytes::from_static(b"empty"), Some(Bytes::new())),
    ];
    let before = now_ms();
    must(writer.begin(), "begin");
    for (key, value) in written.clone() {
        must(writer.append(NewRecord { at: bench.at(0), key, value }), "append");
    }
    must(writer.commit(), "commit without a flush of one's own");
    let records = read(bench.reader().as_mut(), written.len());
    for (record, (key, value)) in records.iter().zip(written) {
        assert_eq!((&record.key, &record.value), (&key, &value), "a record was changed");
        // Two clocks may be compared here, so there is some room.
        let range = before.saturating_sub(60_000)..=now_ms() + 60_000;
        assert!(range.contains(&record.timestamp_ms), "timestamp {} is off", record.timestamp_ms);
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Within a partition records come in the order they were appended, with rising offsets, also to a
/// reader that was there before them.
pub fn order_is_kept_within_a_partition(harness: &impl Harness) {
    const PARTITIONS: u16 = 3;
    const ROUNDS: usize = 20;
    const EACH: usize = 7;
    let bench = Bench::new(harness, PARTITIONS);
    let mut reader = bench.reader();
    let mut writer = bench.writer();
    for round in 0..ROUNDS {
        must(writer.begin(), "begin");
        for number in 0..EACH {
            for partition in 0..PARTITIONS {
                let name = format!("{round}/{number}");
                must(writer.append(bench.record(partition, &name)), "append");
            }
        }
        must(writer.commit(), "commit");
    }
    let records = read(reader.as_mut(), usize::from(PARTITIONS) * ROUNDS * EACH);
    let wanted: Vec<_> = (0..ROUNDS)
        .flat_map(|round| (0..EACH).map(move |number| format!("{round}/{number}")))
        .collect();
    for (at, seen) in by_partition(&records) {
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets of {at} do not rise");
        let seen: Vec<_> = seen.into_iter().map(|(_, text)| text).collect();
        assert_eq!(seen, wanted, "the order of {at} was not kept");
    }
}

/// What was committed after the first record of an open transaction is not returned, and the
/// bounds do not include it, until that transaction ends; but it is written.
pub fn an_open_transaction_hides_what_follows(harness: &impl Harness) {
    let bench = Bench::new(harness, 2);
    let (mut first, mut second) = (bench.writer(), bench.writer());
    let mut reader = bench.reader();
    let open = bench.fill(first.as_mut(), 0, &["first"])[0];
    must(second.begin(), "begin");
    must(second.append(bench.record(0, "second")), "append");
    must(second.append(bench.record(1, "elsewhere")), "append");
    must(second.commit(), "commit");
    // The second transaction is visible where nothing is open, so it is done.
    let seen = read(reader.as_mut(), 1);
    assert_eq!(text(&seen[0]), "elsewhere", "a record past an open transaction was returned");
    let bounds = must(bench.journal.bounds(&bench.at(0)), "bounds");
    assert_eq!(bounds.end, open, "the bounds go past the start of an open transaction");
    assert!(bench.texts(0).is_empty(), "a record past an open transaction was returned");
    let written = must(bench.journal.written(&bench.at(0)), "how far it is written");
    must(first.commit(), "commit");
    let seen = read(reader.as_mut(), 2);
    assert!(seen[1].offset < written, "what was committed is not below {written}");
    let seen: Vec<_> = seen.iter().map(text).collect();
    assert_eq!(seen, ["first", "second"]);
}

/// From any offset, hole or not, reading goes on with the first record at or after it.
pub fn holes_are_passed(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let mut wanted = Vec::new();
    wanted.extend(bench.commit(writer.as_mut(), 0, &["a"]));
    bench.abort(writer.as_mut(), 0, &["x", "y"]);
    wanted.extend(bench.commit(writer.as_mut(), 0, &["b", "c"]));
    bench.abort(writer.as_mut(), 0, &["z"]);
    wanted.extend(bench.commit(writer.as_mut(), 0, &["d"]));
    let last = wanted[wanted.len() - 1];
    bench.wait_visible(0, last);
    for from in 0..=last.0 {
        let mut reader = bench.reader_from(0, ReadFrom::Offset(Offset(from)));
        let seen = read_to_end(bench.journal.as_ref(), reader.as_mut(), &[bench.at(0)]);
        let seen: Vec<_> = seen.iter().map(|record| record.offset).collect();
        let after: Vec<_> = wanted.iter().copied().filter(|offset| offset.0 >= from).collect();
        assert_eq!(seen, after, "reading from offset {from} gave other records");
    }
}

/// A position reaches the end of the log when all records below were returned, although nothing
/// but holes lies between the last record and the end; it is never past a record not yet returned.
pub fn a_position_reaches_the_end_past_an_aborted_tail(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let mut reader = bench.reader();
    let start = must(bench.journal.bounds(&bench.at(0)), "bounds");
    assert_eq!(reader.position(&bench.at(0)), Some(start.end), "the position in an empty log");
    assert_eq!(reader.position(&bench.at(9)), None, "the position in a partition not read");
    for round in 0..3 {
        let offset = bench.commit(writer.as_mut(), 0, &["kept"])[0];
        let held = reader.position(&bench.at(0));
        assert!(held <= Some(offset), "round {round}: {held:?} is past a record not yet returned");
        assert_eq!(read(reader.as_mut(), 1)[0].offset, offset);
        let passed = reader.position(&bench.at(0));
        assert!(passed > Some(offset), "round {round}: {passed:?} is not past a returned record");
        bench.abort(writer.as_mut(), 0, &["aborted", "aborted too"]);
        let tail = read_to_end(bench.journal.as_ref(), reader.as_mut(), &[bench.at(0)]);
        assert!(tail.is_empty(), "aborted records were returned: {tail:?}");
    }
}

/// A reader starts at the oldest record, at an offset, or after what is visible.
pub fn reading_starts_where_asked(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let old = bench.commit(writer.as_mut(), 0, &["old", "older"]);
    bench.wait_visible(0, old[1]);
    let mut start = bench.reader_from(0, ReadFrom::Start);
    let mut middle = bench.reader_from(0, ReadFrom::Offset(old[1]));
    let mut end = bench.reader_from(0, ReadFrom::End);
    let bounds = must(bench.journal.bounds(&bench.at(0)), "bounds");
    assert_eq!(start.position(&bench.at(0)), Some(bounds.start));
    assert_eq!(middle.position(&bench.at(0)), Some(old[1]));
    assert!(end.position(&bench.at(0)) > Some(old[1]), "End is at or below an old record");
    bench.commit(writer.as_mut(), 0, &["new"]);
    let texts = |records: Vec<_>| records.iter().map(text).collect::<Vec<_>>();
    assert_eq!(texts(read(start.as_mut(), 3)), ["old", "older", "new"]);
    assert_eq!(texts(read(middle.as_mut(), 2)), ["older", "new"]);
    assert_eq!(texts(read(end.as_mut(), 1)), ["new"]);
}

/// What was trimmed is gone, and a reader below the start is told where the log starts now.
pub fn trimming_is_reported(harness: &impl Harness) {
    let bench = Bench::new(harness, 2);
    let mut writer = bench.writer();
    let offsets = bench.commit(writer.as_mut(), 0, &["0", "1", "2", "3", "4"]);
    bench.wait_visible(0, offsets[4]);
    let at = bench.at(0);
    must(bench.journal.trim(&at, offsets[3]), "trim");
    must(bench.journal.trim(&at, offsets[1]), "trim below the start, which does nothing");
    let bounds = must(bench.journal.bounds(&at), "bounds");
    assert_eq!(bounds.start, offsets[3], "the start after trimming");
    assert_eq!(bench.texts(0), ["3", "4"], "reading from the start after trimming");
    let refused = match bench.journal.reader(&[(at.clone(), ReadFrom::Offset(offsets[0]))]) {
        Err(error) => error,
        Ok(mut reader) => {
            let mut refused = None;
            wait("a reader below the start is told", || {
                refused = reader.poll(std::time::Duration::from_millis(50)).err();
                refused.is_some()
            });
            let again = reader.poll(std::time::Duration::from_millis(50));
            assert!(again.is_err(), "a reader below the start went on with {again:?}");
            refused.expect("the loop ends with an error")
        }
    };
    match refused {
        Error::Trimmed { at: told, wanted, start } => {
            assert_eq!((told, wanted, start), (at, offsets[0], offsets[3]));
        }
        other => panic!("reading below the start gave {other:?} and not Trimmed"),
    }
    let next = bench.commit(writer.as_mut(), 0, &["5"])[0];
    bench.wait_visible(0, next);
    assert_eq!(bench.texts(0), ["3", "4", "5"], "writing after trimming");
}

/// A compacted topic keeps at least the newest record of each key, at its offset.
pub fn a_compacted_topic_keeps_the_newest_of_each_key(harness: &impl Harness) {
    const KEYS: usize = 5;
    let bench = Bench::with_cleanup(harness, 1, Cleanup::Compact);
    let mut writer = bench.writer();
    let mut newest = vec![Offset(0); KEYS];
    for round in 0..20 {
        must(writer.begin(), "begin");
        for key in 0..KEYS {
            let value = (round + key != 19).then(|| Bytes::from(round.to_string()));
            let key = Bytes::from(key.to_string());
            must(writer.append(NewRecord { at: bench.at(0), key, value }), "append");
        }
        newest = must(writer.flush(), "flush");
        must(writer.commit(), "commit");
    }
    bench.wait_visible(0, newest[KEYS - 1]);
    let mut reader = bench.reader();
    let records = read_to_end(bench.journal.as_ref(), reader.as_mut(), &bench.all());
    for (key, offset) in newest.into_iter().enumerate() {
        let last = records.iter().rfind(|record| record.key == key.to_string());
        let last = last.map(|record| (record.offset, record.value.clone()));
        let value = (key != 0).then(|| Bytes::from_static(b"19"));
        // A record without value may itself be gone once nothing is left for it to remove.
        assert!(
            last == Some((offset, value.clone())) || (value.is_none() && last.is_none()),
            "key {key} should have its newest record at {offset}: {last:?}"
        );
    }
}
