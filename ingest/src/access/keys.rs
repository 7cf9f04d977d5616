//! The keys that are declared, followed as they change, and who shows one or a token for one.
//!
//! A secret is compared with its slow hash once, and the signature of a token verified once; then both
//! are known again by a fast hash, with a key of this process. Who shows something for the first time
//! waits in a [`Queue`], for tokens in another one than for secrets, and may be refused if there are
//! too many: guessing slows down nobody who was let in before. Of the places for secrets one key has
//! a few only: who guesses at one leaves room for those who show another for the first time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use anabranch_core::ids::AppId;
use anabranch_journal::metadata::DeclaredKey;
use anabranch_runtime::tasks::blocking;
use anabranch_schemas::resources::{Credential, KeySpec, ResourceName};
use axum::http::{HeaderMap, header};
use parking_lot::RwLock;
use ring::hmac;
use ring::rand::SystemRandom;

use super::api_key::{ApiKeyHash, ApiToken};
use super::audit::Sender;
use super::caller::{Caller, Rules, Validity, declared_claims};
use super::issuer::Issuer;
use super::queue::{Queue, Share};
use super::shown::{ShownKey, wrong};
use super::tokens::{TokenKey, TokenKeys, Tokens};
use crate::error::{Code, Refusal};

/// How many secrets wait to be compared with a slow hash: they are compared one after the other,
/// whatever becomes of who asks.
const SLOW_WAITING: usize = 16;
/// How many of them are for the same key.
const SLOW_OF_KEY: usize = SLOW_WAITING / 4;

/// Says who sends a request.
pub(crate) struct Keys {
    /// Whether nobody has to show a key.
    is_open: bool,
    /// None until they were read.
    table: RwLock<Option<Arc<Table>>>,
    fast: hmac::Key,
    tokens: Tokens,
    slow: Queue,
}

#[derive(Default)]
struct Table {
    keys: HashMap<(AppId, ResourceName), Key>,
    /// Those that tokens open.
    for_tokens: HashMap<AppId, Arc<TokenKeys>>,
}

/// A key that is declared.
#[derive(Clone)]
struct Key {
    declared: Arc<DeclaredKey>,
    opened_by: OpenedBy,
}

/// What opens a key.
#[derive(Clone)]
enum OpenedBy {
    Secret(Arc<Secret>),
    Tokens(Arc<TokenKey>),
}

/// The secret of a key.
struct Secret {
    hash: ApiKeyHash,
    /// Whoever has it.
    caller: Caller,
    /// Theirs.
    validity: Validity,
    /// Its fast hash, once it was shown.
    shown: OnceLock<hmac::Tag>,
    /// Of the places of those who show it for the first time.
    share: Share,
}

impl Keys {
    /// Those of an app have to be shown unless it `is_open` to all.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub(crate) fn new(is_open: bool) -> Self {
        let fast = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Keys {
            is_open,
            table: RwLock::default(),
            fast: fast.expect("the system has random numbers"),
            tokens: Tokens::new(),
            slow: Queue::new("keys", SLOW_WAITING, 1),
        }
    }

    /// Whether nobody has to show one.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes what is declared now. Keys that are as they were are known as before.
    pub(crate) fn replace(&self, declared: Vec<DeclaredKey>) {
        let before = self.table.read().clone().unwrap_or_default();
        let mut keys = HashMap::new();
        for declared in declared {
            let place = (declared.app, declared.name.clone());
            let known = before.keys.get(&place).filter(|known| *known.declared == declared);
            match known.cloned().map_or_else(|| Key::new(declared), Ok) {
                Ok(key) => {
                    keys.insert(place, key);
                }
                Err(reason) => {
                    let (app, name) = place;
                    tracing::error!(%app, %name, reason, "a key cannot be used");
                }
            }
        }
        let table = Arc::new(Table { for_tokens: for_tokens(&keys, &before), keys });
        *self.table.write() = Some(Arc::clone(&table));
        // From here on nobody finds those of before.
        for (place, key) in &before.keys {
            let is_same = |now: &Key| Arc::ptr_eq(&now.declared, &key.declared);
            if let OpenedBy::Secret(secret) = &key.opened_by
                && !table.keys.get(place).is_some_and(is_same)
            {
                secret.validity.revoke();
            }
        }
        // Of which key a token is depends on all of them: who showed one shows it again.
        for (app, keys) in &before.for_tokens {
            if !table.for_tokens.get(app).is_some_and(|now| Arc::ptr_eq(now, keys)) {
                keys.revoke();
            }
        }
    }

    /// Refuses as long as they were not read.
    pub(crate) fn check_read(&self) -> Result<(), Refusal> {
        if self.is_open { Ok(()) } else { self.table().map(|_| ()) }
    }

    fn table(&self) -> Result<Arc<Table>, Refusal> {
        self.table.read().clone().ok_or_else(|| {
            let message = "the keys of the cluster are not read yet";
            Refusal::new(Code::JournalUnavailable, message)
                .with_hint("send the request again later")
        })
    }

    /// Who sends a request to an app with these headers; it is noted who that is.
    pub(crate) async fn caller(
        &self,
        app: AppId,
        headers: &HeaderMap,
        sender: &Sender,
    ) -> Result<Caller, Refusal> {
        if self.is_open {
            return Ok(Caller::unrestricted());
        }
        let shown = shown(headers)?;
        let table = self.table()?;
        let caller = match &shown {
            ShownKey::ApiKey(token) => self.holder(&table, app, token).await?,
            ShownKey::Token(token) => {
                let keys = table.for_tokens.get(&app).ok_or_else(wrong)?;
                let caller = self.tokens.caller(&self.fast, app, keys, token).await;
                caller.map_err(|denied| {
                    if let Some(name) = &denied.name {
                        sender.is(name);
                    }
                    denied.refusal
                })?
            }
        };
        sender.is(caller.name());
        // It may have been changed while this waited.
        caller.check_current()?;
        Ok(caller)
    }

    /// Who shows the secret of a key.
    async fn holder(&self, table: &Table, app: AppId, token: &ApiToken) -> Result<Caller, Refusal> {
        let key = table.keys.get(&(app, token.name().clone())).ok_or_else(wrong)?;
        let OpenedBy::Secret(secret) = &key.opened_by else { return Err(wrong()) };
        if !self.is_shown(secret, token) {
            self.show(secret, token.clone()).await?;
        }
        Ok(secret.caller.clone())
    }

    /// Whether this very token was shown before.
    fn is_shown(&self, secret: &Secret, token: &ApiToken) -> bool {
        let shown = secret.shown.get();
        shown.is_some_and(|shown| hmac::verify(&self.fast, token.secret(), shown.as_ref()).is_ok())
    }

    /// Looks at a token that was not shown before.
    async fn show(&self, secret: &Arc<Secret>, token: ApiToken) -> Result<(), Refusal> {
        // There is one to each key.
        if secret.shown.get().is_some() {
            return Err(wrong());
        }
        let turn = self.slow.turn_within(&secret.share).await?;
        if secret.shown.get().is_some() {
            return if self.is_shown(secret, &token) { Ok(()) } else { Err(wrong()) };
        }
        let (looked_at, shown) = (Arc::clone(secret), hmac::sign(&self.fast, token.secret()));
        let is_right = blocking(move || {
            // Also if nobody waits for it any more: it takes what it takes.
            let _held = turn;
            looked_at.hash.is_of(&token)
        });
        if !is_right.await.map_err(|_| Refusal::stopping())? {
            return Err(wrong());
        }
        secret.shown.get_or_init(|| shown);
        Ok(())
    }
}

/// Refuses a key that nothing could open, that it would take too long to look at, or of which a rule
/// cannot be used with its claims.
///
/// # Errors
/// Which part of it is to blame, and why.
pub(crate) fn check_usable(name: &ResourceName, spec: &KeySpec) -> Result<(), String> {
    OpenedBy::new(name, spec).map(|_| ())
}

impl Key {
    fn new(declared: DeclaredKey) -> Result<Self, String> {
        let opened_by = OpenedBy::new(&declared.name, &declared.spec)?;
        Ok(Key { declared: Arc::new(declared), opened_by })
    }
}

impl OpenedBy {
    fn new(name: &ResourceName, spec: &KeySpec) -> Result<Self, String> {
        let (claims, rules) = (declared_claims(&spec.claims)?, Rules::of(&spec.permissions)?);
        // With the claims of a token there may be more: what a rule lacks by now lets at nothing.
        let permissions = rules.bind(&claims)?;
        match &spec.credential {
            Credential::ApiKey(api_key) => {
                let hash = ApiKeyHash::new(&api_key.hash)
                    .map_err(|reason| format!("apiKey.hash: {reason}"))?;
                let validity = Validity::of_key(spec.expires_at);
                let caller = Caller::new(name.to_string(), permissions, validity.clone());
                let (shown, share) = (OnceLock::new(), Share::new(SLOW_OF_KEY));
                let secret = Secret { hash, caller, validity, shown, share };
                Ok(OpenedBy::Secret(Arc::new(secret)))
            }
            Credential::Jwt(issuer) => Ok(OpenedBy::Tokens(Arc::new(TokenKey {
                name: name.clone(),
                issuer: Issuer::new(issuer)?,
                claims,
                rules,
                ends: spec.expires_at,
            }))),
        }
    }
}

/// The keys of each app that tokens open: those that there were, if they are the same.
fn for_tokens(
    keys: &HashMap<(AppId, ResourceName), Key>,
    before: &Table,
) -> HashMap<AppId, Arc<TokenKeys>> {
    let mut by_app: HashMap<AppId, BTreeMap<&ResourceName, Arc<TokenKey>>> = HashMap::new();
    for ((app, name), key) in keys {
        if let OpenedBy::Tokens(key) = &key.opened_by {
            by_app.entry(*app).or_default().insert(name, Arc::clone(key));
        }
    }
    let same = |(app, now): (AppId, BTreeMap<&ResourceName, Arc<TokenKey>>)| {
        let now: Vec<_> = now.into_values().collect();
        let known = before.for_tokens.get(&app).filter(|before| before.are(&now)).cloned();
        (app, known.unwrap_or_else(|| Arc::new(TokenKeys::new(now))))
    };
    by_app.into_iter().map(same).collect()
}

/// What a request shows.
pub(crate) fn shown(headers: &HeaderMap) -> Result<ShownKey, Refusal> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = shown.next() else {
        return Err(Refusal::new(Code::Unauthenticated, "the header Authorization is missing"));
    };
    if shown.next().is_some() {
        let message = "the header Authorization stands more than once";
        return Err(Refusal::new(Code::Unauthenticated, message));
    }
    let bearer = first.to_str().ok().and_then(|text| text.split_once(' '));
    match bearer {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            token.trim().parse().map_err(|_| wrong())
        }
        _ => {
            let message = "the header Authorization is not of the form 'Bearer KEY'";
            Err(Refusal::new(Code::Unauthenticated, message))
        }
    }
}

#[cfg(test)]
mod tests;
