//! What a plain Kafka console consumer sees of a cluster's topics.

use std::collections::BTreeSet;
use std::process::Output;
use std::thread;

use anabranch_core::ids::RoundId;
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::{Journal, NewRecord, TopicPartition, TransactionalId, Writer};
use anabranch_schemas::records::{Commit, TxnsRecord};
use anabranch_tests::support::Broker;
use anyhow::{Result, anyhow, bail, ensure};
use bytes::Bytes;
use serde_json::json;

use crate::kafka::clusters;

const ROUNDS: usize = 25;
/// How often a consumer is started that sees nothing.
const STARTS: usize = 5;
/// What is in the log beside the rounds, in transactions that are aborted and left open.
const ABORTED: &str = "written and aborted";
const OPEN: &str = "written and left open";

/// IN-2: a consumer with `isolation.level=read_committed` sees the commit record of each round that
/// was acknowledged, and of no other; and the parts of the rounds. Without it, it also sees what was
/// never committed.
#[test]
fn a_console_consumer_sees_only_committed_rounds() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (east, _west) = clusters(dir.path())?;
    for number in 0..ROUNDS {
        let document = json!({"d": {"_id": number, "text": text(number)}});
        east.api().execute("INSERT INTO orders DOCUMENTS (:d)", &document)?;
    }
    // A statement that cannot be run leaves nothing in the log.
    let twice = "INSERT INTO orders DOCUMENTS ({'_id': 'x'}), ({'_id': 'x'})";
    let refused = east.api().try_execute(twice, &json!({}))?;
    ensure!(refused.code() == "duplicate_id", "{refused:?}");

    let topics = ["txns", "rounds"].map(|topic| format!("{}.{topic}", east.name()));
    write(&topics, ABORTED)?.abort()?;
    let open = write(&topics, OPEN)?;
    let [txns, rounds] = topics.each_ref().map(String::as_str);
    let consumers = [
        (txns, "read_committed"),
        (rounds, "read_committed"),
        (txns, "read_uncommitted"),
        (rounds, "read_uncommitted"),
    ];
    let consumed = thread::scope(|scope| {
        let see = |(topic, isolation)| scope.spawn(move || consume(topic, isolation));
        consumers.map(see).map(|seen| seen.join().map_err(|_| anyhow!("a consumer panicked")))
    });
    let [commits, parts, all_commits, all_parts] = consumed.map(|seen| seen.and_then(|seen| seen));
    let (commits, parts, all_commits, all_parts) = (commits?, parts?, all_commits?, all_parts?);
    drop(open);

    let seen = rounds_of(&commits)?;
    ensure!(seen.len() == ROUNDS, "commit records of {} rounds: {seen:?}", seen.len());
    ensure!(parts.len() == ROUNDS, "{} parts of rounds", parts.len());
    for number in 0..ROUNDS {
        let found = parts.iter().filter(|part| contains(part, &text(number))).count();
        ensure!(found == 1, "'{}' is there {found} times", text(number));
    }
    for (topic, all, committed) in [(txns, all_commits, commits), (rounds, all_parts, parts)] {
        for never in [ABORTED, OPEN] {
            let is_in = |records: &[Vec<u8>]| records.iter().any(|it| contains(it, never));
            ensure!(is_in(&all), "'{never}' is not in {topic}");
            ensure!(!is_in(&committed), "'{never}' is seen in {topic}");
        }
    }
    Ok(())
}

/// The rounds of these commit records. Beside them the log says each minute that what was deleted long ago may
/// go.
fn rounds_of(records: &[Vec<u8>]) -> Result<BTreeSet<RoundId>> {
    let mut rounds = BTreeSet::new();
    for record in records {
        if let TxnsRecord::Commit(Commit { round, .. }) = TxnsRecord::decode(record)? {
            ensure!(rounds.insert(round), "{round:?} is there twice");
        }
    }
    Ok(rounds)
}

fn contains(record: &[u8], text: &str) -> bool {
    record.windows(text.len()).any(|found| found == text.as_bytes())
}

/// None is part of another.
fn text(number: usize) -> String {
    format!("round {number:03}")
}

/// Writes a record to each topic, in a transaction that is left open.
fn write(topics: &[String], text: &'static str) -> Result<Box<dyn Writer>> {
    let config = KafkaConfig::new(Broker::shared().address(), "console-consumer-test");
    let journal = KafkaJournal::connect(config)?;
    let id = TransactionalId::from(Broker::shared().unique_name("console-consumer"));
    let mut writer = journal.writer(&id)?;
    writer.begin()?;
    for topic in topics {
        let (key, value) = (Bytes::new(), Some(Bytes::from_static(text.as_bytes())));
        writer.append(NewRecord { at: TopicPartition::new(topic.as_str(), 0), key, value })?;
    }
    writer.flush()?;
    Ok(writer)
}

/// The records of a topic that is not empty. Whoever has seen none of them has not come as far as to read: four
/// consumers start at once, on a machine that may be busy, and what they wait for includes that.
fn consume(topic: &str, isolation: &str) -> Result<Vec<Vec<u8>>> {
    let mut said = String::new();
    for _ in 0..STARTS {
        let output = consume_once(topic, isolation)?;
        let mut records = split(&output.stdout, b"<END>");
        // What follows the last record is the consumer's own summary.
        records.pop();
        if !records.is_empty() {
            return Ok(records);
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    bail!("{STARTS} consumers saw no record of {topic} ({isolation}); the last one said: {said}")
}

/// What stands between such marks; at least one thing.
fn split(mut bytes: &[u8], mark: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some(end) = bytes.windows(mark.len()).position(|found| found == mark) {
        parts.push(bytes[..end].to_vec());
        bytes = &bytes[end + mark.len()..];
    }
    parts.push(bytes.to_vec());
    parts
}

/// What the console consumer prints of a topic until nothing more comes.
fn consume_once(topic: &str, isolation: &str) -> Result<Output> {
    Broker::shared().tool(
        "kafka-console-consumer",
        &[
            "--topic",
            topic,
            "--from-beginning",
            "--isolation-level",
            isolation,
            "--formatter-property",
            "print.value=true",
            "--formatter-property",
            "line.separator=<END>",
            "--timeout-ms",
            "20000",
        ],
    )
}
