//! Serves HTTP to those who connect, and keeps slow ones from holding on for ever.
//!
//! The head of a request has to arrive in time, and a reply has to be taken in time. Bodies of
//! requests are watched where they are read. A shutdown stops accepting at once and lets the
//! requests that run finish.
//!
//! Only HTTP/1.1 is spoken: over TLS nothing else is offered, and without it no client chooses
//! HTTP/2 by itself. There a client can hold replies back that a connection, which is all that is
//! watched here, has nothing to do with.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

use super::{Listener, Stream};
use crate::tasks::Shutdown;

/// What a server grants to those who connect.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are open at once; more wait to be accepted.
    pub connections: usize,
    /// How long a client may take to send the head of a request; also how long a connection may be
    /// idle.
    pub head: Duration,
    /// How long a client may take nothing of a reply.
    pub pause: Duration,
    /// How long a shutdown waits for requests that run, and for their replies to be taken.
    pub last_replies: Duration,
}

/// Serves `routes` until the shutdown begins and what is in flight is answered. What `counted`
/// makes for a connection lives as long as that does.
pub async fn serve<C: Send + 'static>(
    listener: Listener,
    routes: Router,
    limits: Limits,
    shutdown: &Shutdown,
    counted: impl Fn() -> C,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    while let Some((stream, place)) = accept(&listener, &places, shutdown).await {
        let stream = Paced::new(stream, limits.pause);
        let service = TowerToHyperService::new(routes.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let held = (counted(), place);
        tokio::spawn(async move {
            let _held = held;
            // A client that goes away or is too slow is nothing to worry about.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }
    drop(listener);
    // Connections that are idle are closed at once; a client that takes its reply slowly is not
    // waited for any longer.
    if timeout(limits.last_replies, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still ran when the server ended");
    }
}

/// The next connection, when there is room for it; `None` once the shutdown has begun.
async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> Option<(Stream, OwnedSemaphorePermit)> {
    let next = async {
        let place = places.clone().acquire_owned().await.ok()?;
        Some((listener.accept().await, place))
    };
    tokio::select! {
        biased;
        () = shutdown.begun() => None,
        accepted = next => accepted,
    }
}

/// A connection whose other side has to take what it is sent in time.
struct Paced<S> {
    stream: S,
    pause: Duration,
    /// Since when nothing is taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    fn new(stream: S, pause: Duration) -> Self {
        Paced { stream, pause, stalled: None }
    }

    /// Passes on what came of writing, unless the other side has taken nothing for too long.
    fn paced<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let pause = self.pause;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(pause)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.paced(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.paced(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.paced(context, closed)
    }
}
