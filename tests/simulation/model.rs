//! What the log says, computed in the plainest way.
//!
//! What replicas agree to be lost changes it from the start on: then all is computed once more, and
//! what it was before is kept. Somebody may have read that, before the last one who had it lost it,
//! so what is seen has to be right as of one of those eras. Where nothing is lost there is only one.

mod era;
mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::cluster::Configuration;
use anabranch_core::document::Document;
use anabranch_core::ids::{ActorId, DocumentId, RoundId, TxnId};
use anabranch_core::keyspace::{Position, Slice};
use anabranch_core::slicing::PartitionId;
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, ReadFrom, Reader, Record, TopicPartition};
use anabranch_schemas::records::{Metadata, TxnsRecord};
use anabranch_schemas::{decode, state};

use self::era::{Era, Parts};
use self::lost::Lost;

/// The model of one cluster.
pub(crate) struct Model {
    actor: ActorId,
    reader: Box<dyn Reader>,
    /// What was read, but for the parts of rounds in order.
    records: Vec<(TxnId, u64, TxnsRecord)>,
    parts: Parts,
    /// By round the first transaction that it was in.
    rounds: BTreeMap<RoundId, TxnId>,
    lost: Lost,
    /// The last one is the one that is now.
    eras: Vec<Era>,
}

/// Which transaction changed which document.
pub(crate) type Change = (TxnId, Vec<u8>);

/// A round of another cluster.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) txn: TxnId,
    pub(crate) origin: ActorId,
    pub(crate) origin_txn: TxnId,
    /// What came with it.
    pub(crate) came: Vec<Came>,
}

/// A document as it came from another cluster.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) id: DocumentId,
    pub(crate) state: Document,
    /// It is to be forgotten.
    pub(crate) has_left: bool,
    /// It was there before.
    pub(crate) was_held: bool,
}

impl Model {
    /// Of a log to which no round was written yet.
    pub(crate) fn new(
        log: &MemoryJournal,
        cluster: &ClusterIdentity,
        configuration: &Configuration,
    ) -> Self {
        let ClusterIdentity { name, slices, .. } = cluster;
        let rounds = slices.all().map(|slice| TopicPartition::new(name.rounds(), slice.0));
        let others = [name.txns(), name.meta()].map(|topic| TopicPartition::new(topic, 0));
        let from: Vec<_> = rounds.chain(others).map(|at| (at, ReadFrom::Start)).collect();
        Model {
            actor: cluster.actor,
            reader: log.reader(&from).expect("the topics are there"),
            records: Vec::new(),
            parts: Parts::new(),
            rounds: BTreeMap::new(),
            lost: Lost::new(*slices, configuration),
            eras: vec![Era::default()],
        }
    }

    /// Takes in what was written meanwhile.
    pub(crate) fn follow(&mut self) {
        loop {
            let records = self.reader.poll(Duration::ZERO).expect("nothing is trimmed unread");
            if records.is_empty() {
                break;
            }
            records.into_iter().for_each(|record| self.take(record));
        }
        let Model { actor, parts, lost, eras, .. } = self;
        eras.last_mut().expect("there is one").apply_ready(*actor, parts, lost);
    }

    fn take(&mut self, record: Record) {
        let value = record.value.expect("records have values");
        let topic = record.at.topic.as_str();
        if topic.ends_with(".meta") {
            let Metadata { value, .. } = decode(&value).expect("an entry decodes");
            if let Some(range) = value.filter(|_| record.key.starts_with(b"lost/")) {
                self.lost.add(serde_json::from_str(&range).expect("it says what is lost"));
                self.begin_anew();
            }
        } else if topic.ends_with(".txns") {
            let read = TxnsRecord::decode(&value).expect("a record of txns decodes");
            self.take_txn(TxnId(record.offset.0), record.timestamp_ms, read);
        } else {
            let part = decode(&value).expect("a part decodes");
            self.parts.insert((Slice(record.at.partition.0), record.offset.0), part);
        }
    }

    fn take_txn(&mut self, txn: TxnId, appended_ms: u64, record: TxnsRecord) {
        assert!(self.last() < Some(txn), "commit records come in order");
        if let TxnsRecord::Commit(commit) = &record {
            self.rounds.entry(commit.round).or_insert(txn);
        }
        let era = self.eras.last_mut().expect("there is one");
        era.take(txn, appended_ms, &record, &self.lost);
        self.records.push((txn, appended_ms, record));
    }

    /// More is lost than was.
    fn begin_anew(&mut self) {
        let Model { actor, records, parts, lost, .. } = self;
        let mut era = Era::default();
        for (txn, appended_ms, record) in records {
            era.take(*txn, *appended_ms, record, lost);
        }
        era.apply_ready(*actor, parts, lost);
        self.eras.push(era);
    }

    fn era(&self) -> &Era {
        self.eras.last().expect("there is one")
    }

    /// The first transaction of which somebody who reads these slices cannot have read all yet: it
    /// stands behind what another writer has open.
    pub(crate) fn unread(&self, slices: impl IntoIterator<Item = Slice>) -> Option<TxnId> {
        slices.into_iter().filter_map(|slice| self.era().unread(slice)).min()
    }

    /// The last transaction.
    pub(crate) fn last(&self) -> Option<TxnId> {
        self.records.last().map(|(txn, ..)| *txn)
    }

    /// The transaction of a round.
    pub(crate) fn round(&self, round: RoundId) -> Option<TxnId> {
        self.rounds.get(&round).copied()
    }

    /// Whether it is the first transaction of a round.
    pub(crate) fn has(&self, txn: TxnId) -> bool {
        self.rounds.values().any(|first| *first == txn)
    }

    /// Rounds of other clusters, in order.
    pub(crate) fn received(&self) -> &[Received] {
        &self.era().received
    }

    /// What a document is now.
    pub(crate) fn newest(&self, id: &[u8]) -> Option<Document> {
        self.era().newest(id).cloned()
    }

    /// All that a document was until then.
    pub(crate) fn versions_until(&self, id: &[u8], last: TxnId) -> Vec<Document> {
        let decode = |stored: &[u8]| state::decode(stored).expect("the model encoded it");
        self.era().stored_until(id, last).map(decode).collect()
    }

    /// What the documents of a slice were changed by as of each era.
    pub(crate) fn changes(&self, slice: Slice) -> impl Iterator<Item = BTreeSet<&Change>> {
        self.eras.iter().map(move |era| era.changes(slice).iter().collect())
    }

    /// All documents at a timestamp, as they are stored, of those whose position is owned.
    pub(crate) fn documents(
        &self,
        at: TxnId,
        is_owned: impl Fn(Position) -> bool,
    ) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let owned = self.era().ids().filter(|id| is_owned(Position::of(id)));
        let stored = owned.filter_map(|id| Some((id.clone(), self.era().stored(id, at)?.to_vec())));
        stored.collect()
    }

    /// Whether these can be all documents at a timestamp, of those whose position is owned.
    pub(crate) fn may_be(
        &self,
        found: &BTreeMap<Vec<u8>, Vec<u8>>,
        at: TxnId,
        is_owned: impl Fn(Position) -> bool,
    ) -> bool {
        let ids: BTreeSet<_> = self.eras.iter().flat_map(Era::ids).collect();
        let is_stored = |id: &Vec<u8>| {
            let found = found.get(id).map(Vec::as_slice);
            self.eras.iter().any(|era| era.stored(id, at) == found)
        };
        found.keys().all(|id| ids.contains(id))
            && ids.into_iter().filter(|id| is_owned(Position::of(id))).all(is_stored)
    }

    /// Whether there can be no document at a timestamp or later.
    pub(crate) fn may_be_empty_from(&self, least: TxnId) -> bool {
        let later = self.records.iter().map(|(txn, ..)| *txn).filter(|txn| *txn > least);
        [least].into_iter().chain(later).any(|at| self.may_be(&BTreeMap::new(), at, |_| true))
    }

    /// Whether a document can have this value at a timestamp, without its id.
    pub(crate) fn may_have(&self, id: &[u8], at: TxnId, value: Option<&Value>) -> bool {
        self.eras.iter().any(|era| value_at(era, id, at).as_ref() == value)
    }

    /// A document as a reader sees it at a timestamp.
    pub(crate) fn seen(&self, id: &DocumentId, at: TxnId) -> Option<Value> {
        seen(self.era(), id, at)
    }

    /// All documents as a reader sees them at a timestamp.
    pub(crate) fn all_seen(&self, at: TxnId) -> Vec<Value> {
        let era = self.era();
        let ids = era.ids().filter_map(|id| DocumentId::from_bytes(id).ok());
        ids.filter_map(|id| seen(era, &id, at)).collect()
    }

    /// Whether a reader can see this of a document at a timestamp.
    pub(crate) fn may_be_seen(&self, id: &DocumentId, at: TxnId, found: Option<&Value>) -> bool {
        self.eras.iter().any(|era| seen(era, id, at).as_ref() == found)
    }

    /// Whether a change of a slice was one until it was agreed that it is lost.
    pub(crate) fn is_lost(&self, slice: Slice, change: &Change) -> bool {
        let (txn, id) = change;
        let agreed = self.lost.passed_over_by(self.lost.partition_of(Position::of(id)), *txn);
        let is_there = |era: &Era| era.changes(slice).contains(change);
        // Each agreement begins an era.
        agreed.is_some_and(|agreed| self.eras[..=agreed].iter().all(is_there))
    }

    /// Whether it is agreed that a transaction is lost to a partition.
    pub(crate) fn is_passed_over(&self, partition: PartitionId, txn: TxnId) -> bool {
        self.lost.is_passed_over(partition, txn)
    }
}

fn value_at(era: &Era, id: &[u8], at: TxnId) -> Option<Value> {
    state::decode(era.stored(id, at)?).expect("the model encoded it").value()
}

fn seen(era: &Era, id: &DocumentId, at: TxnId) -> Option<Value> {
    let value = value_at(era, &id.to_bytes(), at)?;
    let Value::Object(mut fields) = value else { return Some(value) };
    fields.insert("_id".to_owned(), id.key.to_value());
    Some(Value::Object(fields))
}
