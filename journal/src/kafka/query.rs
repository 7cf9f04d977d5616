//! The client that answers questions about topics and offsets.
//!
//! A thread of its own takes its events, log lines and complaints, which wait in memory until
//! somebody does. And librdkafka can lose sight of all brokers for good, when a broker that is
//! still starting tells it of none: a client that had no answer several times in a row is made
//! anew.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::{KafkaConfig, Quiet, Trouble, errors};
use crate::error::Error;
use crate::log::{Offset, TopicPartition};

/// After so many questions in a row without an answer the client is made anew.
const UNANSWERED: u32 = 3;
/// How long the thread that takes events waits for one, and so how long it outlives the client.
const EVENTS: Duration = Duration::from_millis(100);

/// What there is for a client: to brokers the end of a partition depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    /// Up to the last stable offset.
    Committed,
    /// All that was written.
    Everything,
}

/// Asks brokers, without a group, since it reads nothing.
pub(super) struct Query {
    config: KafkaConfig,
    sees: Sees,
    trouble: Trouble,
    client: Mutex<Arc<BaseConsumer<Quiet>>>,
    unanswered: AtomicU32,
}

impl Query {
    pub(super) fn open(config: &KafkaConfig, trouble: &Trouble, sees: Sees) -> Result<Self, Error> {
        Ok(Query {
            config: config.clone(),
            sees,
            trouble: trouble.clone(),
            client: Mutex::new(client(config, trouble, sees)?),
            unanswered: AtomicU32::new(0),
        })
    }

    /// The first offset of a partition and its last stable one.
    pub(super) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<(i64, i64), KafkaError> {
        self.ask(|client| client.fetch_watermarks(topic, partition, timeout))
    }

    /// The end of each partition, if it is told. One question to each broker.
    pub(super) fn ends(
        &self,
        partitions: &[&TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<Offset>>, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for at in partitions {
            let number = i32::from(at.partition.0);
            // librdkafka passes on what stands for a time, and brokers take this for the end.
            list.add_partition_offset(at.topic.as_str(), number, KafkaOffset::End)?;
        }
        let told = self.ask(|client| client.offsets_for_times(list, timeout))?;
        let end = |at: &TopicPartition| {
            let told = told.find_partition(at.topic.as_str(), i32::from(at.partition.0))?;
            match (told.error(), told.offset()) {
                (Ok(()), KafkaOffset::Offset(end)) => u64::try_from(end).ok().map(Offset),
                _ => None,
            }
        };
        Ok(partitions.iter().map(|at| end(at)).collect())
    }

    pub(super) fn metadata(&self, topic: &str, timeout: Duration) -> Result<Metadata, KafkaError> {
        self.ask(|client| client.fetch_metadata(Some(topic), timeout))
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&BaseConsumer<Quiet>) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let asked = Arc::clone(&self.client.lock());
        let answer = question(&asked);
        let answered = answer.as_ref().map_or_else(errors::is_an_answer, |_| true);
        if answered {
            self.unanswered.store(0, Ordering::Relaxed);
        } else if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED {
            self.renew(&asked);
        }
        answer
    }

    fn renew(&self, asked: &Arc<BaseConsumer<Quiet>>) {
        let mut current = self.client.lock();
        if !Arc::ptr_eq(&current, asked) {
            return;
        }
        match client(&self.config, &self.trouble, self.sees) {
            Ok(new) => {
                tracing::debug!("no broker has answered for long; asking with a new client");
                *current = new;
                self.unanswered.store(0, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "a new client for questions cannot be made"),
        }
    }
}

fn client(
    config: &KafkaConfig,
    trouble: &Trouble,
    sees: Sees,
) -> Result<Arc<BaseConsumer<Quiet>>, Error> {
    let mut settings = config.consumer(None);
    if sees == Sees::Everything {
        settings.set("isolation.level", "read_uncommitted");
    }
    let client = settings.create_with_context(Quiet(trouble.clone()));
    let client = Arc::new(client.map_err(|error| errors::creation(&error))?);
    let served = Arc::downgrade(&client);
    std::thread::Builder::new()
        .name("kafka-events".to_owned())
        .spawn(move || serve(&served))
        .map_err(|error| Error::Invalid(format!("no thread for the kafka client: {error}")))?;
    Ok(client)
}

/// Takes events for as long as somebody has the client.
fn serve(client: &Weak<BaseConsumer<Quiet>>) {
    while let Some(client) = client.upgrade() {
        // It has no partitions: records never come this way.
        client.poll(EVENTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_without_answers_is_made_anew() {
        let config = KafkaConfig::new("127.0.0.1:1", "query");
        let query = Query::open(&config, &Trouble::default(), Sees::Committed).expect("a client");
        let first = Arc::clone(&query.client.lock());
        for number in 1..=UNANSWERED {
            assert!(Arc::ptr_eq(&first, &query.client.lock()), "after {} questions", number - 1);
            query.metadata("topic", Duration::from_millis(1)).expect_err("nobody is there");
        }
        assert!(!Arc::ptr_eq(&first, &query.client.lock()));
    }
}
