//! The journal on Apache Kafka, through librdkafka.
//!
//! Nothing here keeps state between calls that the broker does not have: a process that dies loses
//! an open transaction and nothing else. What librdkafka needs for that to hold, and what was
//! measured, stands where it matters: [`writer`] (commits, fencing), [`reader`] (positions),
//! [`topics`] (settings), [`config`] (properties).
//!
//! Two facts about visibility. The end in [`Bounds`] is the last stable offset: librdkafka asks
//! for offsets under the client's isolation level, and [`query`] is a `read_committed`
//! client. And a commit returns when the coordinator has it on disk, before the markers are in the
//! partitions; but a new producer of the same transactional id is only let in once they are. So
//! "fence, then read to the end" sees all that older writers committed.

mod config;
mod errors;
#[cfg(test)]
mod fetcher;
mod open;
mod progress;
mod query;
mod reader;
mod topics;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use crate::error::Error;
use crate::log::{
    Bounds, Journal, Offset, OpenTransaction, ReadFrom, Reader, Signature, TopicName,
    TopicPartition, TopicSpec, TransactionalId, Writer,
};

use open::Fences;
use query::{Query, Sees};

pub use config::KafkaConfig;
pub(crate) use writer::settle;

/// A transaction begun within this time of the last commit of its producer meets that one's
/// markers, and librdkafka tries again 20 ms later.
const REST_AFTER_COMMIT: Duration = Duration::from_millis(20);

/// Between two questions to a partition that has no leader: its topic was made just now, or its
/// broker is being started.
const LEADER_RETRY: Duration = Duration::from_millis(50);

/// A complaint older than this has nothing to do with what fails now.
const TROUBLE_COUNTS: Duration = Duration::from_secs(60);

/// How long what the client complains of may come after the call that it is about has failed.
const REASON_COMES: Duration = Duration::from_millis(20);

/// A cluster's log on Kafka.
pub struct KafkaJournal {
    shared: Arc<Shared>,
}

/// What the journal, its writers and its readers have in common.
struct Shared {
    config: KafkaConfig,
    query: Query,
    /// Asks about what is not committed.
    uncommitted: Query,
    trouble: Trouble,
    fences: Mutex<Fences>,
    /// Topics known to exist. One that is made later is found by asking again; one that is
    /// deleted under a running cluster is noticed by the broker's answer.
    topics: RwLock<HashMap<TopicName, TopicFacts>>,
}

#[derive(Clone, Copy, Debug)]
struct TopicFacts {
    partitions: u16,
    /// The largest record, key and value, once it was made sure of or asked for.
    max_record_bytes: Option<usize>,
}

impl KafkaJournal {
    /// A journal on the brokers that `config` names. Does not wait for them: a process may start
    /// before Kafka does, and each call says whether it can be reached.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a property is unknown, malformed, or one that correctness rests on.
    pub fn connect(config: KafkaConfig) -> Result<Self, Error> {
        config.check()?;
        let trouble = Trouble::default();
        let query = Query::open(&config, &trouble, Sees::Committed)?;
        let uncommitted = Query::open(&config, &trouble, Sees::Everything)?;
        let (fences, topics) = (Mutex::default(), RwLock::default());
        let shared = Shared { config, query, uncommitted, trouble, fences, topics };
        Ok(KafkaJournal { shared: Arc::new(shared) })
    }
}

impl Journal for KafkaJournal {
    fn ensure_topics(&self, specs: &[TopicSpec]) -> Result<(), Error> {
        topics::ensure(&self.shared, specs)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(writer::KafkaWriter::open(Arc::clone(&self.shared), id)?))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(reader::KafkaReader::open(Arc::clone(&self.shared), from)?))
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.shared.bounds(at)
    }

    fn written(&self, at: &TopicPartition) -> Result<Offset, Error> {
        open::written(&self.shared, at)
    }

    fn open_transactions(&self, at: &[TopicPartition]) -> Result<Vec<OpenTransaction>, Error> {
        open::transactions(&self.shared, at)
    }

    fn writer_of(&self, open: &OpenTransaction) -> Result<Option<Signature>, Error> {
        open::writer(&self.shared, open)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.shared.facts(at)?;
        let mut list = TopicPartitionList::new();
        let to = KafkaOffset::Offset(errors::signed(before.0)?);
        list.add_partition_offset(at.topic.as_str(), i32::from(at.partition.0), to)
            .map_err(|error| self.shared.error("trim", &error))?;
        let trimmed = self.shared.admin(|admin, options| admin.delete_records(&list, options))?;
        for element in trimmed.elements() {
            element.error().map_err(|error| self.shared.error(&format!("trim {at}"), &error))?;
        }
        Ok(())
    }

    fn rest_after_commit(&self) -> Duration {
        REST_AFTER_COMMIT
    }
}

impl Shared {
    /// What is known of the topic, if the partition exists.
    fn facts(&self, at: &TopicPartition) -> Result<TopicFacts, Error> {
        let known = self.topics.read().get(&at.topic).copied();
        let facts = match known {
            Some(facts) => facts,
            None => {
                let partitions = topics::partitions(self, &at.topic)?
                    .ok_or_else(|| Error::UnknownTopic(at.to_string()))?;
                let facts = TopicFacts { partitions, max_record_bytes: None };
                *self.topics.write().entry(at.topic.clone()).or_insert(facts)
            }
        };
        if at.partition.0 >= facts.partitions {
            return Err(Error::UnknownTopic(format!(
                "{at} (the topic has {} partitions)",
                facts.partitions
            )));
        }
        Ok(facts)
    }

    /// The largest record, key and value, of an existing partition.
    fn record_limit(&self, at: &TopicPartition) -> Result<usize, Error> {
        if let Some(limit) = self.facts(at)?.max_record_bytes {
            return Ok(limit);
        }
        let limit = topics::record_limit(self, &at.topic)?;
        if let Some(facts) = self.topics.write().get_mut(&at.topic) {
            facts.max_record_bytes = Some(limit);
        }
        Ok(limit)
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.facts(at)?;
        let partition = i32::from(at.partition.0);
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.query.watermarks(at.topic.as_str(), partition, left) {
                Ok((start, end)) => {
                    return Ok(Bounds { start: errors::offset(start)?, end: errors::offset(end)? });
                }
                Err(error) if errors::lacks_leader(&error) && Instant::now() < deadline => {
                    std::thread::sleep(LEADER_RETRY);
                }
                Err(error) => return Err(self.error(&format!("bounds of {at}"), &error)),
            }
        }
    }

    /// Runs one administrative request. Such requests are rare, so each has a client of its own.
    fn admin<T, F>(
        &self,
        request: impl FnOnce(&AdminClient<Quiet>, &AdminOptions) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        let admin: AdminClient<Quiet> = self
            .config
            .client()
            .create_with_context(Quiet(self.trouble.clone()))
            .map_err(|error| errors::creation(&error))?;
        let timeout = self.config.request_timeout;
        let options =
            AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
        futures::executor::block_on(request(&admin, &options))
            .map_err(|error| self.error("administrative request", &error))
    }

    /// Our error for one of librdkafka's outside a transaction.
    fn error(&self, what: &str, error: &KafkaError) -> Error {
        // The reason may come just after the call gave up.
        std::thread::sleep(REASON_COMES);
        errors::plain(what, error, &self.trouble)
    }
}

/// The last thing librdkafka complained about, which says why a call got no answer: a refused
/// connection, a certificate, a password.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<(Instant, String)>>>);

impl Trouble {
    fn note(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client reports an error");
        let mut last = self.0.lock();
        // That all are down comes after the reason why they are, and says less.
        let says_less = errors::code(error) == Some(RDKafkaErrorCode::AllBrokersDown);
        let recent = |(when, _): &(Instant, String)| when.elapsed() < TROUBLE_COUNTS;
        let reason = match last.take().filter(|last| says_less && recent(last)) {
            Some((_, reason)) => reason,
            None => reason.to_owned(),
        };
        *last = Some((Instant::now(), reason));
    }

    /// Whether there was a complaint since then.
    fn is_since(&self, then: Instant) -> bool {
        self.0.lock().as_ref().is_some_and(|(when, _)| *when >= then)
    }

    fn last(&self) -> Option<String> {
        let last = self.0.lock();
        let recent = last.as_ref().filter(|(when, _)| when.elapsed() < TROUBLE_COUNTS);
        recent.map(|(_, reason)| reason.clone())
    }
}

/// A client's context that keeps the last error and passes log lines on.
struct Quiet(Trouble);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// Passes librdkafka's log lines on. None is an error of ours: a broker that goes away comes back,
/// and whoever waits for it gets [`Error::Unavailable`].
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // Says that a property has no effect on this kind of client.
        _ if facility == "CONFWARN" => tracing::debug!("librdkafka: {message}"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Warning => tracing::info!(facility, "librdkafka: {message}"),
        _ => tracing::debug!(facility, "librdkafka: {message}"),
    }
}
