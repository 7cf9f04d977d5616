//! What change data capture has written.

use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::memory::MemoryJournal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{Journal, ReadFrom, Reader, TopicPartition};
use anabranch_schemas::records::{Change, ChangesRecord, Operation};
use anabranch_schemas::state;

/// What stands in a slice of topic `changes`.
pub(crate) struct Captured {
    pub(crate) slice: Slice,
    reader: Box<dyn Reader>,
    /// What changed which document, in order.
    pub(crate) changes: Vec<(TxnId, Vec<u8>)>,
    /// What each made of its document, as a reader sees it.
    pub(crate) values: Vec<Option<Value>>,
    /// After how many changes a mark stands, and what it says.
    pub(crate) marks: Vec<(usize, TxnId)>,
    pub(crate) lost: Vec<(TxnId, TxnId)>,
    pub(crate) marked: Option<TxnId>,
}

impl Captured {
    /// Nothing yet.
    pub(crate) fn new(log: &MemoryJournal, identity: &ClusterIdentity, slice: Slice) -> Self {
        let at = TopicPartition::new(identity.name.changes(), slice.0);
        Captured {
            slice,
            reader: log.reader(&[(at, ReadFrom::Start)]).expect("the topic is there"),
            changes: Vec::new(),
            values: Vec::new(),
            marks: Vec::new(),
            lost: Vec::new(),
            marked: None,
        }
    }

    /// Takes in what was written meanwhile.
    pub(crate) fn follow(&mut self) -> &Self {
        loop {
            let records = self.reader.poll(Duration::ZERO).expect("nothing of it is trimmed");
            if records.is_empty() {
                return self;
            }
            for record in records {
                let value = record.value.expect("a record of changes has a value");
                self.take(ChangesRecord::decode(&value).expect("a record of changes decodes"));
            }
        }
    }

    fn take(&mut self, record: ChangesRecord) {
        match record {
            ChangesRecord::Change(change) => {
                self.changes.push((change.txn, change.id().to_bytes()));
                self.values.push(value(&change));
            }
            ChangesRecord::Resolved(mark) => {
                self.marks.push((self.changes.len(), mark.txn));
                self.marked = self.marked.max(Some(mark.txn));
            }
            ChangesRecord::Lost(lost) => self.lost.push((lost.from, lost.to)),
        }
    }
}

/// What a change has made of its document.
fn value(change: &Change) -> Option<Value> {
    let after = state::decode(&change.state).expect("a state decodes");
    after.value().filter(|_| change.operation != Operation::Evict)
}
