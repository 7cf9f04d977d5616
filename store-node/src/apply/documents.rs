//! The newest states of documents: those of the batch under construction, those written lately,
//! the rest from the store.
//!
//! What is kept is the encoded state, shared with what was written; two generations of bounded
//! size take turns, so that what is used again stays.

use std::collections::HashMap;

use anabranch_core::document::Document;
use anabranch_schemas::state;
use bytes::Bytes;

use super::round::Documents;
use crate::error::Error;
use crate::storage::{NewestVersions, Version};

/// How many bytes of ids and states a generation holds before the next one begins.
const GENERATION_BYTES: usize = 16 << 20;

/// States written lately; `None` for a document that was forgotten.
#[derive(Debug, Default)]
pub(super) struct RecentStates {
    young: HashMap<Bytes, Option<Bytes>>,
    old: HashMap<Bytes, Option<Bytes>>,
    young_bytes: usize,
}

impl RecentStates {
    /// Keeps the newest state of a document. Until [`RecentStates::batch_written`] nothing is
    /// given up, so all of a batch is found.
    pub(super) fn put(&mut self, id: Bytes, state: Option<Bytes>) {
        self.young_bytes += id.len() + state.as_ref().map_or(0, Bytes::len) + 64;
        self.young.insert(id, state);
    }

    /// Everything that was put is in the store now.
    pub(super) fn batch_written(&mut self) {
        if self.young_bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn get(&mut self, id: &[u8]) -> Option<Option<Bytes>> {
        if let Some(state) = self.young.get(id) {
            return Some(state.clone());
        }
        let (id, state) = self.old.remove_entry(id)?;
        self.put(id, state.clone());
        Some(state)
    }
}

/// What one batch reads.
pub(super) struct BatchDocuments<'s, 'r> {
    pub(super) recent: &'r mut RecentStates,
    pub(super) stored: NewestVersions<'s>,
}

impl Documents for BatchDocuments<'_, '_> {
    fn newest(&mut self, id: &[u8]) -> Result<Option<Document>, Error> {
        let decode = |state: &[u8]| {
            state::decode(state).map_err(|error| Error::CorruptStore(error.to_string()))
        };
        if let Some(state) = self.recent.get(id) {
            return state.as_deref().map(decode).transpose();
        }
        match self.stored.get(id)? {
            Some(Version::State(state)) => decode(state).map(Some),
            Some(Version::Evicted) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_state_is_found_whichever_generation_it_is_in() {
        let mut recent = RecentStates::default();
        let big = Bytes::from(vec![7; GENERATION_BYTES]);
        recent.put("a".into(), Some(big.clone()));
        recent.batch_written();
        recent.put("b".into(), None);
        assert_eq!(recent.get(b"a"), Some(Some(big)));
        assert_eq!(recent.get(b"b"), Some(None));
        recent.batch_written();
        recent.put("a".into(), Some("new".into()));
        recent.batch_written();
        assert_eq!(recent.get(b"a"), Some(Some("new".into())));
        assert_eq!(recent.get(b"c"), None);
    }
}
