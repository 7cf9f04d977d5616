//! Which changes a receiver is sent.
//!
//! Invariant, by induction over the log: of every document that a receiver wants as it is here, it
//! has been sent everything, or wrote it. So:
//!
//! * A document that is wanted after a change is sent, as the whole of its state. No other state is
//!   ever sent: nothing else leaves (BR-3).
//! * A document that was wanted before and is not any more has left: its id is sent, and which
//!   versions of it are known here, so that the receiver can tell whether it would lose something
//!   by forgetting it. No field of it is sent.
//! * A change that the receiver wrote is not sent: it has its own write, and what was wanted before
//!   it. But if the document was *not* wanted here before, the two had written it without knowing
//!   of each other. There may be more here than the receiver has, so it is sent the document if
//!   that is wanted, and else is told that it has left: it may believe that it still wants it. Both
//!   sides cannot tell each other so and lose the document: the receiver was not sent what was here
//!   before, so it never knows all that is to be forgotten here.
//! * Documents of a snapshot may be newer than its timestamp, from which the tail is sent. What the
//!   receiver wrote it may have forgotten on account of them, and now it is sent older states. So
//!   until the tail has come to where they were read, it is sent its own changes as well.
//! * What the receiver wrote alone is its own: it is not told to forget it.
//! * A deleted document is judged by the fields it hides, so that a tombstone follows its document
//!   also where one side revives what the other deletes.
//! * An eviction that a client asked for stays here. One that came over a bridge is passed on as
//!   the leaving it was; its versions are those that were forgotten here.
//! * A snapshot has what is wanted. Of what the receiver had a part in writing, or says it holds,
//!   and does not want as it is here, it is told that it has left. Here both sides may know the
//!   same and tell each other so: the receiver sees to it that one of them keeps the document.
//! * That it holds something is only what the receiver says. So it is told that this has left only
//!   if the versions it names are known here, else it would not forget it anyway, and it is sent
//!   those back, not the ones that are known. Whoever names an id and versions that it never had
//!   learns whether they are here, and nothing else (BR-3).
//! * What a deleted document hid may have expired: it tells no more whether it was wanted. Who says
//!   that it holds versions of it that are known here, or writes it, is sent what is left of it: no
//!   field.
//! * Of what the receiver says it holds in a version that includes all that is here, it is sent
//!   nothing: to merge that would change nothing.
//! * Of what the receiver says it holds and is unknown here, it is told nothing, and keeps it. It
//!   may have been evicted here, and evictions stay where they are: a device that has handed on
//!   what it gathered makes room for more. A tombstone that is gone looks the same, and versions do
//!   not tell the two apart. To keep what was deleted can be made good, to lose the last copy
//!   cannot.

use bytes::Bytes;

use anabranch_core::document::{Document, VersionVector};
use anabranch_core::ids::{ActorId, AppId, DocumentId, TxnId};
use anabranch_runtime::planted;
use anabranch_schemas::records::{Change, Operation};
use anabranch_schemas::{link, state};

use crate::error::Error;
use crate::link::versions_bytes;
use crate::queries::Queries;

/// Chooses changes for one receiver.
#[derive(Debug)]
pub(crate) struct Selector {
    queries: Queries,
    /// Whose writes the receiver has already: its own.
    receiver: ActorId,
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
    /// For the actor `receiver`, which wants `queries` of `app`.
    pub(crate) fn new(app: AppId, queries: Queries, receiver: ActorId) -> Self {
        let prefix = |collection| DocumentId::collection_prefix(app, collection);
        let prefixes = queries.collections().map(prefix).collect();
        Selector { queries, receiver, prefixes }
    }

    /// Whether the receiver wrote what is of this origin.
    pub(crate) fn is_of_receiver(&self, origin: ActorId) -> bool {
        self.receiver == origin
    }

    /// What the receiver asked for.
    pub(crate) fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Whether a document may be wanted, going by its id alone.
    pub(crate) fn may_want(&self, document_id: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| document_id.starts_with(prefix))
    }

    /// What to send of a change that stands in the log of `actor`. `document_id` is its key in the
    /// topic. What `is_replayed` may be older than what the receiver has.
    pub(crate) fn select(
        &self,
        actor: ActorId,
        document_id: Bytes,
        change: Change,
        is_replayed: bool,
    ) -> Result<Option<Selected>, Error> {
        let is_receivers = self.is_of_receiver(change.origin);
        if change.operation == Operation::Evict && (change.origin == actor || is_receivers) {
            return Ok(None);
        }
        let document = decode_state(&change)?;
        // What it wrote may have made this cluster write as well: bring back what had expired.
        let writes = |(of, sequence): (ActorId, u64)| of == actor && sequence == change.txn.0;
        let is_written_here = document.versions.iter().any(writes);
        let is_wanted = change.operation != Operation::Evict && {
            let after = change.key.add_to(document.hidden_value());
            // What it wrote did not bring back what is deleted here: it is told of the delete.
            (is_receivers && document.is_expired())
                || self.queries.wants(&change.collection, &after)
                || planted!(SendsUnwanted)
        };
        let is_sent = if is_receivers {
            // Of what is replayed it may have forgotten that it has it.
            let lacks_it =
                is_replayed || is_written_here || !self.wanted_before(&change, &document);
            !self.wrote_all_of(&document) && lacks_it && !planted!(SendsNothingBack)
        } else {
            let has_it = || !self.wrote_all_of(&document) && self.wanted_before(&change, &document);
            is_wanted || (has_it() && !planted!(KeepsWhatLeft))
        };
        let txn = change.txn;
        Ok(is_sent.then(|| {
            // Of what has left: which versions of it are known, and nothing else.
            let state =
                if is_wanted { change.state.into() } else { versions_bytes(&document.versions) };
            let change = link::Change { document_id, state, left: !is_wanted };
            Selected { txn, change }
        }))
    }

    fn wanted_before(&self, change: &Change, document: &Document) -> bool {
        let before = change.before_image(document.value().as_ref());
        let before = before.map(|before| change.key.add_to(before));
        before.is_some_and(|before| self.queries.wants(&change.collection, &before))
    }

    fn wrote_all_of(&self, document: &Document) -> bool {
        document.versions.iter().all(|(actor, _)| self.is_of_receiver(actor))
    }

    /// What a snapshot has of a document, which may be deleted, for a receiver that says it holds
    /// these versions of it, or nothing.
    pub(crate) fn share<'a>(
        &self,
        document_id: &DocumentId,
        document: &'a Document,
        held: Option<&'a VersionVector>,
    ) -> Share<'a> {
        // No versions are covered by any: nothing is held.
        let held = held.filter(|held| held.iter().next().is_some());
        if held.is_some_and(|held| held.covers(&document.versions)) {
            return Share::Nothing;
        }
        let fields = document_id.key.add_to(document.hidden_value());
        if self.queries.wants(&document_id.collection, &fields) {
            return Share::State;
        }
        let is_known = |held| document.versions.covers(held);
        if document.is_expired() && held.is_some_and(is_known) {
            return Share::State;
        }
        if self.wrote_all_of(document) {
            return Share::Nothing;
        }
        let has_part = || document.versions.iter().any(|(actor, _)| self.is_of_receiver(actor));
        match held.filter(|held| is_known(held)) {
            Some(held) => Share::Left(held),
            None if has_part() => Share::Left(&document.versions),
            None => Share::Nothing,
        }
    }
}

/// What a snapshot has of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share<'a> {
    /// All of its state.
    State,
    /// That it has left, for a receiver that holds no more of it than these versions.
    Left(&'a VersionVector),
    /// Nothing.
    Nothing,
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
