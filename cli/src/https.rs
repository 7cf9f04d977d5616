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
    let addresses = in_clear(settings);
    if !addresses.is_empty() {
        tracing::warn!(
            addresses = addresses.join(", "),
            "keys and documents travel in clear, unless a proxy in front of it speaks TLS: set \
             https.certificate and https.key"
        );
    }
}

/// Where others than this machine are served without TLS.
fn in_clear(settings: &Settings) -> Vec<String> {
    if settings.https.is_some() {
        return Vec::new();
    }
    let addresses = [settings.listen, settings.listen_admin];
    let away = addresses.iter().filter(|address| !is_here(address.ip()));
    away.map(SocketAddr::to_string).collect()
}

fn is_here(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use anabranch_runtime::tls::doubles::TestAuthority;

    use super::*;

    async fn socket(address: &str) -> TcpListener {
        TcpListener::bind(address).await.unwrap()
    }

    #[tokio::test]
    async fn with_a_certificate_all_speaks_tls_but_an_admin_address_on_the_loopback() {
        let authority = TestAuthority::new("localhost");
        let served = ServedCertificate::open(authority.files()).unwrap();
        let https = Https(Some(served));
        let (here, everywhere) = ("127.0.0.1:0", "0.0.0.0:0");
        assert_eq!(https.api(socket(here).await).scheme(), "https");
        assert_eq!(https.api(socket(everywhere).await).scheme(), "https");
        assert_eq!(https.admin(socket(here).await).unwrap().scheme(), "http");
        assert_eq!(https.admin(socket(everywhere).await).unwrap().scheme(), "https");
        let none = Https::none();
        assert_eq!(none.api(socket(everywhere).await).scheme(), "http");
        assert_eq!(none.admin(socket(everywhere).await).unwrap().scheme(), "http");
    }

    #[tokio::test]
    async fn a_certificate_that_cannot_be_read_keeps_a_server_from_starting() {
        let mut settings = Settings::default();
        let host = Host::new();
        assert!(Https::open(&settings, &host).unwrap().0.is_none());
        let authority = TestAuthority::new("localhost");
        settings.https = Some(authority.files());
        assert!(Https::open(&settings, &host).unwrap().0.is_some());
        std::fs::remove_file(authority.files().key).unwrap();
        let error = Https::open(&settings, &host).err().unwrap().to_string();
        assert!(error.contains("key.pem"), "{error}");
    }

    #[test]
    fn what_is_served_in_clear_to_others_than_this_machine_is_warned_of() {
        let clear = |listen: &str, admin: &str| {
            let (listen, listen_admin) = (listen.parse().unwrap(), admin.parse().unwrap());
            let mut settings = Settings { listen, listen_admin, ..Settings::default() };
            let clear = in_clear(&settings);
            settings.https = Some(TestAuthority::new("localhost").files());
            assert!(in_clear(&settings).is_empty(), "with a certificate nothing is");
            clear
        };
        assert!(in_clear(&Settings::default()).is_empty());
        assert!(clear("[::1]:80", "127.0.0.2:81").is_empty());
        assert!(clear("[::ffff:127.0.0.1]:80", "127.0.0.1:81").is_empty());
        assert_eq!(clear("0.0.0.0:80", "127.0.0.1:81"), ["0.0.0.0:80"]);
        assert_eq!(clear("127.0.0.1:80", "[::]:81"), ["[::]:81"]);
        assert_eq!(clear("10.0.0.1:80", "10.0.0.1:81"), ["10.0.0.1:80", "10.0.0.1:81"]);
    }
}
