//! Transactions: whole or not at all (IN-2), refused records, offsets.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Harness;
use super::support::{
    Bench, RECORD_LIMIT, Random, by_partition, must, read, read_to_end, record, text, unique,
};
use crate::error::Error;
use crate::log::{Cleanup, NewRecord, ReadFrom, TopicPartition, TransactionalId, Writer};

/// Transactions that commit are in all their partitions, those that do not are in none.
pub fn a_transaction_is_visible_in_all_partitions_or_none(harness: &impl Harness) {
    const PARTITIONS: u16 = 5;
    let bench = Bench::new(harness, PARTITIONS);
    let mut writer = bench.writer();
    let mut random = Random::new(1);
    let mut committed = Vec::new();
    for number in 0..40 {
        let name = format!("t{number}");
        must(writer.begin(), "begin");
        for partition in 0..PARTITIONS {
            must(writer.append(bench.record(partition, &name)), "append");
        }
        must(writer.flush(), "flush");
        if random.below(3) == 0 {
            must(writer.abort(), "abort");
        } else {
            must(writer.commit(), "commit");
            committed.push(name);
        }
    }
    let mut reader = bench.reader();
    read_last(&bench, writer.as_mut());
    let records = read_to_end(bench.journal.as_ref(), reader.as_mut(), &bench.all());
    let sorted = by_partition(&records);
    for at in bench.all() {
        let seen: Vec<_> = sorted[&at].iter().map(|(_, text)| text.clone()).collect();
        let seen: Vec<_> = seen.into_iter().filter(|text| text != "last").collect();
        assert_eq!(seen, committed, "{at} does not hold exactly the committed transactions");
    }
}

/// Commits one more record to each partition and waits until it is visible, which everything
/// before it then is too.
fn read_last(bench: &Bench, writer: &mut dyn Writer) {
    must(writer.begin(), "begin");
    let partitions = bench.all();
    for at in &partitions {
        must(writer.append(record(at.clone(), "last")), "append");
    }
    let offsets = must(writer.flush(), "flush");
    must(writer.commit(), "commit");
    for (at, offset) in partitions.iter().zip(offsets) {
        bench.wait_visible(at.partition.0, offset);
    }
}

/// Aborted records are never returned, whether they were flushed or not.
pub fn an_aborted_transaction_is_invisible(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    bench.abort(writer.as_mut(), 0, &["flushed"]);
    must(writer.begin(), "begin");
    must(writer.append(bench.record(0, "not flushed")), "append");
    must(writer.abort(), "abort");
    let offset = bench.commit(writer.as_mut(), 0, &["committed"])[0];
    bench.wait_visible(0, offset);
    assert_eq!(bench.texts(0), ["committed"], "an aborted record was returned");
}

/// A flushed record is not returned until its transaction commits.
pub fn nothing_is_visible_before_the_commit(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let mut reader = bench.reader_from(0, ReadFrom::Start);
    let offset = bench.fill(writer.as_mut(), 0, &["open"])[0];
    let bounds = must(bench.journal.bounds(&bench.at(0)), "bounds");
    assert!(bounds.end <= offset, "the bounds include a record that is not committed: {bounds:?}");
    assert!(bench.texts(0).is_empty(), "a record was returned before its commit");
    must(writer.commit(), "commit");
    assert_eq!(text(&read(reader.as_mut(), 1)[0]), "open");
}

/// Dropping a writer aborts its open transaction at once: later records are not held up.
pub fn a_dropped_writer_aborts(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    bench.fill(writer.as_mut(), 0, &["dropped"]);
    drop(writer);
    let offset = bench.commit(bench.writer().as_mut(), 0, &["after"])[0];
    bench.wait_visible(0, offset);
    assert_eq!(bench.texts(0), ["after"], "a dropped writer's record was returned");
}

/// A transaction without records can be committed and aborted, and nothing comes of it.
pub fn an_empty_transaction_commits_and_aborts(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    must(writer.begin(), "begin");
    assert_eq!(must(writer.flush(), "flush of nothing"), [], "offsets of no records");
    must(writer.commit(), "commit of nothing");
    must(writer.begin(), "begin");
    must(writer.abort(), "abort of nothing");
    let offset = bench.commit(writer.as_mut(), 0, &["something"])[0];
    bench.wait_visible(0, offset);
    assert_eq!(bench.texts(0), ["something"]);
}

/// Calls that make no sense are refused and do no harm.
pub fn a_transaction_needs_a_begin(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    let refused = [
        ("append", writer.append(bench.record(0, "stray"))),
        ("flush", writer.flush().map(|_| ())),
        ("commit", writer.commit()),
        ("abort", writer.abort()),
    ];
    for (call, result) in refused {
        assert!(
            matches!(result, Err(Error::Invalid(_))),
            "{call} without begin gave {result:?} and not Invalid"
        );
    }
    must(writer.begin(), "begin");
    let again = writer.begin();
    assert!(matches!(again, Err(Error::Invalid(_))), "a second begin gave {again:?}");
    must(writer.append(bench.record(0, "kept")), "append");
    let offset = must(writer.flush(), "flush")[0];
    must(writer.commit(), "commit");
    bench.wait_visible(0, offset);
    assert_eq!(bench.texts(0), ["kept"]);
}

/// The offsets that flush gives, in the order of appending, are those of the records.
pub fn flush_gives_the_offsets_readers_see(harness: &impl Harness) {
    const PARTITIONS: u16 = 3;
    let bench = Bench::new(harness, PARTITIONS);
    let mut writer = bench.writer();
    let mut random = Random::new(2);
    let mut told = Vec::new();
    for transaction in 0..10 {
        must(writer.begin(), "begin");
        for flush in 0..3 {
            let mut appended = Vec::new();
            for number in 0..random.below(20) {
                let partition = u16::try_from(random.below(PARTITIONS.into())).unwrap_or_default();
                let name = format!("{transaction}/{flush}/{number}");
                must(writer.append(bench.record(partition, &name)), "append");
                appended.push((bench.at(partition), name));
            }
            let offsets = must(writer.flush(), "flush");
            assert_eq!(offsets.len(), appended.len(), "flush gives one offset for each record");
            told.extend(appended.into_iter().zip(offsets));
        }
        must(writer.commit(), "commit");
    }
    read_last(&bench, writer.as_mut());
    let mut reader = bench.reader();
    let records = read_to_end(bench.journal.as_ref(), reader.as_mut(), &bench.all());
    let seen: BTreeSet<_> = records
        .iter()
        .map(|record| (record.at.clone(), text(record), record.offset))
        .filter(|(_, text, _)| text != "last")
        .collect();
    let told: BTreeSet<_> =
        told.into_iter().map(|((at, name), offset)| (at, name, offset)).collect();
    assert_eq!(seen, told, "readers see other offsets than flush gave");
}

/// Writers of different ids may write to one partition at once: nothing is lost or doubled, and
/// the order of each is kept.
pub fn concurrent_writers_share_a_partition(harness: &impl Harness) {
    const WRITERS: usize = 4;
    const TRANSACTIONS: usize = 25;
    let bench = Bench::new(harness, 1);
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let (bench, mut writer) = (&bench, bench.writer());
            scope.spawn(move || {
                for transaction in 0..TRANSACTIONS {
                    let name = format!("{number}/{transaction}");
                    bench.commit(writer.as_mut(), 0, &[&name, &name]);
                }
            });
        }
    });
    read_last(&bench, bench.writer().as_mut());
    let texts = bench.texts(0);
    assert_eq!(texts.len(), WRITERS * TRANSACTIONS * 2 + 1, "records were lost or doubled");
    for number in 0..WRITERS {
        let prefix = format!("{number}/");
        let seen: Vec<_> = texts.iter().filter(|text| text.starts_with(&prefix)).cloned().collect();
        let wanted: Vec<_> = (0..TRANSACTIONS)
            .flat_map(|transaction| vec![format!("{number}/{transaction}"); 2])
            .collect();
        assert_eq!(seen, wanted, "the order of writer {number} was not kept");
    }
}

/// A consumer's position, written in the same transaction as its output, is there if and only if
/// the output is (IN-3): a consumer that starts from it neither repeats nor leaves out anything.
pub fn a_position_commits_with_the_output(harness: &impl Harness) {
    const INPUTS: usize = 30;
    let bench = Bench::new(harness, 2);
    let cursors = bench.sibling(1, Cleanup::Compact);
    let id = TransactionalId::from(unique("consumer"));
    let mut random = Random::new(3);
    let mut source = bench.writer();
    let inputs: Vec<_> = (0..INPUTS).map(|number| format!("i{number}")).collect();
    let names: Vec<_> = inputs.iter().map(String::as_str).collect();
    let last = bench.commit(source.as_mut(), 0, &names)[INPUTS - 1];
    bench.wait_visible(0, last);
    // Each life of the consumer writes some of the inputs and dies with a transaction open.
    while bench.texts(1).len() < INPUTS {
        let mut writer = bench.writer_of(&id);
        let done: usize =
            cursors.texts(0).last().map_or(0, |text| text.parse().expect("a cursor is a number"));
        assert_eq!(done, bench.texts(1).len(), "the position does not match the output");
        let steps = usize::try_from(random.below(6)).unwrap_or_default();
        for (next, input) in inputs.iter().enumerate().skip(done).take(steps) {
            move_one(&bench, &cursors, writer.as_mut(), next, input);
            must(writer.commit(), "commit");
        }
        let next = INPUTS.min(done + steps);
        move_one(&bench, &cursors, writer.as_mut(), next, "never committed");
    }
    assert_eq!(bench.texts(1), inputs, "an input was repeated, left out or moved");
}

/// Writes an input's output and the position after it, and flushes.
fn move_one(bench: &Bench, cursors: &Bench, writer: &mut dyn Writer, input: usize, output: &str) {
    must(writer.begin(), "begin");
    must(writer.append(bench.record(1, output)), "append");
    let position = NewRecord {
        at: cursors.at(0),
        key: Bytes::from_static(b"consumer"),
        value: Some(Bytes::from((input + 1).to_string())),
    };
    must(writer.append(position), "append");
    must(writer.flush(), "flush");
}

/// A record above its topic's limit is refused, by `append` or `flush`, with both sizes; after an
/// abort the writer goes on.
pub fn a_record_too_large_is_refused_and_the_writer_goes_on(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    must(writer.begin(), "begin");
    must(writer.append(bench.record(0, "small")), "append");
    let value = Some(Bytes::from(vec![7; RECORD_LIMIT]));
    let large = NewRecord { at: bench.at(0), key: Bytes::from_static(b"k"), value };
    let refused = writer.append(large).and_then(|()| writer.flush().map(|_| ()));
    match refused {
        Err(Error::TooLarge { bytes, limit }) => {
            assert_eq!((bytes, limit), (RECORD_LIMIT + 1, RECORD_LIMIT), "the sizes are wrong");
        }
        other => panic!("a record above the limit gave {other:?} and not TooLarge"),
    }
    must(writer.abort(), "abort after a refused record");
    let value = Some(Bytes::from(vec![8; RECORD_LIMIT - 1]));
    must(writer.begin(), "begin after a refused record");
    let largest = NewRecord { at: bench.at(0), key: Bytes::from_static(b"k"), value };
    must(writer.append(largest), "append a record as large as the limit");
    let offset = must(writer.flush(), "flush a record as large as the limit")[0];
    must(writer.commit(), "commit a record as large as the limit");
    bench.wait_visible(0, offset);
    let texts = bench.texts(0);
    assert_eq!(texts.len(), 1, "only the record within the limit was committed");
    assert_eq!(texts[0].len(), RECORD_LIMIT - 1);
}

/// Topics and partitions that do not exist are refused at once by every call, and the writer goes
/// on after an abort.
pub fn an_unknown_topic_is_refused_and_the_writer_goes_on(harness: &impl Harness) {
    let bench = Bench::new(harness, 1);
    let mut writer = bench.writer();
    for at in [TopicPartition::new(unique("nothing").as_str(), 0), bench.at(1)] {
        must(writer.begin(), "begin");
        let written = writer.append(record(at.clone(), "lost")).and_then(|()| writer.flush());
        assert!(matches!(written, Err(Error::UnknownTopic(_))), "writing to {at}: {written:?}");
        must(writer.abort(), "abort after an unknown topic");
        let reader = bench.journal.reader(&[(at.clone(), ReadFrom::Start)]).map(|_| ());
        assert!(matches!(reader, Err(Error::UnknownTopic(_))), "reading {at}: {reader:?}");
        let bounds = bench.journal.bounds(&at);
        assert!(matches!(bounds, Err(Error::UnknownTopic(_))), "bounds of {at}: {bounds:?}");
    }
    let offset = bench.commit(writer.as_mut(), 0, &["known"])[0];
    bench.wait_visible(0, offset);
    assert_eq!(bench.texts(0), ["known"]);
}
