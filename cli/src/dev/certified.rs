//! How a server that shows a certificate is called: by a name that stands in it, trusting the
//! authority that issued it. Whatever the files do not tell is left for the user to fill in.

#[cfg(test)]
mod tests;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use x509_parser::extensions::GeneralName;
use x509_parser::pem::{Pem, parse_x509_pem};

/// What stands where a name is to be filled in.
const UNKNOWN: &str = "HOST";

/// What a certificate tells to who calls its server.
#[derive(Debug, Default)]
pub(super) struct Certified {
    /// Names and IP addresses of the server.
    names: Vec<String>,
    /// The file beside it that has its authority, as 'anabranch ca' puts it.
    authority: Option<PathBuf>,
}

impl Certified {
    /// Of a certificate's file.
    pub(super) fn read(file: &Path) -> Self {
        let Some(pem) = read_pem(file) else { return Certified::default() };
        let Ok(certificate) = pem.parse_x509() else { return Certified::default() };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        let authority = file.with_file_name("ca.pem");
        let issued = |pem: &Pem| {
            let issuer = pem.parse_x509();
            issuer.is_ok_and(|it| it.subject().as_raw() == certificate.issuer().as_raw())
        };
        let is_known = read_pem(&authority).as_ref().is_some_and(issued);
        Certified { names: names.unwrap_or_default(), authority: is_known.then_some(authority) }
    }

    /// Where to call a server that listens there.
    pub(super) fn url(&self, listening: SocketAddr) -> String {
        let (host, port) = (self.host(listening.ip()), listening.port());
        match host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("https://[{ip}]:{port}"),
            Err(_) => format!("https://{host}:{port}"),
        }
    }

    /// What to do before, line by line, for a shell.
    pub(super) fn steps(&self, listening: SocketAddr) -> Vec<String> {
        let host = self.host(listening.ip());
        let mut steps = Vec::new();
        if host == UNKNOWN {
            let fill_in = "# for HOST write what the certificate is for and leads to this machine";
            steps.push(fill_in.to_owned());
        } else if host != "localhost" && host.parse::<IpAddr>().is_err() {
            steps.push(format!("# {host}, as the certificate says, has to lead to this machine"));
        }
        match &self.authority {
            Some(file) => {
                let file = file.display();
                let export = "export ANABRANCH_CA_FILE=";
                steps.push(format!("{export}\"{file}\" CURL_CA_BUNDLE=\"{file}\""));
            }
            None => {
                let unless = "# unless this machine trusts the authority of the certificate:";
                steps.push(unless.to_owned());
                steps.push("# export ANABRANCH_CA_FILE=FILE CURL_CA_BUNDLE=FILE".to_owned());
            }
        }
        steps
    }

    /// The best of the names for a server that listens there.
    fn host(&self, listening: IpAddr) -> &str {
        let ip = listening.to_string();
        let is_named = |name: &str| self.names.iter().find(|named| *named == name);
        let is_here = listening.is_loopback() || listening.is_unspecified();
        let here = || is_here.then(|| is_named("localhost")).flatten();
        // Only one that listens everywhere can be called at other addresses.
        let is_usable = |name: &&String| match name.parse::<IpAddr>() {
            Ok(_) => listening.is_unspecified(),
            Err(_) => *name != "localhost" && !name.contains('*'),
        };
        let any = || self.names.iter().find(is_usable);
        is_named(&ip).or_else(here).or_else(any).map_or(UNKNOWN, String::as_str)
    }
}

fn read_pem(file: &Path) -> Option<Pem> {
    let bytes = fs::read(file).ok()?;
    let (_, pem) = parse_x509_pem(&bytes).ok()?;
    Some(pem)
}

/// A name by which a server is called.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
            let v6 = <[u8; 16]>::try_from(*bytes).map(|ip| IpAddr::from(Ipv6Addr::from(ip)));
            v4.or(v6).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}
