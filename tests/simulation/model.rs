//! What the log says, computed in the plainest way: every committed round, one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Effect};
use anabranch_core::ids::{ActorId, DocumentId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, ReadFrom, Reader, Record, TopicPartition};
use anabranch_schemas::records::{Commit, RoundPart};
use anabranch_schemas::{decode, state};

/// The model of one cluster.
pub(crate) struct Model {
    actor: ActorId,
    slices: SliceCount,
    reader: Box<dyn Reader>,
    /// Parts that were read, by slice and offset.
    parts: HashMap<(u16, u64), RoundPart>,
    /// Commit records whose parts are not all read.
    waiting: Vec<(TxnId, Commit)>,
    documents: BTreeMap<Vec<u8>, Document>,
    /// Of each document what it was from a transaction on, as it is stored.
    versions: BTreeMap<Vec<u8>, Vec<(TxnId, Vec<u8>)>>,
    /// By round the first transaction that it was in.
    rounds: BTreeMap<RoundId, TxnId>,
    /// Every transaction.
    txns: BTreeSet<TxnId>,
    /// By slice which documents each transaction changed.
    changes: BTreeMap<Slice, Vec<(TxnId, Vec<u8>)>>,
}

impl Model {
    /// Of a log to which nothing was written yet.
    pub(crate) fn new(log: &MemoryJournal, cluster: &ClusterIdentity) -> Self {
        let rounds = cluster.name.rounds();
        let slices = cluster.slices.all();
        let parts = slices.map(|slice| TopicPartition::new(rounds.as_str(), slice.0));
        let from: Vec<_> = parts
            .chain([TopicPartition::new(cluster.name.txns(), 0)])
            .map(|at| (at, ReadFrom::Start))
            .collect();
        Model {
            actor: cluster.actor,
            slices: cluster.slices,
            reader: log.reader(&from).expect("the topics are there"),
            parts: HashMap::new(),
            waiting: Vec::new(),
            documents: BTreeMap::new(),
            versions: BTreeMap::new(),
            rounds: BTreeMap::new(),
            txns: BTreeSet::new(),
            changes: BTreeMap::new(),
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
        let waiting = std::mem::take(&mut self.waiting);
        for (txn, commit) in waiting {
            let is_here = |part: &anabranch_schemas::records::PartLocation| {
                self.parts.contains_key(&(part.slice.0, part.offset))
            };
            // A later one is not applied before one that waits.
            if self.waiting.is_empty() && commit.parts.iter().all(is_here) {
                self.apply(txn, &commit);
            } else {
                self.waiting.push((txn, commit));
            }
        }
    }

    fn take(&mut self, record: Record) {
        let value = record.value.expect("records of rounds have values");
        if record.at.topic.as_str().ends_with(".txns") {
            let commit = decode(&value).expect("a commit record decodes");
            self.waiting.push((TxnId(record.offset.0), commit));
        } else {
            let part = decode(&value).expect("a part decodes");
            self.parts.insert((record.at.partition.0, record.offset.0), part);
        }
    }

    fn apply(&mut self, txn: TxnId, commit: &Commit) {
        assert!(self.txns.last().is_none_or(|last| *last < txn), "in the order of the log");
        self.txns.insert(txn);
        if self.rounds.contains_key(&commit.round) {
            return;
        }
        self.rounds.insert(commit.round, txn);
        let at = At { hlc: commit.hlc, actor: self.actor, sequence: txn.0 };
        let mut changed = BTreeSet::new();
        let mut parts: Vec<_> =
            commit.parts.iter().map(|part| &self.parts[&(part.slice.0, part.offset)]).collect();
        parts.sort_by_key(|part| part.index);
        for mutation in parts.iter().flat_map(|part| &part.mutations) {
            let id = mutation.id(commit.app).to_bytes();
            let document = self.documents.entry(id.clone()).or_default();
            if document.apply(&mutation.mutation, at).0 == Effect::Changed {
                changed.insert(id);
            }
        }
        for id in changed {
            let stored = state::encode(&self.documents[&id]).to_vec();
            let slice = self.slices.slice_of(anabranch_core::keyspace::Position::of(&id));
            self.changes.entry(slice).or_default().push((txn, id.clone()));
            self.versions.entry(id).or_default().push((txn, stored));
        }
    }

    /// The last transaction.
    pub(crate) fn last(&self) -> Option<TxnId> {
        self.txns.last().copied()
    }

    /// The transaction of a round.
    pub(crate) fn round(&self, round: RoundId) -> Option<TxnId> {
        self.rounds.get(&round).copied()
    }

    /// What a slice's documents were changed by, in order.
    pub(crate) fn changes(&self, slice: Slice) -> &[(TxnId, Vec<u8>)] {
        self.changes.get(&slice).map_or(&[], Vec::as_slice)
    }

    /// A document at a timestamp, as it is stored.
    pub(crate) fn stored(&self, id: &[u8], at: TxnId) -> Option<&[u8]> {
        newest(self.versions.get(id)?, at)
    }

    /// All documents at a timestamp, as they are stored.
    pub(crate) fn documents(&self, at: TxnId) -> impl Iterator<Item = (&Vec<u8>, &[u8])> {
        self.versions.iter().filter_map(move |(id, versions)| Some((id, newest(versions, at)?)))
    }

    /// A document as a reader sees it at a timestamp.
    pub(crate) fn seen(&self, id: &DocumentId, at: TxnId) -> Option<Value> {
        let stored = self.stored(&id.to_bytes(), at)?;
        let value = state::decode(stored).expect("the model encoded it").value()?;
        let Value::Object(mut fields) = value else { return Some(value) };
        fields.insert("_id".to_owned(), id.key.to_value());
        Some(Value::Object(fields))
    }
}

fn newest(versions: &[(TxnId, Vec<u8>)], at: TxnId) -> Option<&[u8]> {
    let until = versions.partition_point(|(txn, _)| *txn <= at);
    versions[..until].last().map(|(_, stored)| stored.as_slice())
}
