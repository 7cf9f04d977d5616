//! What a plain Kafka console consumer sees of a cluster's topics.

use anabranch_tests::support::Broker;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::kafka::clusters;

const ROUNDS: usize = 25;

/// IN-2: a consumer with `isolation.level=read_committed` sees the commit record of each round that
/// was acknowledged, and of no other; and the parts of the rounds.
#[test]
fn a_console_consumer_sees_only_committed_rounds() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (east, _west) = clusters(dir.path())?;
    for number in 0..ROUNDS {
        let document = json!({"d": {"_id": number, "text": format!("round {number}")}});
        east.api().execute("INSERT INTO orders DOCUMENTS (:d)", &document)?;
    }
    // A statement that fails leaves nothing in the log.
    let again =
        east.api().try_execute("INSERT INTO orders DOCUMENTS (:d)", &json!({"d": {"_id": 1}}))?;
    ensure!(again.status == 409, "{again:?}");
    let seen = |topic: &str| consume(&format!("{}.{topic}", east.name()));
    let commits = seen("txns")?;
    ensure!(commits.len() == ROUNDS, "{} commit records: {commits:?}", commits.len());
    let rounds = seen("rounds")?.join("\n");
    for number in 0..ROUNDS {
        ensure!(rounds.contains(&format!("round {number}")), "round {number} is missing");
    }
    Ok(())
}

/// The records of a topic.
fn consume(topic: &str) -> Result<Vec<String>> {
    let output = Broker::shared().tool(
        "kafka-console-consumer",
        &[
            "--topic",
            topic,
            "--from-beginning",
            "--isolation-level",
            "read_committed",
            "--formatter-property",
            "print.value=true",
            "--formatter-property",
            "line.separator=<END>",
            "--timeout-ms",
            "8000",
        ],
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    // What follows the last record is the consumer's own summary.
    let (records, _) = text.rsplit_once("<END>").context("no records")?;
    Ok(records.split("<END>").map(str::to_owned).collect())
}
