//! What a cluster's documents are if just these transactions are lost: every committed round, one after
//! the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use anabranch_core::document::{Commit as At, Document, Effect, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};
use anabranch_core::keyspace::{Position, Slice};
use anabranch_core::query::OnConflict;
use anabranch_core::slicing::PartitionId;
use anabranch_schemas::records::{
    Commit, DocumentMutation, PartLocation, Restriction, RoundPart, TxnsRecord,
};
use anabranch_schemas::state;

use super::lost::Lost;
use super::{Came, Change, Received};

/// What a document was from a transaction on, as it is stored; `None` where it was evicted.
type Versions = Vec<(TxnId, Option<Vec<u8>>)>;

/// Parts that were read, by slice and offset.
pub(super) type Parts = HashMap<(Slice, u64), RoundPart>;

/// By so much a writer's clock can be ahead of the log's.
const MAX_DRIFT_MS: u64 = 60_000;

/// What follows of the log.
#[derive(Default)]
pub(super) struct Era {
    /// By slice, in order, what is to be applied once its parts are read.
    waiting: BTreeMap<Slice, VecDeque<Waiting>>,
    documents: BTreeMap<Vec<u8>, Document>,
    versions: BTreeMap<Vec<u8>, Versions>,
    /// The rounds that each partition knows.
    known: BTreeSet<(PartitionId, RoundId)>,
    /// The log's time.
    time: Hlc,
    /// Rounds of other clusters, in order.
    pub(super) received: Vec<Received>,
    /// By slice which documents each transaction changed.
    changes: BTreeMap<Slice, Vec<Change>>,
}

/// What a transaction has in a slice.
enum Waiting {
    Round(Part),
    Expiry { txn: TxnId, before: Hlc },
}

/// What a round has in a slice, and the partitions that do not pass over it.
struct Part {
    txn: TxnId,
    hlc: Hlc,
    app: AppId,
    atomic: bool,
    offsets: Vec<u64>,
    applied_by: BTreeSet<PartitionId>,
}

/// A document that a round touches: as it would become, and what has happened to it.
struct Touched {
    document: Document,
    /// What it was when it was forgotten.
    evicted: Document,
    /// A conflict stays one: the document is left as it was before the round.
    fate: Effect,
    /// The round has deleted it, and does not bring it back by updating it.
    deleted: bool,
    /// What whoever asks may do, if that is not everything.
    restriction: Option<Restriction>,
    /// Whether it was there before the round; for whoever asks; and theirs to write.
    was: [bool; 3],
}

impl Touched {
    fn new(document: Document, restriction: Option<Restriction>) -> Self {
        let before = document.value();
        let [is_seen, is_theirs] = match (&before, &restriction) {
            (None, _) => [false, false],
            (Some(_), None) => [true, true],
            (Some(before), Some(may)) => {
                let is_seen = may.readable.matches(before);
                [is_seen, is_seen && may.writable.matches(before)]
            }
        };
        let was = [before.is_some(), is_seen, is_theirs];
        let (evicted, fate) = (Document::default(), Effect::Unchanged);
        Touched { document, evicted, fate, deleted: false, restriction, was }
    }

    /// Whether a mutation may be tried; one that is refused is a conflict.
    fn admits(&mut self, mutation: &Mutation) -> bool {
        let [was_there, is_seen, is_theirs] = self.was;
        let is_insert = match mutation {
            _ if self.restriction.is_none() => return true,
            Mutation::Insert { on_conflict: OnConflict::Fail | OnConflict::DoNothing, .. } => {
                return true;
            }
            mutation => matches!(mutation, Mutation::Insert { .. }),
        };
        let was_made = !was_there && self.document.is_visible();
        if !is_insert && !is_seen && !was_made {
            return false;
        }
        if was_there && !is_theirs {
            self.fate = Effect::Conflict;
            return false;
        }
        true
    }

    /// What it has become is a conflict if it may not.
    fn settle(&mut self) {
        let after = match self.fate {
            Effect::Changed => &self.document,
            Effect::Evicted => &self.evicted,
            Effect::Unchanged | Effect::Conflict => return,
        };
        if let Some(may) = &self.restriction
            && !may.writable.matches(&after.hidden_value())
        {
            self.fate = Effect::Conflict;
        }
    }

    fn mutate(&mut self, mutation: &DocumentMutation, at: At) {
        if self.fate == Effect::Conflict || !self.admits(&mutation.mutation) {
            return;
        }
        match &mutation.mutation {
            Mutation::Update { .. } if self.deleted => return,
            Mutation::Delete | Mutation::Forget => self.deleted = true,
            Mutation::Insert { .. } => self.deleted = false,
            _ => {}
        }
        match self.document.apply(&mutation.mutation, at).0 {
            Effect::Unchanged => {}
            Effect::Conflict if !mutation.mutation.fails_on_conflict() => {}
            Effect::Evicted => {
                self.evicted = std::mem::take(&mut self.document);
                self.fate = Effect::Evicted;
            }
            fate => self.fate = fate,
        }
    }
}

impl Waiting {
    fn txn(&self) -> TxnId {
        match self {
            Waiting::Round(Part { txn, .. }) | Waiting::Expiry { txn, .. } => *txn,
        }
    }
}

impl Era {
    /// Takes in a record of topic `txns`.
    pub(super) fn take(&mut self, txn: TxnId, appended_ms: u64, record: &TxnsRecord, lost: &Lost) {
        let latest = Hlc::from_millis(appended_ms + MAX_DRIFT_MS);
        self.time = self.time.max(record.hlc().min(latest));
        match record {
            TxnsRecord::Commit(commit) => self.take_commit(txn, commit, lost),
            TxnsRecord::Expiry(expiry) => {
                let before = self.time.millis().saturating_sub(expiry.time_to_live_ms);
                let before = Hlc::from_millis(before);
                for slice in lost.slices().all() {
                    let expiry = Waiting::Expiry { txn, before };
                    self.waiting.entry(slice).or_default().push_back(expiry);
                }
            }
        }
    }

    /// A round that a partition knows does nothing there. One of which it lacks all does not become
    /// known there.
    fn take_commit(&mut self, txn: TxnId, commit: &Commit, lost: &Lost) {
        let mut applied_by: BTreeMap<Slice, BTreeSet<PartitionId>> = BTreeMap::new();
        let mut is_first = false;
        for partition in lost.partitions() {
            let is_read = |part: &&PartLocation| lost.is_read_by(part.slice, partition);
            let read = commit.parts.iter().filter(is_read);
            let (gone, left): (Vec<&PartLocation>, Vec<&PartLocation>) =
                read.partition(|part| lost.is_lost(partition, txn, (part.slice, part.offset)));
            let lacks_all = (left.is_empty() || commit.atomic) && !gone.is_empty();
            if lost.is_passed_over(partition, txn) || lacks_all {
                continue;
            }
            if self.known.insert((partition, commit.round)) {
                is_first = true;
                for part in left {
                    applied_by.entry(part.slice).or_default().insert(partition);
                }
            }
        }
        if let Some(origin_txn) = commit.origin_txn.filter(|_| is_first) {
            let (origin, came) = (commit.origin, Vec::new());
            self.received.push(Received { txn, origin, origin_txn, came });
        }
        let mut by_slice: BTreeMap<Slice, Vec<u64>> = BTreeMap::new();
        for PartLocation { slice, offset, .. } in &commit.parts {
            let is_left =
                |partition: &PartitionId| !lost.is_lost(*partition, txn, (*slice, *offset));
            if applied_by.get(slice).is_some_and(|partitions| partitions.iter().any(is_left)) {
                by_slice.entry(*slice).or_default().push(*offset);
            }
        }
        for (slice, offsets) in by_slice {
            let applied_by =
                applied_by.remove(&slice).expect("only those have parts that are left");
            let Commit { hlc, app, atomic, .. } = *commit;
            let part = Part { txn, hlc, app, atomic, offsets, applied_by };
            self.waiting.entry(slice).or_default().push_back(Waiting::Round(part));
        }
    }

    /// Applies what was read whole.
    pub(super) fn apply_ready(&mut self, actor: ActorId, parts: &Parts, lost: &Lost) {
        for slice in lost.slices().all() {
            while let Some(next) = self.ready(slice, parts) {
                match next {
                    Waiting::Round(part) => self.apply(slice, &part, actor, parts, lost),
                    Waiting::Expiry { txn, before } => self.expire(slice, txn, before, lost),
                }
            }
        }
    }

    /// What comes next in a slice, if all of it is read.
    fn ready(&mut self, slice: Slice, parts: &Parts) -> Option<Waiting> {
        let waiting = self.waiting.get_mut(&slice)?;
        let is_here = |offset: &u64| parts.contains_key(&(slice, *offset));
        let is_ready = match waiting.front()? {
            Waiting::Round(part) => part.offsets.iter().all(is_here),
            Waiting::Expiry { .. } => true,
        };
        if is_ready { waiting.pop_front() } else { None }
    }

    fn apply(&mut self, slice: Slice, part: &Part, actor: ActorId, parts: &Parts, lost: &Lost) {
        let Part { txn, hlc, app, atomic, offsets, applied_by } = part;
        let at = At { hlc: *hlc, actor, sequence: txn.0 };
        let mut read: Vec<_> =
            offsets.iter().map(|offset| (*offset, &parts[&(slice, *offset)])).collect();
        read.sort_by_key(|(_, part)| part.index);
        let mut touched = BTreeMap::new();
        let mutations = read.iter().flat_map(|(offset, part)| {
            let restricted = |mutation: &DocumentMutation| {
                let mut restrictions = part.restrictions.iter();
                restrictions.find(|may| may.collection == mutation.collection).cloned()
            };
            part.mutations.iter().map(move |mutation| (*offset, mutation, restricted(mutation)))
        });
        for (offset, mutation, restriction) in mutations {
            let id = mutation.id(*app).to_bytes();
            let partition = lost.partition_of(Position::of(&id));
            let is_lost = lost.is_lost(partition, *txn, (slice, offset));
            if is_lost || !applied_by.contains(&partition) {
                continue;
            }
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
            let touched = touched.entry(id.clone()).or_insert_with(|| {
                let before = self.documents.get(&id).cloned().unwrap_or_default();
                Touched::new(before, restriction)
            });
            let [_, is_seen, _] = touched.was;
            let is_unchanged = |since| is_seen && self.is_unchanged(&id, since, *txn);
            if !mutation.unchanged_since.is_none_or(is_unchanged) {
                touched.fate = Effect::Conflict;
            }
            touched.mutate(mutation, at);
        }
        touched.values_mut().for_each(Touched::settle);
        let has_conflict = touched.values().any(|touched| touched.fate == Effect::Conflict);
        if *atomic && has_conflict {
            return;
        }
        for (id, Touched { document, fate, .. }) in touched {
            let is_there = self.stored(&id, *txn).is_some();
            let stored = match fate {
                Effect::Unchanged | Effect::Conflict => continue,
                Effect::Evicted if !is_there => continue,
                Effect::Evicted => None,
                Effect::Changed => Some(state::encode(&document).to_vec()),
            };
            match fate {
                Effect::Evicted => self.documents.remove(&id),
                _ => self.documents.insert(id.clone(), document),
            };
            self.changes.entry(slice).or_default().push((*txn, id.clone()));
            self.versions.entry(id).or_default().push((*txn, stored));
        }
    }

    /// Whether a document is there, and as it was at a transaction before this one.
    fn is_unchanged(&self, id: &[u8], since: TxnId, txn: TxnId) -> bool {
        let version = self.versions.get(id).and_then(|versions| versions.last());
        let is_old = version.is_some_and(|(version, _)| *version <= since);
        is_old && since < txn && self.documents.get(id).is_some_and(Document::is_visible)
    }

    /// Whether there is a version of a document.
    fn holds(&self, id: &[u8]) -> bool {
        let held = self.documents.get(id);
        held.is_some_and(|document| document.versions.iter().next().is_some())
    }

    fn expire(&mut self, slice: Slice, txn: TxnId, before: Hlc, lost: &Lost) {
        for (id, document) in &mut self.documents {
            let position = Position::of(id);
            let is_here = lost.slices().slice_of(position) == slice
                && !lost.is_passed_over(lost.partition_of(position), txn);
            if is_here && document.expire(before) {
                let stored = state::encode(document).to_vec();
                self.versions.entry(id.clone()).or_default().push((txn, Some(stored)));
            }
        }
    }

    /// The first transaction of a slice of which not all was read.
    pub(super) fn unread(&self, slice: Slice) -> Option<TxnId> {
        self.waiting.get(&slice)?.front().map(Waiting::txn)
    }

    /// What a document is now.
    pub(super) fn newest(&self, id: &[u8]) -> Option<&Document> {
        self.documents.get(id)
    }

    /// All that a document was until then, as it was stored.
    pub(super) fn stored_until(&self, id: &[u8], last: TxnId) -> impl Iterator<Item = &[u8]> {
        let versions = self.versions.get(id).into_iter().flatten();
        let versions = versions.filter(move |(txn, _)| *txn <= last);
        versions.filter_map(|(_, stored)| stored.as_deref())
    }

    /// What a slice's documents were changed by, in order.
    pub(super) fn changes(&self, slice: Slice) -> &[Change] {
        self.changes.get(&slice).map_or(&[], Vec::as_slice)
    }

    /// A document at a timestamp, as it is stored.
    pub(super) fn stored(&self, id: &[u8], at: TxnId) -> Option<&[u8]> {
        let versions = self.versions.get(id)?;
        let until = versions.partition_point(|(txn, _)| *txn <= at);
        versions[..until].last().and_then(|(_, stored)| stored.as_deref())
    }

    /// The ids of all documents that there ever were.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.versions.keys()
    }
}
