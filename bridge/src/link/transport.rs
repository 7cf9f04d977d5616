//! Connections between bridges: TCP with mutual TLS 1.3. In a simulation they go over its network,
//! and what a certificate would name is the cluster that dials or is dialled.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[cfg(feature = "simulation")]
use anabranch_runtime::simulation::{Accepting, SimulatedStream, current};

use super::trust::{certified_cluster, explain};
use crate::error::Error;

/// How long to wait for a connection, and then for TLS.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long whoever connects may take to show a certificate.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection whose other side has shown who it is.
pub(crate) struct Connection {
    pub(super) stream: Box<dyn Duplex>,
    /// The cluster that its certificate names.
    pub(super) certified: Option<String>,
    /// Where it is.
    pub(super) address: String,
}

/// Dials other bridges.
#[derive(Clone)]
pub(crate) enum Dialler {
    Tls(Arc<ClientConfig>),
    /// As the process of this name.
    #[cfg(feature = "simulation")]
    Simulated(String),
}

/// Takes connections.
pub(crate) enum Listener {
    Tls(TcpListener, Arc<ServerConfig>),
    #[cfg(feature = "simulation")]
    Simulated(Accepting),
}

/// Who has connected, and may be anybody.
pub(crate) enum Caller {
    Tls(TcpStream, String, Arc<ServerConfig>),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedStream),
}

impl Dialler {
    /// Dials `host:port`.
    pub(super) async fn dial(&self, address: &str) -> Result<Connection, Error> {
        let name = server_name(address)?;
        let failed = |source| Error::Connection { what: "dial", peer: address.to_owned(), source };
        match self {
            Dialler::Tls(tls) => {
                let tcp = within(TcpStream::connect(address)).await.map_err(failed)?;
                tcp.set_nodelay(true).map_err(failed)?;
                let stream = within(TlsConnector::from(Arc::clone(tls)).connect(name, tcp));
                let stream = stream.await.map_err(|error| explain(error, "dial", address))?;
                let certified = certified(stream.get_ref().1.peer_certificates());
                let address = address.to_owned();
                Ok(Connection { stream: Box::new(stream), certified, address })
            }
            #[cfg(feature = "simulation")]
            Dialler::Simulated(from) => {
                let world = current().ok_or_else(|| Error::protocol("no simulation"))?;
                let to = name.to_str();
                let stream = within(world.network().connect(from, &to)).await.map_err(failed)?;
                Ok(stream.into())
            }
        }
    }
}

impl Listener {
    /// The next who connects.
    pub(crate) async fn accept(&mut self) -> io::Result<Caller> {
        match self {
            Listener::Tls(listener, tls) => {
                let (tcp, address) = listener.accept().await?;
                Ok(Caller::Tls(tcp, address.to_string(), Arc::clone(tls)))
            }
            #[cfg(feature = "simulation")]
            Listener::Simulated(accepting) => Ok(Caller::Simulated(accepting.accept().await)),
        }
    }
}

impl Caller {
    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        match self {
            Caller::Tls(_, address, _) => address,
            #[cfg(feature = "simulation")]
            Caller::Simulated(stream) => &stream.peer,
        }
    }

    /// Has it show who it is.
    pub(super) async fn prove(self) -> Result<Connection, Error> {
        match self {
            Caller::Tls(tcp, address, tls) => {
                let failed =
                    |source| Error::Connection { what: "accept", peer: address.clone(), source };
                tcp.set_nodelay(true).map_err(failed)?;
                // So far anybody can have connected.
                let accepted = timeout(ACCEPT_TIMEOUT, TlsAcceptor::from(tls).accept(tcp)).await;
                let accepted = accepted.map_err(io::Error::from).and_then(|accepted| accepted);
                let stream = accepted.map_err(|error| explain(error, "accept", &address))?;
                let certified = certified(stream.get_ref().1.peer_certificates());
                Ok(Connection { stream: Box::new(stream), certified, address })
            }
            #[cfg(feature = "simulation")]
            Caller::Simulated(stream) => Ok(stream.into()),
        }
    }
}

#[cfg(feature = "simulation")]
impl From<SimulatedStream> for Connection {
    /// Bridges are named after their clusters.
    fn from(SimulatedStream { peer, stream }: SimulatedStream) -> Self {
        let certified = peer.split('.').next().map(str::to_owned);
        Connection { stream: Box::new(stream), certified, address: peer }
    }
}

/// The cluster that the other side's certificate names.
fn certified(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    certificates?.first().and_then(certified_cluster)
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DIAL_TIMEOUT, step).await?
}

/// The host of `host:port`, as the certificate has to name it.
fn server_name(address: &str) -> Result<ServerName<'static>, Error> {
    let wrong =
        |reason: &str| Error::Address { address: address.to_owned(), reason: reason.to_owned() };
    let (host, _) = address.rsplit_once(':').ok_or_else(|| wrong("it is not host:port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| wrong("its host cannot be a host's name"))
}
