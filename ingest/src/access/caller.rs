//! Whoever sends a request, and what they may do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::Value;
use anabranch_core::ids::Collection;
use anabranch_core::query::{Allowed, Args, QueryError, Rule};
use anabranch_schemas::records::Restriction;
use anabranch_schemas::resources::{PermissionScope, PermissionSpec};
use jiff::Timestamp;
use serde_json::Map;

use super::issuer::expired;
use crate::error::{Code, Refusal};

/// What a caller takes in memory, a collection that is named, and each byte of the text of a condition:
/// `a = 1` is a comparison, a path and a value, of some 150 bytes.
const CALLER_WEIGHT: usize = 512;
const PERMISSION_WEIGHT: usize = 256;
pub(super) const TEXT_WEIGHT: usize = 32;

/// Whoever sends a request to an app.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    /// Whose requests they are, for the names that these have and for the log.
    name: String,
    /// None if they may do everything.
    permissions: Option<Permissions>,
    validity: Validity,
}

/// For how long somebody is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Validity {
    /// Of all who were let in with the same key, or with the same keys that tokens open.
    is_revoked: Arc<AtomicBool>,
    key_ends: Option<Timestamp>,
    token_ends: Option<Timestamp>,
}

/// The rules of a key, read once.
pub(crate) struct Rules(BTreeMap<PermissionScope, ScopeRules>);

/// Its rules for a collection, or for those that are not named.
struct ScopeRules {
    read: Option<Rule>,
    write: Option<Rule>,
}

/// What a caller may do, by collection.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    by_collection: BTreeMap<Collection, Permission>,
    /// With collections that are not named.
    others: Permission,
}

/// What a caller may do with the documents of a collection.
#[derive(Clone, Debug, Default)]
struct Permission {
    read: Allowed,
    write: Allowed,
}

impl Validity {
    /// Until a key ends, if it ends by itself, or is revoked.
    pub(crate) fn of_key(key_ends: Option<Timestamp>) -> Self {
        Validity::default().with_key(key_ends)
    }

    /// And not for longer than a key, if it ends by itself.
    #[must_use]
    pub(crate) fn with_key(self, key_ends: Option<Timestamp>) -> Self {
        Validity { key_ends, ..self }
    }

    /// And not for longer than a token that is shown.
    #[must_use]
    pub(crate) fn until(self, token_ends: Timestamp) -> Self {
        Validity { token_ends: Some(token_ends), ..self }
    }

    /// What they show opens nothing any more, or something else.
    pub(crate) fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Refusal> {
        let now = Timestamp::now();
        let is_over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        if self.is_revoked.load(Ordering::Relaxed) {
            let message = "the key was changed or revoked, or another one that tokens open was";
            let refusal = Refusal::new(Code::Unauthenticated, message);
            return Err(refusal.with_hint("show it again: if it is still good it is let in"));
        }
        if is_over(self.key_ends) {
            let refusal = Refusal::new(Code::Unauthenticated, "the key has expired");
            return Err(refusal.with_hint("ask whoever manages the keys of the app for a new one"));
        }
        if is_over(self.token_ends) { Err(expired()) } else { Ok(()) }
    }
}

/// The claims that a key is declared with, as rules are given them.
///
/// # Errors
/// Why they cannot be used.
pub(crate) fn declared_claims(claims: &Map<String, serde_json::Value>) -> Result<Args, String> {
    let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
    match Value::from_json(&claims) {
        Ok(Value::Object(claims)) => Ok(claims),
        Ok(_) => Err("claims are an object".to_owned()),
        Err(error) => Err(format!("claims: {error}")),
    }
}

impl Rules {
    /// Those that a key is declared with.
    ///
    /// # Errors
    /// Which is none, and why.
    pub(crate) fn of(declared: &BTreeMap<PermissionScope, PermissionSpec>) -> Result<Self, String> {
        let rules = |(scope, spec): (&PermissionScope, &PermissionSpec)| {
            let read = |deed, rule: &Option<String>| {
                let rule = rule.as_deref().map(Rule::new).transpose();
                rule.map_err(|error| unusable(scope, deed, &error))
            };
            let (read, write) = (read(Deed::Read, &spec.read)?, read(Deed::Write, &spec.write)?);
            Ok((scope.clone(), ScopeRules { read, write }))
        };
        declared.iter().map(rules).collect::<Result<_, _>>().map(Rules)
    }

    /// What they allow who has these claims.
    ///
    /// # Errors
    /// Which rule cannot be used with them, and why.
    pub(crate) fn bind(&self, claims: &Args) -> Result<Permissions, String> {
        let mut permissions = Permissions::default();
        for (scope, rules) in &self.0 {
            let allowed = |deed, rule: &Option<Rule>| match rule {
                None => Ok(Allowed::Nothing),
                Some(rule) => rule.bind(claims).map_err(|error| unusable(scope, deed, &error)),
            };
            let read = allowed(Deed::Read, &rules.read)?;
            let permission = Permission { read, write: allowed(Deed::Write, &rules.write)? };
            match scope {
                PermissionScope::Others => permissions.others = permission,
                PermissionScope::Collection(collection) => {
                    permissions.by_collection.insert(collection.clone(), permission);
                }
            }
        }
        Ok(permissions)
    }
}

fn unusable(scope: &PermissionScope, deed: Deed, error: &QueryError) -> String {
    format!("permissions.{}.{deed}: {error}", String::from(scope.clone()))
}

impl Permissions {
    /// What they take in memory, in bytes: an estimate that is rather too high.
    fn weight(&self) -> usize {
        let named = self.by_collection.values().map(|permission| {
            let [read, write] = [&permission.read, &permission.write].map(weight);
            PERMISSION_WEIGHT + read + write
        });
        named.sum::<usize>() + weight(&self.others.read) + weight(&self.others.write)
    }
}

fn weight(allowed: &Allowed) -> usize {
    match allowed {
        Allowed::Nothing | Allowed::Everything => 0,
        Allowed::Where(condition) => condition.to_string().len() * TEXT_WEIGHT,
    }
}

/// What of a collection may be read: a condition as text, empty if that is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Readable(String);

impl Readable {
    /// All.
    pub(crate) const ALL: Readable = Readable(String::new());

    /// As store nodes are told.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What may be done with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Read,
    Write,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Read => "read",
            Deed::Write => "write",
        })
    }
}

impl Caller {
    /// Somebody who may do everything.
    pub(crate) fn unrestricted() -> Self {
        let validity = Validity::default();
        Caller(Arc::new(Identity { name: String::new(), permissions: None, validity }))
    }

    /// Somebody of this name.
    pub(crate) fn new(name: String, permissions: Permissions, validity: Validity) -> Self {
        Caller(Arc::new(Identity { name, permissions: Some(permissions), validity }))
    }

    /// Whose requests they are: one caller's `Idempotency-Key` is not another's.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Refuses who was let in with a key or a token that opens nothing by now: what takes long asks
    /// again.
    pub(crate) fn check_current(&self) -> Result<(), Refusal> {
        self.0.validity.check()
    }

    /// What it takes in memory, in bytes: an estimate that is rather too high. Not for each request:
    /// it looks at all that they may do.
    pub(crate) fn weight(&self) -> usize {
        let permissions = self.0.permissions.as_ref().map_or(0, Permissions::weight);
        CALLER_WEIGHT + self.0.name.len() + permissions
    }

    /// Whether both were let in as one.
    #[cfg(test)]
    pub(crate) fn is(&self, other: &Caller) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What of a collection they may read.
    ///
    /// # Errors
    /// If that is nothing.
    pub(crate) fn readable(&self, collection: &Collection) -> Result<Readable, Refusal> {
        match self.may(Deed::Read, collection) {
            Allowed::Everything => Ok(Readable::ALL),
            Allowed::Where(condition) => Ok(Readable(condition.to_string())),
            Allowed::Nothing => Err(denied(Deed::Read, collection)),
        }
    }

    /// What a round of theirs may do in a collection; `None` if that is everything.
    ///
    /// # Errors
    /// If they may write nothing.
    pub(crate) fn restriction(
        &self,
        collection: &Collection,
    ) -> Result<Option<Restriction>, Refusal> {
        let [readable, writable] = [Deed::Read, Deed::Write].map(|deed| self.may(deed, collection));
        match (readable, writable) {
            (_, Allowed::Nothing) => Err(denied(Deed::Write, collection)),
            (Allowed::Everything, Allowed::Everything) => Ok(None),
            (readable, writable) => Ok(Some(Restriction {
                collection: collection.clone(),
                readable: readable.clone().into_condition(),
                writable: writable.clone().into_condition(),
            })),
        }
    }

    /// Refuses what tells of all documents of a collection, whoever may read them.
    pub(crate) fn check_reads_all(&self, collection: &Collection) -> Result<(), Refusal> {
        self.check_all(&[Deed::Read], collection)
    }

    /// Refuses what is about a collection as a whole.
    pub(crate) fn check_owns(&self, collection: &Collection) -> Result<(), Refusal> {
        self.check_all(&[Deed::Read, Deed::Write], collection)
    }

    fn check_all(&self, deeds: &[Deed], collection: &Collection) -> Result<(), Refusal> {
        for deed in deeds {
            if *self.may(*deed, collection) != Allowed::Everything {
                let message =
                    format!("this is for those who may {deed} every document of '{collection}'");
                return Err(Refusal::new(Code::Forbidden, message));
            }
        }
        Ok(())
    }

    fn may(&self, deed: Deed, collection: &Collection) -> &Allowed {
        let Some(permissions) = &self.0.permissions else { return &Allowed::Everything };
        let Permission { read, write } =
            permissions.by_collection.get(collection).unwrap_or(&permissions.others);
        match deed {
            Deed::Read => read,
            Deed::Write => write,
        }
    }
}

fn denied(deed: Deed, collection: &Collection) -> Refusal {
    Refusal::new(Code::Forbidden, format!("you may not {deed} in '{collection}'"))
}

#[cfg(test)]
mod tests {
    use anabranch_schemas::resources::{KeySpec, Resource};
    use serde_json::json;

    use super::*;

    fn spec(claims: &serde_json::Value) -> KeySpec {
        let resource = json!({
            "apiVersion": "anabranch/v1",
            "kind": "Key",
            "metadata": {"name": "till", "app": crate::doubles::APP},
            "spec": {
                "apiKey": {"hash": "$argon2id$x"},
                "claims": claims,
                "permissions": {
                    "orders": {"read": "store = :store", "write": "store = :store AND open"},
                    "drop": {"write": "TRUE"},
                    "closed": {},
                    "*": {"read": "TRUE"},
                },
            },
        });
        match Resource::from_value(&resource).unwrap() {
            Resource::Key { spec, .. } => spec,
            other => panic!("{other:?}"),
        }
    }

    fn permissions(spec: &KeySpec) -> Result<Permissions, String> {
        Rules::of(&spec.permissions)?.bind(&declared_claims(&spec.claims)?)
    }

    fn caller(claims: &serde_json::Value) -> Caller {
        let permissions = permissions(&spec(claims)).unwrap();
        Caller::new("till".to_owned(), permissions, Validity::default())
    }

    fn collection(name: &str) -> Collection {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let till = caller(&json!({"store": 17}));
        let code = |denied: Refusal| denied.code();
        assert_eq!(till.readable(&collection("orders")).unwrap().as_str(), "store = 17");
        assert_eq!(till.readable(&collection("cars")).unwrap(), Readable::ALL);
        for name in ["drop", "closed"] {
            assert_eq!(till.readable(&collection(name)).map_err(code), Err(Code::Forbidden));
        }
        for name in ["cars", "closed"] {
            assert_eq!(till.restriction(&collection(name)).map_err(code), Err(Code::Forbidden));
        }
        let restriction = till.restriction(&collection("orders")).unwrap().unwrap();
        assert_eq!(restriction.readable.to_string(), "store = 17");
        assert_eq!(restriction.writable.to_string(), "store = 17 AND open");
        let restriction = till.restriction(&collection("drop")).unwrap().unwrap();
        assert_eq!(restriction.readable.to_string(), "false");
        assert_eq!(restriction.writable.to_string(), "true");
    }

    #[test]
    fn who_lacks_a_claim_may_do_nothing_that_depends_on_it() {
        let nobody = caller(&json!({}));
        assert!(nobody.readable(&collection("orders")).is_err());
        assert!(nobody.restriction(&collection("orders")).is_err());
        assert!(nobody.readable(&collection("cars")).is_ok());
    }

    #[test]
    fn what_concerns_a_whole_collection_is_for_those_who_may_do_all_with_it() {
        let till = caller(&json!({"store": 17}));
        assert!(till.check_reads_all(&collection("cars")).is_ok());
        assert!(till.check_reads_all(&collection("orders")).is_err());
        assert!(till.check_owns(&collection("cars")).is_err());
        let admin = Caller::unrestricted();
        assert!(admin.check_owns(&collection("orders")).is_ok());
        assert_eq!(admin.restriction(&collection("orders")).unwrap(), None);
    }

    #[test]
    fn a_rule_that_cannot_be_used_with_the_claims_is_told() {
        let mut spec = spec(&json!({"pattern": 1}));
        let read = Some("name LIKE :pattern".to_owned());
        spec.permissions.insert(PermissionScope::Others, PermissionSpec { read, write: None });
        let error = permissions(&spec).unwrap_err();
        assert!(error.starts_with("permissions.*.read: "), "{error}");
    }

    #[test]
    fn who_was_let_in_is_asked_again() {
        let key = Validity::of_key(Some("2999-01-01T00:00:00Z".parse().unwrap()));
        let caller = |validity: &Validity| {
            Caller::new("till".to_owned(), Permissions::default(), validity.clone())
        };
        let ended = key.clone().until("2020-01-01T00:00:00Z".parse().unwrap());
        let refusal = caller(&ended).check_current().unwrap_err();
        assert_eq!(refusal.message(), "the token has expired");
        let token = key.clone().until("2999-01-01T00:00:00Z".parse().unwrap());
        let (one, other) = (caller(&key), caller(&token));
        assert!(one.check_current().is_ok() && other.check_current().is_ok());
        key.revoke();
        for caller in [one, other] {
            assert_eq!(caller.check_current().unwrap_err().code(), Code::Unauthenticated);
        }
    }
}
