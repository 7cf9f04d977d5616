//! What a transaction changed, as store nodes tell of it.

use anabranch_core::document::{Commit, Document};
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_schemas::records::{Change, Lost, Operation};
use anabranch_schemas::store as proto;
use anabranch_schemas::{encode, state};
use bytes::Bytes;

use super::Documents;

/// What differs between two states of the store.
pub(super) fn transaction(
    txn: u64,
    commit: Commit,
    before: &Documents,
    after: &Documents,
) -> proto::FeedTransaction {
    let none = (Document::default(), 0);
    let changes = after.iter().filter_map(|(id, (document, _))| {
        let (was, _) = before.get(id).unwrap_or(&none);
        let id = DocumentId::from_bytes(id).expect("it was made from an id");
        (was != document).then(|| change(txn, commit, id, was, document))
    });
    proto::FeedTransaction { txn, slices: vec![0], changes: changes.collect() }
}

fn change(
    txn: u64,
    commit: Commit,
    id: DocumentId,
    was: &Document,
    document: &Document,
) -> proto::FeedChange {
    let fields = |document: &Document| {
        let value = document.value();
        value.and_then(|value| value.as_object().cloned()).unwrap_or_default()
    };
    let (before, after) = (fields(was), fields(document));
    let added = after.keys().filter(|name| !before.contains_key(*name)).cloned().collect();
    let changed = before.iter().filter(|(name, value)| after.get(*name) != Some(*value));
    let changed = changed.map(|(name, value)| (name.clone(), value.clone())).collect();
    let operation = match (was.is_visible(), document.is_visible()) {
        (_, false) if *document == Document::default() => Operation::Evict,
        (_, false) => Operation::Delete,
        (false, true) => Operation::Insert,
        (true, true) => Operation::Update,
    };
    let document_id = Bytes::from(id.to_bytes());
    let event = Change {
        txn: TxnId(txn),
        app: id.app,
        collection: id.collection,
        key: id.key,
        origin: commit.actor,
        origin_txn: TxnId(txn),
        hlc: commit.hlc,
        operation,
        existed: was.is_visible(),
        before: anabranch_core::Value::Object(changed),
        added,
        state: state::encode(document).to_vec(),
    };
    proto::FeedChange { slice: 0, document_id, event: encode(&event) }
}

/// That what a transaction changed is lost.
pub(super) fn lost(txn: u64) -> proto::FeedChange {
    let event = encode(&Lost { slice: Slice(0), from: TxnId(txn), to: TxnId(txn) });
    proto::FeedChange { slice: 0, document_id: Bytes::new(), event }
}
