//! An authority and what it issues, for tests. Those of the other crates have it with the feature
//! `doubles`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::CertificateFiles;

/// How long what is issued is valid.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority, and the files of a server that it issues certificates to.
pub struct TestAuthority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    /// One that has issued a certificate for `host`.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn new(host: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        // Others of the same name must not be taken for it.
        let key = KeyPair::generate().expect("a key");
        let name = format!("authority {:?}", key.public_key_raw());
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = TestAuthority { dir, issuer: Issuer::new(params, key) };
        fs::write(authority.file(), certificate.pem()).expect("a file");
        authority.issue(host);
        authority
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Where the newest certificate that it issued is.
    pub fn files(&self) -> CertificateFiles {
        let file = |name| self.dir.path().join(name);
        CertificateFiles { certificate: file("cert.pem"), key: file("key.pem") }
    }

    /// Issues a new one.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn issue(&self, host: &str) {
        self.issue_until(host, SystemTime::now() + VALID);
    }

    /// Issues a new one that ends at this time.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn issue_until(&self, host: &str, end: SystemTime) {
        self.issue_from_until(host, end - 2 * VALID, end);
    }

    /// Issues a new one that is valid between two times.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn issue_from_until(&self, host: &str, begin: SystemTime, end: SystemTime) {
        let mut params = CertificateParams::new([host.to_owned()]).expect("a host");
        params.not_before = begin.into();
        params.not_after = end.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = self.files();
        fs::write(files.key, key.serialize_pem()).expect("a file");
        fs::write(files.certificate, certificate.pem()).expect("a file");
    }
}
