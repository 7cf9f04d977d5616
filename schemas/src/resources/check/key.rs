//! Reads keys.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use anabranch_core::query::Rule;

use super::{mistyped, object, refuse, required, shorten, text, tokens};
use crate::resources::{
    ApiKey, Credential, KeySpec, OTHERS, PermissionScope, PermissionSpec, ResourceError,
};

/// The most permissions of one key.
const MAX_PERMISSIONS: usize = 1_000;
/// The longest hash, in bytes.
const MAX_HASH_BYTES: usize = 512;
/// What claims may take together, in bytes of JSON.
const MAX_CLAIMS_BYTES: usize = 64 << 10;

pub(super) fn key(value: &Value) -> Result<KeySpec, ResourceError> {
    let known = ["apiKey", "jwt", "expiresAt", "claims", "permissions"];
    let fields = object("spec", value, &known)?;
    Ok(KeySpec {
        credential: credential(fields)?,
        expires_at: fields.get("expiresAt").map(expires_at).transpose()?,
        claims: fields.get("claims").map_or(Ok(Map::new()), claims)?,
        permissions: permissions(required("spec", fields, "permissions")?)?,
    })
}

fn credential(fields: &Map<String, Value>) -> Result<Credential, ResourceError> {
    match (fields.get("apiKey"), fields.get("jwt")) {
        (Some(secret), None) => api_key(secret).map(Credential::ApiKey),
        (None, Some(issuer)) => tokens::issuer(issuer).map(Credential::Jwt),
        (Some(_), Some(_)) => {
            let error = refuse("spec", "it has both an apiKey and a jwt".to_owned());
            Err(error.with_hint("make two keys: one for each"))
        }
        (None, None) => {
            let error = refuse("spec", "nothing opens it: it has no apiKey and no jwt".to_owned());
            Err(error.with_hint(
                "let 'anabranch key create' make the key, or declare whose tokens open it",
            ))
        }
    }
}

fn api_key(value: &Value) -> Result<ApiKey, ResourceError> {
    const PATH: &str = "spec.apiKey.hash";
    let fields = object("spec.apiKey", value, &["hash"])?;
    let hash = text(PATH, required("spec.apiKey", fields, "hash")?)?;
    if hash.len() > MAX_HASH_BYTES || !hash.starts_with("$argon2id$") {
        return Err(refuse(PATH, "it is not the Argon2id hash of a secret".to_owned())
            .with_hint("let 'anabranch key create' draw a secret and make the key of it"));
    }
    Ok(ApiKey { hash: hash.to_owned() })
}

fn expires_at(value: &Value) -> Result<Timestamp, ResourceError> {
    const PATH: &str = "spec.expiresAt";
    let written = text(PATH, value)?;
    written.parse().map_err(|_| {
        refuse(PATH, format!("'{}' is not a time", shorten(written)))
            .with_hint("write it like 2027-01-31T00:00:00Z")
    })
}

fn claims(value: &Value) -> Result<Map<String, Value>, ResourceError> {
    const PATH: &str = "spec.claims";
    let Value::Object(claims) = value else {
        return Err(mistyped(PATH, "an object", value));
    };
    let json = value.to_string();
    if json.len() > MAX_CLAIMS_BYTES {
        let message = format!("they take {} bytes; the limit is {MAX_CLAIMS_BYTES}", json.len());
        return Err(refuse(PATH, message));
    }
    anabranch_core::Value::from_json(json.as_bytes())
        .map_err(|error| refuse(PATH, error.to_string()))?;
    Ok(claims.clone())
}

fn permissions(value: &Value) -> Result<BTreeMap<PermissionScope, PermissionSpec>, ResourceError> {
    const PATH: &str = "spec.permissions";
    let Value::Object(given) = value else {
        return Err(mistyped(PATH, "an object of permissions by collection", value));
    };
    if given.len() > MAX_PERMISSIONS {
        let message = format!("has {} entries; the limit is {MAX_PERMISSIONS}", given.len());
        return Err(refuse(PATH, message));
    }
    given
        .iter()
        .map(|(name, value)| {
            let scope = match name.as_str() {
                OTHERS => PermissionScope::Others,
                name => PermissionScope::Collection(
                    name.parse().map_err(|error| refuse(PATH, format!("{error}")))?,
                ),
            };
            Ok((scope, permission(&format!("{PATH}.{name}"), value)?))
        })
        .collect()
}

fn permission(path: &str, value: &Value) -> Result<PermissionSpec, ResourceError> {
    let fields = object(path, value, &["read", "write"])?;
    let of = |name: &str| fields.get(name).map(|value| rule(&format!("{path}.{name}"), value));
    Ok(PermissionSpec { read: of("read").transpose()?, write: of("write").transpose()? })
}

fn rule(path: &str, value: &Value) -> Result<String, ResourceError> {
    let rule = match value {
        // YAML makes one of a bare word.
        Value::Bool(holds) => holds.to_string(),
        value => text(path, value)?.to_owned(),
    };
    Rule::new(rule.as_str()).map_err(|error| ResourceError {
        path: path.to_owned(),
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
    })?;
    Ok(rule)
}
