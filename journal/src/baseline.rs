//! What a log costs without us: raw librdkafka clients and raw RocksDB, moving records that were
//! prepared before. `anabranch bench` measures against them, in the same run and on the same
//! broker or disk. Nothing else calls this.
//!
//! The raw clients have the properties that ours have: what is compared is our code with none, and
//! not one set of properties with another.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use uuid::Uuid;

use crate::error::Error;
use crate::kafka::{KafkaConfig, settle};
use crate::log::{NewRecord, TopicPartition, TransactionalId};

const PATIENCE: Duration = Duration::from_secs(30);
/// Transactions of each producer before the clock starts: it connects and learns who leads what.
const WARM_UP: usize = 3;

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

/// Who writes transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producers {
    /// So many at once, each taking the next transaction when its last is committed.
    AtOnce(usize),
    /// One transaction at a time, each with the producer that has rested longest: one that begins
    /// right after its last commit often waits 20 ms for that one's markers.
    InTurn(usize),
}

/// Writes these transactions. Deliveries are awaited before the commit, which would otherwise take
/// 100 ms.
///
/// # Errors
/// [`Error::Unavailable`] with what librdkafka says.
pub fn kafka_write(
    config: &KafkaConfig,
    producers: Producers,
    transactions: &[Vec<NewRecord>],
) -> Result<Measured, Error> {
    let (threads, each) = match producers {
        Producers::AtOnce(count) => (count, 1),
        Producers::InTurn(count) => (1, count),
    };
    let groups: Vec<Vec<RawProducer>> = (0..threads)
        .map(|_| (0..each).map(|_| RawProducer::open(config, transactions)).collect())
        .collect::<Result<_, KafkaError>>()
        .map_err(unavailable)?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = groups
            .iter()
            .map(|group| {
                scope.spawn(|| {
                    let mut latencies = Vec::new();
                    for producer in group.iter().cycle() {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(records) = transactions.get(index) else { break };
                        let begun = Instant::now();
                        producer.transact(records)?;
                        latencies.push(begun.elapsed());
                    }
                    Ok(latencies)
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

/// A transactional producer. Its own thread takes the deliveries: rdkafka's `flush` looks for them
/// every 100 ms only.
struct RawProducer {
    client: ThreadedProducer<Context>,
    deliveries: Arc<Deliveries>,
}

impl RawProducer {
    fn open(config: &KafkaConfig, transactions: &[Vec<NewRecord>]) -> Result<Self, KafkaError> {
        let deliveries = Arc::new(Deliveries::default());
        let id = TransactionalId::from(format!("baseline-{}", Uuid::new_v4()));
        let context = Context(Arc::clone(&deliveries));
        let client: ThreadedProducer<Context> =
            config.producer(&id).create_with_context(context)?;
        client.init_transactions(PATIENCE)?;
        let producer = RawProducer { client, deliveries };
        for records in transactions.iter().take(WARM_UP) {
            producer.transact(records)?;
        }
        Ok(producer)
    }

    fn transact(&self, records: &[NewRecord]) -> Result<(), KafkaError> {
        self.client.begin_transaction()?;
        self.deliveries.state.lock().0 = records.len();
        for record in records {
            let mut raw = BaseRecord::<[u8], [u8]>::to(record.at.topic.as_str())
                .partition(i32::from(record.at.partition.0))
                .key(&record.key);
            if let Some(value) = &record.value {
                raw = raw.payload(value);
            }
            self.client.send(raw).map_err(|(error, _)| error)?;
        }
        self.deliveries.wait()?;
        settle(|| self.client.in_flight_count());
        self.client.commit_transaction(PATIENCE)
    }
}

/// How many records are not delivered yet, and what became of one that was refused.
#[derive(Default)]
struct Deliveries {
    state: Mutex<(usize, Option<KafkaError>)>,
    changed: Condvar,
}

impl Deliveries {
    fn wait(&self) -> Result<(), KafkaError> {
        let mut state = self.state.lock();
        while state.0 > 0 {
            self.changed.wait(&mut state);
        }
        state.1.take().map_or(Ok(()), Err)
    }
}

struct Context(Arc<Deliveries>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut state = self.0.state.lock();
        state.0 -= 1;
        if let Err((error, _)) = result {
            state.1.get_or_insert_with(|| error.clone());
        }
        if state.0 == 0 {
            self.0.changed.notify_one();
        }
    }
}

/// Says nothing of the ends of partitions, which are no errors here.
struct Silent;

impl ClientContext for Silent {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the raw client reports an error");
    }
}

impl ConsumerContext for Silent {}

/// Reads all that is committed in these partitions now.
///
/// # Errors
/// [`Error::Unavailable`] with what librdkafka says.
pub fn kafka_read(config: &KafkaConfig, from: &[TopicPartition]) -> Result<Consumed, Error> {
    let consumer: BaseConsumer<Silent> =
        config.consumer(Some("baseline")).create_with_context(Silent).map_err(unavailable)?;
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
/// on the disk before the next; without, there is no write-ahead log.
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
    Ok(Measured { elapsed: begun.elapsed(), latencies })
}

/// Gets these keys one after the other of the RocksDB in `path`, which nobody has open, then goes
/// through all that is in it, so many times. Before that it is compacted, so that both read files and
/// little else.
///
/// # Errors
/// [`Error::Unavailable`] with what RocksDB says, or if a key is not there.
pub fn rocksdb_read(
    path: &Path,
    keys: &[Vec<u8>],
    scans: usize,
) -> Result<(Measured, Measured), Error> {
    let failed = |error: rocksdb::Error| Error::Unavailable(error.to_string());
    let db = DB::open_default(path).map_err(failed)?;
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let (begun, mut latencies) = (Instant::now(), Vec::with_capacity(keys.len()));
    for key in keys {
        let begun = Instant::now();
        if db.get(key).map_err(failed)?.is_none() {
            return Err(Error::Unavailable("a key that was written is not there".to_owned()));
        }
        latencies.push(begun.elapsed());
    }
    let gets = Measured { elapsed: begun.elapsed(), latencies };
    let (begun, mut latencies) = (Instant::now(), Vec::with_capacity(scans));
    for _ in 0..scans {
        let begun = Instant::now();
        let bytes = rocksdb_bytes(&db).map_err(failed)?;
        tracing::debug!(bytes, "RocksDB was gone through");
        latencies.push(begun.elapsed());
    }
    Ok((gets, Measured { elapsed: begun.elapsed(), latencies }))
}

/// How many bytes the keys and values have, by going through all of them.
fn rocksdb_bytes(db: &DB) -> Result<usize, rocksdb::Error> {
    let mut all = db.raw_iterator();
    all.seek_to_first();
    let mut bytes = 0;
    while let Some((key, value)) = all.item() {
        bytes += key.len() + value.len();
        all.next();
    }
    all.status().map(|()| bytes)
}

/// Makes a checkpoint of the RocksDB in `from`, which nobody has open, and copies its files to
/// `to`, where they are durable then. Returns how many bytes they have.
///
/// # Errors
/// [`Error::Unavailable`] with what RocksDB or the file system says.
pub fn rocksdb_copy(from: &Path, to: &Path) -> Result<u64, Error> {
    let failed = |error: rocksdb::Error| Error::Unavailable(error.to_string());
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    let tables = DB::list_cf(&options, from).map_err(failed)?;
    let db = DB::open_cf(&options, from, tables).map_err(failed)?;
    let linked = to.with_extension("checkpoint");
    Checkpoint::new(&db).and_then(|made| made.create_checkpoint(&linked)).map_err(failed)?;
    let copied = copy_files(&linked, to);
    copied.map_err(|error| Error::Unavailable(format!("copy '{}': {error}", linked.display())))
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<u64> {
    std::fs::create_dir_all(to)?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        bytes += std::fs::copy(entry.path(), &copy)?;
        std::fs::File::open(copy)?.sync_all()?;
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unavailable(error: KafkaError) -> Error {
    Error::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use anabranch_tests::support::Broker;
    use bytes::Bytes;

    use super::*;
    use crate::kafka::KafkaJournal;
    use crate::log::{Cleanup, Journal, TopicSpec};

    #[test]
    fn a_copied_checkpoint_has_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let pair = |number: u8| (vec![number], vec![number; 100]);
        rocksdb_write(&from, false, &[(0..50).map(pair).collect()]).expect("written");
        assert!(rocksdb_copy(&from, &to).expect("copied") > 50 * 100);
        let db = DB::open_default(&to).expect("it opens");
        assert_eq!(db.get([7]).expect("read"), Some(vec![7; 100]));
    }

    /// What ours is compared with does what ours does: everything is written once and committed.
    #[test]
    fn raw_clients_write_and_read_all() {
        let broker = Broker::shared();
        let config = KafkaConfig::new(broker.address(), "baseline");
        let journal = KafkaJournal::connect(config.clone()).expect("the settings are right");
        let topic = broker.unique_name("baseline");
        let spec = TopicSpec {
            name: topic.as_str().into(),
            partitions: 2,
            cleanup: Cleanup::Delete { retention_ms: None },
            max_record_bytes: 1024,
        };
        journal.ensure_topics(&[spec]).expect("a topic");
        let record = |partition| NewRecord {
            at: TopicPartition::new(topic.as_str(), partition),
            key: Bytes::from_static(b"key"),
            value: Some(Bytes::from_static(b"value")),
        };
        let transactions = vec![vec![record(0), record(1)]; 21];
        for producers in [Producers::AtOnce(1), Producers::InTurn(5)] {
            let measured = kafka_write(&config, producers, &transactions).expect("written");
            assert_eq!(measured.latencies.len(), transactions.len());
        }
        let all = [TopicPartition::new(topic.as_str(), 0), TopicPartition::new(topic.as_str(), 1)];
        let consumed = kafka_read(&config, &all).expect("read");
        let warm_up = (1 + 5) * WARM_UP;
        assert_eq!(consumed.records, 2 * (2 * 21 + warm_up as u64));
    }
}
