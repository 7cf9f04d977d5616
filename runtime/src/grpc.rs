//! Calls between the processes of a cluster: how a client connects, and how errors keep their
//! stable codes.

mod any_of;
mod here;
mod transport;

use std::error::Error as _;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

#[cfg(feature = "simulation")]
use crate::simulation;
use crate::tls::TlsFiles;

pub use any_of::{AnyOf, Turn};
pub use here::Here;
pub use transport::Transport;

/// The metadata key of an error's stable code.
pub const CODE_KEY: &str = "anabranch-code";

/// The code of an answer, not an error, of a node that hears nothing of the others of its kind:
/// one of these answers better.
pub const CUT_OFF: &str = "cut_off";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a peer is pinged, and how long it may take to answer before it is given up: what waits
/// for one that was cut off or stopped short of dying goes to another within two seconds.
const KEEP_ALIVE: Duration = Duration::from_millis(400);
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_millis(800);
/// A window that lets a stream of documents use a link with some delay.
const STREAM_WINDOW: u32 = 1 << 20;
/// What all streams of a connection may have under way: more than those together that nobody reads
/// from at the moment, or these would stop all others.
pub const CONNECTION_WINDOW: u32 = 512 << 20;

/// An address or a certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use '{address}' as the address of a service: {reason}")]
pub struct GrpcError {
    address: String,
    reason: String,
}

/// A channel to `host:port`, over TLS with `tls`. It connects with the first call, and again
/// whenever the connection was lost.
pub fn channel(address: &str, tls: Option<&TlsFiles>) -> Result<Transport, GrpcError> {
    #[cfg(feature = "simulation")]
    if let Some(link) = simulation::link(address) {
        return Ok(Transport::Simulated(link));
    }
    let wrong = |reason: String| GrpcError { address: address.to_owned(), reason };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|error| wrong(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_PATIENCE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(files) = tls {
        let config = client_tls(files).map_err(|error| wrong(error.to_string()))?;
        endpoint = endpoint.tls_config(config).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(Transport::Network(endpoint.connect_lazy()))
}

/// The metadata key of where a feed begins, of an error that says that it does not go back as far
/// as was asked.
pub const FEED_START_KEY: &str = "anabranch-feed-start";

/// A number that an error has in its metadata.
pub fn number_of(status: &Status, key: &str) -> Option<u64> {
    status.metadata().get(key)?.to_str().ok()?.parse().ok()
}

/// The stable code of an error, if it came from a service and not from the connection to it.
pub fn code_of(status: &Status) -> Option<&str> {
    status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok())
}

/// The most bytes of what an error says: it may quote what was sent, and has to fit the headers of an
/// answer.
const MOST_TOLD_BYTES: usize = 1_000;

/// An error with what it says cut to what can be told.
pub fn refusal(code: Code, text: impl Into<String>) -> Status {
    let mut text = text.into();
    if text.len() > MOST_TOLD_BYTES {
        text.truncate(text.floor_char_boundary(MOST_TOLD_BYTES));
        text.push_str("...");
    }
    Status::new(code, text)
}

/// An error of a service, with its stable code.
pub fn coded(code: Code, stable: &'static str, text: impl Into<String>) -> Status {
    let mut status = refusal(code, text);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(stable));
    status
}

/// What an error says, with the innermost cause if it is of the connection: that a name is not known,
/// say, or a connection refused.
pub fn reason(status: &Status) -> String {
    let message = status.message();
    let mut cause = status.source();
    while let Some(deeper) = cause.and_then(|cause| cause.source()) {
        cause = Some(deeper);
    }
    match cause.map(ToString::to_string) {
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
        _ => message.to_owned(),
    }
}

/// Whether whoever else is asked would say the same.
pub fn is_final(status: &Status) -> bool {
    code_of(status).is_some() && status.code() == Code::InvalidArgument
}

fn client_tls(files: &TlsFiles) -> std::io::Result<ClientTlsConfig> {
    let identity =
        Identity::from_pem(std::fs::read(&files.certificate)?, std::fs::read(&files.key)?);
    let mut config = ClientTlsConfig::new().identity(identity);
    for authority in &files.trusted {
        config = config.ca_certificate(Certificate::from_pem(std::fs::read(authority)?));
    }
    Ok(config)
}
