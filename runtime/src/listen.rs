//! Connections that clients of HTTP open: plain ones, or over TLS if there is a certificate.
//!
//! A connection is handed over before its handshake, which is done when it is read: so nobody waits
//! behind one that hangs or fails. It counts as a connection from its first moment, though, and
//! holds one of the places that [`Limits`] grants. A handshake has a time limit of its own, 10
//! seconds, for until then anybody can have connected; if the head of a request has less time, that
//! ends it. So whoever opens connections faster than this frees them keeps others waiting: that
//! costs them a socket each, and what stands before the server has to refuse it.

mod serve;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::retry::Backoff;
use crate::tls::ServedCertificate;

pub use serve::{Limits, serve};

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is answered to a request that comes without TLS.
const SPEAKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\r\n\
    this address speaks TLS: write https:// instead of http://\n";

/// Where connections come in.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    certificate: Option<ServedCertificate>,
    handshake: Duration,
}

impl Listener {
    /// One that speaks TLS, and nothing else, if it has a certificate.
    pub fn new(socket: TcpListener, certificate: Option<ServedCertificate>) -> Self {
        Listener { socket, certificate, handshake: HANDSHAKE }
    }

    /// What an address of it begins with.
    pub fn scheme(&self) -> &'static str {
        if self.certificate.is_some() { "https" } else { "http" }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The next connection. If one cannot be accepted, that is logged and tried again.
    async fn accept(&self) -> Stream {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            match self.socket.accept().await {
                Ok((socket, _)) => {
                    // Replies are written whole: waiting for more would only delay them.
                    let _ = socket.set_nodelay(true);
                    return self.stream(socket);
                }
                // Of this connection, or too many open files: others go on and free some.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn stream(&self, socket: TcpStream) -> Stream {
        let Some(certificate) = &self.certificate else { return Stream(State::Plain(socket)) };
        let handshake = timeout(self.handshake, shake_hands(socket, certificate.config()));
        Stream(State::Opening(Box::pin(async { handshake.await? })))
    }
}

impl From<TcpListener> for Listener {
    /// One without TLS.
    fn from(socket: TcpListener) -> Self {
        Listener::new(socket, None)
    }
}

type Opened = TlsStream<TcpStream>;

async fn shake_hands(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Opened> {
    // A handshake begins with a byte that is no letter, a request with its method.
    let mut first = [0];
    if socket.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
        refuse(socket).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request came without TLS"));
    }
    TlsAcceptor::from(config).accept(socket).await
}

/// Tells whoever speaks without TLS that it is needed. What they have sent is not looked at.
async fn refuse(mut socket: TcpStream) -> io::Result<()> {
    socket.write_all(SPEAKS_TLS).await?;
    socket.shutdown().await?;
    // What is not taken of what they send would break the connection before they read that.
    tokio::io::copy(&mut socket, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A connection.
struct Stream(State);

enum State {
    Plain(TcpStream),
    /// Before TLS stands. Whoever reads or writes takes it further.
    Opening(Pin<Box<dyn Future<Output = io::Result<Opened>> + Send>>),
    Tls(Box<Opened>),
    /// TLS did not come to stand.
    Failed,
}

impl Stream {
    /// Has TLS come to stand.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Opening(handshake) = &mut self.0 {
            let opened = ready!(handshake.as_mut().poll(context));
            self.0 = State::Failed;
            self.0 = State::Tls(Box::new(opened?));
        }
        match self.0 {
            State::Plain(_) | State::Tls(_) => Poll::Ready(Ok(())),
            State::Opening(_) | State::Failed => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            State::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            State::Opening(_) | State::Failed => {
                ready!(self.poll_open(context))?;
                self.poll_read(context, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            State::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            State::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            State::Opening(_) | State::Failed => {
                ready!(self.poll_open(context))?;
                self.poll_write(context, bytes)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            State::Plain(socket) => Pin::new(socket).poll_write_vectored(context, pieces),
            State::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            State::Opening(_) | State::Failed => {
                ready!(self.poll_open(context))?;
                self.poll_write_vectored(context, pieces)
            }
        }
    }

    /// Both kinds of connections take several pieces at once.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Plain(socket) => Pin::new(socket).poll_flush(context),
            State::Tls(stream) => Pin::new(stream).poll_flush(context),
            // Nothing was written.
            State::Opening(_) | State::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            State::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            State::Opening(_) | State::Failed => {
                self.0 = State::Failed;
                Poll::Ready(Ok(()))
            }
        }
    }
}
