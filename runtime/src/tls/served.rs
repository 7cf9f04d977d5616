//! The certificate that a server of HTTP shows, which others renew while it runs.
//!
//! The files are read again every so often, and what they hold is compared with what they held the
//! last time: that notices a renewal wherever they are, in a mounted secret or on a network disk,
//! too. A good pair is for connections that come from then on. A bad one is told once, and the one
//! before stays: also for the moment in which only one of the two files is new.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::{CertificateError, ServerConfig};
use x509_parser::parse_x509_certificate;

use super::{CertificateFiles, Identity, TlsError, http_server_config, identity};
use crate::clock::now_millis;
use crate::metrics;
use crate::tasks::{Shutdown, blocking};

/// The certificate of a server, as it is at the moment.
#[derive(Clone)]
pub struct ServedCertificate(Arc<Inner>);

struct Inner {
    files: CertificateFiles,
    /// What new connections get.
    config: RwLock<Arc<ServerConfig>>,
    /// A hash of what the files held when they were read last.
    seen: Mutex<u64>,
}

/// A certificate that can be shown.
struct Loaded {
    config: Arc<ServerConfig>,
    /// When it ends, in seconds since 1970.
    expires: i64,
}

impl ServedCertificate {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// If a file cannot be read, or does not hold what it should, or the key does not fit. A
    /// certificate that has expired is an error in the log only: it may be renewed any moment.
    pub fn open(files: CertificateFiles) -> Result<Self, TlsError> {
        let read = identity(&files.certificate, &files.key);
        let seen = Mutex::new(fingerprint(&read));
        let Loaded { config, expires } = load(&files, read?)?;
        if has_expired(expires) {
            let path = files.certificate.display();
            tracing::error!(certificate = %path, "the certificate has expired: renew it");
        }
        metrics::certificate_expires(expires);
        Ok(ServedCertificate(Arc::new(Inner { files, config: RwLock::new(config), seen })))
    }

    /// What a connection that comes now gets.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.config.read().clone()
    }

    /// Looks `every` so often whether the files were changed, until the shutdown begins.
    pub async fn follow(&self, every: Duration, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.begun() => return,
                () = tokio::time::sleep(every) => {}
            }
            let served = self.clone();
            if blocking(move || served.look()).await.is_err() {
                return;
            }
        }
    }

    /// Takes what is new in the files, if it is good.
    pub(crate) fn look(&self) {
        let Inner { files, config, seen } = &*self.0;
        let read = identity(&files.certificate, &files.key);
        let found = fingerprint(&read);
        if std::mem::replace(&mut *seen.lock(), found) == found {
            return;
        }
        let renewed = read.and_then(|identity| load(files, identity)).and_then(|loaded| {
            if has_expired(loaded.expires) { Err(expired(files)) } else { Ok(loaded) }
        });
        let path = files.certificate.display();
        match renewed {
            Ok(Loaded { config: renewed, expires }) => {
                *config.write() = renewed;
                metrics::certificate_expires(expires);
                tracing::info!(certificate = %path, "a renewed certificate is shown from now on");
            }
            Err(error) => tracing::error!(
                %error,
                "a renewed certificate cannot be used, the one before is still shown"
            ),
        }
    }
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServedCertificate").field(&self.0.files).finish()
    }
}

fn load(files: &CertificateFiles, identity: Identity) -> Result<Loaded, TlsError> {
    let unreadable = || certificate_error(files, CertificateError::BadEncoding);
    let (_, certificate) = parse_x509_certificate(&identity.0[0]).map_err(|_| unreadable())?;
    let expires = certificate.validity().not_after.timestamp();
    Ok(Loaded { config: http_server_config(files, identity)?, expires })
}

fn has_expired(expires: i64) -> bool {
    i64::try_from(now_millis() / 1_000).is_ok_and(|now| now > expires)
}

fn expired(files: &CertificateFiles) -> TlsError {
    certificate_error(files, CertificateError::Expired)
}

fn certificate_error(files: &CertificateFiles, error: CertificateError) -> TlsError {
    TlsError::Certificate { path: files.certificate.clone(), source: error.into() }
}

/// The same for the same content, or for the same failure to read it. Of the key nothing else is
/// kept.
fn fingerprint(read: &Result<Identity, TlsError>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match read {
        Ok((chain, key)) => (chain, key.secret_der()).hash(&mut hasher),
        Err(error) => error.to_string().hash(&mut hasher),
    }
    hasher.finish()
}
