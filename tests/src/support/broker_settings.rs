//! Settings of a broker process beyond the script's: listeners with TLS and SASL.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Certificates as PEM files: the broker's own, its PKCS#8 key, and the CA it trusts.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The CA that signed the certificates of clients.
    pub ca: PathBuf,
    /// The broker's certificate; it must be valid for 127.0.0.1.
    pub certificate: PathBuf,
    /// The broker's key.
    pub key: PathBuf,
}

/// Listeners and settings that a [`BrokerProcess`](super::BrokerProcess) has beside its plain one.
#[derive(Debug, Clone, Default)]
pub struct BrokerSettings {
    listeners: Vec<(&'static str, u16)>,
    /// Where it listens, and where clients find that.
    ways: Vec<(u16, u16)>,
    tls: Option<(TlsFiles, bool)>,
    user: Option<(String, String)>,
    others: Vec<(String, String)>,
}

impl BrokerSettings {
    /// Any setting of the broker.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.others.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Listens with TLS on `port`; with `client_certificates` a client must present one too.
    #[must_use]
    pub fn tls(mut self, port: u16, files: TlsFiles, client_certificates: bool) -> Self {
        self.listeners.push(("SSL", port));
        self.tls = Some((files, client_certificates));
        self
    }

    /// Listens on `port` without TLS for clients that log in by SASL: PLAIN, SCRAM-SHA-256 or
    /// SCRAM-SHA-512.
    #[must_use]
    pub fn sasl(mut self, port: u16, user: &str, password: &str) -> Self {
        self.listeners.push(("SASL_PLAINTEXT", port));
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Listens on `port`, too, and tells who comes there to go on coming by `reached`.
    #[must_use]
    pub fn way(mut self, port: u16, reached: u16) -> Self {
        self.ways.push((port, reached));
        self
    }

    /// The user that must be known to SCRAM once the broker runs.
    pub(super) fn user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The settings as `key=value`; writes the broker's key store into `dir`.
    pub(super) fn lines(&self, dir: &Path, port: u16) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        if !self.listeners.is_empty() || !self.ways.is_empty() {
            lines.extend(self.listener_lines(port));
        }
        if let Some((files, client_certificates)) = &self.tls {
            lines.extend(tls_lines(files, *client_certificates, dir)?);
        }
        if let Some((user, password)) = &self.user {
            lines.extend(sasl_lines(user, password));
        }
        lines.extend(self.others.iter().map(|(key, value)| format!("{key}={value}")));
        Ok(lines)
    }
}

/// Which protocol each listener speaks.
const PROTOCOLS: &str = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
                         SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL";

impl BrokerSettings {
    fn listener_lines(&self, port: u16) -> [String; 3] {
        let plain = [("PLAINTEXT".to_owned(), port, port)];
        let others = self.listeners.iter().map(|(kind, at)| ((*kind).to_owned(), *at, *at));
        let ways = self.ways.iter().enumerate();
        let ways = ways.map(|(number, (port, reached))| (format!("WAY{number}"), *port, *reached));
        let all: Vec<_> = plain.into_iter().chain(others).chain(ways).collect();
        let list = |which: fn(&(String, u16, u16)) -> u16| {
            let each = all.iter().map(|one| format!("{}://127.0.0.1:{}", one.0, which(one)));
            each.collect::<Vec<_>>().join(",")
        };
        let protocols: String =
            (0..self.ways.len()).map(|number| format!(",WAY{number}:PLAINTEXT")).collect();
        [
            format!("advertised.listeners={}", list(|one| one.2)),
            format!("listeners={},CONTROLLER://127.0.0.1:{}", list(|one| one.1), port + 1),
            format!("listener.security.protocol.map={PROTOCOLS}{protocols}"),
        ]
    }
}

fn tls_lines(files: &TlsFiles, client_certificates: bool, dir: &Path) -> Result<Vec<String>> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let store = dir.join("keystore.pem");
    fs::write(&store, format!("{}\n{}", read(&files.key)?, read(&files.certificate)?))?;
    let trusted = fs::canonicalize(&files.ca)
        .with_context(|| format!("cannot find {}", files.ca.display()))?;
    Ok(vec![
        "ssl.keystore.type=PEM".to_owned(),
        format!("ssl.keystore.location={}", store.display()),
        "ssl.truststore.type=PEM".to_owned(),
        format!("ssl.truststore.location={}", trusted.display()),
        format!("ssl.client.auth={}", if client_certificates { "required" } else { "none" }),
    ])
}

fn sasl_lines(user: &str, password: &str) -> Vec<String> {
    let listener = "listener.name.sasl_plaintext";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    vec![
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
        format!(
            "{listener}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_{user}=\"{password}\";"
        ),
        format!("{listener}.scram-sha-256.sasl.jaas.config={scram}"),
        format!("{listener}.scram-sha-512.sasl.jaas.config={scram}"),
    ]
}
