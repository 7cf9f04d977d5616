//! The certificate that a server of HTTP shows, which others renew while it runs.
//!
//! The files are read again every so often, and what they hold is compared with what they held the
//! last time: that notices a renewal wherever they are, in a mounted secret or on a network disk,
//! too. A good pair is for connections that come from then on. With a bad one, or one that is not
//! valid yet, the one before stays. That is told once, if a moment later it is still so: meanwhile
//! only one of the two files may have been new.

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

/// How long whoever renews a certificate may take from one of its files to the other.
const HALF_DONE: Duration = Duration::from_secs(2);

/// The certificate of a server, as it is at the moment.
#[derive(Clone)]
pub struct ServedCertificate(Arc<Inner>);

struct Inner {
    files: CertificateFiles,
    /// What new connections get.
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// What the files held.
struct Seen {
    /// A hash of what is shown.
    shown: u64,
    /// What they have held since, if that is bad.
    bad: Option<Bad>,
}

struct Bad {
    /// Its hash.
    found: u64,
    is_told: bool,
}

/// A certificate that can be shown.
struct Loaded {
    config: Arc<ServerConfig>,
    /// When it begins and ends, in seconds since 1970.
    begins: i64,
    expires: i64,
}

impl ServedCertificate {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// If a file cannot be read, or does not hold what it should, or the key does not fit. A
    /// certificate that has expired, or is not valid yet, is an error in the log only: it may be
    /// renewed any moment.
    pub fn open(files: CertificateFiles) -> Result<Self, TlsError> {
        let read = identity(&files.certificate, &files.key);
        let seen = Mutex::new(Seen { shown: fingerprint(&read), bad: None });
        let loaded = load(&files, read?)?;
        if let Err(error) = loaded.check_time(now(), &files) {
            tracing::error!(%error, "nobody accepts this certificate: renew it, or set the clock");
        }
        let Loaded { config, expires, .. } = loaded;
        metrics::certificate_expires(expires);
        Ok(ServedCertificate(Arc::new(Inner { files, config: RwLock::new(config), seen })))
    }

    /// What a connection that comes now gets.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.config.read().clone()
    }

    /// Looks `every` so often whether the files were changed, until the shutdown begins.
    pub async fn follow(&self, every: Duration, shutdown: &Shutdown) {
        let mut wait = every;
        loop {
            tokio::select! {
                biased;
                () = shutdown.begun() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let served = self.clone();
            let Ok(may_be_half_done) = blocking(move || served.look()).await else { return };
            wait = if may_be_half_done { every.min(HALF_DONE) } else { every };
        }
    }

    /// Takes what is new in the files, if it is good. Whether it is bad and to be looked at again
    /// before that is told: somebody may be at renewing it.
    pub(crate) fn look(&self) -> bool {
        self.look_at(now())
    }

    /// The same at a time, in seconds since 1970. What is not valid yet is so at a later one.
    pub(super) fn look_at(&self, now: i64) -> bool {
        let Inner { files, config, seen } = &*self.0;
        let read = identity(&files.certificate, &files.key);
        let found = fingerprint(&read);
        let path = files.certificate.display();
        let mut seen = seen.lock();
        if found == seen.shown {
            if seen.bad.take().is_some_and(|bad| bad.is_told) {
                tracing::info!(certificate = %path, "the certificate that is shown is back");
            }
            return false;
        }
        let renewed = read.and_then(|identity| load(files, identity));
        let renewed = renewed.and_then(|loaded| loaded.check_time(now, files).map(|()| loaded));
        let was_told = seen.bad.as_ref().filter(|bad| bad.found == found).map(|bad| bad.is_told);
        match (renewed, was_told) {
            (Ok(Loaded { config: renewed, expires, .. }), _) => {
                *config.write() = renewed;
                *seen = Seen { shown: found, bad: None };
                metrics::certificate_expires(expires);
                tracing::info!(certificate = %path, "a renewed certificate is shown from now on");
                false
            }
            (Err(_), None) => {
                seen.bad = Some(Bad { found, is_told: false });
                true
            }
            (Err(error), Some(false)) => {
                seen.bad = Some(Bad { found, is_told: true });
                tracing::error!(
                    %error,
                    "a renewed certificate cannot be used, the one before is still shown"
                );
                false
            }
            (Err(_), Some(true)) => false,
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
    let validity = certificate.validity();
    let (begins, expires) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Loaded { config: http_server_config(files, identity)?, begins, expires })
}

impl Loaded {
    /// Refuses it at a time, in seconds since 1970, when clients do.
    fn check_time(&self, now: i64, files: &CertificateFiles) -> Result<(), TlsError> {
        if now < self.begins {
            return Err(certificate_error(files, CertificateError::NotValidYet));
        }
        if now > self.expires {
            return Err(certificate_error(files, CertificateError::Expired));
        }
        Ok(())
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    i64::try_from(now_millis() / 1_000).unwrap_or(i64::MAX)
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
