//! What keeps a server up when more comes than it can do: everything that waits is counted.
//!
//! Requests, loads and subscriptions that run are limited in number, the bodies of statements in
//! bytes together, with what their values take once they are parsed: of short values that is many
//! times as much. (What a store node in the same process parses again is not counted.) Whoever comes
//! above a limit is told at once to come again, and nothing of it was done. Bodies that are too
//! large, pause too long or only trickle are given up.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use memchr::{memchr2, memchr3};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::IngestConfig;
use crate::error::{BULK, Code, Refusal};

/// Bytes are counted in units of this many.
const UNIT: usize = 1024;
/// Memory for a body is reserved as it arrives, in steps of this many bytes: what a client only
/// promises to send takes nothing from others.
const STEP_BYTES: usize = 64 * UNIT;
/// So many bytes of a load have to arrive in the time for which its body may pause: one that
/// trickles would hold its place for ever.
const PACE_BYTES: usize = 4 * UNIT;
/// How much of a refused body is read, so that its sender gets to read the reply.
const DISCARDED_BYTES: usize = 64 << 20;
/// How long a refused body is read.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The limits of one server.
#[derive(Clone)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    loads: Arc<Semaphore>,
    subscriptions: Arc<Semaphore>,
    units: Arc<Semaphore>,
    #[cfg(test)]
    max_requests: usize,
    max_body_bytes: usize,
    max_buffered_bytes: usize,
    max_load_bytes: u64,
    pause: Duration,
}

/// A place among those that run. It is free again when this is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A body that was read whole. Its share of the memory for bodies is free again when nobody has its
/// bytes any more: they may still be parsed when who sent them has gone away.
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
}

/// The bytes of a body, and its share of the memory for bodies.
struct Shared {
    bytes: BytesMut,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Limits {
    pub(crate) fn new(config: &IngestConfig) -> Self {
        let units = config.max_buffered_bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Limits {
            requests: Arc::new(Semaphore::new(config.max_requests)),
            loads: Arc::new(Semaphore::new(config.max_loads)),
            subscriptions: Arc::new(Semaphore::new(config.max_subscriptions)),
            units: Arc::new(Semaphore::new(units)),
            #[cfg(test)]
            max_requests: config.max_requests,
            max_body_bytes: config.max_body_bytes,
            max_buffered_bytes: units.saturating_mul(UNIT),
            max_load_bytes: config.max_load_bytes,
            pause: config.body_idle_timeout(),
        }
    }

    /// A place for a request.
    pub(crate) fn request(&self) -> Result<Place, Refusal> {
        place(&self.requests, "as many requests run as may at once")
    }

    /// A place for somebody who follows a live query.
    pub(crate) fn subscription(&self) -> Result<Place, Refusal> {
        place(&self.subscriptions, "as many follow live queries as may at once")
    }

    /// How many requests run.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.max_requests - self.requests.available_permits()
    }

    /// A place for a bulk load.
    pub(crate) fn load(&self) -> Result<Place, Refusal> {
        place(&self.loads, "as many bulk loads run as may at once")
    }

    /// Reads a body whole.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        deadline: Instant,
    ) -> Result<Whole, Refusal> {
        let expected = content_length(headers)?;
        let mut stream = body.into_data_stream();
        let result = self.collect(expected, &mut stream, deadline).await;
        if result.is_err() {
            discard(headers, stream);
        }
        result
    }

    async fn collect(
        &self,
        expected: Option<u64>,
        stream: &mut BodyDataStream,
        deadline: Instant,
    ) -> Result<Whole, Refusal> {
        let most = self.max_body_bytes;
        let expected = expected.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if expected.is_some_and(|bytes| bytes > most) {
            return Err(too_large(most as u64));
        }
        let mut share = self.reserve(0)?;
        let (mut reserved, mut values) = (0, Values::default());
        let mut bytes = BytesMut::with_capacity(expected.unwrap_or(0).min(STEP_BYTES));
        loop {
            let until = deadline.min(Instant::now() + self.pause);
            let Ok(chunk) = timeout_at(until, stream.next()).await else {
                return Err(if until == deadline { too_late() } else { too_slow(self.pause) });
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|error| broken(&error))?;
            let length = bytes.len() + chunk.len();
            if length > most {
                return Err(too_large(most as u64));
            }
            values.arrived(&chunk);
            let taken = length.saturating_add(values.bytes);
            if taken > self.max_buffered_bytes {
                return Err(too_many_values(self.max_buffered_bytes));
            }
            if taken > reserved {
                // A step ahead, but not beyond the end, nor beyond what there is.
                let end = expected.unwrap_or(most).saturating_add(values.bytes);
                let ahead = end.min(self.max_buffered_bytes).saturating_sub(reserved);
                let step = STEP_BYTES.min(ahead).max(taken - reserved).next_multiple_of(UNIT);
                share.merge(self.reserve(step)?);
                reserved += step;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Whole { bytes: Bytes::from_owner(Shared { bytes, _share: share }) })
    }

    /// A share of the memory for bodies.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.units.clone().try_acquire_many_owned(units).map_err(|_| {
            Refusal::new(Code::Overloaded, "the bodies of running requests take too much memory")
        })
    }

    /// The chunks of a body that is taken as it comes; it ends at the first refusal.
    pub(crate) fn chunks(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<impl Stream<Item = Result<Bytes, Refusal>> + Unpin + use<>, Refusal> {
        let (most, pause) = (self.max_load_bytes, self.pause);
        let stream = body.into_data_stream();
        if content_length(headers)?.is_some_and(|bytes| bytes > most) {
            discard(headers, stream);
            return Err(too_large(most));
        }
        let pace = Pace { pause, left: pause, bytes: 0 };
        // Who discards the rest asks once more after the end.
        let chunks = stream::unfold(Some((stream, 0, pace)), move |reading| async move {
            let (mut stream, taken, mut pace) = reading?;
            // Only waiting for the client counts, not the time between that others take.
            let started = Instant::now();
            let chunk = match timeout(pace.left, stream.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Some((Err(broken(&error)), None)),
                Err(_) if pace.bytes == 0 => return Some((Err(too_slow(pause)), None)),
                Err(_) => return Some((Err(trickles(pause)), None)),
            };
            pace.arrived(chunk.len(), started.elapsed());
            let taken = taken + chunk.len() as u64;
            if taken > most {
                return Some((Err(too_large(most)), None));
            }
            Some((Ok(chunk), Some((stream, taken, pace))))
        });
        Ok(Box::pin(chunks.fuse()))
    }
}

/// What the values of a body take once it is parsed, beside its bytes: about, by the marks between
/// them, since it has to be known before.
#[derive(Default)]
struct Values {
    bytes: usize,
    within: Within,
    /// Of the text that is read, or was the last.
    name: Name,
    /// Whether the next text, or the one that is read, is a statement.
    is_statement: bool,
}

/// Where in JSON a chunk ends.
#[derive(Clone, Copy, Default)]
enum Within {
    #[default]
    Values,
    Text,
    /// Behind a backslash in a text.
    Escape,
}

/// Whether a text is the name of the field that is a statement.
#[derive(Clone, Copy, Default)]
enum Name {
    #[default]
    Other,
    /// It is so far, and this is what it lacks.
    Lacks(&'static [u8]),
    /// It may be: what its escapes stand for is not looked at.
    Escaped,
}

/// The field of a body that is a statement: a text, and has values in it, too.
const STATEMENT: &[u8] = b"statement";
/// What a text takes on the heap, about, if it is short.
const TEXT_BYTES: usize = 32;

impl Values {
    fn arrived(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some((&mark, behind)) = rest.split_first() {
            rest = match self.within {
                Within::Values => {
                    self.outside(mark);
                    behind
                }
                Within::Text => self.text(rest),
                Within::Escape => {
                    self.within = Within::Text;
                    behind
                }
            };
        }
    }

    /// Takes a byte that is in no text.
    fn outside(&mut self, mark: u8) {
        self.bytes += taken_at(mark);
        match mark {
            b'"' => (self.within, self.name) = (Within::Text, Name::Lacks(STATEMENT)),
            b':' => self.is_statement = matches!(self.name, Name::Lacks([]) | Name::Escaped),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.is_statement = false,
        }
    }

    /// Takes a text up to its next mark, and gives what is behind that.
    fn text<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let next = if self.is_statement {
            memchr3(b'"', b'\\', b',', rest)
        } else {
            memchr2(b'"', b'\\', rest)
        };
        let (plain, rest) = rest.split_at(next.unwrap_or(rest.len()));
        if let Name::Lacks(name) = self.name {
            self.name = name.strip_prefix(plain).map_or(Name::Other, Name::Lacks);
        }
        let Some((&mark, behind)) = rest.split_first() else { return rest };
        match (mark, self.name) {
            (b'"', _) => self.within = Within::Values,
            (b'\\', Name::Lacks(_)) => (self.within, self.name) = (Within::Escape, Name::Escaped),
            (b'\\', _) => self.within = Within::Escape,
            _ => self.bytes += size_of::<Value>(),
        }
        behind
    }
}

/// What memory, in bytes, is taken by what begins at such a mark, or is behind it.
fn taken_at(mark: u8) -> usize {
    const VALUE: usize = size_of::<Value>();
    const NAME: usize = size_of::<String>();
    match mark {
        b'"' => TEXT_BYTES,
        b',' => VALUE,
        // Where the name's text is; that itself counts as any other.
        b':' => NAME,
        // With its first item an array has room for four.
        b'[' => 4 * VALUE,
        // With its first field an object has room for eleven.
        b'{' => 11 * (NAME + VALUE),
        _ => 0,
    }
}

/// How fast a body arrives.
struct Pace {
    pause: Duration,
    /// How long is left for the next [`PACE_BYTES`].
    left: Duration,
    /// How many of them are there.
    bytes: usize,
}

impl Pace {
    fn arrived(&mut self, bytes: usize, waited: Duration) {
        self.bytes += bytes;
        self.left = self.left.saturating_sub(waited);
        if self.bytes >= PACE_BYTES {
            *self = Pace { left: self.pause, bytes: 0, ..*self };
        }
    }
}

fn place(places: &Arc<Semaphore>, full: &str) -> Result<Place, Refusal> {
    match places.clone().try_acquire_owned() {
        Ok(permit) => Ok(Place { _permit: permit }),
        Err(_) => Err(Refusal::new(Code::Overloaded, full)),
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        Refusal::new(Code::InvalidHeader, "the header Content-Length is not a number of bytes")
    })
}

/// Reads a refused body for a while: a client that is cut off while it sends may not read the
/// reply.
/// One that asked first whether to send at all is not made to.
pub(crate) fn discard<S, E>(headers: &HeaderMap, mut rest: S)
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Send,
{
    if headers.contains_key(header::EXPECT) {
        return;
    }
    tokio::spawn(async move {
        let reading = async {
            let mut left = DISCARDED_BYTES;
            while let Some(Ok(chunk)) = rest.next().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Either way the rest is dropped now, which closes the connection if something is left.
        let _ = timeout(DISCARD_TIME, reading).await;
    });
}

fn too_large(most: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("the body is larger than the limit of {most} bytes"))
}

fn too_many_values(most: usize) -> Refusal {
    let message = format!(
        "the body has too many values: parsed it would take more memory than the {most} bytes that all \
         bodies may have together"
    );
    Refusal::new(Code::BodyTooLarge, message)
        .with_hint(format!("send fewer values at once; {BULK}"))
}

fn too_slow(pause: Duration) -> Refusal {
    let message = format!("the body did not arrive in time; it may pause for {pause:?} at most");
    Refusal::new(Code::RequestTimeout, message)
}

fn too_late() -> Refusal {
    Refusal::new(Code::RequestTimeout, "the body did not arrive before the request's deadline")
        .with_hint("send less at once, or allow more time")
}

fn trickles(pause: Duration) -> Refusal {
    let message = format!("the body arrives too slowly: less than {PACE_BYTES} bytes in {pause:?}");
    Refusal::new(Code::RequestTimeout, message)
}

fn broken(error: &axum::Error) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("the body broke off: {error}"))
}

#[cfg(test)]
mod tests;
