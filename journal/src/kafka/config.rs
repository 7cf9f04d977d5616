//! Settings of the clients: what is ours, what an operator may set, and what nobody may.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::errors;
use crate::error::Error;
use crate::log::TransactionalId;

/// How to reach Kafka.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Brokers to ask first, `host:port` separated by commas.
    pub bootstrap: String,
    /// The name under which brokers know this process.
    pub client_id: String,
    /// Any other property of librdkafka, such as `security.protocol`. They win over our defaults;
    /// those that correctness rests on are refused.
    pub properties: BTreeMap<String, String>,
    /// Copies of each partition of a topic made here; -1 for the brokers' default.
    pub replication_factor: i32,
    /// How long any call waits for an answer before it fails.
    pub request_timeout: Duration,
}

/// After so long the coordinator aborts an open transaction, which holds readers up until then.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The first retry of a request comes this much later, less a jitter of a fifth.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// A request answered within this time was sent once. With a reconnect it takes longer.
pub(super) const SENT_ONCE: Duration = Duration::from_millis(80);

/// The most bytes librdkafka puts into one batch of records, unless one record is larger or the
/// operator says otherwise.
const BATCH_BYTES: usize = 1_000_000;

/// What a batch and a record in it may need besides key and value.
pub(super) const BATCH_OVERHEAD: usize = 1024;

/// Properties on which correctness rests, and why each is not to be set.
const REFUSED: [(&[&str], &str); 13] = [
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "the brokers' addresses have a setting of their own",
    ),
    (
        &["acks", "request.required.acks"],
        "it is 'all': an acknowledged write must survive the loss of a broker",
    ),
    (
        &["enable.idempotence", "enable.gapless.guarantee"],
        "writes are idempotent: a retry must not double a record",
    ),
    (&["transactional.id"], "the journal names its writers itself"),
    (&["check.crcs"], "it is 'true': a record that was damaged must not be taken for another"),
    (
        &["statistics.interval.ms"],
        "nobody reads these statistics; what there is to see is at /metrics",
    ),
    (
        &["transaction.timeout.ms"],
        "it is 10 s: a transaction that its writer left open blocks all readers",
    ),
    (&["isolation.level"], "it is 'read_committed': readers must not see aborted records"),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "group.id",
            "group.instance.id",
            "group.protocol",
        ],
        "there are no consumer groups: positions are kept with the data",
    ),
    (
        &["auto.offset.reset"],
        "it is 'error': a reader must be told that records are gone, and not skip them",
    ),
    (
        &["enable.partition.eof"],
        "it tells readers that they passed a hole at the end of a partition",
    ),
    (
        &["retry.backoff.ms", "retry.backoff.max.ms", "delivery.report.only.error"],
        "the outcome of a transaction is told from it",
    ),
    (&["allow.auto.create.topics"], "topics are made with the settings they need, or not at all"),
];

/// Without the values of properties, which may be secrets.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties.keys())
            .field("replication_factor", &self.replication_factor)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

impl KafkaConfig {
    /// The defaults, for these brokers.
    pub fn new(bootstrap: impl Into<String>, client_id: impl Into<String>) -> Self {
        KafkaConfig {
            bootstrap: bootstrap.into(),
            client_id: client_id.into(),
            properties: BTreeMap::new(),
            replication_factor: -1,
            request_timeout: Duration::from_secs(10),
        }
    }

    /// Refuses properties that are unknown, malformed, or not to be set.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.bootstrap.trim().is_empty() {
            return Err(Error::Invalid("no address of a kafka broker is set".to_owned()));
        }
        for (name, value) in &self.properties {
            let refused = REFUSED.iter().find(|(names, _)| names.contains(&name.as_str()));
            if let Some((_, reason)) = refused {
                return Err(Error::Invalid(format!("kafka.{name} cannot be set: {reason}")));
            }
            // librdkafka says only that it failed, and not why.
            let is_file = name.ends_with(".location") && value != "probe";
            if is_file && let Err(error) = std::fs::metadata(value) {
                return Err(Error::Invalid(format!("kafka.{name}={value} is refused: {error}")));
            }
        }
        // librdkafka checks names and values when it takes the properties one by one, and how they
        // fit together when it makes a client of each kind.
        let id = TransactionalId::from("check");
        for config in [self.consumer(Some("check")), self.producer(&id)] {
            config.create_native_config().map_err(|error| errors::creation(&error))?;
        }
        Ok(())
    }

    /// The most bytes in a batch of several records.
    pub(super) fn batch_bytes(&self) -> usize {
        let set = self.properties.get("batch.size").and_then(|bytes| bytes.parse().ok());
        set.unwrap_or(BATCH_BYTES)
    }

    /// A client that neither writes nor reads records.
    pub(super) fn client(&self) -> ClientConfig {
        self.with_defaults(&[])
    }

    /// What every client has, these defaults, and over both what the operator set.
    fn with_defaults(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", &self.client_id);
        // A broker that comes back is found within a second.
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("socket.connection.setup.timeout.ms", "5000");
        config.set("retry.backoff.ms", RETRY_BACKOFF.as_millis().to_string());
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// A transactional producer.
    pub(crate) fn producer(&self, id: &TransactionalId) -> ClientConfig {
        let mut config = self.with_defaults(&[
            // A record is sent at once; those that come while a batch is on its way make the next.
            ("linger.ms", "0"),
            ("batch.size", &BATCH_BYTES.to_string()),
            // The limit is the topic's, which the journal knows; this one must not be in the way.
            ("message.max.bytes", "100000000"),
            ("topic.metadata.propagation.max.ms", "5000"),
        ]);
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        config.set("transactional.id", id.as_str());
        config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        config
    }

    /// A consumer that sees only what is committed. librdkafka takes assignments only with a group
    /// name; the group is never joined and never commits.
    pub(crate) fn consumer(&self, group: Option<&str>) -> ClientConfig {
        let mut config = self.with_defaults(&[
            // A fetch that finds nothing waits this long at the broker, and only its answer says
            // that a reader has passed the markers at the end. New records do not wait for it.
            ("fetch.wait.max.ms", "50"),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.error.backoff.ms", "50"),
            // Enough to keep a reader busy, little enough to have many readers.
            ("queued.min.messages", "50000"),
            ("queued.max.messages.kbytes", "16384"),
            ("check.crcs", "true"),
        ]);
        config.set("isolation.level", "read_committed");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false");
        if let Some(group) = group {
            config.set("group.id", group);
        }
        config
    }
}
