//! Which changes a receiver is sent.
//!
//! Invariant, by induction over the log: of every document that a receiver wants as it is here, or
//! as it itself has it, it has been sent everything, or wrote it. So:
//!
//! * A document that is wanted after a change is sent, as the whole of its state.
//! * A document that was wanted before and is not any more is sent once more, marked as having
//!   left, or simply deleted.
//! * A change that the receiver wrote is not sent: it has its own write, and what was wanted before
//!   it. But if the document was *not* wanted here before, the two had written it without knowing
//!   of each other. There may be more here than the receiver has, so it is told the outcome, unless
//!   everything in it is the receiver's. It is not told to forget it: so might the other side be,
//!   and the document would be gone.
//! * A deleted document is judged by the fields it hides, so that a tombstone follows its document
//!   also where one side revives what the other deletes.
//! * Evictions are not sent.
//! * A snapshot has what is wanted, and what the receiver had a part in writing: it may believe
//!   that it still wants that.
//!
//! Nothing else leaves (BR-3).

use bytes::Bytes;

use anabranch_core::document::Document;
use anabranch_core::ids::{ActorId, AppId, DocumentId, TxnId};
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::{link, state};

use crate::error::Error;
use crate::queries::{Queries, with_id};

/// Chooses changes for one receiver.
#[derive(Debug)]
pub(crate) struct Selector {
    queries: Queries,
    /// The actors whose writes the receiver has already.
    origins: Vec<ActorId>,
    /// What the document ids of wanted collections start with.
    prefixes: Vec<Vec<u8>>,
}

/// A change that is to be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Selected {
    pub(crate) txn: TxnId,
    pub(crate) change: link::Change,
}

impl Selector {
    /// For a receiver of `app` that wants `queries` and is or hears `origins` directly.
    pub(crate) fn new(app: AppId, queries: Queries, origins: Vec<ActorId>) -> Self {
        let prefix = |collection| DocumentId::collection_prefix(app, collection);
        let prefixes = queries.collections().map(prefix).collect();
        Selector { queries, origins, prefixes }
    }

    /// Whether the receiver wrote what is of this origin.
    pub(crate) fn is_of_receiver(&self, origin: ActorId) -> bool {
        self.origins.contains(&origin)
    }

    /// What the receiver asked for.
    pub(crate) fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Whether a document may be wanted, going by its id alone.
    pub(crate) fn may_want(&self, document_id: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| document_id.starts_with(prefix))
    }

    /// What to send of a change. `document_id` is its key in the topic.
    pub(crate) fn select(
        &self,
        document_id: Bytes,
        change: Change,
    ) -> Result<Option<Selected>, Error> {
        if change.operation == Operation::Evict {
            return Ok(None);
        }
        let document = decode_state(&change)?;
        let Some(left) = self.leaves(&change, &document) else { return Ok(None) };
        let state = Bytes::from(change.state);
        Ok(Some(Selected { txn: change.txn, change: link::Change { document_id, state, left } }))
    }

    /// Whether a change is to be sent, and if so, whether its document has left.
    fn leaves(&self, change: &Change, document: &Document) -> Option<bool> {
        let wanted_before = || {
            let after = document.value();
            let before = change.before_image(after.as_ref());
            let before = before.map(|before| with_id(before, &change.key));
            before.is_some_and(|before| self.queries.wants(&change.collection, &before))
        };
        if self.origins.contains(&change.origin) {
            let has_it = self.wrote_all_of(document) || wanted_before();
            return (!has_it).then_some(false);
        }
        let after = with_id(document.hidden_value(), &change.key);
        if self.queries.wants(&change.collection, &after) {
            Some(false)
        } else {
            wanted_before().then_some(document.is_visible())
        }
    }

    fn wrote_all_of(&self, document: &Document) -> bool {
        document.versions.iter().all(|(actor, _)| self.origins.contains(&actor))
    }

    /// Whether a document is part of a snapshot, tombstones too.
    pub(crate) fn wants_state(&self, document_id: &DocumentId, document: &Document) -> bool {
        let fields = with_id(document.hidden_value(), &document_id.key);
        let is_receivers = |(actor, _)| self.origins.contains(&actor);
        self.queries.wants(&document_id.collection, &fields)
            || document.versions.iter().any(is_receivers) && !self.wrote_all_of(document)
    }
}

fn decode_state(change: &Change) -> Result<Document, Error> {
    state::decode(&change.state).map_err(|error| {
        Error::Corrupt(format!(
            "the change of {} in transaction {}: {error}",
            change.id(),
            change.txn
        ))
    })
}
