//! Which servers that speak TLS commands trust, and what to do about those that they do not.

use std::path::PathBuf;

use anabranch_runtime::tls::{self, Trust};
use anyhow::Result;
use rustls::{CertificateError, ClientConfig};

use crate::failure::{Exit, Failure};

/// Whom to trust.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TrustFlags {
    /// The certificate of the authority of a server with https://, if that is none that this
    /// machine trusts; no other is trusted then.
    #[arg(long, value_name = "FILE", env = "ANABRANCH_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl TrustFlags {
    /// How to speak TLS with a server, if its address asks for that.
    pub(super) fn config(&self, is_tls: bool) -> Result<ClientConfig> {
        let trust = match &self.ca_file {
            _ if !is_tls => Trust::Nobody,
            Some(file) => Trust::Authorities(file),
            None => Trust::Machine,
        };
        tls::http_client_config(trust).map_err(|error| {
            let hint = "--ca-file names the certificate of the authority of the server, as PEM";
            Failure::usage(error.to_string()).with_hint(hint).into()
        })
    }
}

/// Why there is no connection with a server, if it came to TLS.
pub(super) fn explain(error: &reqwest::Error, server: &str) -> Option<Failure> {
    let (message, hint) = match tls::cause(error)? {
        rustls::Error::InvalidCertificate(error) => refused(error, server),
        rustls::Error::InvalidMessage(_) => (
            format!("{server} does not speak TLS"),
            "check its port; a server without a certificate has an address with http://",
        ),
        error => (format!("no TLS with {server}: {error}"), "check its port and its certificate"),
    };
    Some(Failure::new(Exit::Failed, message).with_hint(hint))
}

fn refused(error: &CertificateError, server: &str) -> (String, &'static str) {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => (
            format!("the certificate of {server} is of an authority that is not trusted"),
            "--ca-file, or ANABRANCH_CA_FILE, names a file with the certificate of the authority",
        ),
        E::NotValidForName | E::NotValidForNameContext { .. } => (
            format!("the certificate of {server} is for another host: {error}"),
            "name the server as its certificate does, or have one issued for this name, too",
        ),
        E::Expired | E::ExpiredContext { .. } => (
            format!("the certificate of {server} has expired"),
            "have it renewed there, and compare the clocks of both sides",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => (
            format!("the certificate of {server} is not valid yet"),
            "compare the clocks of both sides",
        ),
        _ => (
            format!("the certificate of {server} cannot be accepted: {error}"),
            "have another one issued; an authority's own is none for a server",
        ),
    }
}
