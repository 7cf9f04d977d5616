//! A network between services of one thread: calls take a while, links are cut and nodes die.
//!
//! A call runs in the task that makes it. Addresses name both ends, `server.from.client`, so that a
//! link can be cut one way: then requests of one side get nowhere, and answers to the other one do.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http;
use hyper::body::{Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::ServiceExt;

use super::current;
use super::streams::Listening;
use crate::watched::Watched;

/// How long it takes to find out that nothing comes any more, as with keep-alive.
const DEAD: Duration = Duration::from_millis(1_200);

/// The network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    listening: Listening,
    changed: Watched<()>,
}

struct State {
    servers: BTreeMap<String, Server>,
    /// From whom to whom nothing gets.
    cut: BTreeSet<(String, String)>,
    /// How long a message takes, in microseconds.
    delay_us: Range<u64>,
    started: u64,
}

impl State {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(from.to_owned(), to.to_owned()))
    }
}

struct Server {
    routes: Routes,
    number: u64,
}

/// What is known of a way.
enum Way {
    /// Open, to the server of this number.
    Open(u64),
    /// Nobody listens there.
    Closed,
    /// Nothing gets through.
    Cut,
}

impl Default for Network {
    fn default() -> Self {
        let state = State {
            servers: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay_us: Network::USUAL_DELAY_US,
            started: 0,
        };
        Network(Arc::new(Shared {
            state: Mutex::new(state),
            listening: Listening::default(),
            changed: Watched::new(()),
        }))
    }
}

impl Network {
    /// How long a message takes if nothing else is said, in microseconds.
    pub const USUAL_DELAY_US: Range<u64> = 100..2_000;

    /// Serves under a name. What was served there before is gone.
    pub fn listen(&self, name: &str, routes: Routes) {
        let mut state = self.0.state.lock();
        state.started += 1;
        let server = Server { routes: routes.prepare(), number: state.started };
        state.servers.insert(name.to_owned(), server);
        drop(state);
        self.0.changed.change(|()| {});
    }

    /// Nobody listens there any more; calls that are under way break off.
    pub fn close(&self, name: &str) {
        self.0.state.lock().servers.remove(name);
        self.0.changed.change(|()| {});
    }

    /// Nothing gets from one to the other any more, or it does again.
    pub fn cut(&self, from: &str, to: &str, is_cut: bool) {
        let way = (from.to_owned(), to.to_owned());
        let mut state = self.0.state.lock();
        if is_cut {
            state.cut.insert(way)
        } else {
            state.cut.remove(&way)
        };
        drop(state);
        self.0.changed.change(|()| {});
    }

    /// How long a message takes from now on, in microseconds.
    pub fn set_delay(&self, delay_us: Range<u64>) {
        self.0.state.lock().delay_us = delay_us;
    }

    pub(super) fn link(&self, address: &str) -> Link {
        let (to, from) = address.split_once(".from.").unwrap_or((address, "outside"));
        Link { network: self.clone(), from: from.to_owned(), to: to.to_owned() }
    }

    fn way(&self, from: &str, to: &str) -> Way {
        let state = self.0.state.lock();
        let is_cut = state.is_cut(from, to);
        match state.servers.get(to) {
            _ if is_cut => Way::Cut,
            None => Way::Closed,
            Some(server) => Way::Open(server.number),
        }
    }

    pub(super) fn listening(&self) -> &Listening {
        &self.0.listening
    }

    /// Waits until something gets from one to the other.
    pub(super) async fn opened(&self, from: &str, to: &str) {
        let mut changed = self.0.changed.watch();
        while self.0.state.lock().is_cut(from, to) {
            changed.changed().await;
        }
    }

    pub(super) fn delay(&self) -> Duration {
        let Range { start, end } = self.0.state.lock().delay_us.clone();
        let chance = current().map_or(0, |world| world.number());
        Duration::from_micros(start + chance % (end - start).max(1))
    }

    /// Takes a message there; which server it is that takes it.
    async fn carry(&self, from: &str, to: &str) -> Result<u64, Status> {
        sleep(self.delay()).await;
        match self.way(from, to) {
            Way::Open(number) => Ok(number),
            Way::Closed => Err(Status::unavailable("nobody listens there")),
            Way::Cut => Err(self.give_up(from, to).await),
        }
    }

    /// Waits until it is clear that nothing comes any more, on a way that is cut.
    async fn give_up(&self, from: &str, to: &str) -> Status {
        sleep(DEAD).await;
        Status::unavailable(format!("nothing gets from {from} to {to}"))
    }

    /// Resolves when a server can no longer be talked to.
    async fn broken(self, from: String, to: String, number: u64) -> Status {
        let mut changed = self.0.changed.watch();
        loop {
            match (self.way(&from, &to), self.way(&to, &from)) {
                (Way::Open(now), _) if now != number => return Status::unavailable("it has died"),
                (Way::Closed, _) => return Status::unavailable("it has died"),
                (Way::Cut, _) | (_, Way::Cut) => return self.give_up(&from, &to).await,
                _ => {}
            }
            changed.changed().await;
        }
    }

    fn routes(&self, to: &str) -> Option<Routes> {
        self.0.state.lock().servers.get(to).map(|server| server.routes.clone())
    }
}

/// A way from one process to another.
#[derive(Clone)]
pub struct Link {
    network: Network,
    from: String,
    to: String,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) async fn call(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let Link { network, from, to } = self;
        let number = network.carry(&from, &to).await?;
        let broken = network.clone().broken(from.clone(), to.clone(), number);
        let mut broken: Breaks = Box::pin(broken);
        let gone = || Status::unavailable("nobody listens there");
        let answer = network.routes(&to).ok_or_else(gone)?.oneshot(request);
        let response = tokio::select! {
            biased;
            status = &mut broken => return Err(status),
            response = answer => response.unwrap_or_else(|never: Infallible| match never {}),
        };
        let back = async {
            sleep(network.delay()).await;
            match network.way(&to, &from) {
                Way::Cut => Err(network.give_up(&to, &from).await),
                _ => Ok(()),
            }
        };
        tokio::select! {
            biased;
            status = &mut broken => return Err(status),
            arrived = back => arrived?,
        }
        let (head, body) = response.into_parts();
        Ok(http::Response::from_parts(head, Body::new(Breakable { body, broken })))
    }
}

type Breaks = Pin<Box<dyn Future<Output = Status> + Send>>;

/// An answer that breaks off with its link.
struct Breakable {
    body: Body,
    broken: Breaks,
}

impl hyper::body::Body for Breakable {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if let Poll::Ready(status) = self.broken.as_mut().poll(context) {
            self.broken = Box::pin(std::future::pending());
            self.body = Body::empty();
            return Poll::Ready(Some(Err(status.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(StdError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
