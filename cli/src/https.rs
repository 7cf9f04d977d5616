//! TLS on the HTTP addresses of a process: with a certificate its API and its admin address speak
//! nothing else. An admin address on the loopback stays plain, so that probes and commands on the
//! machine need no certificate.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anabranch_runtime::listen::Listener;
use anabranch_runtime::tls::ServedCertificate;
use anyhow::Result;
use tokio::net::TcpListener;

use crate::failure::Failure;
use crate::host::{self, Host};
use crate::settings::Settings;

/// How often it is looked whether the certificate was renewed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The certificate that the HTTP addresses of a process show, if it has one.
pub(crate) struct Https(Option<ServedCertificate>);

impl Https {
    /// Reads the certificate that is set, and has `host` look for renewals of it.
    pub(crate) fn open(settings: &Settings, host: &Host) -> Result<Self> {
        let Some(files) = settings.https.clone() else { return Ok(Https(None)) };
        let served = ServedCertificate::open(files).map_err(|error| {
            let hint = "settings https.certificate and https.key name PEM files; 'anabranch ca \
                        issue-https' makes such";
            Failure::usage(error.to_string()).with_hint(hint)
        })?;
        host.follow_certificate(served.clone(), LOOK_EVERY);
        Ok(Https(Some(served)))
    }

    /// No certificate.
    pub(crate) fn none() -> Self {
        Https(None)
    }

    /// The socket of the HTTP API.
    pub(crate) fn api(&self, socket: TcpListener) -> Listener {
        Listener::new(socket, self.0.clone())
    }

    /// The socket of the admin address.
    pub(crate) fn admin(&self, socket: TcpListener) -> Result<Listener> {
        let is_here = is_here(host::address(&socket)?.ip());
        Ok(Listener::new(socket, self.0.clone().filter(|_| !is_here)))
    }
}

/// Warns if keys that are shown to this process can be read on their way.
pub(crate) fn warn_of_clear_text(settings: &Settings) {
    let addresses = [settings.listen, settings.listen_admin];
    let away = addresses.iter().filter(|address| !is_here(address.ip()));
    let away: Vec<_> = away.map(SocketAddr::to_string).collect();
    if settings.https.is_none() && !away.is_empty() {
        tracing::warn!(
            addresses = away.join(", "),
            "keys and documents travel in clear, unless a proxy in front of it speaks TLS: set \
             https.certificate and https.key"
        );
    }
}

fn is_here(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
