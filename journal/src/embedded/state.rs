//! What the embedded log keeps in memory: the ends of its partitions, the transactions that are
//! open, and who holds which transactional id. No IO and no clock.
//!
//! Readers are shown an offset, in a position or in [`Bounds`], only when that is stored: a record
//! below it was written, or, if all that is below was aborted, the offset itself was. Offsets that
//! were given to a transaction and not stored are given out again after a restart, and nobody may
//! have moved past them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Condvar;

use super::keys::Keys;
use super::layout::{PartitionKey, TopicEntry};
use crate::error::Error;
use crate::log::{Bounds, Offset, TopicName, TopicPartition, TransactionalId};

/// A partition, by its place in [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PartitionIndex(usize);

/// A transaction, counted from the opening of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransactionNumber(u64);

/// A topic.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) entry: TopicEntry,
    first: usize,
}

impl TopicState {
    /// The topic's partitions in order.
    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionIndex> + use<> {
        (self.first..self.first + usize::from(self.entry.partitions)).map(PartitionIndex)
    }
}

/// A partition.
#[derive(Debug)]
pub(super) struct PartitionState {
    pub(super) at: TopicPartition,
    pub(super) key: PartitionKey,
    start: Offset,
    /// After the last record that was written; or what was stored as the end since only aborted
    /// transactions followed.
    end: Offset,
    /// The next offset to give out.
    next: Offset,
    /// The first offset of each open transaction that has records here.
    open: BTreeMap<Offset, TransactionNumber>,
    /// Of compacted topics.
    pub(super) keys: Option<Keys>,
    waiting: Vec<Arc<Condvar>>,
}

impl PartitionState {
    /// What readers may see.
    pub(super) fn bounds(&self) -> Bounds {
        let open = self.open.first_key_value().map_or(self.end, |(first, _)| *first);
        Bounds { start: self.start, end: self.end.min(open) }
    }

    /// The end that readers could be shown, if it is past what is stored.
    pub(super) fn hidden_end(&self) -> Option<Offset> {
        let stable = self.open.first_key_value().map_or(self.next, |(first, _)| *first);
        (stable > self.end).then_some(stable)
    }

    /// Shows readers an end that was stored.
    pub(super) fn show(&mut self, end: Offset) {
        self.end = self.end.max(end);
        self.wake();
    }

    /// The offset of the last record that was written, if there was one.
    pub(super) fn last(&self) -> Option<Offset> {
        self.end.0.checked_sub(1).map(Offset)
    }

    /// The offset that the next record will have at least.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Gives up what lies below `start`.
    pub(super) fn trim(&mut self, start: Offset) {
        self.start = self.start.max(start);
        if let Some(keys) = &mut self.keys {
            keys.trim(self.start);
        }
    }

    fn wake(&self) {
        for reader in &self.waiting {
            reader.notify_all();
        }
    }
}

/// The right to write under a transactional id, until it is fenced.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: TransactionalId,
    epoch: u64,
    newest: Arc<AtomicU64>,
}

impl Session {
    /// Fails if there is a newer session of the same id.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.newest.load(Ordering::Acquire) == self.epoch {
            Ok(())
        } else {
            Err(Error::Fenced(self.id.clone()))
        }
    }
}

#[derive(Debug)]
struct OpenTransaction {
    id: TransactionalId,
    begun: Instant,
    /// Its write is under way: it can no longer be aborted.
    committing: bool,
    first: BTreeMap<PartitionIndex, Offset>,
}

/// What a commit wrote into one partition.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) partition: PartitionIndex,
    pub(super) end: Offset,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    topics: BTreeMap<TopicName, TopicState>,
    partitions: Vec<PartitionState>,
    epochs: HashMap<TransactionalId, Arc<AtomicU64>>,
    open: BTreeMap<TransactionNumber, OpenTransaction>,
    next_transaction: u64,
    failure: Option<String>,
}

impl State {
    /// Adds a topic, its partitions empty.
    pub(super) fn add_topic(&mut self, name: TopicName, entry: TopicEntry) {
        let first = self.partitions.len();
        self.partitions.extend((0..entry.partitions).map(|partition| PartitionState {
            at: TopicPartition::new(name.as_str(), partition),
            key: PartitionKey { topic: entry.number, partition },
            start: Offset(0),
            end: Offset(0),
            next: Offset(0),
            open: BTreeMap::new(),
            keys: entry.compact.then(Keys::default),
            waiting: Vec::new(),
        }));
        self.topics.insert(name, TopicState { entry, first });
    }

    /// A topic.
    pub(super) fn topic(&self, name: &TopicName) -> Option<&TopicState> {
        self.topics.get(name)
    }

    /// Every topic.
    pub(super) fn topics(&self) -> impl Iterator<Item = (&TopicName, &TopicState)> {
        self.topics.iter()
    }

    /// Sets the ends of a partition to what is stored.
    pub(super) fn load(&mut self, partition: PartitionIndex, start: Offset, end: Offset) {
        let state = &mut self.partitions[partition.0];
        state.start = start;
        state.end = end.max(start);
        state.next = state.end;
    }

    /// Finds a partition.
    pub(super) fn find(&self, at: &TopicPartition) -> Result<PartitionIndex, Error> {
        let topic = self
            .topics
            .get(&at.topic)
            .ok_or_else(|| Error::UnknownTopic(format!("'{}' does not exist", at.topic)))?;
        if at.partition.0 < topic.entry.partitions {
            Ok(PartitionIndex(topic.first + usize::from(at.partition.0)))
        } else {
            Err(Error::UnknownTopic(format!(
                "'{}' has {} partitions, none of number {}",
                at.topic, topic.entry.partitions, at.partition.0
            )))
        }
    }

    /// A partition.
    pub(super) fn partition(&self, partition: PartitionIndex) -> &PartitionState {
        &self.partitions[partition.0]
    }

    /// A partition that is to be changed.
    pub(super) fn partition_mut(&mut self, partition: PartitionIndex) -> &mut PartitionState {
        &mut self.partitions[partition.0]
    }

    /// Tells `reader` of whatever becomes visible in `partition`.
    pub(super) fn watch(&mut self, partition: PartitionIndex, reader: &Arc<Condvar>) {
        self.partitions[partition.0].waiting.push(Arc::clone(reader));
    }

    /// Ends [`State::watch`].
    pub(super) fn unwatch(&mut self, partition: PartitionIndex, reader: &Arc<Condvar>) {
        self.partitions[partition.0].waiting.retain(|other| !Arc::ptr_eq(other, reader));
    }

    /// Fails once an earlier write may or may not have happened.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(Error::Unavailable(format!(
                "a write failed and it is not known how much of it happened; \
                 the process must be started anew: {failure}"
            ))),
        }
    }

    /// Stops all writing: it is not known what the log holds.
    pub(super) fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }

    /// Opens a session that fences the one before. What that one left open is aborted; if its
    /// commit is under way, [`State::is_committing`] says so until it is over.
    pub(super) fn open_session(&mut self, id: &TransactionalId) -> Session {
        let newest = Arc::clone(self.epochs.entry(id.clone()).or_default());
        let epoch = newest.fetch_add(1, Ordering::AcqRel) + 1;
        self.abort_where(|open| open.id == *id);
        Session { id: id.clone(), epoch, newest }
    }

    /// Whether a commit of this id is under way.
    pub(super) fn is_committing(&self, id: &TransactionalId) -> bool {
        self.open.values().any(|open| open.committing && open.id == *id)
    }

    /// Begins a transaction.
    pub(super) fn begin(
        &mut self,
        session: &Session,
        now: Instant,
    ) -> Result<TransactionNumber, Error> {
        session.check()?;
        self.check()?;
        let number = TransactionNumber(self.next_transaction);
        self.next_transaction += 1;
        let id = session.id.clone();
        let open = OpenTransaction { id, begun: now, committing: false, first: BTreeMap::new() };
        self.open.insert(number, open);
        Ok(number)
    }

    /// Gives a transaction `count` offsets in each of these partitions; returns the first of each.
    pub(super) fn reserve(
        &mut self,
        session: &Session,
        number: TransactionNumber,
        counts: &[(PartitionIndex, u64)],
    ) -> Result<Vec<Offset>, Error> {
        self.check_open(session, number)?;
        let open = self.open.get_mut(&number).expect("checked to be open");
        let firsts = counts.iter().map(|(index, count)| {
            let partition = &mut self.partitions[index.0];
            let first = partition.next;
            partition.next.0 += count;
            open.first.entry(*index).or_insert_with(|| {
                partition.open.insert(first, number);
                first
            });
            first
        });
        Ok(firsts.collect())
    }

    /// Begins the write of a transaction: from now on it is not aborted.
    pub(super) fn start_commit(
        &mut self,
        session: &Session,
        number: TransactionNumber,
    ) -> Result<(), Error> {
        self.check_open(session, number)?;
        self.open.get_mut(&number).expect("checked to be open").committing = true;
        Ok(())
    }

    /// Makes a transaction that has been written visible.
    pub(super) fn finish_commit(&mut self, number: TransactionNumber, written: &[Written]) {
        for Written { partition, end } in written {
            let partition = &mut self.partitions[partition.0];
            partition.end = partition.end.max(*end);
        }
        self.close(number);
    }

    /// Gives up a transaction; its offsets become holes. One that is not open is left alone.
    pub(super) fn abort(&mut self, number: TransactionNumber) {
        self.close(number);
    }

    /// Aborts transactions that have been open for `timeout`.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration) {
        self.abort_where(|open| now.duration_since(open.begun) >= timeout);
    }

    /// When the next transaction will have been open for `timeout`.
    pub(super) fn next_expiry(&self, timeout: Duration) -> Option<Instant> {
        self.open.values().filter(|open| !open.committing).map(|open| open.begun + timeout).min()
    }

    fn check_open(&self, session: &Session, number: TransactionNumber) -> Result<(), Error> {
        session.check()?;
        self.check()?;
        if self.open.contains_key(&number) {
            Ok(())
        } else {
            Err(Error::Aborted(format!("writer '{}' took longer than the timeout", session.id)))
        }
    }

    fn abort_where(&mut self, which: impl Fn(&OpenTransaction) -> bool) {
        let aborted: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| !open.committing && which(open))
            .map(|(number, _)| *number)
            .collect();
        for number in aborted {
            self.close(number);
        }
    }

    fn close(&mut self, number: TransactionNumber) {
        let Some(open) = self.open.remove(&number) else { return };
        for (index, first) in open.first {
            let partition = &mut self.partitions[index.0];
            partition.open.remove(&first);
            partition.wake();
        }
    }
}
