//! Keys, as operators declare them.

use anabranch_schemas::resources::KeySpec;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{ApiKeyHash, Permissions};
use crate::error::{Code, Refusal};

/// Refuses a key that nothing could open, or that it would take too long to look at.
pub(super) fn admit(spec: &KeySpec) -> Result<(), Refusal> {
    let unusable = |message: String| Refusal::new(Code::InvalidResource, message);
    ApiKeyHash::new(&spec.api_key.hash).map_err(|reason| {
        unusable(format!("spec.apiKey.hash: {reason}"))
            .with_hint("let 'anabranch key create' draw a secret and make the key of it")
    })?;
    Permissions::of(spec).map_err(|reason| unusable(format!("spec.{reason}")))?;
    Ok(())
}

pub(super) fn status(spec: &KeySpec) -> Value {
    let is_over = spec.expires_at.is_some_and(|end| end <= Timestamp::now());
    json!({ "state": if is_over { "expired" } else { "valid" } })
}
