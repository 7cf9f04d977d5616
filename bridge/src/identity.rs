//! A cluster's own authority, and the certificates it issues to its bridges and HTTP servers: what
//! `anabranch ca` writes. Another cluster that is to trust this one gets its `ca.pem`, and nothing
//! else.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use anabranch_runtime::tls::{CertificateFiles, TlsFiles};
use anabranch_schemas::topics::ClusterName;

use crate::error::Error;

/// How long certificates are valid: a cluster's CA, and what it issues.
const CA_YEARS: i64 = 10;
const LEAF_YEARS: i64 = 2;

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Where [`write_files`] puts what it makes in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The authority's certificate, for other clusters to trust.
    pub ca: PathBuf,
    /// The authority's private key; only issuing needs it.
    pub ca_key: PathBuf,
    /// The bridge's certificate.
    pub certificate: PathBuf,
    /// The bridge's private key.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// The files in `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        IdentityFiles {
            ca: directory.join("ca.pem"),
            ca_key: directory.join("ca.key"),
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        }
    }

    /// Where the certificate and the key of an HTTP server are in `directory`.
    pub fn of_http_server(directory: &Path) -> CertificateFiles {
        CertificateFiles {
            certificate: directory.join("https-cert.pem"),
            key: directory.join("https-key.pem"),
        }
    }

    /// What a bridge needs of them, if it is to trust the authorities in `trusted`.
    pub fn tls(&self, trusted: Vec<PathBuf>) -> TlsFiles {
        TlsFiles { certificate: self.certificate.clone(), key: self.key.clone(), trusted }
    }
}

/// Makes an authority for a cluster.
pub fn make_ca(cluster: &ClusterName) -> Result<Identity, Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    // Authorities of clusters with the same name must not be mistaken for each other.
    let serial: String = key.public_key_raw().iter().rev().take(4).map(hex).collect();
    params.distinguished_name.push(DnType::OrganizationName, "Anabranch");
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} CA {serial}"));
    (params.not_before, params.not_after) = validity(CA_YEARS);
    let certificate = params.self_signed(&key)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Issues a certificate to a bridge that can be dialled under `hosts`: names and IP addresses.
pub fn issue(ca: &Identity, cluster: &ClusterName, hosts: &[String]) -> Result<Identity, Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, cluster.as_str());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    signed(ca, params)
}

/// Issues a certificate to an HTTP server that can be called under `hosts`. It names no cluster, so
/// no bridge takes who has it for another, and it is for no client, so no store node lets it in. But
/// whoever asks a store node looks only whether that is at the host that was dialled and of an
/// authority that is trusted: at these hosts, who has it passes for one.
pub fn issue_to_http_server(ca: &Identity, hosts: &[String]) -> Result<Identity, Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(ca, params)
}

fn signed(ca: &Identity, mut params: CertificateParams) -> Result<Identity, Error> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    params.distinguished_name.push(DnType::OrganizationName, "Anabranch");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(LEAF_YEARS);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Makes an authority and a bridge's certificate, and writes both into `directory`, which is made
/// if it is missing. Nothing is overwritten.
pub fn write_files(
    directory: &Path,
    cluster: &ClusterName,
    hosts: &[String],
) -> Result<IdentityFiles, Error> {
    let files = IdentityFiles::in_directory(directory);
    let all = [&files.ca, &files.ca_key, &files.certificate, &files.key];
    if let Some(there) = all.into_iter().find(|path| path.exists()) {
        return Err(Error::Exists(there.clone()));
    }
    fs::create_dir_all(directory).map_err(|source| Error::File {
        what: "make directory",
        path: directory.to_owned(),
        source,
    })?;
    let ca = make_ca(cluster)?;
    let bridge = issue(&ca, cluster, hosts)?;
    write(&files.ca_key, &ca.key, PRIVATE)?;
    write(&files.ca, &ca.certificate, PUBLIC)?;
    write(&files.key, &bridge.key, PRIVATE)?;
    write(&files.certificate, &bridge.certificate, PUBLIC)?;
    Ok(files)
}

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| {
        match source.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
            _ => Error::File { what: "write", path: path.to_owned(), source },
        }
    })
}

/// From an hour ago, since clocks differ.
fn validity(years: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::hours(1), now + Duration::days(365 * years))
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use anabranch_runtime::tls::{client_config, server_config};

    #[test]
    fn what_an_http_server_gets_is_for_no_bridge() {
        let ca = make_ca(&"east".parse().unwrap()).unwrap();
        let hosts = ["east".to_owned(), "127.0.0.1".to_owned()];
        let issued = issue_to_http_server(&ca, &hosts).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().iter_common_name().count(), 0);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let names = certificate.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 2);
    }

    #[test]
    fn files_are_written_once_and_work() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("east");
        let cluster = "east".parse().unwrap();
        let hosts = ["east.example".to_owned(), "127.0.0.1".to_owned()];
        let files = write_files(&inside, &cluster, &hosts).unwrap();
        for (path, mode) in [(&files.ca_key, 0o600), (&files.key, 0o600), (&files.ca, 0o644)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let tls = files.tls(vec![files.ca.clone()]);
        server_config(&tls).unwrap();
        client_config(&tls).unwrap();
        let before = fs::read(&files.ca).unwrap();
        assert!(matches!(write_files(&inside, &cluster, &hosts), Err(Error::Exists(_))));
        assert_eq!(fs::read(&files.ca).unwrap(), before);
    }
}
