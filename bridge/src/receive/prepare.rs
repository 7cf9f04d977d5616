//! From what a remote sent to what is written: pure, but for the clock reading it is given.
//!
//! A document that cannot be applied becomes a dead letter with its reason: it neither blocks what
//! comes after it nor disappears. The cursor is that of the whole batch, so everything in it is
//! written in one transaction (exactly once).
//!
//! A clock that is wrong is no fault of a document: were each one that it stamped buried, the
//! position would move past them, and nothing would bring them back once the clock is right. So if
//! the remote's clock is ahead, or its own stamps are, the link ends, and what was refused is sent
//! again. Only a stamp of a third cluster makes a dead letter.
//!
//! What a remote says has left, this cluster may say of the same document to the remote, and if
//! both know the same of it, both would forget it. Then the one with the smaller actor keeps it.
//! But if a document is wanted as it is here, what left is another: the remote knows more of it
//! than it says, since of what was listed to it within a snapshot it says only what it was told.
//!
//! Of a document that left, the remote sends which versions it knows and no fields. Those versions
//! are never merged, since the fields that belong to them are missing: the document is forgotten if
//! they cover all that is held of it, and else stays as it is.

use std::sync::Arc;

use bytes::Bytes;

use anabranch_core::Value;
use anabranch_core::document::{
    Document, Field, Fields, MAX_BYTES, MAX_DEPTH, Mutation, Stamp, VersionVector,
};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, Collection, DocumentId, DocumentKey, TxnId};
use anabranch_schemas::records::{DeadLetter, DocumentMutation, RemoteCursor};
use anabranch_schemas::resources::{OnLeave, ResourceName};
use anabranch_schemas::{link, state};

use crate::error::Error;
use crate::link::{RefusalCode, actor};
use crate::queries::Queries;

/// A state above this many bytes cannot be written, nor kept as a dead letter.
const MAX_STATE_BYTES: usize = 24 * 1024 * 1024;
/// No document id is longer; of what claims to be one, this much is kept.
const MAX_ID_BYTES: usize = 4096;
/// JSON is at most this many times as long as the state that holds it.
const MAX_JSON_GROWTH: usize = 8;

/// Another replication of this cluster that may have brought a document.
pub(crate) struct Other {
    pub(crate) queries: Arc<Queries>,
    /// Whom it hears; `None` if that is not known yet.
    pub(crate) remote: Option<ActorId>,
}

/// The other replications that want something of a collection.
pub(crate) type Others = Arc<dyn Fn(&Collection) -> Vec<Other> + Send + Sync>;

/// A document as this cluster holds it, with all that was handed on for writing before. Blocks.
pub(crate) type Held = Arc<dyn Fn(&DocumentId) -> Result<Option<Document>, Error> + Send + Sync>;

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
    /// A stamp further ahead than this is refused: it would win over every write for that long.
    pub(crate) max_clock_drift_ms: u64,
    pub(crate) others: Others,
    pub(crate) held: Held,
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
        let ahead_ms = sent_ms.saturating_sub(now_ms);
        if ahead_ms > self.max_clock_drift_ms {
            return Err(self.drifted("its clock is", ahead_ms));
        }
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
        let origin = actor(&origin)?;
        let origin_txn = TxnId(origin_txn);
        let mut mutations = Vec::with_capacity(changes.len());
        for change in changes {
            prepared.documents += 1;
            prepared.bytes += change.state.len() + change.document_id.len();
            let made = if change.left {
                self.leaving(&change, origin, &mutations, prepared)
            } else {
                self.merging(&change, now_ms).map(Some)
            };
            match made {
                Ok(mutation) => mutations.extend(mutation),
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

    fn merging(&self, change: &link::Change, now_ms: u64) -> Result<DocumentMutation, NotReady> {
        let (id, document) = self.decode(change)?;
        self.check_clock(&document, now_ms)?;
        check_size(&change.state, &document)?;
        self.check_own_writes(&document)?;
        let mutation = Mutation::Merge(document);
        Ok(DocumentMutation::new(id.collection, id.key, mutation))
    }

    /// What becomes of a document that left: nothing if it is to be kept, or another replication
    /// has it. `mutations` and `prepared` come before it.
    fn leaving(
        &self,
        change: &link::Change,
        origin: ActorId,
        mutations: &[DocumentMutation],
        prepared: &Prepared,
    ) -> Result<Option<DocumentMutation>, NotReady> {
        let (id, Document { versions, .. }) = self.decode(change)?;
        // Whatever fields came along are not for this cluster.
        let known = Document { versions, ..Document::default() };
        self.check_own_writes(&known)?;
        if self.on_leave == OnLeave::Keep {
            return Ok(None);
        }
        let before = prepared.rounds.iter().flat_map(|round| &round.mutations).chain(mutations);
        let stays = self.stays(&id, &known.versions, origin, before).map_err(NotReady::Failed)?;
        if stays {
            return Ok(None);
        }
        let mutation = Mutation::Evict(known);
        Ok(Some(DocumentMutation::new(id.collection, id.key, mutation)))
    }

    /// Whether a document that left stays here all the same: both sides know the same of it and the
    /// other is to forget it, or another replication has brought it and wants it. That one would
    /// want it is not enough: its remote may not have it.
    fn stays<'a>(
        &self,
        id: &DocumentId,
        known: &VersionVector,
        origin: ActorId,
        before: impl Iterator<Item = &'a DocumentMutation>,
    ) -> Result<bool, Error> {
        let mut others = (self.others)(&id.collection);
        // What is forgotten is covered by what is known: most often this spares the look.
        others.retain(|other| self.has_part(other, known));
        let has_written = known.iter().any(|(actor, _)| actor == self.actor);
        // What is passed on of a third cluster's is not told by one of the two to the other.
        let may_be_mutual = has_written && origin == self.remote && self.actor < self.remote;
        if others.is_empty() && !may_be_mutual {
            return Ok(false);
        }
        let mut held = (self.held)(id)?.unwrap_or_default();
        for written in before {
            if let Mutation::Merge(state) = &written.mutation
                && (&written.collection, &written.key) == (&id.collection, &id.key)
            {
                held.merge(state);
            }
        }
        let fields = id.key.add_to(held.hidden_value());
        let is_mutual = may_be_mutual
            && held.versions == *known
            && !self.queries.wants(&id.collection, &fields);
        Ok(is_mutual || self.is_kept_for(&others, id, &held.versions, &fields))
    }

    /// Whether the remote is told that a document is held here, before it sends a snapshot. Only
    /// what can come of it: not of what was never received, of what was not asked for, or of what
    /// another replication keeps here. So a remote hears of no document that it never had, unless
    /// from a third cluster that this one no longer replicates with (BR-3).
    pub(super) fn lists(&self, id: &DocumentId, document: &Document) -> bool {
        let Document { versions, .. } = document;
        if versions.iter().all(|(actor, _)| actor == self.actor) {
            return false;
        }
        let fields = id.key.add_to(document.hidden_value());
        self.queries.wants(&id.collection, &fields)
            && !self.is_kept_for(&(self.others)(&id.collection), id, versions, &fields)
    }

    /// Whether another replication has brought a document, as it is held here, and wants it.
    fn is_kept_for(
        &self,
        others: &[Other],
        id: &DocumentId,
        versions: &VersionVector,
        fields: &Value,
    ) -> bool {
        others.iter().any(|other| {
            self.has_part(other, versions) && other.queries.wants(&id.collection, fields)
        })
    }

    /// Whether another replication may have brought some of these versions.
    fn has_part(&self, other: &Other, versions: &VersionVector) -> bool {
        versions.iter().any(|(actor, _)| match other.remote {
            Some(remote) => actor == remote,
            None => actor != self.actor && actor != self.remote,
        })
    }

    fn decode(&self, change: &link::Change) -> Result<(DocumentId, Document), Unusable> {
        let id = self.document_id(&change.document_id)?;
        if change.state.len() > MAX_STATE_BYTES {
            let length = change.state.len();
            let reason = format!("its state has {length} bytes; the limit is {MAX_STATE_BYTES}");
            return Err(("too_large", reason));
        }
        let document = state::decode(&change.state).map_err(|e| ("state", e.to_string()))?;
        Ok((id, document))
    }

    /// Whether no stamp is too far ahead of the time.
    fn check_clock(&self, document: &Document, now_ms: u64) -> Result<(), NotReady> {
        let latest = [document.last_write(), document.generation, last_write(&document.fields)];
        let Some(stamp) = latest.into_iter().max().flatten() else { return Ok(()) };
        let ahead_ms = stamp.hlc.millis().saturating_sub(now_ms);
        if ahead_ms <= self.max_clock_drift_ms {
            return Ok(());
        }
        if stamp.actor == self.remote || stamp.actor == self.actor {
            return Err(NotReady::Failed(self.drifted("what it writes is stamped", ahead_ms)));
        }
        let reason = format!(
            "it was written {ahead_ms} ms in the future by this cluster's clock; the limit is {}",
            self.max_clock_drift_ms
        );
        Err(("clock_drift", reason).into())
    }

    fn drifted(&self, what: &str, ahead_ms: u64) -> Error {
        Error::Refusing {
            code: RefusalCode::ClockDrift,
            reason: format!(
                "{what} {ahead_ms} ms ahead of this cluster's clock, and {} ms are allowed \
                 (bridge.max_clock_drift_ms): set the clocks of both clusters right",
                self.max_clock_drift_ms
            ),
        }
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

/// Whether a state is small enough.
fn check_size(bytes: &[u8], document: &Document) -> Result<(), Unusable> {
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
