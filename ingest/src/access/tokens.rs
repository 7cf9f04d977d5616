//! The tokens that were shown: of which key each is, and who shows it.
//!
//! A token that was verified once is known again by a fast hash, with a key of this process, as long
//! as the keys of its app for tokens are the same; then it is the same caller. Those that were shown
//! last are kept, of bounded number and size, and none that is wrong: guessing makes nobody forgotten.
//!
//! Anybody can have a signature verified. That is done on threads for what takes long, few at once,
//! for tokens that one of the keys may have signed, with a bounded number of keys.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use anabranch_core::ids::AppId;
use anabranch_core::query::Args;
use anabranch_runtime::tasks::blocking;
use anabranch_schemas::resources::ResourceName;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::digest::SHA256_OUTPUT_LEN;
use ring::hmac;

use super::caller::{Caller, Rules, Validity};
use super::issuer::{Claimed, Issuer, Unfit, Verified};
use super::queue::Queue;
use super::shown::{JsonWebToken, wrong};
use crate::error::{Code, Refusal};

/// How many tokens are known at most, and what they take together, in bytes.
const MAX_KNOWN: usize = 8_192;
const MAX_KNOWN_BYTES: usize = 64 << 20;
/// How many tokens wait to be verified, and how many are at once.
const WAITING: usize = 256;
const AT_ONCE: usize = 2;
/// How many keys a token is tried with: that takes some milliseconds at most.
const MAX_TRIES: usize = 32;

/// A key that tokens open.
pub(super) struct TokenKey {
    pub(super) name: ResourceName,
    pub(super) issuer: Issuer,
    /// What the operator says of all who show one: it goes before what the token says.
    pub(super) claims: Args,
    pub(super) rules: Rules,
    /// When it ends, if it does by itself.
    pub(super) ends: Option<Timestamp>,
}

/// The keys of an app that tokens open. As long as none is changed it is the same.
pub(super) struct TokenKeys {
    /// In the order of their names.
    keys: Vec<Arc<TokenKey>>,
    /// Of all who were let in with one of them.
    validity: Validity,
}

/// Why a token lets nobody in.
#[derive(Debug)]
pub(super) struct Denied {
    /// Who shows it, if one of the keys has signed it.
    pub(super) name: Option<String>,
    pub(super) refusal: Refusal,
}

/// The tokens that were verified.
pub(super) struct Tokens {
    known: Mutex<Recent>,
    queue: Queue,
}

/// A token that was verified.
struct Known {
    /// Among these its key was found.
    keys: Arc<TokenKeys>,
    caller: Caller,
    /// What it takes, in bytes.
    weight: usize,
}

type Tag = [u8; SHA256_OUTPUT_LEN];

/// Whatever was asked for last. When the young ones are half of what may be kept they become the old
/// ones, and what was old and nobody has asked for since is forgotten.
struct Recent {
    young: HashMap<Tag, Known>,
    old: HashMap<Tag, Known>,
    /// What the young ones take, in bytes.
    young_bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied { name: None, refusal }
    }
}

impl TokenKey {
    /// Whether it has ended by itself.
    fn is_over(&self) -> bool {
        self.ends.is_some_and(|end| end <= Timestamp::now())
    }

    /// What somebody is named who shows a token of the issuer. No name of a key has a slash: who is
    /// behind the first one has no other key's name.
    fn name_of(&self, subject: &str) -> String {
        format!("{}/{subject}", self.name)
    }

    /// Whoever shows a token of the issuer.
    fn caller(&self, verified: Verified, validity: Validity) -> Result<Caller, Denied> {
        let Verified { subject, mut claims, expires_at } = verified;
        let name = self.name_of(&subject);
        claims.extend(self.claims.clone());
        match self.rules.bind(&claims) {
            Ok(permissions) => {
                let validity = validity.with_key(self.ends).until(expires_at);
                Ok(Caller::new(name, permissions, validity))
            }
            Err(reason) => {
                let message = format!("the claims of the token do not fit the key: {reason}");
                let refusal = Refusal::new(Code::Forbidden, message);
                Err(Denied { name: Some(name), refusal })
            }
        }
    }
}

impl TokenKeys {
    /// These, in the order of their names.
    pub(super) fn new(keys: Vec<Arc<TokenKey>>) -> Self {
        TokenKeys { keys, validity: Validity::default() }
    }

    /// Whether they are these.
    pub(super) fn are(&self, keys: &[Arc<TokenKey>]) -> bool {
        self.keys.len() == keys.len()
            && self.keys.iter().zip(keys).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whoever was let in with one of them is not any more.
    pub(super) fn revoke(&self) {
        self.validity.revoke();
    }

    fn may_have_signed(&self, claimed: &Claimed) -> bool {
        self.keys.iter().any(|key| key.issuer.may_have_signed(claimed))
    }

    /// Who shows a token. One that has ended is in no other one's way. Takes long.
    fn caller(&self, token: &JsonWebToken, claimed: &Claimed) -> Result<Caller, Denied> {
        let (over, current): (Vec<_>, Vec<_>) = self.keys.iter().partition(|key| key.is_over());
        let mut tries = MAX_TRIES;
        for key in current.into_iter().chain(over) {
            let Some(verified) = key.issuer.verify(token, claimed, &mut tries) else { continue };
            return match verified {
                Ok(verified) => key.caller(verified, self.validity.clone()),
                Err(Unfit { subject, refusal }) => {
                    let name = subject.map_or_else(|| key.name.to_string(), |it| key.name_of(&it));
                    Err(Denied { name: Some(name), refusal })
                }
            };
        }
        Err(wrong().into())
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Tokens {
            known: Mutex::new(Recent::new(MAX_KNOWN, MAX_KNOWN_BYTES)),
            queue: Queue::new("tokens", WAITING, AT_ONCE),
        }
    }

    /// Who shows a token to an app with these keys.
    ///
    /// # Errors
    /// Why it opens none of them, or that too many are shown for the first time.
    pub(super) async fn caller(
        &self,
        fast: &hmac::Key,
        app: AppId,
        keys: &Arc<TokenKeys>,
        token: &JsonWebToken,
    ) -> Result<Caller, Denied> {
        let tag = tag(fast, app, token);
        let known = || self.known.lock().find(&tag, keys);
        if let Some(caller) = known() {
            return Ok(caller);
        }
        let claimed = Claimed::of(token).filter(|claimed| keys.may_have_signed(claimed));
        let claimed = claimed.ok_or_else(wrong)?;
        let turn = self.queue.turn().await?;
        // It may have been shown more than once at the same time.
        if let Some(caller) = known() {
            return Ok(caller);
        }
        let (among, token) = (Arc::clone(keys), token.clone());
        let verified = blocking(move || {
            // Also if nobody waits for it any more.
            let _held = turn;
            among.caller(&token, &claimed).map(|caller| (caller.weight(), caller))
        });
        let (weight, caller) = verified.await.map_err(|_| Refusal::stopping())??;
        Ok(self.known.lock().keep(tag, keys, caller, weight))
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
    fn new(most: usize, most_bytes: usize) -> Self {
        let (young, old) = Default::default();
        Recent { young, old, young_bytes: 0, most, most_bytes }
    }

    /// Who showed it, if that was found among these keys and they are let in still. Otherwise it is
    /// forgotten: another key may be there for it now.
    fn find(&mut self, tag: &Tag, keys: &Arc<TokenKeys>) -> Option<Caller> {
        let known = self.young.get(tag);
        let is_young = known.is_some();
        let known = known.or_else(|| self.old.get(tag))?;
        let is_good = Arc::ptr_eq(&known.keys, keys) && known.caller.check_current().is_ok();
        let found = is_good.then(|| known.caller.clone());
        match (is_young, is_good) {
            (true, true) => {}
            (true, false) => {
                let known = self.young.remove(tag);
                self.young_bytes -= known.map_or(0, |known| known.weight);
            }
            (false, _) => {
                if let Some(known) = self.old.remove(tag).filter(|_| is_good) {
                    self.insert(*tag, known);
                }
            }
        }
        found
    }

    /// Keeps who shows it, or finds who was faster.
    fn keep(&mut self, tag: Tag, keys: &Arc<TokenKeys>, caller: Caller, weight: usize) -> Caller {
        if let Some(known) = self.find(&tag, keys) {
            return known;
        }
        // Nobody asks again for what is over, and one alone does not drive out all others.
        if caller.check_current().is_ok() && weight <= self.most_bytes / 2 {
            self.insert(tag, Known { keys: Arc::clone(keys), caller: caller.clone(), weight });
        }
        caller
    }

    fn insert(&mut self, tag: Tag, known: Known) {
        let is_full = self.young.len() >= self.most / 2
            || self.young_bytes + known.weight > self.most_bytes / 2;
        if is_full {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += known.weight;
        self.young.insert(tag, known);
    }
}

#[cfg(test)]
mod tests;
