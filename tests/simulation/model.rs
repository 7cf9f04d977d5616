//! What the log says, computed in the plainest way: every committed round, one after the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Effect, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, RoundId, TxnId};
use anabranch_core::keyspace::{Position, Slice, SliceCount};
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, ReadFrom, Reader, Record, TopicPartition};
use anabranch_schemas::records::{Commit, RoundPart, TxnsRecord};
use anabranch_schemas::{decode, state};

/// What a document was from a transaction on, as it is stored; `None` where it was evicted.
type Versions = Vec<(TxnId, Option<Vec<u8>>)>;

/// The model of one cluster.
pub(crate) struct Model {
    actor: ActorId,
    slices: SliceCount,
    reader: Box<dyn Reader>,
    /// Parts that were read, by slice and offset.
    parts: HashMap<(Slice, u64), RoundPart>,
    /// By slice, in order, what is to be applied once its parts are read.
    waiting: BTreeMap<Slice, VecDeque<Waiting>>,
    documents: BTreeMap<Vec<u8>, Document>,
    versions: BTreeMap<Vec<u8>, Versions>,
    /// By round the first transaction that it was in.
    rounds: BTreeMap<RoundId, TxnId>,
    last: Option<TxnId>,
    /// The log's time.
    time: Hlc,
    /// Rounds of other clusters, in order.
    received: Vec<Received>,
    /// By slice which documents each transaction changed.
    changes: BTreeMap<Slice, Vec<(TxnId, Vec<u8>)>>,
}

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

/// By so much a writer's clock can be ahead of the log's.
const MAX_DRIFT_MS: u64 = 60_000;

/// What a transaction has in a slice.
enum Waiting {
    Round { txn: TxnId, hlc: Hlc, app: AppId, offsets: Vec<u64> },
    Expiry { txn: TxnId, before: Hlc },
}

impl Waiting {
    fn txn(&self) -> TxnId {
        match self {
            Waiting::Round { txn, .. } | Waiting::Expiry { txn, .. } => *txn,
        }
    }
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
            waiting: BTreeMap::new(),
            documents: BTreeMap::new(),
            versions: BTreeMap::new(),
            rounds: BTreeMap::new(),
            last: None,
            time: Hlc(0),
            received: Vec::new(),
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
        for slice in self.slices.all() {
            while let Some(next) = self.ready(slice) {
                self.apply(slice, &next);
            }
        }
    }

    fn take(&mut self, record: Record) {
        let value = record.value.expect("records of rounds have values");
        if record.at.topic.as_str().ends_with(".txns") {
            let read = TxnsRecord::decode(&value).expect("a record of txns decodes");
            self.take_txn(TxnId(record.offset.0), record.timestamp_ms, read);
        } else {
            let part = decode(&value).expect("a part decodes");
            self.parts.insert((Slice(record.at.partition.0), record.offset.0), part);
        }
    }

    fn take_txn(&mut self, txn: TxnId, appended_ms: u64, record: TxnsRecord) {
        assert!(self.last < Some(txn), "commit records come in order");
        self.last = Some(txn);
        let latest = Hlc::from_millis(appended_ms + MAX_DRIFT_MS);
        self.time = self.time.max(record.hlc().min(latest));
        match record {
            TxnsRecord::Commit(commit) => self.take_commit(txn, &commit),
            TxnsRecord::Expiry(expiry) => {
                let before = self.time.millis().saturating_sub(expiry.time_to_live_ms);
                let before = Hlc::from_millis(before);
                for slice in self.slices.all() {
                    let expiry = Waiting::Expiry { txn, before };
                    self.waiting.entry(slice).or_default().push_back(expiry);
                }
            }
        }
    }

    /// A round that was there before does nothing.
    fn take_commit(&mut self, txn: TxnId, commit: &Commit) {
        if self.rounds.contains_key(&commit.round) {
            return;
        }
        self.rounds.insert(commit.round, txn);
        if let Some(origin_txn) = commit.origin_txn {
            let (origin, came) = (commit.origin, Vec::new());
            self.received.push(Received { txn, origin, origin_txn, came });
        }
        let mut by_slice: BTreeMap<Slice, Vec<u64>> = BTreeMap::new();
        for part in &commit.parts {
            by_slice.entry(part.slice).or_default().push(part.offset);
        }
        for (slice, offsets) in by_slice {
            let (hlc, app) = (commit.hlc, commit.app);
            let waiting = Waiting::Round { txn, hlc, app, offsets };
            self.waiting.entry(slice).or_default().push_back(waiting);
        }
    }

    /// Whether there is a version of a document.
    fn holds(&self, id: &[u8]) -> bool {
        let held = self.documents.get(id);
        held.is_some_and(|document| document.versions.iter().next().is_some())
    }

    /// What comes next in a slice, if all of it is read.
    fn ready(&mut self, slice: Slice) -> Option<Waiting> {
        let waiting = self.waiting.get_mut(&slice)?;
        let is_here = |offset: &u64| self.parts.contains_key(&(slice, *offset));
        let is_ready = match waiting.front()? {
            Waiting::Round { offsets, .. } => offsets.iter().all(is_here),
            Waiting::Expiry { .. } => true,
        };
        if is_ready { waiting.pop_front() } else { None }
    }

    fn apply(&mut self, slice: Slice, next: &Waiting) {
        let (txn, hlc, app, offsets) = match next {
            Waiting::Round { txn, hlc, app, offsets } => (txn, hlc, app, offsets),
            Waiting::Expiry { txn, before } => return self.expire(slice, *txn, *before),
        };
        let at = At { hlc: *hlc, actor: self.actor, sequence: txn.0 };
        let mut parts: Vec<_> =
            offsets.iter().map(|offset| &self.parts[&(slice, *offset)]).collect();
        parts.sort_by_key(|part| part.index);
        let mut changed = BTreeMap::new();
        for mutation in parts.iter().flat_map(|part| &part.mutations) {
            let id = mutation.id(*app).to_bytes();
            if let Mutation::Merge(state) | Mutation::Evict(state) = &mutation.mutation
                && let Ok(round) = self.received.binary_search_by_key(txn, |round| round.txn)
            {
                let came = Came {
                    id: mutation.id(*app),
                    state: state.clone(),
                    has_left: matches!(mutation.mutation, Mutation::Evict(_)),
                    was_held: self.holds(&id),
                };
                self.received[round].came.push(came);
            }
            let document = self.documents.entry(id.clone()).or_default();
            match document.apply(&mutation.mutation, at).0 {
                Effect::Unchanged | Effect::Conflict => continue,
                Effect::Changed => {}
                Effect::Evicted => drop(self.documents.remove(&id)),
            }
            changed.insert(id.clone(), self.documents.get(&id).cloned());
        }
        for (id, document) in changed {
            let is_there = self.stored(&id, *txn).is_some();
            if document.is_none() && !is_there {
                continue;
            }
            let stored = document.map(|document| state::encode(&document).to_vec());
            self.changes.entry(slice).or_default().push((*txn, id.clone()));
            self.versions.entry(id).or_default().push((*txn, stored));
        }
    }

    fn expire(&mut self, slice: Slice, txn: TxnId, before: Hlc) {
        for (id, document) in &mut self.documents {
            if self.slices.slice_of(Position::of(id)) == slice && document.expire(before) {
                let stored = state::encode(document).to_vec();
                self.versions.entry(id.clone()).or_default().push((txn, Some(stored)));
            }
        }
    }

    /// The first transaction of which somebody who reads these slices cannot have read all yet: it
    /// stands behind what another writer has open.
    pub(crate) fn unread(&self, slices: impl IntoIterator<Item = Slice>) -> Option<TxnId> {
        let waiting = slices.into_iter().filter_map(|slice| self.waiting.get(&slice)?.front());
        waiting.map(Waiting::txn).min()
    }

    /// The last transaction.
    pub(crate) fn last(&self) -> Option<TxnId> {
        self.last
    }

    /// The transaction of a round.
    pub(crate) fn round(&self, round: RoundId) -> Option<TxnId> {
        self.rounds.get(&round).copied()
    }

    /// Rounds of other clusters, in order.
    pub(crate) fn received(&self) -> &[Received] {
        &self.received
    }

    /// What a document is now.
    pub(crate) fn newest(&self, id: &[u8]) -> Option<Document> {
        self.documents.get(id).cloned()
    }

    /// All that a document was until then.
    pub(crate) fn versions_until(&self, id: &[u8], last: TxnId) -> Vec<Document> {
        let versions = self.versions.get(id).into_iter().flatten();
        let versions = versions.filter(|(txn, _)| *txn <= last);
        let decode = |stored: &[u8]| state::decode(stored).expect("the model encoded it");
        versions.filter_map(|(_, stored)| stored.as_deref().map(decode)).collect()
    }

    /// Whether it is the first transaction of a round.
    pub(crate) fn has(&self, txn: TxnId) -> bool {
        self.rounds.values().any(|first| *first == txn)
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

    /// What a document is at a timestamp, without its id.
    pub(crate) fn value(&self, id: &[u8], at: TxnId) -> Option<Value> {
        state::decode(self.stored(id, at)?).expect("the model encoded it").value()
    }

    /// A document as a reader sees it at a timestamp.
    pub(crate) fn seen(&self, id: &DocumentId, at: TxnId) -> Option<Value> {
        let value = self.value(&id.to_bytes(), at)?;
        let Value::Object(mut fields) = value else { return Some(value) };
        fields.insert("_id".to_owned(), id.key.to_value());
        Some(Value::Object(fields))
    }
}

fn newest(versions: &Versions, at: TxnId) -> Option<&[u8]> {
    let until = versions.partition_point(|(txn, _)| *txn <= at);
    versions[..until].last().and_then(|(_, stored)| stored.as_deref())
}
