//! Says what went wrong with a TLS connection so that an operator knows which file to change, and
//! on which side. In TLS 1.3 the dialling side believes itself connected before the listening side
//! has looked at its certificate: a refusal arrives as an alert with the first read.

use std::io;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::error::Error;

/// The error of a connection with `peer` that failed while doing `what`.
pub(crate) fn explain(error: io::Error, what: &'static str, peer: &str) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.and_then(|tls| distrust(tls, peer)) {
        Some((reason, hint)) => Error::Untrusted { reason, hint: hint.to_owned() },
        None if error.kind() == io::ErrorKind::UnexpectedEof => Error::Closed,
        None => Error::Connection { what, peer: peer.to_owned(), source: error },
    }
}

/// The cluster that a certificate is for: its common name.
pub(super) fn certified_cluster(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    // Of several it could not be said which is meant.
    names.next().is_none().then_some(name)
}

fn distrust(error: &rustls::Error, peer: &str) -> Option<(String, &'static str)> {
    const TRUST_US: &str = "add this cluster's ca.pem to the trusted files of the bridge there";
    const OUR_FILES: &str = "check the certificate and key files of this bridge";
    Some(match error {
        rustls::Error::InvalidCertificate(certificate) => refused(certificate, peer),
        rustls::Error::NoCertificatesPresented => (
            format!("{peer} shows no certificate"),
            "both sides of a link need one: configure the bridge there with a certificate",
        ),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA => (
                format!("{peer} does not trust the authority of this cluster's certificate"),
                TRUST_US,
            ),
            AlertDescription::CertificateExpired => (
                format!("{peer} found this cluster's certificate expired"),
                "issue a new one with 'anabranch ca', and compare the clocks of both sides",
            ),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => {
                (format!("{peer} refused this cluster's certificate ({alert:?})"), OUR_FILES)
            }
            AlertDescription::CertificateRequired => {
                (format!("{peer} requires a certificate of this cluster"), OUR_FILES)
            }
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                (format!("{peer} does not speak TLS 1.3"), "upgrade the bridge there")
            }
            _ => return None,
        },
        rustls::Error::PeerIncompatible(why) => {
            (format!("{peer} does not speak TLS 1.3 ({why:?})"), "upgrade the bridge there")
        }
        rustls::Error::InvalidMessage(_) => (
            format!("{peer} does not speak TLS"),
            "check that the address is the one the bridge there listens on",
        ),
        _ => return None,
    })
}

fn refused(error: &CertificateError, peer: &str) -> (String, &'static str) {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => (
            format!("the certificate of {peer} is signed by an authority that is not trusted"),
            "if it should be, add the ca.pem of its cluster to the trusted files of this bridge",
        ),
        E::Expired | E::ExpiredContext { .. } => (
            format!("the certificate of {peer} has expired"),
            "issue a new one there with 'anabranch ca', and compare the clocks of both sides",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => (
            format!("the certificate of {peer} is not valid yet"),
            "compare the clocks of both sides",
        ),
        E::NotValidForName | E::NotValidForNameContext { .. } => (
            format!("the certificate of {peer} is for another host: {error}"),
            "issue one there with the host that is dialled, or dial a host that it names",
        ),
        _ => (
            format!("the certificate of {peer} cannot be accepted: {error}"),
            "issue a new one there with 'anabranch ca'",
        ),
    }
}
