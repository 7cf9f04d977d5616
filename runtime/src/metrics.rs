//! What the parts around a service say as metrics.

use metrics::{Unit, describe_gauge, gauge};

const CERTIFICATE_EXPIRY: &str = "anabranch_runtime_certificate_expiry_timestamp_seconds";

/// The certificate that is shown from now on ends then, in seconds since 1970.
pub(crate) fn certificate_expires(at: i64) {
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When the certificate of the HTTP server ends, since 1970: alarm if that is soon"
    );
    gauge!(CERTIFICATE_EXPIRY).set(at as f64);
}
