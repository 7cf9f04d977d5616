//! What keeps a server up when more comes than it can do: everything that waits is counted.
//!
//! Requests and loads that run are limited in number, the bodies of statements in bytes together.
//! Whoever comes above a limit is told at once to come again, and nothing of it was done. Bodies
//! that are too large or pause too long are given up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::IngestConfig;
use crate::error::{Code, Refusal};

/// Bytes are counted in units of this many.
const UNIT: usize = 1024;
/// How much of a refused body is read, so that its sender gets to read the reply.
const DISCARDED_BYTES: usize = 64 << 20;
/// How long a refused body is read.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The limits of one server.
#[derive(Clone)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    loads: Arc<Semaphore>,
    units: Arc<Semaphore>,
    #[cfg(test)]
    max_requests: usize,
    max_body_bytes: usize,
    max_load_bytes: u64,
    pause: Duration,
}

/// A place among those that run. It is free again when this is dropped.
#[derive(Clone)]
pub(crate) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// A body that was read whole, and its share of the memory for bodies.
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    _share: Vec<OwnedSemaphorePermit>,
}

impl Limits {
    pub(crate) fn new(config: &IngestConfig) -> Self {
        let units = config.max_buffered_bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Limits {
            requests: Arc::new(Semaphore::new(config.max_requests)),
            loads: Arc::new(Semaphore::new(config.max_loads)),
            units: Arc::new(Semaphore::new(units)),
            #[cfg(test)]
            max_requests: config.max_requests,
            max_body_bytes: config.max_body_bytes,
            max_load_bytes: config.max_load_bytes,
            pause: config.body_idle_timeout(),
        }
    }

    /// A place for a request.
    pub(crate) fn request(&self) -> Result<Place, Refusal> {
        place(&self.requests, "as many requests run as may at once")
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
        let mut share = Vec::new();
        let mut reserved = expected.unwrap_or(0);
        share.push(self.reserve(reserved)?);
        let mut bytes = BytesMut::with_capacity(reserved.min(64 * UNIT));
        loop {
            let until = deadline.min(Instant::now() + self.pause);
            let Ok(chunk) = timeout_at(until, stream.next()).await else {
                return Err(too_slow(self.pause));
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|error| broken(&error))?;
            if bytes.len() + chunk.len() > most {
                return Err(too_large(most as u64));
            }
            if bytes.len() + chunk.len() > reserved {
                share.push(self.reserve(chunk.len())?);
                reserved += chunk.len();
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Whole { bytes: bytes.freeze(), _share: share })
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
        let chunks = stream::unfold(Some((stream, 0)), move |reading| async move {
            let (mut stream, taken) = reading?;
            let chunk = match timeout(pause, stream.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Some((Err(broken(&error)), None)),
                Err(_) => return Some((Err(too_slow(pause)), None)),
            };
            let taken = taken + chunk.len() as u64;
            if taken > most {
                return Some((Err(too_large(most)), None));
            }
            Some((Ok(chunk), Some((stream, taken))))
        });
        Ok(Box::pin(chunks))
    }
}

fn place(places: &Arc<Semaphore>, full: &str) -> Result<Place, Refusal> {
    match places.clone().try_acquire_owned() {
        Ok(permit) => Ok(Place { _permit: Arc::new(permit) }),
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

fn too_slow(pause: Duration) -> Refusal {
    let message = format!("the body did not arrive in time; it may pause for {pause:?} at most");
    Refusal::new(Code::RequestTimeout, message)
}

fn broken(error: &axum::Error) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("the body broke off: {error}"))
}
