//! Certificates of test clusters.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use anabranch_runtime::tls::{CertificateFiles, TlsFiles};

use crate::identity::{Identity, IdentityFiles, issue_to_http_server, write_files};

/// Certificates of clusters, each in a directory of its own.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// Of these clusters, all of which can be dialled at 127.0.0.1.
    pub(crate) fn new(clusters: &[&str]) -> Self {
        let certificates = Certificates(tempfile::tempdir().unwrap());
        for cluster in clusters {
            certificates.add(cluster, cluster, "127.0.0.1");
        }
        certificates
    }

    /// Of one more cluster, which can be dialled at `host`, in the directory `name`.
    pub(crate) fn add(&self, name: &str, cluster: &str, host: &str) {
        let cluster = cluster.parse().unwrap();
        write_files(&self.0.path().join(name), &cluster, &[host.to_owned()]).unwrap();
    }

    /// The files of the cluster in the directory `name`.
    pub(crate) fn files(&self, name: &str) -> IdentityFiles {
        IdentityFiles::in_directory(&self.0.path().join(name))
    }

    /// The files of a bridge of `name` that trusts the authorities of `trusted`.
    pub(crate) fn tls(&self, name: &str, trusted: &[&str]) -> TlsFiles {
        let authority = |name: &&str| -> PathBuf { self.files(name).ca };
        self.files(name).tls(trusted.iter().map(authority).collect())
    }

    /// The same with a certificate of the authority of `name` for HTTP servers at 127.0.0.1.
    pub(crate) fn tls_of_http_server(&self, name: &str, trusted: &[&str]) -> TlsFiles {
        let files = self.files(name);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let ca = Identity { certificate: read(&files.ca), key: read(&files.ca_key) };
        let issued = issue_to_http_server(&ca, &["127.0.0.1".to_owned()]).unwrap();
        let files = IdentityFiles::of_http_server(&self.0.path().join(name));
        let CertificateFiles { certificate, key } = files;
        fs::write(&certificate, issued.certificate).unwrap();
        fs::write(&key, issued.key).unwrap();
        TlsFiles { certificate, key, ..self.tls(name, trusted) }
    }
}
