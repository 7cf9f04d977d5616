//! What a log means, computed in the plainest way from its records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Effect};
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_journal::{Journal, Offset, ReadFrom, TopicPartition};
use anabranch_schemas::decode;
use anabranch_schemas::records::{RoundPart, TxnsRecord};

use super::log::{ACTOR, identity};

/// What a reader saw of a document before a transaction, and sees after it.
pub type Images = (Option<Value>, Option<Value>);

/// The documents after all transactions, and what each transaction changed.
#[derive(Debug, Default)]
pub struct Model {
    pub documents: BTreeMap<DocumentId, Document>,
    /// In order: the documents whose state a transaction changed.
    pub transactions: BTreeMap<TxnId, BTreeMap<DocumentId, Images>>,
}

impl Model {
    /// Reads all of a log.
    pub fn of(journal: &dyn Journal) -> Self {
        let name = identity().name;
        let txns = TopicPartition::new(name.txns(), 0);
        let commits = read(journal, &[txns]);
        let slices = identity().slices.all();
        let partitions: Vec<_> =
            slices.map(|slice| TopicPartition::new(name.rounds(), slice.0)).collect();
        let parts = read(journal, &partitions);
        let mut model = Model::default();
        let mut seen = BTreeSet::new();
        for ((_, txn), value) in commits {
            let TxnsRecord::Commit(commit) = TxnsRecord::decode(&value).unwrap() else {
                panic!("nothing expires here");
            };
            let before = model.documents.clone();
            let mut changed = BTreeSet::new();
            if seen.insert(commit.round) {
                let mut round: Vec<RoundPart> = commit
                    .parts
                    .iter()
                    .map(|part| {
                        let at = TopicPartition::new(name.rounds(), part.slice.0);
                        decode(&parts[&(at, Offset(part.offset))]).unwrap()
                    })
                    .collect();
                round.sort_by_key(|part| part.index);
                for mutation in round.into_iter().flat_map(|part| part.mutations) {
                    let at = At { hlc: commit.hlc, actor: ACTOR, sequence: txn.0 };
                    let id = mutation.id(commit.app);
                    let document = model.documents.entry(id.clone()).or_default();
                    if document.apply(&mutation.mutation, at).0 == Effect::Changed {
                        changed.insert(id);
                    }
                }
            }
            let seen = |documents: &BTreeMap<DocumentId, Document>, id: &DocumentId| {
                documents.get(id).and_then(Document::value)
            };
            let images = changed.into_iter().map(|id| {
                let images = (seen(&before, &id), seen(&model.documents, &id));
                (id, images)
            });
            model.transactions.insert(TxnId(txn.0), images.collect());
        }
        model
    }
}

type Values = BTreeMap<(TopicPartition, Offset), bytes::Bytes>;

fn read(journal: &dyn Journal, partitions: &[TopicPartition]) -> Values {
    let from: Vec<_> =
        partitions.iter().map(|at| (at.clone(), ReadFrom::Offset(Offset(0)))).collect();
    let mut reader = journal.reader(&from).unwrap();
    let mut values = Values::new();
    loop {
        // The log is in this process and nobody writes: what is there is there.
        let records = reader.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            return values;
        }
        for record in records {
            values.insert((record.at, record.offset), record.value.unwrap());
        }
    }
}
