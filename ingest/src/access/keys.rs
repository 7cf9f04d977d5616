//! The keys that are declared, followed as they change, and who shows one.
//!
//! A secret is compared with its slow hash once; then it is known again by a fast one, with a key of
//! this process. So only whoever shows a secret for the first time waits, and guessing slows down
//! nobody who was let in before.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_core::ids::AppId;
use anabranch_journal::metadata::DeclaredKey;
use anabranch_runtime::tasks::blocking;
use anabranch_schemas::resources::ResourceName;
use axum::http::{HeaderMap, header};
use parking_lot::RwLock;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api_key::{ApiKeyHash, ApiToken};
use super::caller::{Caller, Permissions};
use crate::error::{Code, Refusal};

/// How many secrets wait to be compared with a slow hash, and how long one may: they are compared one
/// after the other, whatever becomes of who asks.
const SLOW_WAITING: usize = 16;
const SLOW_WAIT: Duration = Duration::from_secs(5);

/// Says who sends a request.
pub(crate) struct Keys {
    /// Whether nobody has to show a key.
    is_open: bool,
    /// None until they were read.
    table: RwLock<Option<Arc<Table>>>,
    fast: hmac::Key,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

#[derive(Default)]
struct Table {
    keys: HashMap<(AppId, ResourceName), Arc<Key>>,
}

/// A key that is declared.
struct Key {
    declared: DeclaredKey,
    hash: ApiKeyHash,
    caller: Caller,
    /// The fast hash of its secret, once that was shown.
    shown: OnceLock<hmac::Tag>,
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
            waiting: Arc::new(Semaphore::new(SLOW_WAITING)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether nobody has to show one.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes what is declared now. Keys that are as they were are known as before.
    pub(crate) fn replace(&self, declared: Vec<DeclaredKey>) {
        let before = self.table.read().clone().unwrap_or_default();
        let mut table = Table::default();
        for declared in declared {
            let place = (declared.app, declared.name.clone());
            let known = before.keys.get(&place).filter(|known| known.declared == declared);
            match known.cloned().map_or_else(|| Key::new(declared).map(Arc::new), Ok) {
                Ok(key) => {
                    table.keys.insert(place, key);
                }
                Err(reason) => {
                    let (app, name) = place;
                    tracing::error!(%app, %name, reason, "a key cannot be used");
                }
            }
        }
        let table = Arc::new(table);
        *self.table.write() = Some(Arc::clone(&table));
        // From here on nobody finds those of before.
        for (place, key) in &before.keys {
            if !table.keys.get(place).is_some_and(|now| Arc::ptr_eq(now, key)) {
                key.caller.revoke();
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

    /// Who sends a request to an app with these headers.
    pub(crate) async fn caller(&self, app: AppId, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.is_open {
            return Ok(Caller::unrestricted());
        }
        let token = token(headers)?;
        let table = self.table()?;
        let key = table.keys.get(&(app, token.name().clone())).ok_or_else(wrong)?;
        if !self.is_shown(key, &token) {
            self.show(key, token).await?;
        }
        // It may have been changed while this waited.
        key.caller.check_current()?;
        Ok(key.caller.clone())
    }

    /// Whether this very token was shown before.
    fn is_shown(&self, key: &Key, token: &ApiToken) -> bool {
        let shown = key.shown.get();
        shown.is_some_and(|shown| hmac::verify(&self.fast, token.secret(), shown.as_ref()).is_ok())
    }

    /// Looks at a token that was not shown before.
    async fn show(&self, key: &Arc<Key>, token: ApiToken) -> Result<(), Refusal> {
        // There is one secret to each key.
        if key.shown.get().is_some() {
            return Err(wrong());
        }
        let busy = || Refusal::new(Code::Overloaded, "too many keys are shown for the first time");
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| busy())?;
        let turn = timeout(SLOW_WAIT, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(turn) = turn.map_err(|_| busy())? else { return Err(stopping()) };
        if key.shown.get().is_some() {
            return if self.is_shown(key, &token) { Ok(()) } else { Err(wrong()) };
        }
        let (looked_at, shown) = (Arc::clone(key), hmac::sign(&self.fast, token.secret()));
        let is_right = blocking(move || {
            // Also if nobody waits for it any more: it takes what it takes.
            let _held = (place, turn);
            looked_at.hash.is_of(&token)
        });
        if !is_right.await.map_err(|_| stopping())? {
            return Err(wrong());
        }
        key.shown.get_or_init(|| shown);
        Ok(())
    }
}

impl Key {
    fn new(declared: DeclaredKey) -> Result<Self, String> {
        let hash = ApiKeyHash::new(&declared.spec.api_key.hash)?;
        let permissions = Permissions::of(&declared.spec)?;
        let name = declared.name.to_string();
        let caller = Caller::new(name, permissions, declared.spec.expires_at);
        Ok(Key { declared, hash, caller, shown: OnceLock::new() })
    }
}

/// What a request shows.
pub(crate) fn token(headers: &HeaderMap) -> Result<ApiToken, Refusal> {
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

fn stopping() -> Refusal {
    Refusal::new(Code::ShuttingDown, "the server is being stopped")
}

/// The text does not tell whether there is a key of that name; how long it takes may.
fn wrong() -> Refusal {
    let refusal = Refusal::new(Code::Unauthenticated, "this is no valid key of the app");
    refusal.with_hint("it may be of another app, or was revoked")
}

#[cfg(test)]
mod tests;
