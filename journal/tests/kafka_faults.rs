//! Kafka in trouble: a broker killed while it is written to, one that is away, one whose topics
//! have other settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_journal::conformance::{CrashLog, PATIENCE};
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::{
    Cleanup, Error, Journal, NewRecord, Offset, ReadFrom, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};
use anabranch_tests::support::{Broker, BrokerProcess, wait_until};
use bytes::Bytes;
use parking_lot::Mutex;

/// How long calls wait in tests of a broker that is away.
const TIMEOUT: Duration = Duration::from_secs(1);

fn journal(address: &str) -> KafkaJournal {
    KafkaJournal::connect(KafkaConfig::new(address, "faults")).expect("the settings are right")
}

fn impatient(address: &str) -> KafkaJournal {
    let config = KafkaConfig { request_timeout: TIMEOUT, ..KafkaConfig::new(address, "faults") };
    KafkaJournal::connect(config).expect("the settings are right")
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, || Ok(condition())).expect("it happens in time");
}

/// A writer, as soon as the broker gives one to who is impatient.
fn writer(journal: &dyn Journal, id: &TransactionalId) -> Box<dyn Writer> {
    let mut writer = None;
    wait("a writer can be made", || {
        writer = journal.writer(id).ok();
        writer.is_some()
    });
    writer.expect("the wait ends with a writer")
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: 2,
        cleanup: Cleanup::Delete { retention_ms: None },
        max_record_bytes: 64 * 1024,
    }
}

fn record(topic: &str, text: &'static str) -> NewRecord {
    let (key, value) = (Bytes::from_static(b"key"), Some(Bytes::from_static(text.as_bytes())));
    NewRecord { at: TopicPartition::new(topic, 0), key, value }
}

fn fill(writer: &mut dyn Writer, topic: &str, text: &'static str) -> Result<Vec<Offset>, Error> {
    writer.begin()?;
    writer.append(record(topic, text))?;
    writer.flush()
}

/// The texts in partition 0, once there are so many.
fn texts(journal: &dyn Journal, topic: &str, count: usize) -> Vec<String> {
    let at = TopicPartition::new(topic, 0);
    let mut reader = journal.reader(&[(at, ReadFrom::Start)]).expect("a reader");
    let mut texts = Vec::new();
    wait("the records are there", || {
        for record in reader.poll(Duration::from_millis(50)).expect("poll") {
            let value = record.value.expect("every record has a value");
            texts.push(String::from_utf8_lossy(&value).into_owned());
        }
        texts.len() >= count
    });
    texts
}

/// A writer goes on through broker deaths, and finds again all that it was told is committed.
#[test]
fn kill_9_of_the_broker_loses_nothing() {
    const KILLS: usize = 3;
    let mut broker = BrokerProcess::temporary().expect("a broker");
    let journal: Arc<dyn Journal> = Arc::new(impatient(&broker.address()));
    let log = Mutex::new(CrashLog::create(journal.as_ref()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write_loop = log.lock().write_loop(Arc::clone(&journal));
        scope.spawn(|| {
            write_loop.run(|event| {
                log.lock().note(event);
                !stop.load(Ordering::Relaxed)
            });
        });
        let more = |count: usize| {
            let wanted = log.lock().committed() + count;
            wait("the writer commits more", || log.lock().committed() >= wanted);
        };
        for kill in 0..KILLS {
            more(20 + 13 * kill);
            broker.kill_hard().expect("kill -9");
            broker.restart().expect("the broker starts again");
        }
        more(20);
        stop.store(true, Ordering::Relaxed);
    });
    log.into_inner().check(journal.as_ref());
}

/// Without a broker every call fails in time, and says so; when it is back the same journal goes
/// on, with a new writer, and a new reader at most.
#[test]
fn a_broker_that_is_away_is_unavailable_and_comes_back() {
    let mut broker = BrokerProcess::temporary().expect("a broker");
    let journal = impatient(&broker.address());
    let (topic, id) = ("away", TransactionalId::from("away"));
    let patient = self::journal(&broker.address());
    patient.ensure_topics(&[spec(topic)]).expect("a topic");
    let at = TopicPartition::new(topic, 0);
    let mut reader = patient.reader(&[(at.clone(), ReadFrom::Start)]).expect("a reader");
    let mut writer = patient.writer(&id).expect("a writer");
    fill(writer.as_mut(), topic, "before").expect("flush");
    writer.commit().expect("commit");
    drop(writer);
    let mut writer = self::writer(&journal, &id);
    assert_eq!(texts(&patient, topic, 1), ["before"]);

    broker.kill_hard().expect("kill -9");
    let unavailable = |what: &str, call: &mut dyn FnMut() -> Result<(), Error>| {
        let started = Instant::now();
        let result = call();
        assert!(matches!(result, Err(Error::Unavailable(_))), "{what}: {result:?}");
        assert!(started.elapsed() < TIMEOUT * 4, "{what} took {:?}", started.elapsed());
    };
    unavailable("bounds", &mut || journal.bounds(&at).map(|_| ()));
    unavailable("trim", &mut || journal.trim(&at, Offset(0)));
    unavailable("ensure_topics", &mut || journal.ensure_topics(&[spec("more")]));
    unavailable("writer", &mut || journal.writer(&TransactionalId::from("other")).map(|_| ()));
    unavailable("reader", &mut || journal.reader(&[(at.clone(), ReadFrom::Start)]).map(|_| ()));
    unavailable("flush", &mut || fill(writer.as_mut(), topic, "never").map(|_| ()));
    let started = Instant::now();
    // What the broker never heard of is aborted without it.
    assert!(writer.abort().is_ok() || writer.is_spent());
    drop(writer);
    assert!(started.elapsed() < TIMEOUT * 4, "abort and drop took {:?}", started.elapsed());

    broker.restart().expect("the broker starts again");
    let mut writer = self::writer(&journal, &id);
    fill(writer.as_mut(), topic, "after").expect("flush");
    writer.commit().expect("commit");
    // By now it may have given its brokers up.
    let mut seen = Vec::new();
    wait("the reader goes on, or a new one", || {
        match reader.poll(Duration::from_millis(50)) {
            Ok(records) => seen.extend(records),
            Err(Error::Unavailable(_)) => {
                seen.clear();
                reader = patient.reader(&[(at.clone(), ReadFrom::Start)]).expect("a reader");
            }
            Err(error) => panic!("{error}"),
        }
        seen.len() >= 2
    });
    assert_eq!(texts(&patient, topic, 2), ["before", "after"]);
}

/// A commit that got no answer is unknown, never failed.
#[test]
fn a_commit_without_an_answer_is_unknown() {
    let mut broker = BrokerProcess::temporary().expect("a broker");
    let journal = impatient(&broker.address());
    let (topic, id) = ("unknown", TransactionalId::from("unknown"));
    self::journal(&broker.address()).ensure_topics(&[spec(topic)]).expect("a topic");
    let mut writer = self::writer(&journal, &id);
    fill(writer.as_mut(), topic, "in flight").expect("flush");
    broker.kill_hard().expect("kill -9");
    let committed = writer.commit();
    assert!(matches!(committed, Err(Error::Unknown(_))), "{committed:?}");
    assert!(writer.is_spent());
    drop(writer);
    broker.restart().expect("the broker starts again");
    let mut writer = self::writer(&journal, &id);
    fill(writer.as_mut(), topic, "next").expect("flush");
    writer.commit().expect("commit");
    // The broker died before the commit was sent, so here it is known after all.
    assert_eq!(texts(&journal, topic, 1), ["next"]);
}

/// The coordinator aborts what is open for too long; the writer is told that, and not that it was
/// fenced, since nobody took over.
#[test]
fn a_transaction_open_for_too_long_is_aborted() {
    let broker = Broker::shared();
    let journal = journal(broker.address());
    let topic = broker.unique_name("too-long");
    journal.ensure_topics(&[spec(&topic)]).expect("a topic");
    let mut writer = journal.writer(&TransactionalId::from(topic.as_str())).expect("a writer");
    let offset = fill(writer.as_mut(), &topic, "too late").expect("flush")[0];
    let at = TopicPartition::new(topic.as_str(), 0);
    wait("the coordinator aborts the transaction", || {
        journal.bounds(&at).expect("bounds").end > offset
    });
    let committed = writer.commit();
    assert!(matches!(committed, Err(Error::Aborted(_))), "{committed:?}");
    assert!(writer.is_spent());
}

/// Settings with which data would be lost are refused, and the command in the message mends them.
#[test]
fn wrong_settings_are_refused_with_the_command_that_mends_them() {
    let broker = Broker::shared();
    let topic = broker.unique_name("settings");
    let wrong = [
        ("max.message.bytes", "1000"),
        ("retention.ms", "60000"),
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("unclean.leader.election.enable", "true"),
        ("message.timestamp.type", "CreateTime"),
    ];
    journal(broker.address()).ensure_topics(&[spec(&topic)]).expect("a topic");
    for (setting, value) in wrong {
        let entity = ["--alter", "--entity-type", "topics", "--entity-name", &topic];
        let change = format!("{setting}={value}");
        configure(broker, &[&entity[..], &["--add-config", &change]].concat());
        let error = journal(broker.address()).ensure_topics(&[spec(&topic)]).expect_err("refused");
        let Error::WrongSetting { setting: told, found, hint, .. } = error else {
            panic!("{change} gave {error:?}");
        };
        assert_eq!((told.as_str(), found.as_str()), (setting, value));
        // In a container the tool finds its broker at another address, which it is given.
        let command = hint
            .strip_prefix(&format!("run kafka-configs.sh --bootstrap-server {} ", broker.address()))
            .expect("the hint is a command");
        configure(broker, &command.split_whitespace().collect::<Vec<_>>());
        journal(broker.address()).ensure_topics(&[spec(&topic)]).expect("the topic was mended");
    }
}

fn configure(broker: &Broker, arguments: &[&str]) {
    let output = broker.tool("kafka-configs", arguments).expect("the tool runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A reader that was further than the log now goes is told that the log lost records.
#[test]
fn a_position_past_the_end_is_corrupt() {
    let broker = Broker::shared();
    let journal = journal(broker.address());
    let topic = broker.unique_name("past-end");
    journal.ensure_topics(&[spec(&topic)]).expect("a topic");
    let from = [(TopicPartition::new(topic.as_str(), 0), ReadFrom::Offset(Offset(7)))];
    let mut reader = journal.reader(&from).expect("a reader");
    let mut refused = None;
    wait("the reader is told", || {
        refused = reader.poll(Duration::from_millis(50)).err();
        refused.is_some()
    });
    assert!(matches!(refused, Some(Error::Corrupt(_))), "{refused:?}");
}

/// Properties that are unknown, malformed or not to be set are refused before anything is done.
#[test]
fn properties_are_checked() {
    let refused = [
        ("acks", "1", "acknowledged write"),
        ("enable.idempotence", "false", "must not double"),
        ("isolation.level", "read_uncommitted", "aborted records"),
        ("transactional.id", "mine", "names its writers"),
        ("transaction.timeout.ms", "60000", "blocks all readers"),
        ("enable.auto.commit", "true", "no consumer groups"),
        ("auto.offset.reset", "earliest", "must be told"),
        ("check.crcs", "false", "damaged"),
        ("no.such.property", "1", "kafka.no.such.property"),
        ("linger.ms", "soon", "kafka.linger.ms"),
        ("security.protocol", "carrier-pigeon", "kafka.security.protocol"),
    ];
    for (name, value, reason) in refused {
        let properties = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let config = KafkaConfig { properties, ..KafkaConfig::new("127.0.0.1:1", "properties") };
        let error = KafkaJournal::connect(config).err().expect("refused");
        assert!(matches!(error, Error::Invalid(_)), "{name}: {error:?}");
        assert!(error.to_string().contains(reason), "{name}: {error}");
    }
    let properties = BTreeMap::from([("compression.type".to_owned(), "lz4".to_owned())]);
    let config = KafkaConfig { properties, ..KafkaConfig::new("127.0.0.1:1", "properties") };
    KafkaJournal::connect(config).expect("a property that is harmless");
}
