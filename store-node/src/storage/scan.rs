//! Reads of the store: the newest versions, a snapshot's documents, changes by transaction.

use std::ops::{ControlFlow, Range};

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;

use super::engine::{Cursor, Family, Scope, check_haste};
use super::values::{IndexedChange, Version, decode_changes, decode_version};
use super::{Storage, keys};
use crate::error::Error;

/// How many versions are stepped over before the rest of a document is jumped over.
const STEPS_BEFORE_SEEK: usize = 8;

/// Whether to go on after a document.
pub(super) type Visit = Result<ControlFlow<()>, Error>;

/// The newest version of one document after the other, as of when this was made.
pub(crate) struct NewestVersions<'a> {
    storage: &'a Storage,
    versions: Cursor<'a>,
    key: Vec<u8>,
}

impl NewestVersions<'_> {
    /// The newest version of a document and who wrote it, if there is any.
    pub(crate) fn get(&mut self, id: &[u8]) -> Result<Option<(TxnId, Version<'_>)>, Error> {
        keys::set_version(&mut self.key, id, TxnId(u64::MAX));
        self.versions.seek(&self.key);
        match self.versions.item() {
            Some((key, value)) => {
                let (found, txn) = split(key)?;
                if found != id {
                    return Ok(None);
                }
                decode_version(value).map(|version| Some((txn, version)))
            }
            None => {
                let status = self.versions.status();
                status.map(|()| None).map_err(|error| self.storage.failed("read", error))
            }
        }
    }
}

/// Where to read on in the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeedPosition {
    /// The transaction.
    pub(crate) txn: TxnId,
    /// The chunk of its changes.
    pub(crate) chunk: u16,
}

impl Storage {
    /// Reads the newest versions as they are now.
    pub(crate) fn newest_versions(&self) -> NewestVersions<'_> {
        let versions = self.engine.cursor(Family::Versions, Scope::Prefix);
        NewestVersions { storage: self, versions, key: Vec::with_capacity(128) }
    }

    /// The version of a document in the snapshot at `at`: who wrote it, and `read` of its state.
    /// `None` if the document was not there or was forgotten.
    pub(crate) fn document<T>(
        &self,
        id: &[u8],
        at: TxnId,
        read: impl FnOnce(TxnId, &[u8]) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut versions = self.engine.cursor(Family::Versions, Scope::Prefix);
        versions.seek(keys::version_key(id, at));
        versions.status().map_err(|error| self.failed("read", error))?;
        let Some((key, value)) = versions.item() else { return Ok(None) };
        let (found, txn) = split(key)?;
        if found != id {
            return Ok(None);
        }
        check_haste(value.len())?;
        match decode_version(value)? {
            Version::State(state) => read(txn, state).map(Some),
            Version::Evicted => Ok(None),
        }
    }

    /// Visits the documents of the snapshot at `at` whose id begins with `prefix`, in order of id,
    /// those after `after` if it is given. Deleted ones are among them, forgotten ones not.
    pub(crate) fn documents(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        at: TxnId,
        mut visit: impl FnMut(&[u8], TxnId, &[u8]) -> Visit,
    ) -> Result<(), Error> {
        self.versions(prefix, after, at, |id, version| match version {
            Some((txn, value)) => match decode_version(value)? {
                Version::State(state) => visit(id, txn, state),
                Version::Evicted => Ok(ControlFlow::Continue(())),
            },
            None => Ok(ControlFlow::Continue(())),
        })
    }

    /// Visits the newest version of each document at `at`, in its stored form, also of those that
    /// were forgotten; `None` of those that were not there yet.
    pub(super) fn versions(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        at: TxnId,
        mut visit: impl FnMut(&[u8], Option<(TxnId, &[u8])>) -> Visit,
    ) -> Result<(), Error> {
        let start = after.map_or_else(|| prefix.to_vec(), past_document);
        let scope = Scope::Below(keys::after_prefix(prefix));
        let mut versions = self.engine.cursor(Family::Versions, scope);
        versions.seek(start);
        // The document that was decided last, and how many of its versions were passed since.
        let mut decided: Vec<u8> = Vec::new();
        let mut passed = 0;
        // The document of which only newer versions were seen so far.
        let mut undecided: Vec<u8> = Vec::new();
        while let Some((key, value)) = versions.item() {
            let (id, txn) = split(key)?;
            if !undecided.is_empty() && id != undecided {
                if visit(&undecided, None)?.is_break() {
                    return Ok(());
                }
                undecided.clear();
            }
            let newer = txn > at;
            if newer && undecided.is_empty() {
                undecided.extend_from_slice(id);
            }
            if newer || id == decided {
                passed += 1;
                if passed <= STEPS_BEFORE_SEEK {
                    versions.next();
                } else {
                    let target = if newer { keys::version_key(id, at) } else { past_document(id) };
                    passed = 0;
                    versions.seek(target);
                }
                continue;
            }
            passed = 0;
            undecided.clear();
            decided.clear();
            decided.extend_from_slice(id);
            if visit(id, Some((txn, value)))?.is_break() {
                return Ok(());
            }
            versions.next();
        }
        versions.status().map_err(|error| self.failed("read", error))
    }

    /// Visits the changes of transactions, chunk by chunk, in order: where each chunk stands, the
    /// slices it names and its changes. Only the first chunk of a transaction names slices.
    ///
    /// # Errors
    /// [`Error::FeedTrimmed`] if they are no longer there.
    pub(crate) fn changes(
        &self,
        from: FeedPosition,
        until: TxnId,
        mut visit: impl FnMut(FeedPosition, Vec<Slice>, Vec<IndexedChange>) -> Visit,
    ) -> Result<(), Error> {
        let range: Range<Vec<u8>> =
            keys::change_key(from.txn, from.chunk).to_vec()..keys::change_prefix(until).to_vec();
        let mut chunks = self.engine.cursor(Family::Changes, Scope::Within(range));
        // Looked at after the iterator was made: see `feed_start`.
        let start = self.feed_start();
        if from.txn < start {
            return Err(Error::FeedTrimmed { wanted: from.txn, start });
        }
        chunks.seek_to_first();
        while let Some((key, value)) = chunks.item() {
            let (txn, chunk) = keys::split_change_key(key)
                .ok_or_else(|| Error::CorruptStore("a key of changes does not decode".into()))?;
            let (slices, changes) = decode_changes(value)?;
            if visit(FeedPosition { txn, chunk }, slices, changes)?.is_break() {
                return Ok(());
            }
            chunks.next();
        }
        chunks.status().map_err(|error| self.failed("read changes", error))
    }
}

pub(super) fn split(key: &[u8]) -> Result<(&[u8], TxnId), Error> {
    keys::split_version_key(key)
        .ok_or_else(|| Error::CorruptStore("the key of a version does not decode".into()))
}

/// The first key past all versions of a document. No document's id continues with a byte below 2.
fn past_document(id: &[u8]) -> Vec<u8> {
    let mut key = id.to_vec();
    key.push(1);
    key
}
