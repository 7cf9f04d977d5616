//! A link at work: reads messages for its handlers, writes what is given to it, and keeps it alive.
//!
//! The reader never waits for anything but the network, so that acknowledgements and pings are seen
//! however busy the other direction is: handlers must not block, and flow control
//! ([`super::Flow`]) bounds what they are given. A side that has nothing to say says so now and
//! then; one that was not heard for a while is gone. Any byte counts as heard, since a large
//! message takes its time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Encoder, FramedRead};

use anabranch_runtime::clock::now_millis;
use anabranch_schemas::link::{Batch, Holdings, Ping, Received, Refusal, Subscribe, message::Kind};

use super::Link;
use super::codec::{FrameError, MessageCodec};
use super::handshake::refusal;
use super::transport::Duplex;
use crate::error::Error;

/// When a link is kept alive and given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// How often a side that has nothing to say says so.
    pub(crate) ping_interval: Duration,
    /// A side that was not heard for this long is gone.
    pub(crate) silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { ping_interval: Duration::from_millis(1500), silence: Duration::from_secs(5) }
    }
}

/// A side that takes no bytes for this long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// How long to wait for the other side's reason when it takes no more.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long to wait for what was begun, and for a refusal, to be sent at the end.
const TELLING: Duration = Duration::from_secs(3);
/// Messages are gathered up to this size for one write.
const GATHER_BYTES: usize = 256 * 1024;

/// What to do with messages. None of these may block.
pub(crate) struct Handlers<S, B, R, H> {
    pub(crate) subscribe: S,
    pub(crate) batch: B,
    pub(crate) received: R,
    pub(crate) holdings: H,
}

/// Runs a link until it breaks, one side refuses to go on, or `work` ends. The other side is told
/// of a refusal, and of a shutdown.
pub(crate) async fn run<S, B, R, H>(
    link: Link,
    outgoing: mpsc::Receiver<Kind>,
    handlers: Handlers<S, B, R, H>,
    work: impl Future<Output = Error>,
) -> Error
where
    S: FnMut(Subscribe) -> Result<(), Error>,
    B: FnMut(Batch) -> Result<(), Error>,
    R: FnMut(Received) -> Result<(), Error>,
    H: FnMut(Holdings) -> Result<(), Error>,
{
    let Timing { ping_interval, silence } = link.timing;
    let peer = link.peer.address;
    let mut parts = link.stream.into_parts();
    parts.codec.allow_large_frames();
    let (read, mut write) = tokio::io::split(parts.io);
    let heard = Heard::default();
    let mut frames = FramedRead::new(Listening { inner: read, heard: heard.clone() }, parts.codec);
    *frames.read_buffer_mut() = parts.read_buf;
    // Kept here, so that a frame of which a part is sent can be ended before the last words.
    let mut buffer = BytesMut::new();
    let writing = async {
        let error = write_all(&mut write, &mut buffer, outgoing, ping_interval).await;
        // What the other side said last tells more than that it closed: leave time to read it.
        tokio::time::sleep(LAST_WORDS).await;
        error
    };
    let error = tokio::select! {
        biased;
        // What the other side said tells more than what follows from it.
        error = read_all(frames, &heard, silence, handlers, &peer) => error,
        error = writing => error.of_peer(&peer),
        error = work => error,
    };
    if let Some(last) = refusal(&error) {
        let told = async {
            MessageCodec::new().encode(last, &mut buffer)?;
            write.write_all_buf(&mut buffer).await?;
            write.shutdown().await?;
            Ok::<(), FrameError>(())
        };
        if let Ok(Err(failure)) = timeout(TELLING, told).await {
            tracing::debug!(%failure, "the other side could not be told the refusal");
        }
    }
    error
}

/// The error for a refusal that the other side sent.
pub(super) fn refused(refusal: Refusal) -> Error {
    // Foreign text, of bounded length in logs.
    let shorten = |text: String, most: usize| text.chars().take(most).collect::<String>();
    Error::Refused { code: shorten(refusal.code, 64), reason: shorten(refusal.reason, 1000) }
}

async fn read_all<S, B, R, H>(
    mut frames: FramedRead<Listening, MessageCodec>,
    heard: &Heard,
    silence: Duration,
    mut handlers: Handlers<S, B, R, H>,
    peer: &str,
) -> Error
where
    S: FnMut(Subscribe) -> Result<(), Error>,
    B: FnMut(Batch) -> Result<(), Error>,
    R: FnMut(Received) -> Result<(), Error>,
    H: FnMut(Holdings) -> Result<(), Error>,
{
    loop {
        let until = heard.last() + silence;
        let handled = match timeout_at(until, frames.next()).await {
            Err(_) if Instant::now() < heard.last() + silence => continue,
            Err(_) => return Error::Silent(silence),
            Ok(None) => return Error::Closed,
            Ok(Some(Err(error))) => return error.of_peer(peer),
            Ok(Some(Ok(kind))) => match kind {
                Kind::Subscribe(subscribe) => (handlers.subscribe)(subscribe),
                Kind::Batch(batch) => (handlers.batch)(batch),
                Kind::Received(received) => (handlers.received)(received),
                Kind::Holdings(holdings) => (handlers.holdings)(holdings),
                Kind::Ping(_) => Ok(()),
                Kind::Refusal(refusal) => Err(refused(refusal)),
                Kind::Hello(_) => Err(Error::protocol("a second hello")),
            },
        };
        if let Err(error) = handled {
            return error;
        }
    }
}

async fn write_all(
    write: &mut WriteHalf<Box<dyn Duplex>>,
    buffer: &mut BytesMut,
    mut outgoing: mpsc::Receiver<Kind>,
    ping_interval: Duration,
) -> FrameError {
    let mut codec = MessageCodec::new();
    loop {
        let first = match timeout(ping_interval, outgoing.recv()).await {
            Ok(Some(kind)) => kind,
            // Nobody will send any more; the work decides when the link ends.
            Ok(None) => {
                tokio::time::sleep(ping_interval).await;
                Kind::Ping(Ping { now_ms: now_millis() })
            }
            Err(_) => Kind::Ping(Ping { now_ms: now_millis() }),
        };
        if let Err(error) = gather(&mut codec, buffer, first, &mut outgoing) {
            return error;
        }
        if let Err(error) = write_buffer(write, buffer).await {
            return error.into();
        }
    }
}

/// Encodes a message and those that are waiting behind it.
fn gather(
    codec: &mut MessageCodec,
    buffer: &mut BytesMut,
    first: Kind,
    outgoing: &mut mpsc::Receiver<Kind>,
) -> Result<(), FrameError> {
    codec.encode(first, buffer)?;
    while buffer.len() < GATHER_BYTES
        && let Ok(next) = outgoing.try_recv()
    {
        codec.encode(next, buffer)?;
    }
    Ok(())
}

async fn write_buffer<W>(write: &mut W, buffer: &mut BytesMut) -> std::io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while buffer.has_remaining() {
        timeout(STALLED, write.write_buf(buffer)).await??;
    }
    timeout(STALLED, write.flush()).await??;
    Ok(())
}

/// When the other side was heard last.
#[derive(Clone)]
struct Heard(Arc<Mutex<Instant>>);

impl Default for Heard {
    fn default() -> Self {
        Heard(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heard {
    fn last(&self) -> Instant {
        *self.0.lock().expect("nothing panics while it is held")
    }

    fn now(&self) {
        *self.0.lock().expect("nothing panics while it is held") = Instant::now();
    }
}

/// Notes when bytes arrive.
struct Listening {
    inner: ReadHalf<Box<dyn Duplex>>,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.now();
        }
        polled
    }
}
