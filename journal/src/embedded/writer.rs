//! The writer of the embedded log: records wait in memory until the commit writes them at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rocksdb::WriteBatch;

use super::Shared;
use super::layout::{PartitionKey, encode_record};
use super::state::{PartitionIndex, Session, State, TransactionNumber, Written};
use super::store::WriteFailure;
use crate::error::Error;
use crate::log::{NewRecord, Offset, TopicPartition, TransactionalId, Writer};

/// The longest key and value: their lengths are stored in 31 bits.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// A partition as this writer remembers it.
#[derive(Clone, Copy, Debug)]
struct Target {
    index: PartitionIndex,
    key: PartitionKey,
    max_record_bytes: usize,
    compact: bool,
}

/// A record of the open transaction; it has an offset once it was flushed.
#[derive(Debug)]
struct Pending {
    target: Target,
    record: NewRecord,
    timestamp_ms: u64,
    offset: Offset,
}

#[derive(Debug)]
struct Transaction {
    number: TransactionNumber,
    records: Vec<Pending>,
    flushed: usize,
}

/// A writer.
pub(super) struct EmbeddedWriter {
    shared: Arc<Shared>,
    session: Session,
    targets: HashMap<TopicPartition, Target>,
    transaction: Option<Transaction>,
}

impl EmbeddedWriter {
    /// Fences the writer before and waits for its commit, if one is under way.
    pub(super) fn open(shared: Arc<Shared>, id: &TransactionalId) -> Result<Self, Error> {
        let mut state = shared.state();
        state.check()?;
        let session = state.open_session(id);
        while state.is_committing(id) {
            shared.commit_over.wait(&mut state);
            state.check()?;
        }
        drop(state);
        Ok(EmbeddedWriter { shared, session, targets: HashMap::new(), transaction: None })
    }

    fn target(&mut self, at: &TopicPartition) -> Result<Target, Error> {
        if let Some(target) = self.targets.get(at) {
            return Ok(*target);
        }
        let state = self.shared.state();
        let index = state.find(at)?;
        let topic = state.topic(&at.topic).expect("the partition was found");
        let target = Target {
            index,
            key: state.partition(index).key,
            max_record_bytes: topic.entry.max_record_bytes.min(MAX_RECORD_BYTES),
            compact: topic.entry.compact,
        };
        drop(state);
        self.targets.insert(at.clone(), target);
        Ok(target)
    }

    /// The transaction's batch, with the deletes of what earlier commits superseded.
    fn batch(transaction: &Transaction, superseded: &[(Target, Vec<Offset>)]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        let mut stored = Vec::new();
        for Pending { target, record, timestamp_ms, offset } in &transaction.records {
            encode_record(record, *timestamp_ms, &mut stored);
            batch.put(target.key.record(offset.0), &stored);
        }
        for (target, offsets) in superseded {
            for offset in offsets {
                batch.delete(target.key.record(offset.0));
            }
        }
        batch
    }

    fn finish(
        &self,
        transaction: Transaction,
        superseded: Vec<(Target, Vec<Offset>)>,
        written: Result<(), WriteFailure>,
    ) -> Result<(), Error> {
        let mut state = self.shared.state();
        let result = match written {
            Ok(()) => {
                make_visible(&mut state, transaction);
                Ok(())
            }
            Err(WriteFailure::Refused(error)) => {
                put_back(&mut state, superseded);
                state.abort(transaction.number);
                Err(error)
            }
            Err(WriteFailure::Unknown(failure)) => {
                // It stays open: readers must not move past what may be there after a restart.
                state.fail(failure.clone());
                Err(Error::Unknown(failure))
            }
        };
        drop(state);
        self.shared.commit_over.notify_all();
        result
    }
}

fn make_visible(state: &mut State, transaction: Transaction) {
    let mut ends: HashMap<PartitionIndex, Offset> = HashMap::new();
    for Pending { target, record, timestamp_ms, offset } in transaction.records {
        ends.insert(target.index, Offset(offset.0 + 1));
        if let Some(keys) = &mut state.partition_mut(target.index).keys {
            keys.note(record.key, offset, record.value.is_none().then_some(timestamp_ms));
        }
    }
    let written: Vec<_> =
        ends.into_iter().map(|(partition, end)| Written { partition, end }).collect();
    state.finish_commit(transaction.number, &written);
}

fn put_back(state: &mut State, superseded: Vec<(Target, Vec<Offset>)>) {
    for (target, offsets) in superseded {
        if let Some(keys) = &mut state.partition_mut(target.index).keys {
            keys.put_back(offsets);
        }
    }
}

fn no_transaction() -> Error {
    Error::Invalid("there is no open transaction".to_owned())
}

impl Writer for EmbeddedWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.session.check()?;
        if self.transaction.is_some() {
            return Err(Error::Invalid("a transaction is open already".to_owned()));
        }
        self.shared.retain_if_due();
        let number = self.shared.state().begin(&self.session, Instant::now())?;
        self.transaction = Some(Transaction { number, records: Vec::new(), flushed: 0 });
        Ok(())
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        self.session.check()?;
        let target = self.target(&record.at)?;
        let bytes = record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
        if bytes > target.max_record_bytes {
            return Err(Error::TooLarge { bytes, limit: target.max_record_bytes });
        }
        let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
        transaction.records.push(Pending { target, record, timestamp_ms: 0, offset: Offset(0) });
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        let Transaction { number, records, flushed } =
            self.transaction.as_mut().ok_or_else(no_transaction)?;
        let new = &mut records[*flushed..];
        let mut counts: Vec<(PartitionIndex, u64)> = Vec::new();
        let mut place: HashMap<PartitionIndex, usize> = HashMap::new();
        for pending in new.iter() {
            let next = counts.len();
            let at = *place.entry(pending.target.index).or_insert(next);
            if at == next {
                counts.push((pending.target.index, 0));
            }
            counts[at].1 += 1;
        }
        let mut next = self.shared.state().reserve(&self.session, *number, &counts)?;
        let now_ms = (self.shared.config.now_ms)();
        let offsets = new.iter_mut().map(|pending| {
            let offset = &mut next[place[&pending.target.index]];
            pending.offset = *offset;
            pending.timestamp_ms = now_ms;
            offset.0 += 1;
            pending.offset
        });
        let offsets = offsets.collect();
        *flushed = records.len();
        Ok(offsets)
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.flush()?;
        let transaction = self.transaction.take().ok_or_else(no_transaction)?;
        let mut superseded = Vec::new();
        {
            let mut state = self.shared.state();
            state.start_commit(&self.session, transaction.number)?;
            if transaction.records.is_empty() {
                state.abort(transaction.number);
                return Ok(());
            }
            let compacted = self.targets.values().filter(|target| target.compact);
            for target in compacted {
                if let Some(keys) = &mut state.partition_mut(target.index).keys {
                    superseded.push((*target, keys.take_superseded()));
                }
            }
        }
        let batch = Self::batch(&transaction, &superseded);
        let written = self.shared.store.write(batch);
        self.finish(transaction, superseded, written)
    }

    fn abort(&mut self) -> Result<(), Error> {
        let transaction = self.transaction.take().ok_or_else(no_transaction)?;
        self.shared.state().abort(transaction.number);
        self.session.check()
    }

    /// Never: nothing of a transaction is under way once its call returned.
    fn is_spent(&self) -> bool {
        false
    }
}

impl Drop for EmbeddedWriter {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.shared.state().abort(transaction.number);
        }
    }
}
