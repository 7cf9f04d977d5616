//! For which nodes a certificate speaks.
//!
//! Over TLS whoever shows a certificate of a trusted authority is let in. If that names nodes of the
//! cluster, as its common name or among its DNS names, what comes with it is believed as coming from
//! these and from no others. One that names none, which all nodes share for instance, speaks for
//! all.

use anabranch_core::cluster::NodeId;
use tonic::Request;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The names that could be those of nodes in the certificate with which a request came; none if it
/// came without one.
pub(super) fn names<T>(request: &Request<T>) -> Vec<NodeId> {
    let certificates = request.peer_certs();
    let leaf = certificates.as_ref().and_then(|certificates| certificates.first());
    leaf.map(|leaf| names_in(leaf)).unwrap_or_default()
}

fn names_in(certificate: &[u8]) -> Vec<NodeId> {
    // TLS has let it pass, so it does decode.
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.iter().flat_map(|names| &names.value.general_names);
    let dns = alternative.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    common.chain(dns).filter_map(|name| name.parse().ok()).collect()
}
