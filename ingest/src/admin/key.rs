//! Keys, as operators declare them.

use anabranch_schemas::resources::{KeySpec, ResourceName};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::check_usable;
use crate::error::{Code, Refusal};

/// Refuses a key that nothing could open, or that it would take too long to look at.
pub(super) fn admit(name: &ResourceName, spec: &KeySpec) -> Result<(), Refusal> {
    check_usable(name, spec).map_err(|reason| {
        let refusal = Refusal::new(Code::InvalidResource, format!("spec.{reason}"));
        if reason.starts_with("apiKey") {
            return refusal
                .with_hint("let 'anabranch key create' draw a secret and make the key of it");
        }
        refusal
    })
}

pub(super) fn status(spec: &KeySpec) -> Value {
    let is_over = spec.expires_at.is_some_and(|end| end <= Timestamp::now());
    json!({ "state": if is_over { "expired" } else { "valid" } })
}
