//! Topics: made with the settings they need; those that exist with settings under which data would
//! be lost, or not found, are refused with the command that mends them.

use std::time::{Duration, Instant};

use rdkafka::admin::{ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{IsError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;

use super::config::{BATCH_OVERHEAD, KafkaConfig};
use super::{Shared, TopicFacts, errors};
use crate::error::Error;
use crate::log::{Cleanup, TopicName, TopicSpec};

/// Between two looks at a new topic's leaders.
const LEADER_POLL: Duration = Duration::from_millis(10);

/// How many partitions a topic has that clients can use now; `None` if there is no such topic.
pub(super) fn partitions(shared: &Shared, topic: &TopicName) -> Result<Option<u16>, Error> {
    let metadata = shared
        .query
        .metadata(topic.as_str(), shared.config.request_timeout)
        .map_err(|error| shared.error(&format!("metadata of '{topic}'"), &error))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic.as_str()) else {
        return Ok(None);
    };
    match found.error() {
        None => {}
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => return Ok(None),
        Some(error) => {
            let code = Code::from(error);
            let what = format!("metadata of '{topic}'");
            return Err(errors::from_code(&what, Some(code), &code.to_string(), &shared.trouble));
        }
    }
    let led = |error: Option<RDKafkaRespErr>, leader| {
        leader >= 0 && !error.is_some_and(|error| error.is_error())
    };
    if found.partitions().iter().all(|partition| led(partition.error(), partition.leader())) {
        let count = u16::try_from(found.partitions().len());
        return count
            .map(Some)
            .map_err(|_| Error::Invalid(format!("topic '{topic}' has too many partitions")));
    }
    Err(Error::Unavailable(format!("topic '{topic}' has partitions without a leader")))
}

/// Makes the topics that are missing and checks all of them.
pub(super) fn ensure(shared: &Shared, specs: &[TopicSpec]) -> Result<(), Error> {
    if specs.is_empty() {
        return Ok(());
    }
    let mut missing = Vec::new();
    for spec in specs {
        if partitions(shared, &spec.name)?.is_none() {
            missing.push(spec);
        }
    }
    if !missing.is_empty() {
        create(shared, &missing)?;
    }
    let deadline = Instant::now() + shared.config.request_timeout;
    for spec in specs {
        let found = wait_for_leaders(shared, &spec.name, deadline)?;
        if found != spec.partitions {
            return Err(wrong_partitions(spec, found));
        }
    }
    check_settings(shared, specs)?;
    let mut topics = shared.topics.write();
    for spec in specs {
        let max_record_bytes = Some(spec.max_record_bytes);
        let facts = TopicFacts { partitions: spec.partitions, max_record_bytes };
        topics.insert(spec.name.clone(), facts);
    }
    Ok(())
}

fn wait_for_leaders(shared: &Shared, topic: &TopicName, deadline: Instant) -> Result<u16, Error> {
    loop {
        let failed = match partitions(shared, topic) {
            Ok(Some(count)) => return Ok(count),
            Ok(None) => Error::Unavailable(format!("the new topic '{topic}' is not there yet")),
            Err(error @ Error::Unavailable(_)) => error,
            Err(error) => return Err(error),
        };
        if Instant::now() > deadline {
            return Err(failed);
        }
        std::thread::sleep(LEADER_POLL);
    }
}

fn create(shared: &Shared, missing: &[&TopicSpec]) -> Result<(), Error> {
    let settings: Vec<_> = missing.iter().map(|spec| settings(&shared.config, spec)).collect();
    let topics: Vec<_> = missing
        .iter()
        .zip(&settings)
        .map(|(spec, settings)| {
            let replication = TopicReplication::Fixed(shared.config.replication_factor);
            let topic = NewTopic::new(spec.name.as_str(), i32::from(spec.partitions), replication);
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let results = shared.admin(|admin, options| admin.create_topics(&topics, options))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(topic, "made a topic"),
            // Another process was faster; the check that follows tells whether it meant the same.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let what = format!("make topic '{topic}'");
                return Err(errors::from_code(
                    &what,
                    Some(code),
                    &code.to_string(),
                    &shared.trouble,
                ));
            }
        }
    }
    Ok(())
}

/// The settings of a new topic. `min.insync.replicas` is the brokers' to say.
fn settings(config: &KafkaConfig, spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("cleanup.policy", policy(spec.cleanup).to_owned()),
        ("max.message.bytes", max_batch_bytes(config, spec).to_string()),
        // What a producer compressed stays as it is.
        ("compression.type", "producer".to_owned()),
        // Retention then goes by one clock, and a writer whose clock is wrong deletes nothing.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        // A leader that lacks acknowledged records would lose them.
        ("unclean.leader.election.enable", "false".to_owned()),
    ];
    match spec.cleanup {
        Cleanup::Delete { retention_ms } => {
            let retention = retention_ms.map_or("-1".to_owned(), |ms| ms.to_string());
            settings.push(("retention.ms", retention));
            settings.push(("retention.bytes", "-1".to_owned()));
        }
        // Whoever needs such a topic reads all of it first. By default the newest gigabyte is never
        // compacted, and the markers of transactions stay for a day.
        Cleanup::Compact => settings.extend([
            ("segment.bytes", (16 << 20).to_string()),
            ("segment.ms", "600000".to_owned()),
            ("min.cleanable.dirty.ratio", "0.1".to_owned()),
            ("delete.retention.ms", "600000".to_owned()),
        ]),
    }
    settings
}

fn policy(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete { .. } => "delete",
        Cleanup::Compact => "compact",
    }
}

/// Kafka limits batches, not records: a record within the limit must fit alone, and so must a
/// batch of small ones as librdkafka makes it.
fn max_batch_bytes(config: &KafkaConfig, spec: &TopicSpec) -> usize {
    spec.max_record_bytes.max(config.batch_bytes()) + BATCH_OVERHEAD
}

/// The largest record, key and value, that the topic takes as it is.
pub(super) fn record_limit(shared: &Shared, topic: &TopicName) -> Result<usize, Error> {
    let found = describe(shared, &[topic])?;
    let bytes = found.first().and_then(|found| found.get("max.message.bytes")?.value.clone());
    let bytes: Option<usize> = bytes.and_then(|bytes| bytes.parse().ok());
    bytes
        .map(|bytes| bytes.saturating_sub(BATCH_OVERHEAD))
        .ok_or_else(|| Error::Unavailable(format!("the record limit of '{topic}' is not known")))
}

/// The settings of topics, in the order asked for.
fn describe(shared: &Shared, topics: &[&TopicName]) -> Result<Vec<ConfigResource>, Error> {
    let names: Vec<_> =
        topics.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str())).collect();
    let found = shared.admin(|admin, options| admin.describe_configs(&names, options))?;
    let found = found.into_iter().zip(topics).map(|(found, topic)| {
        found.map_err(|code| {
            let what = format!("settings of topic '{topic}'");
            errors::from_code(&what, Some(code), &code.to_string(), &shared.trouble)
        })
    });
    found.collect()
}

fn check_settings(shared: &Shared, specs: &[TopicSpec]) -> Result<(), Error> {
    let topics: Vec<_> = specs.iter().map(|spec| &spec.name).collect();
    for (spec, found) in specs.iter().zip(describe(shared, &topics)?) {
        check(&shared.config, spec, &found)?;
    }
    Ok(())
}

fn check(config: &KafkaConfig, spec: &TopicSpec, found: &ConfigResource) -> Result<(), Error> {
    let value = |setting: &str| {
        found.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default()
    };
    let refuse = |setting: &str, wanted: &str| {
        Err(Error::WrongSetting {
            topic: spec.name.as_str().to_owned(),
            setting: setting.to_owned(),
            found: value(setting),
            wanted: wanted.to_owned(),
            hint: format!(
                "run kafka-configs.sh --bootstrap-server {} --alter --entity-type topics \
                 --entity-name {} --add-config {setting}={wanted}",
                config.bootstrap, spec.name
            ),
        })
    };
    for (setting, wanted) in [
        ("cleanup.policy", policy(spec.cleanup)),
        ("unclean.leader.election.enable", "false"),
        ("message.timestamp.type", "LogAppendTime"),
    ] {
        if value(setting) != wanted {
            return refuse(setting, wanted);
        }
    }
    if let Cleanup::Delete { retention_ms } = spec.cleanup {
        let wanted = retention_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let kept: i64 = value("retention.ms").parse().unwrap_or_default();
        if kept >= 0 && (wanted < 0 || kept < wanted) {
            return refuse("retention.ms", &wanted.to_string());
        }
        if !value("retention.bytes").starts_with('-') {
            return refuse("retention.bytes", "-1");
        }
    }
    let wanted = max_batch_bytes(config, spec);
    if value("max.message.bytes").parse::<usize>().unwrap_or_default() < wanted {
        return refuse("max.message.bytes", &wanted.to_string());
    }
    Ok(())
}

fn wrong_partitions(spec: &TopicSpec, found: u16) -> Error {
    Error::WrongSetting {
        topic: spec.name.as_str().to_owned(),
        setting: "partitions".to_owned(),
        found: found.to_string(),
        wanted: spec.partitions.to_string(),
        hint:
            "the number of slices is fixed when a cluster is created: give the cluster the number \
               it was created with, or another name"
                .to_owned(),
    }
}
