//! A cluster in memory: its log, its documents at every transaction, its topic of changes.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Effect, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::records::{
    Change, Commit, DocumentMutation, Operation, PartLocation, RemoteCursor, Resolved,
};
use anabranch_schemas::state;

pub(crate) const APP: AppId = AppId(Uuid::from_u128(1));

/// A record of the topic of changes.
#[derive(Clone, Debug)]
pub(crate) enum ChangeRecord {
    Change(Bytes, Box<Change>),
    Mark(Resolved),
}

/// One transaction, applied.
pub(crate) struct Applied {
    pub(crate) txn: TxnId,
    pub(crate) commit: Commit,
    pub(crate) changes: Vec<(Slice, Bytes, Change)>,
}

pub(crate) struct Cluster {
    pub(crate) actor: ActorId,
    pub(crate) slices: SliceCount,
    pub(crate) log: Vec<Applied>,
    /// Every version of every document, oldest first; `None` where it was evicted.
    pub(crate) versions: BTreeMap<DocumentId, Vec<(TxnId, Option<Document>)>>,
    /// The topic of changes, by slice.
    pub(crate) changes: Vec<Vec<ChangeRecord>>,
    /// How much of the log is in the topic of changes.
    captured: usize,
    pub(crate) cursor: Option<RemoteCursor>,
    /// Where the log and the topic begin.
    pub(crate) start: TxnId,
    next_txn: TxnId,
    hlc: Hlc,
}

impl Cluster {
    pub(crate) fn new(actor: u128, slices: u16) -> Self {
        let slices = SliceCount::try_from(slices).unwrap();
        Cluster {
            actor: ActorId(Uuid::from_u128(actor)),
            slices,
            log: Vec::new(),
            versions: BTreeMap::new(),
            changes: vec![Vec::new(); usize::from(slices.get())],
            captured: 0,
            cursor: None,
            start: TxnId(0),
            next_txn: TxnId(0),
            hlc: Hlc(0),
        }
    }

    pub(crate) fn end(&self) -> TxnId {
        self.next_txn
    }

    /// The document as of `txn`, if it is there.
    pub(crate) fn read(&self, id: &DocumentId, txn: TxnId) -> Option<&Document> {
        let versions = self.versions.get(id)?;
        versions.iter().rev().find(|(at, _)| *at <= txn)?.1.as_ref()
    }

    pub(crate) fn latest(&self, id: &DocumentId) -> Option<&Document> {
        self.read(id, TxnId(u64::MAX))
    }

    /// The value that a reader sees now.
    pub(crate) fn value(&self, id: &DocumentId) -> Option<Value> {
        self.latest(id).and_then(Document::value)
    }

    /// Writes one round and applies it. `skip` leaves a hole in the offsets.
    pub(crate) fn write(
        &mut self,
        mutations: &[DocumentMutation],
        origin: Option<(ActorId, TxnId)>,
        now_ms: u64,
        skip: bool,
    ) {
        let txn = self.next_txn;
        self.hlc = self.hlc.tick(now_ms);
        let mut parts: Vec<PartLocation> = Vec::new();
        for mutation in mutations {
            let slice = self.slices.slice_of(mutation.id(APP).position());
            if !parts.iter().any(|part| part.slice == slice) {
                parts.push(PartLocation { slice, offset: txn.0, checksum: 0 });
            }
        }
        let commit = Commit {
            round: RoundId(Uuid::from_u128(u128::from(txn.0))),
            app: APP,
            origin: origin.map_or(self.actor, |(actor, _)| actor),
            origin_txn: origin.map(|(_, txn)| txn),
            hlc: self.hlc,
            digest: Vec::new(),
            atomic: false,
            mutations: i32::try_from(mutations.len()).unwrap(),
            parts,
        };
        self.apply(txn, commit, mutations);
        self.next_txn = TxnId(txn.0 + if skip { 2 } else { 1 });
    }

    /// Applies a round of the log. Several mutations of one document are one version and one
    /// event.
    pub(crate) fn apply(&mut self, txn: TxnId, commit: Commit, mutations: &[DocumentMutation]) {
        let at = At { hlc: commit.hlc, actor: self.actor, sequence: txn.0 };
        let mut touched: BTreeMap<DocumentId, (Option<Document>, Document, Effect)> =
            BTreeMap::new();
        for mutation in mutations {
            let id = mutation.id(commit.app);
            let before = self.latest(&id).cloned();
            let entry = touched
                .entry(id)
                .or_insert_with(|| (before.clone(), before.unwrap_or_default(), Effect::Unchanged));
            // What a bridge knows to have left comes without fields: never to be merged.
            if let Mutation::Evict(known) = &mutation.mutation
                && !known.versions.covers(&entry.1.versions)
            {
                continue;
            }
            let (effect, _) = entry.1.apply(&mutation.mutation, at);
            if matches!(effect, Effect::Changed | Effect::Evicted) {
                entry.2 = effect;
            }
        }
        let mut changes = Vec::new();
        for (id, (before, after, effect)) in touched {
            if effect == Effect::Unchanged {
                continue;
            }
            let slice = self.slices.slice_of(id.position());
            let evicted = effect == Effect::Evicted;
            let change = Change {
                txn,
                app: commit.app,
                collection: id.collection.clone(),
                key: id.key.clone(),
                origin: commit.origin,
                origin_txn: commit.origin_txn.unwrap_or(txn),
                hlc: commit.hlc,
                ..images(before.as_ref(), &after, evicted)
            };
            let document_id = Bytes::from(id.to_bytes());
            let version = (!evicted).then_some(after);
            self.versions.entry(id).or_default().push((txn, version));
            changes.push((slice, document_id, change));
        }
        self.next_txn = txn.next();
        self.log.push(Applied { txn, commit, changes });
    }

    /// Writes the next `most` transactions into the topic of changes, with their marks.
    pub(crate) fn capture(&mut self, most: usize) {
        let until = self.captured.saturating_add(most).min(self.log.len());
        let batch = &self.log[self.captured..until];
        let Some(last) = batch.last() else { return };
        let mut touched = Vec::new();
        for applied in batch {
            touched.extend(applied.commit.parts.iter().map(|part| part.slice));
            for (slice, key, change) in &applied.changes {
                let record = ChangeRecord::Change(key.clone(), Box::new(change.clone()));
                self.changes[usize::from(slice.0)].push(record);
            }
        }
        touched.sort();
        touched.dedup();
        for slice in touched {
            let mark = Resolved { slice, txn: last.txn };
            self.changes[usize::from(slice.0)].push(ChangeRecord::Mark(mark));
        }
        self.captured = until;
    }
}

/// The part of a change event that tells what happened to the document.
fn images(before: Option<&Document>, after: &Document, evicted: bool) -> Change {
    let seen = before.and_then(Document::value);
    let now = if evicted { None } else { after.value() };
    let operation = match (&seen, &now) {
        _ if evicted => Operation::Evict,
        (None, Some(_)) => Operation::Insert,
        (Some(_), None) => Operation::Delete,
        _ => Operation::Update,
    };
    let empty = BTreeMap::new();
    let old = seen.as_ref().and_then(Value::as_object).unwrap_or(&empty);
    let new = now.as_ref().and_then(Value::as_object).unwrap_or(&empty);
    let changed = old.iter().filter(|(name, value)| new.get(*name) != Some(value));
    let added = new.keys().filter(|name| !old.contains_key(*name) && seen.is_some());
    Change {
        txn: TxnId(0),
        app: APP,
        collection: "c".parse().unwrap(),
        key: anabranch_core::ids::DocumentKey::from_canonical("0").unwrap(),
        origin: ActorId(Uuid::nil()),
        origin_txn: TxnId(0),
        hlc: Hlc(0),
        operation,
        existed: seen.is_some(),
        before: changed.map(|(name, value)| (name.clone(), value.clone())).collect(),
        added: added.cloned().collect(),
        state: state::encode(after).to_vec(),
    }
}
