//! The same without us: what a cluster has written is read back, and written again by raw clients.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_journal::baseline::{self, Measured, Pair};
use anabranch_journal::kafka::KafkaConfig;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{
    Journal, NewRecord, Offset, ReadFrom, Record, TopicPartition, cluster_topics,
};
use anabranch_schemas::decode;
use anabranch_schemas::records::Commit;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result};

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
        let rounds = commits.into_iter().map(|commit| {
            let value = commit.value.as_deref().context("a commit record is empty")?;
            let content: Commit = decode(value).context("read a commit record")?;
            let parts = content.parts.iter();
            let mut records: Vec<_> =
                parts.filter_map(|part| parts_of.remove(&(part.slice.0, part.offset))).collect();
            records.push(commit);
            Ok(WrittenRound { records, documents: u64::try_from(content.mutations)? })
        });
        rounds.collect()
    }
}

/// Writes rounds again, each in a transaction of its own, with so many raw producers.
pub(super) async fn kafka(
    journal: Arc<dyn Journal>,
    config: KafkaConfig,
    cluster: &ClusterIdentity,
    twin: ClusterName,
    producers: usize,
    written: Arc<Vec<WrittenRound>>,
) -> Result<Measurement> {
    let documents = documents(&written);
    let (slices, txns) = (cluster.slices, cluster.name.txns());
    let steal = Steal::start()?;
    let measuring = tokio::task::spawn_blocking(move || -> Result<Measured> {
        let (twin_rounds, twin_txns) = (twin.rounds(), twin.txns());
        let mut topics = cluster_topics(&twin, slices, None);
        topics
            .retain(|topic| [&twin_rounds, &twin_txns].iter().any(|t| topic.name.as_str() == **t));
        journal.ensure_topics(&topics)?;
        let again = |record: &Record| {
            let topic = if record.at.topic.as_str() == txns { &twin_txns } else { &twin_rounds };
            NewRecord {
                at: TopicPartition::new(topic.as_str(), record.at.partition.0),
                key: record.key.clone(),
                value: record.value.clone(),
            }
        };
        let transactions: Vec<Vec<_>> =
            written.iter().map(|round| round.records.iter().map(again).collect()).collect();
        Ok(baseline::kafka_write(&config, producers, &transactions)?)
    });
    let measured = measuring.await?.context("write with a raw producer")?;
    let who = if producers == 1 { "producer" } else { "producers" };
    measurement(
        format!("  raw: {producers} {who}, a transaction a round"),
        documents,
        &measured,
        &steal,
    )
}

/// Writes rounds again, each as one synced `WriteBatch`.
pub(super) async fn rocksdb(dir: &Path, written: Arc<Vec<WrittenRound>>) -> Result<Measurement> {
    let (dir, documents) = (dir.to_owned(), documents(&written));
    let steal = Steal::start()?;
    let measuring = tokio::task::spawn_blocking(move || -> Result<Measured> {
        let pair = |record: &Record| -> Pair {
            let mut key = vec![u8::from(record.at.topic.as_str().ends_with("txns"))];
            key.extend_from_slice(&record.at.partition.0.to_be_bytes());
            key.extend_from_slice(&record.offset.0.to_be_bytes());
            (key, record.value.as_deref().unwrap_or_default().to_vec())
        };
        let batches: Vec<Vec<_>> =
            written.iter().map(|round| round.records.iter().map(pair).collect()).collect();
        Ok(baseline::rocksdb_write(&dir, true, &batches)?)
    });
    let measured = measuring.await?.context("write with raw RocksDB")?;
    measurement("  raw: RocksDB, a synced batch a round".to_owned(), documents, &measured, &steal)
}

fn documents(rounds: &[WrittenRound]) -> u64 {
    rounds.iter().map(|round| round.documents).sum()
}

fn measurement(
    what: String,
    documents: u64,
    measured: &Measured,
    steal: &Steal,
) -> Result<Measurement> {
    let Measured { elapsed, latencies } = measured;
    let latencies = histogram_of(latencies);
    Ok(Measurement { what, documents, elapsed: *elapsed, latencies, stolen: steal.share()? })
}
