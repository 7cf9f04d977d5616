//! Writes rounds into a journal, one transaction each, with whatever a test wants to be wrong.

#![allow(clippy::unwrap_used)] // a test's, and a benchmark's

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{
    Cleanup, Journal, NewRecord, TopicPartition, TopicSpec, TransactionalId, Writer, cluster_topics,
};
use anabranch_schemas::encode;
use anabranch_schemas::records::{
    Commit, DocumentMutation, PartLocation, RoundPart, part_checksum,
};
use bytes::Bytes;
use uuid::Uuid;

pub const APP: AppId = AppId(Uuid::from_u128(0xa99));
pub const ACTOR: ActorId = ActorId(Uuid::from_u128(0xac7));

/// A cluster of 16 slices.
pub fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "east".parse().expect("a name"),
        actor: ACTOR,
        slices: SliceCount::default(),
        created_ms: 0,
    }
}

/// A document of collection `cars`.
pub fn car(number: i64) -> DocumentId {
    let key = DocumentKey::from_value(&Value::Int(number)).expect("an integer is an id");
    DocumentId { app: APP, collection: "cars".parse().expect("a name"), key }
}

/// A round to be written.
#[derive(Clone, Debug)]
pub struct Round {
    pub id: u128,
    /// Its time.
    pub millis: u64,
    pub mutations: Vec<(DocumentId, Mutation)>,
}

/// A journal with a writer.
pub struct Log {
    journal: Arc<dyn Journal>,
    writer: Box<dyn Writer>,
}

impl Log {
    /// Makes the topics.
    pub fn open(journal: Arc<dyn Journal>) -> Self {
        let name = identity().name;
        let topic = |name: String, partitions| TopicSpec {
            name: name.into(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
            max_record_bytes: 32 << 20,
        };
        let slices = identity().slices.get();
        journal.ensure_topics(&[topic(name.rounds(), slices), topic(name.txns(), 1)]).unwrap();
        // The others are what a cluster has besides.
        journal.ensure_topics(&cluster_topics(&name, identity().slices, None)).unwrap();
        let writer = journal.writer(&TransactionalId::from("test")).unwrap();
        Log { journal, writer }
    }

    /// The journal.
    pub fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.journal)
    }

    /// Writes a round.
    pub fn write(&mut self, round: &Round) -> TxnId {
        self.write_all(std::slice::from_ref(round))[0]
    }

    /// Writes rounds in one transaction.
    pub fn write_all(&mut self, rounds: &[Round]) -> Vec<TxnId> {
        self.write_with(rounds, |_, commit| commit)
    }

    /// Writes rounds whose records are changed first: a part that becomes `None` is left out.
    pub fn write_with(
        &mut self,
        rounds: &[Round],
        change: impl Fn(&mut BTreeMap<Slice, Option<Bytes>>, Commit) -> Commit,
    ) -> Vec<TxnId> {
        let name = identity().name;
        self.writer.begin().unwrap();
        let mut commits = Vec::new();
        for round in rounds {
            let (parts, commit) = records(round);
            let mut written = parts.clone();
            let unfinished = change(&mut written, commit);
            let mut locations = Vec::new();
            for (slice, value) in &parts {
                let checksum = part_checksum(value.as_ref().expect("every part has a value"));
                let changed = written.get(slice).cloned().flatten();
                let value = changed.unwrap_or_else(|| Bytes::from_static(b"something else"));
                let key = Bytes::copy_from_slice(unfinished.round.0.as_bytes());
                let at = TopicPartition::new(name.rounds(), slice.0);
                self.writer.append(NewRecord { at, key, value: Some(value.clone()) }).unwrap();
                let is_garbage = value == b"garbage"[..];
                let checksum = if is_garbage { part_checksum(&value) } else { checksum };
                locations.push((*slice, checksum));
            }
            commits.push((unfinished, locations));
        }
        let mut offsets = self.writer.flush().unwrap().into_iter();
        for (commit, locations) in commits {
            let parts = locations
                .into_iter()
                .map(|(slice, checksum)| {
                    let offset = offsets.next().expect("an offset for each part").0;
                    PartLocation { slice, offset, checksum }
                })
                .collect();
            let commit = Commit { parts, ..commit };
            self.append_commit(Bytes::copy_from_slice(commit.round.0.as_bytes()), encode(&commit));
        }
        let txns = self.writer.flush().unwrap();
        self.writer.commit().unwrap();
        txns.into_iter().map(|offset| TxnId(offset.0)).collect()
    }

    /// Writes a commit record of these bytes.
    pub fn write_raw_commit(&mut self, value: Bytes) {
        self.writer.begin().unwrap();
        self.append_commit(Bytes::new(), value);
        self.writer.flush().unwrap();
        self.writer.commit().unwrap();
    }

    fn append_commit(&mut self, key: Bytes, value: Bytes) {
        let at = TopicPartition::new(identity().name.txns(), 0);
        self.writer.append(NewRecord { at, key, value: Some(value) }).unwrap();
    }
}

fn records(round: &Round) -> (BTreeMap<Slice, Option<Bytes>>, Commit) {
    let slices = identity().slices;
    let mut by_slice: BTreeMap<Slice, Vec<DocumentMutation>> = BTreeMap::new();
    for (id, mutation) in &round.mutations {
        let slice = slices.slice_of(id.position());
        by_slice.entry(slice).or_default().push(DocumentMutation::new(
            id.collection.clone(),
            id.key.clone(),
            mutation.clone(),
        ));
    }
    let id = RoundId(Uuid::from_u128(round.id));
    let count = i32::try_from(by_slice.len()).expect("at most 16");
    let parts = (0..)
        .zip(by_slice)
        .map(|(index, (slice, mutations))| {
            let restrictions = Vec::new();
            let part = RoundPart { round: id, app: APP, index, count, mutations, restrictions };
            (slice, Some(encode(&part)))
        })
        .collect();
    let commit = Commit {
        round: id,
        app: APP,
        origin: ACTOR,
        origin_txn: None,
        hlc: Hlc::from_millis(round.millis),
        digest: round.id.to_be_bytes()[12..].to_vec(),
        atomic: false,
        mutations: i32::try_from(round.mutations.len()).expect("a test's round is small"),
        parts: Vec::new(),
    };
    (parts, commit)
}
