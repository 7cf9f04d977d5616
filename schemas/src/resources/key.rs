//! Keys: who may use the HTTP API of an app, and what for.

use std::collections::BTreeMap;

use anabranch_core::ids::Collection;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::tokens::TokenIssuer;

/// Stands for all collections that have no permission of their own.
pub const OTHERS: &str = "*";

/// Who may use the HTTP API of an app, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySpec {
    /// What opens it.
    #[serde(flatten)]
    pub credential: Credential,
    /// Until when it opens anything; `None` for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What rules may ask about its holders, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// What its holders may do, by collection; [`OTHERS`] for those that are not named. What is not
    /// allowed is denied.
    pub permissions: BTreeMap<PermissionScope, PermissionSpec>,
}

/// What those show who are let in with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Credential {
    /// The secret of the key.
    ApiKey(ApiKey),
    /// A JSON Web Token of somebody whom the key trusts to say who asks.
    Jwt(TokenIssuer),
}

/// A secret that only its holders know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// Of the secret: Argon2id in the PHC string format, `$argon2id$v=19$..`.
    pub hash: String,
}

/// The collections that a permission is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum PermissionScope {
    /// Those that no other permission of the key names.
    Others,
    /// This one.
    Collection(Collection),
}

impl From<PermissionScope> for String {
    fn from(scope: PermissionScope) -> String {
        match scope {
            PermissionScope::Others => OTHERS.to_owned(),
            PermissionScope::Collection(collection) => collection.as_str().to_owned(),
        }
    }
}

/// What may be done with documents: conditions on them and on the claims of who asks
/// ([`Rule`](anabranch_core::query::Rule)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PermissionSpec {
    /// Which may be read; none, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
    /// Which may be written: holds before and after. None, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<String>,
}
