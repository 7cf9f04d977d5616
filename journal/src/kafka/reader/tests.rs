//! What the conformance suite cannot do to a reader.

use anabranch_tests::support::{Broker, wait_until};

use super::*;
use crate::conformance::PATIENCE;
use crate::kafka::{KafkaConfig, KafkaJournal};
use crate::log::{Cleanup, Journal, NewRecord, TopicSpec, TransactionalId, Writer};

/// A journal with a new topic of two partitions.
fn journal(name: &str) -> (KafkaJournal, String) {
    let broker = Broker::shared();
    let config = KafkaConfig::new(broker.address(), "reader");
    let journal = KafkaJournal::connect(config).expect("the settings are right");
    let topic = broker.unique_name(name);
    let spec = TopicSpec {
        name: topic.as_str().into(),
        partitions: 2,
        cleanup: Cleanup::Delete { retention_ms: None },
        max_record_bytes: 1024,
    };
    journal.ensure_topics(&[spec]).expect("a topic");
    (journal, topic)
}

/// Begins a transaction with a record in each of these partitions.
fn begin(writer: &mut dyn Writer, partitions: &[&TopicPartition]) -> Vec<Offset> {
    writer.begin().expect("begin");
    for at in partitions {
        let record = NewRecord { at: (*at).clone(), key: Bytes::from("key"), value: None };
        writer.append(record).expect("append");
    }
    writer.flush().expect("flush")
}

#[test]
fn the_end_of_a_partition_is_read_from_the_event() {
    let text = "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 43)";
    assert_eq!(end_offset(text), Some(Offset(42)));
    assert_eq!(end_offset("something else"), None);
}

/// Between the question where a log starts and the first fetch the log may be trimmed. Whoever
/// asked for the oldest record gets the one that is oldest then.
#[test]
fn a_reader_from_the_start_is_not_stopped_by_a_trim() {
    let (journal, topic) = journal("trimmed");
    let at = TopicPartition::new(topic.as_str(), 0);
    let mut writer = journal.writer(&TransactionalId::from(topic)).expect("a writer");
    let offsets = begin(writer.as_mut(), &[&at, &at]);
    writer.commit().expect("commit");
    wait_until("the records are visible", PATIENCE, || {
        Ok(journal.bounds(&at).expect("bounds").end > offsets[1])
    })
    .expect("it happens in time");
    journal.trim(&at, offsets[1]).expect("trim");
    // As if the start had been asked for before the trim.
    let from = [(at, ReadFrom::Offset(offsets[0]))];
    let mut reader = KafkaReader::open(Arc::clone(&journal.shared), &from).expect("a reader");
    reader.partitions[0].from_start = true;
    let mut read = Vec::new();
    wait_until("the reader goes on", PATIENCE, || {
        read = reader.poll(Duration::from_millis(50)).expect("poll");
        Ok(!read.is_empty())
    })
    .expect("it happens in time");
    assert_eq!(read[0].offset, offsets[1]);
}

/// As if librdkafka had stopped fetching: a partition is paused behind the reader's back.
#[test]
fn a_partition_that_stands_still_is_given_up_and_one_without_news_is_not() {
    let (journal, topic) = journal("stuck");
    let [idle, open] = [0, 1].map(|number| TopicPartition::new(topic.as_str(), number));
    let from = [(idle.clone(), ReadFrom::Start), (open.clone(), ReadFrom::Start)];
    let mut reader = KafkaReader::open(Arc::clone(&journal.shared), &from).expect("a reader");
    let interval = Duration::from_millis(300);
    reader.progress = Progress::new([Offset(0); 2], interval);
    let writer = |name| journal.writer(&TransactionalId::from(format!("{topic}-{name}")));
    let mut first = writer("first").expect("a writer");
    begin(first.as_mut(), &[&idle, &open]);
    first.commit().expect("commit");
    begin(first.as_mut(), &[&idle]);
    first.abort().expect("abort");
    let mut second = writer("second").expect("a writer");
    begin(second.as_mut(), &[&open, &open]);

    let mut read = Vec::new();
    let until = Instant::now() + interval * 8;
    while Instant::now() < until {
        read.extend(reader.poll(Duration::from_millis(50)).expect("nothing stands still"));
    }
    assert_eq!(read.len(), 2, "{read:?}");
    let mut paused = TopicPartitionList::new();
    paused.add_partition(&topic, 0);
    reader.consumer.pause(&paused).expect("pause");
    begin(first.as_mut(), &[&idle]);
    first.commit().expect("commit");
    let mut given_up = None;
    wait_until("it is noticed", PATIENCE, || {
        // Longer than until the next look, which must not wait for it.
        match reader.poll(PATIENCE) {
            Ok(records) => assert!(records.is_empty(), "it is paused: {records:?}"),
            Err(error) => given_up = Some(error),
        }
        Ok(given_up.is_some())
    })
    .expect("it happens in time");
    let error = given_up.expect("it was noticed");
    let named = error.to_string().contains(&idle.to_string());
    assert!(matches!(error, Error::Unavailable(_)) && named, "{error}");
}
