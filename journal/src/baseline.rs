//! What a log costs without us: raw librdkafka clients and raw RocksDB, moving records that were
//! prepared before. `anabranch bench` measures against them, in the same run and on the same
//! broker or disk. Nothing else calls this.

use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use uuid::Uuid;

use crate::error::Error;
use crate::kafka::KafkaConfig;
use crate::log::{NewRecord, TopicPartition};

const PATIENCE: Duration = Duration::from_secs(30);

/// How long something took as a whole, and each part of it.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the first to the last.
    pub elapsed: Duration,
    /// Of each transaction or batch.
    pub latencies: Vec<Duration>,
}

/// What a raw consumer saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumed {
    /// From the first to the last record; making the consumer is not counted.
    pub elapsed: Duration,
    /// How many records there were.
    pub records: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
}

/// Writes these transactions with so many transactional producers at once, each taking the next
/// one when its last is committed. Deliveries are awaited before the commit, which would otherwise
/// take 100 ms.
///
/// # Errors
/// [`Error::Unavailable`] with what librdkafka says.
pub fn kafka_write(
    config: &KafkaConfig,
    producers: usize,
    transactions: &[Vec<NewRecord>],
) -> Result<Measured, Error> {
    let clients: Vec<BaseProducer> = (0..producers)
        .map(|_| {
            let mut client = client(config);
            client.set("transactional.id", format!("baseline-{}", Uuid::new_v4()));
            client.set("acks", "all").set("linger.ms", "0").set("batch.size", "1000000");
            let producer: BaseProducer = client.create()?;
            producer.init_transactions(PATIENCE)?;
            Ok(producer)
        })
        .collect::<Result<_, KafkaError>>()
        .map_err(unavailable)?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let begun = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let mut latencies = Vec::new();
                    loop {
                        let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(records) = transactions.get(index) else { break Ok(latencies) };
                        let begun = Instant::now();
                        transact(client, records)?;
                        latencies.push(begun.elapsed());
                    }
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(latencies) => latencies,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<_>, KafkaError>>()
    });
    let latencies = latencies.map_err(unavailable)?.concat();
    Ok(Measured { elapsed: begun.elapsed(), latencies })
}

fn transact(producer: &BaseProducer, records: &[NewRecord]) -> Result<(), KafkaError> {
    producer.begin_transaction()?;
    for record in records {
        let mut raw = BaseRecord::<[u8], [u8]>::to(record.at.topic.as_str())
            .partition(i32::from(record.at.partition.0))
            .key(&record.key);
        if let Some(value) = &record.value {
            raw = raw.payload(value);
        }
        producer.send(raw).map_err(|(error, _)| error)?;
    }
    producer.flush(PATIENCE)?;
    producer.commit_transaction(PATIENCE)
}

/// Reads all that is committed in these partitions now.
///
/// # Errors
/// [`Error::Unavailable`] with what librdkafka says.
pub fn kafka_read(config: &KafkaConfig, from: &[TopicPartition]) -> Result<Consumed, Error> {
    let mut client = client(config);
    client.set("group.id", "baseline").set("enable.auto.commit", "false");
    client.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = client.create().map_err(unavailable)?;
    let mut list = TopicPartitionList::new();
    for at in from {
        let number = i32::from(at.partition.0);
        list.add_partition_offset(at.topic.as_str(), number, KafkaOffset::Beginning)
            .map_err(unavailable)?;
    }
    let begun = Instant::now();
    consumer.assign(&list).map_err(unavailable)?;
    let mut consumed = Consumed::default();
    let mut open = from.len();
    while open > 0 {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => {
                let bytes = message.key_len() + message.payload_len();
                consumed.records += 1;
                consumed.bytes += bytes as u64;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(unavailable(error)),
            None => return Err(Error::Unavailable("no records came".to_owned())),
        }
    }
    consumed.elapsed = begun.elapsed();
    Ok(consumed)
}

/// A key and a value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Puts these batches into a new RocksDB in `path`, each with one `WriteBatch`. With `sync` each is
/// on the disk before the next; without, there is no write-ahead log, and all is flushed at the
/// end.
///
/// # Errors
/// [`Error::Unavailable`] with what RocksDB says.
pub fn rocksdb_write(path: &Path, sync: bool, batches: &[Vec<Pair>]) -> Result<Measured, Error> {
    let failed = |error: rocksdb::Error| Error::Unavailable(error.to_string());
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, path).map_err(failed)?;
    let mut how = WriteOptions::default();
    how.set_sync(sync);
    how.disable_wal(!sync);
    let begun = Instant::now();
    let mut latencies = Vec::with_capacity(batches.len());
    for pairs in batches {
        let begun = Instant::now();
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        db.write_opt(batch, &how).map_err(failed)?;
        latencies.push(begun.elapsed());
    }
    if !sync {
        db.flush().map_err(failed)?;
    }
    Ok(Measured { elapsed: begun.elapsed(), latencies })
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.bootstrap);
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    client
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unavailable(error: KafkaError) -> Error {
    Error::Unavailable(error.to_string())
}
