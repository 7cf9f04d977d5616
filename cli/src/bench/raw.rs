//! The same without us: what a cluster has written is read back, and written again by raw clients.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_journal::baseline::{self, Measured, Pair, Producers};
use anabranch_journal::kafka::KafkaConfig;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{
    Journal, NewRecord, Offset, ReadFrom, Record, TopicPartition, cluster_topics,
};
use anabranch_schemas::records::TxnsRecord;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result, anyhow};

use super::report::{Measurement, Steal, histogram_of};

const POLL: Duration = Duration::from_millis(100);

/// Where topics of a cluster end: what is written later is read from there.
pub(super) struct Mark(Vec<(TopicPartition, Offset)>);

/// A round as it stands in the log.
#[derive(Clone)]
pub(super) struct WrittenRound {
    /// Its parts, then its commit record.
    pub(super) records: Vec<Record>,
    pub(super) documents: u64,
}

/// The partitions that rounds are written to; the last is that of commit records.
pub(super) fn partitions(cluster: &ClusterIdentity) -> Vec<TopicPartition> {
    let rounds = cluster.name.rounds();
    let mut all: Vec<_> =
        cluster.slices.all().map(|slice| TopicPartition::new(rounds.as_str(), slice.0)).collect();
    all.push(TopicPartition::new(cluster.name.txns(), 0));
    all
}

impl Mark {
    /// At the present end.
    pub(super) fn now(journal: &dyn Journal, cluster: &ClusterIdentity) -> Result<Self> {
        let ends = partitions(cluster).into_iter().map(|at| {
            let end = journal.bounds(&at)?.end;
            Ok((at, end))
        });
        Ok(Mark(ends.collect::<Result<_>>()?))
    }

    /// What was written since.
    pub(super) fn written_since(&self, journal: &dyn Journal) -> Result<Vec<WrittenRound>> {
        let from: Vec<_> =
            self.0.iter().map(|(at, offset)| (at.clone(), ReadFrom::Offset(*offset))).collect();
        let (txns, _) = self.0.last().context("a cluster has topics")?;
        let ends: Vec<_> = self
            .0
            .iter()
            .map(|(at, _)| Ok((at.clone(), journal.bounds(at)?.end)))
            .collect::<Result<_>>()?;
        let mut reader = journal.reader(&from)?;
        let (mut parts_of, mut commits) = (HashMap::new(), Vec::new());
        while ends.iter().any(|(at, end)| reader.position(at).is_none_or(|next| next < *end)) {
            for record in reader.poll(POLL)? {
                if record.at == *txns {
                    commits.push(record);
                } else {
                    parts_of.insert((record.at.partition.0, record.offset.0), record);
                }
            }
        }
        let rounds = commits.into_iter().filter_map(|commit| {
            match commit.value.as_deref().map(TxnsRecord::decode) {
                None => Some(Err(anyhow!("a commit record is empty"))),
                Some(Ok(TxnsRecord::Commit(content))) => Some(Ok((commit, content))),
                Some(Ok(TxnsRecord::Expiry(_))) => None,
                Some(Err(error)) => Some(Err(error).context("read a commit record")),
            }
        });
        let rounds = rounds.map(|round| {
            let (commit, content) = round?;
            let parts = content.parts.iter();
            let mut records: Vec<_> =
                parts.filter_map(|part| parts_of.remove(&(part.slice.0, part.offset))).collect();
            records.push(commit);
            Ok(WrittenRound { records, documents: u64::try_from(content.mutations)? })
        });
        rounds.collect()
    }
}

/// What a raw client is: who writes, and how many rounds go into a transaction or a batch.
#[derive(Clone, Copy)]
pub(super) struct Raw {
    pub(super) producers: Producers,
    pub(super) rounds: usize,
}

impl Raw {
    /// As text, on Kafka.
    fn on_kafka(self) -> String {
        let who = match self.producers {
            Producers::AtOnce(1) => "1 producer".to_owned(),
            Producers::AtOnce(count) => format!("{count} producers"),
            Producers::InTurn(count) => format!("{count} producers in turn"),
        };
        format!("  raw: {who}, {} a transaction", self.batch())
    }

    fn batch(self) -> String {
        if self.rounds == 1 { "a round".to_owned() } else { format!("{} rounds", self.rounds) }
    }

    /// Records as they are to be written together.
    fn batches<T>(self, written: &[WrittenRound], prepared: impl Fn(&Record) -> T) -> Vec<Vec<T>> {
        let batch = |rounds: &[WrittenRound]| {
            rounds.iter().flat_map(|round| &round.records).map(&prepared).collect()
        };
        written.chunks(self.rounds).map(batch).collect()
    }
}

/// Writes rounds again with raw producers.
pub(super) async fn kafka(
    journal: Arc<dyn Journal>,
    config: KafkaConfig,
    cluster: &ClusterIdentity,
    twin: ClusterName,
    raw: Raw,
    written: Arc<Vec<WrittenRound>>,
) -> Result<Measurement> {
    let documents = documents(&written);
    let (slices, txns) = (cluster.slices, cluster.name.txns());
    let measuring = tokio::task::spawn_blocking(move || -> Result<(Measured, f64)> {
        let (twin_rounds, twin_txns) = (twin.rounds(), twin.txns());
        let mut topics = cluster_topics(&twin, slices, None);
        topics
            .retain(|topic| [&twin_rounds, &twin_txns].iter().any(|t| topic.name.as_str() == **t));
        journal.ensure_topics(&topics)?;
        let transactions = raw.batches(&written, |record| {
            let topic = if record.at.topic.as_str() == txns { &twin_txns } else { &twin_rounds };
            NewRecord {
                at: TopicPartition::new(topic.as_str(), record.at.partition.0),
                key: record.key.clone(),
                value: record.value.clone(),
            }
        });
        let steal = Steal::start()?;
        let measured = baseline::kafka_write(&config, raw.producers, &transactions)?;
        Ok((measured, steal.share()?))
    });
    let measured = measuring.await?.context("write with a raw producer")?;
    Ok(measurement(raw.on_kafka(), documents, &measured))
}

/// Writes rounds again with raw RocksDB, each batch on the disk before the next.
pub(super) async fn rocksdb(
    dir: &Path,
    raw: Raw,
    written: Arc<Vec<WrittenRound>>,
) -> Result<Measurement> {
    let (dir, documents) = (dir.to_owned(), documents(&written));
    let measuring = tokio::task::spawn_blocking(move || -> Result<(Measured, f64)> {
        let batches = raw.batches(&written, |record| -> Pair {
            let mut key = vec![u8::from(record.at.topic.as_str().ends_with("txns"))];
            key.extend_from_slice(&record.at.partition.0.to_be_bytes());
            key.extend_from_slice(&record.offset.0.to_be_bytes());
            (key, record.value.as_deref().unwrap_or_default().to_vec())
        });
        let steal = Steal::start()?;
        let measured = baseline::rocksdb_write(&dir, true, &batches)?;
        Ok((measured, steal.share()?))
    });
    let measured = measuring.await?.context("write with raw RocksDB")?;
    let what = format!("  raw: RocksDB, {} a synced batch", raw.batch());
    Ok(measurement(what, documents, &measured))
}

fn documents(rounds: &[WrittenRound]) -> u64 {
    rounds.iter().map(|round| round.documents).sum()
}

fn measurement(what: String, documents: u64, measured: &(Measured, f64)) -> Measurement {
    let (Measured { elapsed, latencies }, stolen) = measured;
    let latencies = histogram_of(latencies);
    Measurement { what, documents, elapsed: *elapsed, latencies, stolen: *stolen }
}
