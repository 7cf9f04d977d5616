//! The tokens that were shown: of which key each is, and who shows it.
//!
//! A token that was verified once is known again by a fast hash, with a key of this process, as long
//! as the keys of its app for tokens are the same; then it is the same caller. Those that were shown
//! last are kept, a bounded number, and none that is wrong: guessing makes nobody forgotten.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;

use anabranch_core::ids::AppId;
use anabranch_core::query::Args;
use anabranch_schemas::resources::{PermissionScope, PermissionSpec, ResourceName};
use parking_lot::Mutex;
use ring::digest::SHA256_OUTPUT_LEN;
use ring::hmac;

use super::caller::{Caller, Permissions, Validity};
use super::issuer::{Claimed, Issuer, Verified};
use super::shown::JsonWebToken;
use crate::error::{Code, Refusal};

/// How many tokens are known at most.
const MAX_KNOWN: usize = 8_192;

/// A key that tokens open.
pub(super) struct TokenKey {
    pub(super) name: ResourceName,
    pub(super) issuer: Issuer,
    /// What the operator says of all who show one: it goes before what the token says.
    pub(super) claims: Args,
    pub(super) permissions: BTreeMap<PermissionScope, PermissionSpec>,
    pub(super) validity: Validity,
}

/// The keys of an app that tokens open, in the order of their names. As long as none is changed it
/// is the same.
pub(super) type TokenKeys = Arc<[Arc<TokenKey>]>;

/// The tokens that were verified.
pub(super) struct Tokens {
    known: Mutex<Recent>,
}

/// A token that was verified.
struct Known {
    /// Among these its key was found.
    keys: TokenKeys,
    caller: Caller,
}

type Tag = [u8; SHA256_OUTPUT_LEN];

/// Whatever was asked for last. When the young ones are half of what may be kept they become the old
/// ones, and what was old and nobody has asked for since is forgotten.
struct Recent {
    young: HashMap<Tag, Known>,
    old: HashMap<Tag, Known>,
    most: usize,
}

impl TokenKey {
    /// Whoever shows a token of the issuer.
    fn caller(&self, verified: Verified) -> Result<Caller, Refusal> {
        let Verified { subject, mut claims, expires_at } = verified;
        claims.extend(self.claims.clone());
        let permissions = Permissions::of(&self.permissions, &claims).map_err(|reason| {
            let message = format!("the claims of the token do not fit the key: {reason}");
            Refusal::new(Code::Forbidden, message)
        })?;
        // No name of a key has a slash: who is behind the first one has no other key's name.
        let name = format!("{}/{subject}", self.name);
        Ok(Caller::new(name, permissions, self.validity.clone().until(expires_at)))
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Tokens { known: Mutex::new(Recent::new(MAX_KNOWN)) }
    }

    /// Who shows a token to an app with these keys; `None` if none of them is for it.
    ///
    /// # Errors
    /// Why it opens nothing although it is of one of them.
    pub(super) fn caller(
        &self,
        fast: &hmac::Key,
        app: AppId,
        keys: &TokenKeys,
        token: &JsonWebToken,
    ) -> Option<Result<Caller, Refusal>> {
        let tag = tag(fast, app, token);
        if let Some(caller) = self.known.lock().find(&tag, keys) {
            return Some(Ok(caller));
        }
        let claimed = Claimed::of(token)?;
        let (key, verified) =
            keys.iter().find_map(|key| Some((key, key.issuer.verify(token, &claimed)?)))?;
        let caller = verified.and_then(|verified| key.caller(verified));
        Some(caller.map(|caller| self.known.lock().keep(tag, keys, caller)))
    }
}

fn tag(fast: &hmac::Key, app: AppId, token: &JsonWebToken) -> Tag {
    let mut context = hmac::Context::with_key(fast);
    context.update(app.0.as_bytes());
    context.update(token.as_str().as_bytes());
    let mut tag = Tag::default();
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

impl Recent {
    fn new(most: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), most }
    }

    /// Who showed it, if that was found among these keys. Who is not let in any more is told so
    /// once, and forgotten.
    fn find(&mut self, tag: &Tag, keys: &TokenKeys) -> Option<Caller> {
        let (known, is_old) = match (self.young.get(tag), self.old.get(tag)) {
            (Some(known), _) => (known, false),
            (None, known) => (known?, true),
        };
        let caller = known.caller.clone();
        let is_same = Arc::ptr_eq(&known.keys, keys);
        if !is_same || caller.check_current().is_err() {
            self.young.remove(tag);
            self.old.remove(tag);
        } else if is_old && let Some(known) = self.old.remove(tag) {
            self.insert(*tag, known);
        }
        is_same.then_some(caller)
    }

    /// Keeps who shows it, or finds who was faster.
    fn keep(&mut self, tag: Tag, keys: &TokenKeys, caller: Caller) -> Caller {
        if let Some(known) = self.find(&tag, keys) {
            return known;
        }
        // Nobody asks again for what is over.
        if caller.check_current().is_ok() {
            self.insert(tag, Known { keys: Arc::clone(keys), caller: caller.clone() });
        }
        caller
    }

    fn insert(&mut self, tag: Tag, known: Known) {
        if self.young.len() >= self.most / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(tag, known);
    }
}

#[cfg(test)]
mod tests;
