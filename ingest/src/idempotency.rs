//! Requests that are repeated under one name, the `Idempotency-Key`.
//!
//! The key decides the ids of the rounds that the request writes, and the store node applies a
//! round id once. A digest of the request stands in the commit record: a key that comes back with
//! another request is noticed. What a request draws by chance without a key, such as the ids of
//! documents that bring none, follows from the key too, so that a repeat says the same.

use std::str::FromStr;

use anabranch_core::ids::{AppId, RoundId};
use anabranch_runtime::chance::unique_id;
use ring::digest::{self, SHA256};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::access::Caller;
use crate::error::{Code, Refusal};

/// The longest key, in bytes.
const MAX_BYTES: usize = 255;

/// The name of a request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

impl FromStr for IdempotencyKey {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !text.is_empty() && text.len() <= MAX_BYTES && printable {
            Ok(IdempotencyKey(text.to_owned()))
        } else {
            Err(Refusal::new(
                Code::InvalidHeader,
                format!("Idempotency-Key must be 1 to {MAX_BYTES} printable ASCII characters"),
            ))
        }
    }
}

/// What names the rounds of one request, and the documents that bring no id.
#[derive(Clone, Debug)]
pub(crate) struct RequestName {
    app: AppId,
    caller: Caller,
    key: Option<IdempotencyKey>,
}

impl RequestName {
    pub(crate) fn new(app: AppId, caller: &Caller, key: Option<IdempotencyKey>) -> Self {
        RequestName { app, caller: caller.clone(), key }
    }

    /// Whether the request may be a repeat.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The id of the request's round number `part`.
    pub(crate) fn round(&self, part: u64) -> RoundId {
        RoundId(self.derive("round", part).unwrap_or_else(unique_id))
    }

    /// The id of the document at `index` of the request, if it brings none.
    pub(crate) fn document(&self, index: u64) -> String {
        self.derive("document", index).unwrap_or_else(unique_id).to_string()
    }

    /// Who sends a request chooses its key, and whom a token names may be chosen by its user: the hash
    /// has to be one for which nobody finds two that are alike, or one could take another's round.
    fn derive(&self, what: &str, number: u64) -> Option<Uuid> {
        let IdempotencyKey(key) = self.key.as_ref()?;
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(self.app.0.as_bytes());
        bytes.extend_from_slice(what.as_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(key.as_bytes());
        if !self.caller.name().is_empty() {
            // A key is printable: what follows this is no part of it.
            bytes.push(0);
            bytes.extend_from_slice(self.caller.name().as_bytes());
        }
        let hash = digest::digest(&SHA256, &bytes);
        let start = hash.as_ref().first_chunk().copied().expect("a digest has 32 bytes");
        Some(uuid::Builder::from_random_bytes(start).into_uuid())
    }
}

/// The digest of what a request asks for, given in pieces.
#[derive(Default)]
pub(crate) struct Digest(Xxh3);

impl Digest {
    /// Adds a piece; where it ends counts.
    #[must_use]
    pub(crate) fn with(mut self, piece: &[u8]) -> Self {
        self.add(piece);
        self
    }

    /// Adds a piece; where it ends counts.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.0.update(&(piece.len() as u64).to_be_bytes());
        self.0.update(piece);
    }

    /// The digest, 16 bytes.
    pub(crate) fn finish(&self) -> Vec<u8> {
        self.0.digest128().to_be_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Permissions, Validity};

    fn name(app: u128, key: &str) -> RequestName {
        name_of(app, &Caller::unrestricted(), key)
    }

    fn name_of(app: u128, caller: &Caller, key: &str) -> RequestName {
        RequestName::new(AppId(Uuid::from_u128(app)), caller, Some(key.parse().unwrap()))
    }

    fn caller(name: &str) -> Caller {
        Caller::new(name.to_owned(), Permissions::default(), Validity::default())
    }

    #[test]
    fn a_key_names_the_same_rounds_and_documents_again() {
        assert_eq!(name(1, "a").round(0), name(1, "a").round(0));
        assert_eq!(name(1, "a").document(3), name(1, "a").document(3));
        let different = [
            name(1, "a").round(0),
            name(1, "a").round(1),
            name(1, "b").round(0),
            name(2, "a").round(0),
            name_of(1, &caller("a"), "a").round(0),
            name_of(1, &caller("b"), "a").round(0),
            RequestName::new(AppId(Uuid::nil()), &caller("a"), None).round(0),
            RequestName::new(AppId(Uuid::nil()), &caller("a"), None).round(0),
        ];
        let distinct: std::collections::BTreeSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }

    /// A request that was sent before is none that was not: also after an upgrade.
    #[test]
    fn names_stay_as_they_are() {
        let name = name_of(1, &caller("till"), "order 7");
        assert_eq!(name.round(2).0.to_string(), "73fcc224-9e7c-408a-a3bd-f17a47be272d");
        assert_eq!(name.document(2), "5a73f331-6816-4a8f-9604-5a28cd07aead");
    }

    #[test]
    fn keys_are_short_and_printable() {
        for key in ["", "a\nb", "é", &"x".repeat(256)] {
            assert_eq!(key.parse::<IdempotencyKey>().unwrap_err().code(), Code::InvalidHeader);
        }
    }

    #[test]
    fn pieces_of_a_digest_have_ends() {
        let whole = Digest::default().with(b"ab").with(b"c").finish();
        assert_ne!(whole, Digest::default().with(b"a").with(b"bc").finish());
        assert_eq!(whole.len(), 16);
    }
}
