//! One document of a round, from its first mutation to the version and event that come of all of
//! them, or to the finding that it would become too large.
//!
//! What a document may become is bounded here and nowhere else: mutations that are small by
//! themselves add up. Without a bound one document could make an event that no topic takes, and
//! nothing after it would ever be captured. So it is with conditions: whoever wrote the round cannot
//! know what stands before it in the log. All of a round's mutations of a document are applied or
//! none is, and every replica decides alike (ST-2).

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::document::{Commit as DocumentCommit, Document, Effect, MAX_BYTES, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{Collection, DocumentKey, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_core::query::OnConflict;
use anabranch_runtime::planted;
use anabranch_schemas::limits::{MAX_CHANGE_BYTES, MAX_STATE_BYTES};
use anabranch_schemas::records::{ChangeRef, Operation, Restriction};
use anabranch_schemas::state::{self, InsertedStates};
use bytes::Bytes;

use super::images::{Difference, difference};
use super::moves::{Image, moves};
use super::permit::{Barred, Permit};
use super::round::{At, NewVersion, Newest};
use crate::storage::{Conflict, Reason, STATE_PREFIX};

/// How much longer the JSON of a state can be than the state: a control character has one byte in
/// the one and six in the other.
const MOST_JSON_PER_STATE: usize = 6;
/// What an event has besides its texts and its state, at most.
const EVENT_OVERHEAD: usize = 256;
/// What deleting a document adds to its state, and its event to that, at most.
const DELETE_OVERHEAD: usize = 64 << 10;

/// A document that the round touches.
pub(super) struct Touched {
    pub(super) id: Bytes,
    slice: Slice,
    collection: Collection,
    key: DocumentKey,
    permit: Permit,
    /// Who changed it last before the round, if anyone did.
    version: Option<TxnId>,
    /// As it was before the round, if it was here.
    before: Option<Document>,
    /// What was inserted where there was nothing, if nothing else has happened since. Most of what
    /// is loaded is like that: no document is made of it.
    inserted: Option<BTreeMap<String, Value>>,
    /// As it is, if anything else was tried.
    now: Option<Document>,
    fate: Fate,
    /// A state of another cluster was joined.
    merged: bool,
    /// An insert that was to do nothing in that case found it there; or something else is asked of what
    /// is not there for whoever asks.
    kept: bool,
    /// The round has deleted it. An update that comes after that did not see it as it was: it does
    /// not bring it back, as one of somebody else would.
    deleted: bool,
}

/// What has become of a document so far.
enum Fate {
    /// A condition did not hold: whatever else the round asks of it, it stays as it was.
    Refused(Reason),
    Unchanged,
    Changed,
    /// Forgotten; what it was last.
    Evicted(Document),
}

/// What has become of it in the end.
pub(super) enum Finished<'a> {
    Unchanged,
    /// The same, which is no failure ([`Touched::kept`]).
    Kept(Bytes),
    /// A condition did not hold, so it stays as it was.
    Conflict(Conflict),
    /// It would have become too large, so it stays as it was.
    TooLarge(Bytes),
    Changed(NewVersion<'a>),
}

/// What is to be written for a document.
struct Written<'a> {
    operation: Operation,
    existed: bool,
    before: &'a str,
    added: &'a [&'a str],
    /// The state in its stored form.
    stored: Bytes,
    tombstone: Option<Hlc>,
    /// As readers saw it, and as they see it.
    images: [Image<'a>; 2],
}

impl Touched {
    pub(super) fn new(
        id: Bytes,
        slice: Slice,
        collection: Collection,
        key: DocumentKey,
        newest: Newest,
        restriction: Option<Arc<Restriction>>,
    ) -> Self {
        let Newest { version, document: before } = newest;
        Touched {
            id,
            slice,
            collection,
            permit: Permit::new(restriction, before.as_ref(), &key),
            key,
            version,
            before,
            inserted: None,
            now: None,
            fate: Fate::Unchanged,
            merged: false,
            kept: false,
            deleted: false,
        }
    }

    /// Does what is asked, if the document has not changed since then.
    pub(super) fn mutate(
        &mut self,
        mutation: Mutation,
        unchanged_since: Option<TxnId>,
        at: DocumentCommit,
    ) {
        if matches!(self.fate, Fate::Refused(_)) {
            return;
        }
        let reason = unchanged_since.and_then(|since| self.not_unchanged(since, at));
        if let Some(reason) = reason.filter(|_| !planted!(WritesWhatHasChanged)) {
            self.fate = Fate::Refused(reason);
            return;
        }
        match self.permit.bars(&mutation, self.exists()) {
            Some(Barred::Forbidden) => {
                self.fate = Fate::Refused(Reason::Forbidden);
                return;
            }
            Some(Barred::Left) => {
                self.kept = true;
                return;
            }
            None => {}
        }
        let does_fail = mutation.fails_on_conflict();
        match mutation {
            Mutation::Update { .. } if self.deleted => return,
            Mutation::Delete | Mutation::Forget => self.deleted = true,
            Mutation::Insert { .. } => self.deleted = false,
            Mutation::Update { .. } | Mutation::Merge(_) | Mutation::Evict(_) => {}
        }
        match self.try_mutate(mutation, at) {
            Effect::Conflict if does_fail => self.fate = Fate::Refused(Reason::Exists),
            Effect::Conflict => self.kept = true,
            Effect::Unchanged | Effect::Changed | Effect::Evicted => {}
        }
    }

    /// Why it is not there as it was at a transaction, which itself has to be before this one. What
    /// the same round has changed does not count.
    fn not_unchanged(&self, since: TxnId, at: DocumentCommit) -> Option<Reason> {
        if !self.permit.is_seen() {
            Some(Reason::Missing)
        } else if since.0 >= at.sequence {
            Some(Reason::NotYet)
        } else if self.version > Some(since) {
            Some(Reason::Changed)
        } else {
            None
        }
    }

    /// Whether the round has made it be there.
    fn exists(&self) -> bool {
        self.inserted.is_some() || self.now.as_ref().is_some_and(Document::is_visible)
    }

    fn try_mutate(&mut self, mutation: Mutation, at: DocumentCommit) -> Effect {
        let is_new = self.before.is_none() && self.inserted.is_none() && self.now.is_none();
        let mutation = match mutation {
            Mutation::Insert { fields: Value::Object(fields), .. } if is_new => {
                self.inserted = Some(fields);
                self.fate = Fate::Changed;
                return Effect::Changed;
            }
            mutation => mutation,
        };
        self.merged |= matches!(mutation, Mutation::Merge(_) | Mutation::Evict(_));
        let inserted = self.inserted.take();
        let now = self.now.get_or_insert_with(|| match inserted {
            Some(fields) => inserted_document(fields, at),
            None => self.before.clone().unwrap_or_default(),
        });
        let (effect, notes) = now.apply_owned(mutation, at);
        for note in notes {
            // The client's mistake, found too late to tell him: a recorded no-op.
            tracing::debug!(txn = at.sequence, path = %note.path, "an increment was refused");
        }
        match effect {
            Effect::Unchanged | Effect::Conflict => {}
            Effect::Changed => self.fate = Fate::Changed,
            Effect::Evicted => self.fate = Fate::Evicted(std::mem::take(now)),
        }
        effect
    }

    /// Gives what has become of it.
    pub(super) fn finish(
        mut self,
        at: At<'_>,
        states: &mut InsertedStates,
        give: impl FnOnce(Finished<'_>),
    ) {
        if let Fate::Refused(reason) = self.fate {
            return give(self.conflict(reason));
        }
        if let Some(mut fields) = self.inserted.take() {
            if !self.permit.allows_fields(&mut fields, &self.key) {
                return give(self.conflict(Reason::Forbidden));
            }
            let written = Written {
                operation: Operation::Insert,
                existed: false,
                before: "{}",
                added: &fields.keys().map(String::as_str).collect::<Vec<_>>(),
                stored: states.encode(&fields),
                tombstone: None,
                images: [Image::Nothing, Image::Fields(&fields)],
            };
            // What one request inserts was measured there.
            let fits = written.stored.len() <= MAX_STATE_BYTES;
            return self.give(at, written, fits, give);
        }
        let (last, evicted) = match std::mem::replace(&mut self.fate, Fate::Unchanged) {
            Fate::Unchanged if self.kept => return give(Finished::Kept(self.id)),
            Fate::Refused(_) | Fate::Unchanged => return give(Finished::Unchanged),
            Fate::Changed => (self.now.take().unwrap_or_default(), false),
            Fate::Evicted(last) => (last, true),
        };
        if !self.permit.allows(&last, &self.key) {
            return give(self.conflict(Reason::Forbidden));
        }
        // It came and went within the round: nobody is to know.
        if evicted && self.before.is_none() {
            return give(Finished::Unchanged);
        }
        let existed = self.before.as_ref().is_some_and(Document::is_visible);
        let exists = !evicted && last.is_visible();
        let operation = match (existed, exists) {
            _ if evicted => Operation::Evict,
            (false, true) => Operation::Insert,
            (true, false) => Operation::Delete,
            (true, true) | (false, false) => Operation::Update,
        };
        let before = self.before.take();
        let stored = state::encode_after(STATE_PREFIX, &last);
        let tombstone = last.tombstone().filter(|_| !evicted);
        let fits = evicted || fits(self.merged, before.as_ref(), &last, stored.len());
        let before = before.filter(|_| existed);
        let after = Some(&last).filter(|_| exists);
        let images = [Image::of(before.as_ref()), Image::of(after)];
        let Difference { before, added } = difference(before.as_ref(), after);
        let before = before.to_json();
        let (before, added) = (before.as_str(), added.as_slice());
        let written = Written { operation, existed, before, added, stored, tombstone, images };
        self.give(at, written, fits, give);
    }

    /// The finding that it stays as it was for this reason.
    fn conflict(self, reason: Reason) -> Finished<'static> {
        let Touched { id, version, permit, .. } = self;
        Finished::Conflict(Conflict {
            id,
            winner: version.filter(|_| permit.tells_writer()),
            reason,
        })
    }

    fn give(self, at: At<'_>, written: Written<'_>, fits: bool, give: impl FnOnce(Finished<'_>)) {
        let Touched { id, slice, collection, key, .. } = self;
        let Written { operation, existed, before, added, stored, tombstone, images } = written;
        let texts =
            id.len() + before.len() + added.iter().map(|name| name.len() + 5).sum::<usize>();
        if !fits || EVENT_OVERHEAD + texts + stored.len() > MAX_CHANGE_BYTES {
            return give(Finished::TooLarge(id));
        }
        let event = ChangeRef {
            txn: at.txn,
            app: at.commit.app,
            collection: collection.as_str(),
            key: key.as_str(),
            origin: at.commit.origin,
            origin_txn: at.commit.origin_txn.unwrap_or(at.txn),
            hlc: at.commit.hlc,
            operation,
            existed,
            before,
            added,
            state: &stored[STATE_PREFIX.len()..],
        };
        let kept = (operation != Operation::Evict).then(|| stored.clone());
        let indexes = at.indexes.map_or(&[][..], |all| all.of(at.commit.app, &collection));
        let moves = moves(indexes, &key, images);
        give(Finished::Changed(NewVersion { slice, id, stored: kept, tombstone, moves, event }));
    }
}

/// Whether a document is not too large after what was done to it.
///
/// A write of this cluster may also leave it smaller than it was: one that a merge made too large
/// can be cut down. A merge is refused only if the event that deletes the document, which has its
/// state and all that was visible, would be larger than an event may be.
fn fits(merged: bool, before: Option<&Document>, after: &Document, state_bytes: usize) -> bool {
    let visible = |document: &Document| document.value().map_or(0, |value| value.to_json().len());
    // Most documents are so small that nothing has to be measured.
    if state_bytes <= MAX_BYTES / MOST_JSON_PER_STATE {
        return true;
    }
    let json_bytes = visible(after);
    if merged {
        return state_bytes + json_bytes <= MAX_CHANGE_BYTES - DELETE_OVERHEAD;
    }
    if state_bytes <= MAX_STATE_BYTES && json_bytes <= MAX_BYTES {
        return true;
    }
    let Some(before) = before else { return false };
    state_bytes + json_bytes <= state::encode(before).len() + visible(before)
}

fn inserted_document(fields: BTreeMap<String, Value>, at: DocumentCommit) -> Document {
    let mut document = Document::default();
    let fields = Value::Object(fields);
    document.apply_owned(Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate }, at);
    document
}
