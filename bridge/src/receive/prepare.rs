//! From what a remote sent to what is written: pure, but for the clock reading it is given.
//!
//! A document that cannot be applied becomes a dead letter with its reason: it neither blocks what
//! comes after it nor disappears. The cursor is that of the whole batch, so everything in it is
//! written in one transaction (exactly once).

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::{Document, Field, Fields, MAX_BYTES, MAX_DEPTH, Mutation, Stamp};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, TxnId};
use anabranch_schemas::records::{DeadLetter, DocumentMutation, RemoteCursor};
use anabranch_schemas::resources::{OnLeave, ResourceName};
use anabranch_schemas::{link, state};

use crate::error::Error;
use crate::queries::{Queries, with_id};

/// A stamp further ahead than this is refused: it would win over every write for that long.
pub(crate) const MAX_CLOCK_DRIFT_MS: u64 = 60_000;
/// A state above this many bytes cannot be written, nor kept as a dead letter.
const MAX_STATE_BYTES: usize = 24 * 1024 * 1024;
/// No document id is longer; of what claims to be one, this much is kept.
const MAX_ID_BYTES: usize = 4096;
/// JSON is at most this many times as long as the state that holds it.
const MAX_JSON_GROWTH: usize = 8;

/// Tells whether another replication of this cluster wants a document.
pub(crate) type WantedElsewhere = Arc<dyn Fn(&DocumentId, &Value) -> bool + Send + Sync>;

/// Tells whether a transaction of this cluster's log was written.
pub(crate) type WasWritten = Arc<dyn Fn(TxnId) -> Result<bool, Error> + Send + Sync>;

/// Prepares the batches of one link.
#[derive(Clone)]
pub(crate) struct Preparer {
    /// The actor of this cluster's log.
    pub(crate) actor: ActorId,
    pub(crate) app: AppId,
    pub(crate) replication: ResourceName,
    pub(crate) remote: ActorId,
    pub(crate) queries: Arc<Queries>,
    pub(crate) on_leave: OnLeave,
    pub(crate) wanted_elsewhere: WantedElsewhere,
    pub(crate) was_written: WasWritten,
}

/// What a batch comes to.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The batch's number, to be acknowledged.
    pub(crate) number: u64,
    /// Rounds to be written, in order.
    pub(crate) rounds: Vec<ReceivedRound>,
    /// Documents that cannot be applied.
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// The position that holds once all of this is written.
    pub(crate) cursor: RemoteCursor,
    /// How many documents are in it.
    pub(crate) documents: usize,
    /// And how many bytes of state.
    pub(crate) bytes: usize,
    /// When the sender sent it, by its clock.
    pub(crate) sent_ms: u64,
}

/// A round of a remote.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReceivedRound {
    pub(crate) origin: ActorId,
    pub(crate) origin_txn: TxnId,
    pub(crate) mutations: Vec<DocumentMutation>,
}

/// Why a document cannot be applied: a stable code and words.
type Unusable = (&'static str, String);

/// Why a document was not made ready.
enum NotReady {
    Unusable(Unusable),
    Failed(Error),
}

impl From<Unusable> for NotReady {
    fn from(unusable: Unusable) -> Self {
        NotReady::Unusable(unusable)
    }
}

impl Preparer {
    /// Prepares a batch that arrived at wall time `now_ms`.
    pub(crate) fn prepare(&self, batch: link::Batch, now_ms: u64) -> Result<Prepared, Error> {
        let link::Batch { rounds, position, sent_ms, number } = batch;
        let position = position.ok_or_else(|| Error::protocol("a batch that has no position"))?;
        let hlc = rounds.last().map_or(Hlc(0), |round| Hlc(round.hlc));
        let mut prepared = Prepared {
            number,
            rounds: Vec::with_capacity(rounds.len()),
            dead_letters: Vec::new(),
            cursor: RemoteCursor {
                remote: self.remote,
                next: TxnId(position.next),
                snapshot_after: position.snapshot.map(|snapshot| snapshot.after.to_vec()),
                queries: self.queries.digest(),
                hlc,
            },
            documents: 0,
            bytes: 0,
            sent_ms,
        };
        for round in rounds {
            self.prepare_round(round, now_ms, &mut prepared)?;
        }
        Ok(prepared)
    }

    fn prepare_round(
        &self,
        round: link::Round,
        now_ms: u64,
        prepared: &mut Prepared,
    ) -> Result<(), Error> {
        let link::Round { origin, origin_txn, hlc: _, changes } = round;
        let origin = Uuid::from_slice(&origin)
            .map(ActorId)
            .map_err(|_| Error::protocol("an origin that is not 16 bytes long"))?;
        let origin_txn = TxnId(origin_txn);
        let mut mutations = Vec::with_capacity(changes.len());
        for change in changes {
            prepared.documents += 1;
            prepared.bytes += change.state.len() + change.document_id.len();
            match self.mutation(&change, now_ms) {
                Ok(mutation) => mutations.push(mutation),
                Err(NotReady::Failed(error)) => return Err(error),
                Err(NotReady::Unusable(unusable)) => {
                    let letter = self.dead_letter(change, (origin, origin_txn), unusable, now_ms);
                    prepared.dead_letters.push(letter);
                }
            }
        }
        if !mutations.is_empty() {
            prepared.rounds.push(ReceivedRound { origin, origin_txn, mutations });
        }
        Ok(())
    }

    fn dead_letter(
        &self,
        change: link::Change,
        (origin, origin_txn): (ActorId, TxnId),
        (code, reason): Unusable,
        received_ms: u64,
    ) -> DeadLetter {
        let link::Change { document_id, state, left } = change;
        // What no record can hold is named at least.
        let kept = |bytes: Bytes| {
            if bytes.len() > MAX_STATE_BYTES { Vec::new() } else { bytes.to_vec() }
        };
        DeadLetter {
            app: self.app,
            replication: self.replication.to_string(),
            remote: self.remote,
            origin,
            origin_txn,
            document_id: document_id.slice(..document_id.len().min(MAX_ID_BYTES)).to_vec(),
            state: kept(state),
            left,
            code: code.to_owned(),
            reason,
            received_ms,
        }
    }

    fn mutation(&self, change: &link::Change, now_ms: u64) -> Result<DocumentMutation, NotReady> {
        let id = self.document_id(&change.document_id)?;
        if change.state.len() > MAX_STATE_BYTES {
            let length = change.state.len();
            let reason = format!("its state has {length} bytes; the limit is {MAX_STATE_BYTES}");
            return Err(("too_large", reason).into());
        }
        let document = state::decode(&change.state).map_err(|e| ("state", e.to_string()))?;
        check(&change.state, &document, now_ms)?;
        self.check_own_writes(&document)?;
        let forget = change.left
            && self.on_leave == OnLeave::Purge
            && !(self.wanted_elsewhere)(&id, &with_id(document.hidden_value(), &id.key));
        let mutation = if forget { Mutation::Evict(document) } else { Mutation::Merge(document) };
        Ok(DocumentMutation { collection: id.collection, key: id.key, mutation })
    }

    /// A state that claims to include writes of this cluster which were never made would hide those
    /// that are yet to come.
    fn check_own_writes(&self, document: &Document) -> Result<(), NotReady> {
        for (actor, sequence) in document.versions.iter() {
            let own = actor == self.actor;
            if own && !(self.was_written)(TxnId(sequence)).map_err(NotReady::Failed)? {
                let reason = format!("transaction {sequence} of this cluster was never written");
                return Err(("unknown_write", reason).into());
            }
        }
        Ok(())
    }

    /// Reads a document id. It must be one of this app and of a collection that was asked for.
    fn document_id(&self, bytes: &Bytes) -> Result<DocumentId, Unusable> {
        let id = DocumentId::from_bytes(bytes).map_err(|e| ("document_id", e.to_string()))?;
        DocumentKey::from_canonical(id.key.as_str()).map_err(|e| ("document_id", e.to_string()))?;
        if id.app != self.app {
            return Err(("app", format!("the document is of app {}", id.app)));
        }
        if !self.queries.names(&id.collection) {
            return Err(("not_wanted", format!("nothing of '{}' was asked for", id.collection)));
        }
        Ok(id)
    }
}

/// Whether a state can be applied.
fn check(bytes: &[u8], document: &Document, now_ms: u64) -> Result<(), Unusable> {
    let latest = [document.last_write(), document.generation, last_write(&document.fields)];
    if let Some(stamp) = latest.into_iter().max().flatten() {
        let ahead_ms = stamp.hlc.millis().saturating_sub(now_ms);
        if ahead_ms > MAX_CLOCK_DRIFT_MS {
            return Err((
                "clock_drift",
                format!(
                    "it was written {ahead_ms} ms in the future by this cluster's clock; the \
                     limit is {MAX_CLOCK_DRIFT_MS}"
                ),
            ));
        }
    }
    let depth = depth(&document.fields);
    if depth > MAX_DEPTH {
        return Err(("too_deep", format!("it nests {depth} deep; the limit is {MAX_DEPTH}")));
    }
    if bytes.len() > MAX_BYTES / MAX_JSON_GROWTH {
        let length = document.hidden_value().to_json().len();
        if length > MAX_BYTES {
            let reason = format!("it has {length} bytes of JSON; the limit is {MAX_BYTES}");
            return Err(("too_large", reason));
        }
    }
    Ok(())
}

fn last_write(fields: &Fields) -> Option<Stamp> {
    fields.values().map(Field::last_write).max().flatten()
}

/// How deep the document nests, as [`Value::depth`] counts.
fn depth(fields: &Fields) -> usize {
    let below = |field: &Field| {
        let value = field.register.as_ref().and_then(|register| register.value.as_ref());
        value.map_or(0, Value::depth).max(if field.map.is_some() || !field.fields.is_empty() {
            depth(&field.fields)
        } else {
            0
        })
    };
    1 + fields.values().map(below).max().unwrap_or(0)
}
