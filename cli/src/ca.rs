//! `anabranch ca`: a cluster's certificate authority, and certificates for its bridges and its HTTP
//! servers.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anabranch_bridge::identity::{self, Identity, IdentityFiles};
use anabranch_runtime::tls::CertificateFiles;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result};
use clap::Subcommand;
use x509_parser::pem::parse_x509_pem;

use crate::failure::Failure;
use crate::output::print;

/// Make a certificate authority for a cluster, and certificates for its bridges and HTTP servers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority: ca.pem, which other clusters get to trust this one, and ca.key, which
    /// nobody else must see.
    Init {
        /// Where to put them; made if it is missing.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster's name; that of DIR by default.
        #[arg(long, value_name = "CLUSTER")]
        name: Option<ClusterName>,
    },
    /// Issue a certificate to a bridge: cert.pem and key.pem.
    Issue {
        /// Where the authority is; the certificate goes there as well.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster the bridge belongs to.
        #[arg(long, value_name = "CLUSTER")]
        cluster: ClusterName,
        /// A name or an IP address under which others dial the bridge; repeat it for several.
        #[arg(long = "host", value_name = "HOST", required = true)]
        hosts: Vec<String>,
        /// Replace the certificate that is there, for example when it is about to expire.
        #[arg(long)]
        replace: bool,
    },
    /// Issue a certificate to an HTTP server: https-cert.pem and https-key.pem. Who calls it trusts
    /// it with ca.pem.
    IssueHttps {
        /// Where the authority is; the certificate goes there as well.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A name or an IP address under which the server is called; repeat it for several.
        #[arg(long = "host", value_name = "HOST", required = true)]
        hosts: Vec<String>,
        /// Replace the certificate that is there; a server that shows it takes the new one within a
        /// minute.
        #[arg(long)]
        replace: bool,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Init { dir, name } => init(&dir, name),
        Command::Issue { dir, cluster, hosts, replace } => issue(&dir, &cluster, &hosts, replace),
        Command::IssueHttps { dir, hosts, replace } => issue_https(&dir, &hosts, replace),
    }
}

fn init(dir: &Path, name: Option<ClusterName>) -> Result<()> {
    let files = IdentityFiles::in_directory(dir);
    let name = match name {
        Some(name) => name,
        None => name_of(dir)?,
    };
    fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    let Identity { certificate, key } = identity::make_ca(&name).context("make an authority")?;
    write(&files.ca_key, &key, PRIVATE)?;
    write(&files.ca, &certificate, PUBLIC)?;
    print(files.ca.display())
}

/// A cluster's name from that of its directory.
fn name_of(dir: &Path) -> Result<ClusterName> {
    let named = std::path::absolute(dir).ok();
    let name = named.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).ok_or_else(|| {
        Failure::usage(format!("{} is not named like a cluster", dir.display()))
            .with_hint("say which cluster it is for with --name")
            .into()
    })
}

fn issue(dir: &Path, cluster: &ClusterName, hosts: &[String], replace: bool) -> Result<()> {
    let IdentityFiles { certificate, key, .. } = IdentityFiles::in_directory(dir);
    let files = CertificateFiles { certificate, key };
    let (ca, path) = authority(dir)?;
    belongs_to(&ca, &path, cluster)?;
    let issued = identity::issue(&ca, cluster, hosts);
    keep(&issued.with_context(|| issuing(&path))?, &files, replace)
}

fn issue_https(dir: &Path, hosts: &[String], replace: bool) -> Result<()> {
    let files = IdentityFiles::of_http_server(dir);
    let (ca, path) = authority(dir)?;
    let issued = identity::issue_to_http_server(&ca, hosts);
    keep(&issued.with_context(|| issuing(&path))?, &files, replace)
}

/// The authority in a directory, and where its certificate is.
fn authority(dir: &Path) -> Result<(Identity, PathBuf)> {
    let files = IdentityFiles::in_directory(dir);
    let ca = Identity { certificate: read(&files.ca)?, key: read(&files.ca_key)? };
    Ok((ca, files.ca))
}

fn issuing(authority: &Path) -> String {
    format!("issue a certificate with {}", authority.display())
}

/// Puts what was issued into its files.
fn keep(issued: &Identity, files: &CertificateFiles, replace: bool) -> Result<()> {
    let Identity { certificate, key } = issued;
    if replace {
        // Whatever can fail has been done before the first of the two is exchanged.
        let key = beside(&files.key, key, PRIVATE)?;
        let certificate = beside(&files.certificate, certificate, PUBLIC)?;
        exchange(&key, &files.key)?;
        exchange(&certificate, &files.certificate)?;
    } else {
        if files.certificate.exists() {
            return Err(there_already(&files.certificate));
        }
        write(&files.key, key, PRIVATE)?;
        write(&files.certificate, certificate, PUBLIC)?;
    }
    print(files.certificate.display())
}

/// An authority issues for its own cluster only: whoever trusts it takes what it issues for that.
fn belongs_to(ca: &Identity, path: &Path, cluster: &ClusterName) -> Result<()> {
    let unreadable = || Failure::usage(format!("{} is not a certificate", path.display()));
    let (_, pem) = parse_x509_pem(ca.certificate.as_bytes()).map_err(|_| unreadable())?;
    let certificate = pem.parse_x509().map_err(|_| unreadable())?;
    let name = certificate.subject().iter_common_name().next();
    let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
    if name.starts_with(&format!("{cluster} CA ")) {
        return Ok(());
    }
    let path = path.display();
    let failure = Failure::usage(format!("{path} is the authority '{name}', not one of {cluster}"));
    Err(failure.with_hint("each cluster has an authority of its own: 'anabranch ca init'").into())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("read {}: {error}", path.display()))
            .with_hint("make an authority with 'anabranch ca init'")
            .into()
    })
}

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a file that is not there.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(there_already(path)),
        written => written.with_context(|| format!("write {}", path.display())),
    }
}

fn there_already(path: &Path) -> anyhow::Error {
    let failure = Failure::usage(format!("{} is there already", path.display()));
    failure.with_hint("--replace replaces a certificate that was issued, but no authority").into()
}

/// Writes what is to take the place of a file; its path.
fn beside(path: &Path, text: &str, mode: u32) -> Result<PathBuf> {
    let new = path.with_extension("new");
    // Left behind if an earlier run was killed.
    let _ = fs::remove_file(&new);
    write(&new, text, mode)?;
    Ok(new)
}

fn exchange(new: &Path, path: &Path) -> Result<()> {
    let context = || format!("replace {}: repeat the command with --replace", path.display());
    fs::rename(new, path).with_context(context)
}

#[cfg(test)]
mod tests {
    use anabranch_runtime::tls::ServedCertificate;

    use super::*;

    #[test]
    fn an_authority_issues_certificates_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let east = dir.path().join("east");
        init(&east, None).unwrap();
        let cluster = "east".parse().unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        issue(&east, &cluster, &hosts, false).unwrap();
        let first = read(&east.join("cert.pem")).unwrap();
        let error = issue(&east, &cluster, &hosts, false).unwrap_err().to_string();
        assert!(error.ends_with("cert.pem is there already"), "{error}");
        issue(&east, &cluster, &hosts, true).unwrap();
        assert_ne!(read(&east.join("cert.pem")).unwrap(), first);
        assert!(init(&east, None).is_err());
        assert!(init(&dir.path().join("Not A Name"), None).is_err());
        let west = "west".parse().unwrap();
        let error = issue(&east, &west, &hosts, true).unwrap_err().to_string();
        assert!(error.ends_with("not one of west"), "{error}");
    }

    #[test]
    fn an_http_server_gets_a_certificate_that_it_can_show() {
        let dir = tempfile::tempdir().unwrap();
        let east = dir.path().join("east");
        let hosts = ["localhost".to_owned(), "::1".to_owned()];
        let error = issue_https(&east, &hosts, false).unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
        init(&east, None).unwrap();
        issue_https(&east, &hosts, false).unwrap();
        let files = IdentityFiles::of_http_server(&east);
        ServedCertificate::open(files.clone()).unwrap();
        let first = read(&files.certificate).unwrap();
        assert!(issue_https(&east, &hosts, false).is_err());
        assert_eq!(read(&files.certificate).unwrap(), first);
        issue_https(&east, &hosts, true).unwrap();
        assert_ne!(read(&files.certificate).unwrap(), first);
        ServedCertificate::open(files).unwrap();
    }
}
