//! What TLS needs. Between processes of ours it is mutual, TLS 1.3: both sides show a certificate,
//! and each trusts the certificate authorities it was given and no others. A server of HTTP asks
//! nobody for a certificate, and lets in who speaks TLS 1.2.

#[cfg(any(test, feature = "doubles"))]
pub mod doubles;
mod served;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::{Deserialize, Serialize};

pub use served::ServedCertificate;

/// Where a process finds its identity and whom it trusts. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Its certificate, followed by those that lead to its CA.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Certificates of the authorities it trusts.
    pub trusted: Vec<PathBuf>,
}

/// Where a server finds what it shows to everybody. Both files are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// Its certificate, followed by those that lead to its CA.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Whom those trust who call a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust<'a> {
    /// Nobody: they call without TLS.
    Nobody,
    /// The authorities that this machine trusts.
    Machine,
    /// Those whose certificates are in a file, PEM, and no others.
    Authorities(&'a Path),
}

/// The one version of HTTP that our servers speak, as TLS names it.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read as PEM.
    #[error("read {what} from '{}': {source}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file holds nothing of its kind.
    #[error("no {what} in '{}'", path.display())]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The key is that of another certificate.
    #[error(
        "the key in '{}' does not fit the first certificate in '{}'",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate cannot be used.
    #[error("use certificate '{}': {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The trusted authorities cannot be used.
    #[error("use the trusted authorities: {0}")]
    Trust(String),
}

/// For the side that listens. Refuses clients without a certificate of a trusted authority.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = Arc::new(trusted(&files.trusted)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| TlsError::Trust(error.to_string()))?;
    let TlsFiles { certificate, key: key_file, trusted: _ } = files;
    let (chain, key) = identity(certificate, key_file)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|source| identity_error(certificate, key_file, source))?;
    Ok(Arc::new(config))
}

/// For the side that dials. Refuses servers without a certificate of a trusted authority for the
/// name that was dialled.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = trusted(&files.trusted)?;
    let TlsFiles { certificate, key: key_file, trusted: _ } = files;
    let (chain, key) = identity(certificate, key_file)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|source| identity_error(certificate, key_file, source))?;
    Ok(Arc::new(config))
}

/// For whoever calls a server of HTTP that asks nobody for a certificate.
///
/// # Errors
/// If the file with the authorities cannot be used, or this machine trusts nobody.
pub fn http_client_config(trust: Trust<'_>) -> Result<ClientConfig, TlsError> {
    let untrusted = |error: rustls::Error| TlsError::Trust(error.to_string());
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(untrusted)?;
    let config = match trust {
        Trust::Nobody => config.with_root_certificates(RootCertStore::empty()),
        Trust::Machine => config.with_platform_verifier().map_err(untrusted)?,
        Trust::Authorities(file) => config.with_root_certificates(trusted(&[file])?),
    };
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(config)
}

/// For a server of HTTP, which asks nobody for a certificate.
fn http_server_config(
    files: &CertificateFiles,
    (chain, key): Identity,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|source| identity_error(&files.certificate, &files.key, source))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// What TLS says in an error, if that came of TLS.
pub fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An error of IO has the source of what is in it for its own.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn identity_error(certificate: &Path, key: &Path, source: rustls::Error) -> TlsError {
    let path = certificate.to_owned();
    match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: path, key: key.to_owned() }
        }
        source => TlsError::Certificate { path, source },
    }
}

/// A certificate, those that lead to its CA, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
    let chain = certificates("certificates", certificate)?;
    let what = "unencrypted private key";
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| file_error(what, key, source))?;
    Ok((chain, key))
}

fn trusted(files: &[impl AsRef<Path>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for file in files.iter().map(AsRef::as_ref) {
        for certificate in certificates("trusted certificates", file)? {
            roots
                .add(certificate)
                .map_err(|source| TlsError::Trust(format!("'{}': {source}", file.display())))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::Trust("none were given".to_owned()));
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| file_error(what, path, source);
    let found = CertificateDer::pem_file_iter(path).map_err(error)?;
    let certificates = found.collect::<Result<Vec<_>, _>>().map_err(error)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(certificates)
}

fn file_error(what: &'static str, path: &Path, source: pem::Error) -> TlsError {
    let path = path.to_owned();
    match source {
        pem::Error::NoItemsFound => TlsError::Empty { what, path },
        source => TlsError::File { what, path, source },
    }
}
