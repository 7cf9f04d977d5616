//! Which transactions are open, and whose they are.
//!
//! What a client may see decides what brokers tell it of the end of a partition: the last stable
//! offset, which is the first record of the oldest open transaction, or else the end itself. So two
//! clients that see different things see together whether a transaction is open. Brokers do not tell
//! whose it is, librdkafka has no call for that: its first record in each partition does, in a header.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::{Quiet, Shared, errors};
use crate::error::Error;
use crate::log::{Offset, OpenTransaction, Signature, TopicPartition, TransactionalId};

/// Names the transactional id of a record's writer.
const WRITER_HEADER: &str = "anabranch-writer";
/// Says how often its process was fenced lately, unless it never was.
const FENCED_HEADER: &str = "anabranch-writer-fenced";

/// Who is fenced several times within so long is so for one cause: several servers wanted to end what
/// was open, or one of them several times.
const ONE_CAUSE: Duration = Duration::from_secs(1);
/// How long it is remembered that a writer was fenced.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How long an answer is waited for: one that comes later is not about now.
const PATIENCE: Duration = Duration::from_secs(2);

/// Behind all that was written, be it committed or not.
pub(super) fn written(shared: &Shared, at: &TopicPartition) -> Result<Offset, Error> {
    let failed = |error| shared.error("end of a partition", &error);
    let told = shared.uncommitted.ends(&[at], PATIENCE).map_err(failed)?;
    let end = told.into_iter().next().flatten();
    end.ok_or_else(|| Error::Unavailable(format!("the end of {at} is not told")))
}

/// Of each partition the oldest open transaction.
pub(super) fn transactions(
    shared: &Shared,
    partitions: &[TopicPartition],
) -> Result<Vec<OpenTransaction>, Error> {
    let all: Vec<_> = partitions.iter().collect();
    let failed = |error| shared.error("ends of partitions", &error);
    // In this order what ends in between seems to have ended: a transaction is never made up.
    let written = shared.uncommitted.ends(&all, PATIENCE).map_err(failed)?;
    let stable = shared.query.ends(&all, PATIENCE).map_err(failed)?;
    let open = partitions.iter().zip(stable.into_iter().zip(written));
    Ok(open
        .filter_map(|(at, ends)| match ends {
            (Some(first), Some(end)) if first < end => {
                Some(OpenTransaction { at: at.clone(), first, end })
            }
            _ => None,
        })
        .collect())
}

/// The headers of a transaction's first record in a partition.
pub(super) fn signature(writer: &TransactionalId, fenced: u32) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(2);
    let headers = headers.insert(Header { key: WRITER_HEADER, value: Some(writer.as_str()) });
    if fenced == 0 {
        return headers;
    }
    headers.insert(Header { key: FENCED_HEADER, value: Some(&fenced.to_string()) })
}

fn signature_in(headers: &impl Headers) -> Option<Signature> {
    let text = |key| {
        let header = headers.iter().find(|header| header.key == key)?;
        std::str::from_utf8(header.value?).ok()
    };
    let writer = TransactionalId::from(text(WRITER_HEADER)?);
    let fenced = text(FENCED_HEADER).and_then(|fenced| fenced.parse().ok());
    Some(Signature { writer, fenced: fenced.unwrap_or(0) })
}

/// Whose transaction it is, by its first record.
pub(super) fn writer(shared: &Shared, open: &OpenTransaction) -> Result<Option<Signature>, Error> {
    let failed = |error| shared.error("look for a writer", &error);
    let consumer: BaseConsumer<Quiet> = shared
        .config
        .consumer(Some(super::reader::GROUP))
        .set("isolation.level", "read_uncommitted")
        .create_with_context(Quiet(shared.trouble.clone()))
        .map_err(|error| errors::creation(&error))?;
    let mut list = TopicPartitionList::with_capacity(1);
    let first = KafkaOffset::Offset(errors::signed(open.first.0)?);
    let number = i32::from(open.at.partition.0);
    list.add_partition_offset(open.at.topic.as_str(), number, first).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        // An error is passed over: of a broker that goes away, until time is up.
        let Some(Ok(record)) = consumer.poll(left) else { continue };
        let is_first = u64::try_from(record.offset()) == Ok(open.first.0);
        return Ok(record.headers().filter(|_| is_first).and_then(signature_in));
    }
    Ok(None)
}

/// Which writers of this process were fenced, and how often lately.
#[derive(Debug, Default)]
pub(super) struct Fences(HashMap<TransactionalId, (Instant, u32)>);

impl Fences {
    pub(super) fn note(&mut self, writer: &TransactionalId, now: Instant) {
        self.0.retain(|_, (last, _)| now - *last < REMEMBERED);
        let (last, times) = self.0.entry(writer.clone()).or_insert((now, 0));
        if *times == 0 || now - *last > ONE_CAUSE {
            *times += 1;
        }
        *last = now;
    }

    pub(super) fn count(&self, writer: &TransactionalId, now: Instant) -> u32 {
        let known = self.0.get(writer).filter(|(last, _)| now - *last < REMEMBERED);
        known.map_or(0, |(_, times)| *times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_says_whose_it_is_and_how_often_that_one_was_fenced() {
        for fenced in [0, 1, 17] {
            let writer = TransactionalId::from("lane");
            let signed = signature(&writer, fenced);
            assert_eq!(signature_in(&signed), Some(Signature { writer, fenced }));
        }
        assert_eq!(signature_in(&OwnedHeaders::new()), None);
    }

    #[test]
    fn fences_are_counted_by_writer_until_they_are_forgotten() {
        let (mut fences, now) = (Fences::default(), Instant::now());
        let (slow, other) = (TransactionalId::from("slow"), TransactionalId::from("other"));
        for now in [now, now + ONE_CAUSE, now + ONE_CAUSE * 3] {
            fences.note(&slow, now);
        }
        assert_eq!([&slow, &other].map(|writer| fences.count(writer, now)), [2, 0]);
        let later = now + ONE_CAUSE * 3 + REMEMBERED;
        assert_eq!(fences.count(&slow, later), 0);
        fences.note(&other, later);
        assert_eq!(fences.0.len(), 1);
    }
}
