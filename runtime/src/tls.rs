//! Mutual TLS 1.3, for links between clusters: both sides show a certificate, and each trusts the
//! certificate authorities it was given and no others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

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
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds nothing of its kind.
    #[error("no {what} in '{}'", path.display())]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together, or cannot be used.
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
    let (chain, key) = identity(files)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|source| certificate_error(files, source))?;
    Ok(Arc::new(config))
}

/// For the side that dials. Refuses servers without a certificate of a trusted authority for the
/// name that was dialled.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = trusted(&files.trusted)?;
    let (chain, key) = identity(files)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|source| certificate_error(files, source))?;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate_error(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Certificate { path: files.certificate.clone(), source }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(files: &TlsFiles) -> Result<Identity, TlsError> {
    let chain = certificates("certificates", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| file_error("a private key", &files.key, source))?;
    Ok((chain, key))
}

fn trusted(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for file in files {
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

fn file_error(what: &'static str, path: &Path, source: rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File { what, path: path.to_owned(), source }
}
