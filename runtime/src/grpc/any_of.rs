//! A channel to several nodes, any of which can answer.
//!
//! Calls go to one of them. Once that one cannot be reached, or says that it starts or stops, or that
//! it is cut off, calls go to the next; whoever made a call that failed makes it again, as he has to
//! when a single node is away. Whoever waits for too long can have it passed over, too.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::http;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::{CODE_KEY, CUT_OFF, GrpcError, Here, Transport, channel, reason};
use crate::chance;
use crate::tls::TlsFiles;

/// The codes of a node that another one stands in for.
const AWAY: [&str; 4] = ["catching_up", "shutting_down", "partition_away", CUT_OFF];

/// A channel to several nodes.
#[derive(Clone, Debug)]
pub struct AnyOf {
    tls: Option<TlsFiles>,
    nodes: Arc<watch::Sender<Arc<[Node]>>>,
    /// How often it went on to the next.
    turn: Arc<AtomicUsize>,
}

impl AnyOf {
    /// A channel to the nodes at `addresses`, `host:port` each, with commas between; over TLS with
    /// `tls`. Within a runtime.
    ///
    /// # Errors
    /// If one of the addresses or the certificate cannot be used.
    pub fn new(addresses: &str, tls: Option<&TlsFiles>) -> Result<Self, GrpcError> {
        let any = AnyOf::later(tls);
        any.set(addresses)?;
        Ok(any)
    }

    /// A channel to a node in this process, without a network between.
    pub fn here(here: Here) -> Self {
        let any = AnyOf::later(None);
        let node = Node { address: "this process".to_owned(), transport: Transport::Here(here) };
        any.nodes.send_replace(Arc::new([node]));
        any
    }

    /// A channel to nodes that are not known yet: calls wait until they are set.
    pub fn later(tls: Option<&TlsFiles>) -> Self {
        let nodes = Arc::new(watch::Sender::new(Arc::default()));
        // Not all processes are to begin with the same node.
        let turn = Arc::new(AtomicUsize::new((chance::number() % (1 << 16)) as usize));
        AnyOf { tls: tls.cloned(), nodes, turn }
    }

    /// From now on the nodes are these, for all copies of this channel. Calls that are under way
    /// stay where they are. Within a runtime.
    ///
    /// # Errors
    /// As [`AnyOf::new`]; then the nodes are the same as before.
    pub fn set(&self, addresses: &str) -> Result<(), GrpcError> {
        self.nodes.send_replace(channels(addresses, self.tls.as_ref())?);
        Ok(())
    }

    /// How many nodes are known.
    pub fn count(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Which node calls go to now.
    pub fn turn(&self) -> Turn {
        Turn(self.turn.load(Ordering::Relaxed))
    }

    /// Calls go to the node behind this one, for all copies of this channel. Only the first who finds
    /// it out moves them on: the next node is not passed over.
    pub fn pass_over(&self, turn: Turn) {
        self.go_on(turn, turn.next());
    }

    /// Calls that went to one node go to another one from now on, for all copies of this channel.
    pub fn go_on(&self, Turn(from): Turn, Turn(to): Turn) {
        let _ = self.turn.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A channel of its own to the same nodes, whose calls go to this one at first.
    pub fn at(&self, Turn(turn): Turn) -> Self {
        AnyOf { turn: Arc::new(turn.into()), ..self.clone() }
    }
}

/// One of the nodes.
#[derive(Clone, Debug)]
struct Node {
    address: String,
    transport: Transport,
}

/// Which of the nodes calls go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(usize);

impl Turn {
    /// That of the node behind it.
    pub fn next(self) -> Self {
        Turn(self.0.wrapping_add(1))
    }
}

fn channels(addresses: &str, tls: Option<&TlsFiles>) -> Result<Arc<[Node]>, GrpcError> {
    let node = |address: &str| {
        let transport = channel(address, tls)?;
        Ok(Node { address: address.to_owned(), transport })
    };
    addresses.split(',').map(|address| node(address.trim())).collect()
}

type StdError = Box<dyn std::error::Error + Send + Sync>;

/// What a call fails with that reaches no node.
type Error = <Transport as Service<http::Request<Body>>>::Error;

/// What became of a call.
type Answer = Result<http::Response<Body>, Error>;

impl Service<http::Request<Body>> for AnyOf {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Which node it will be is known with the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut watching = this.nodes.subscribe();
            let nodes = Arc::clone(
                &*watching
                    .wait_for(|nodes| !nodes.is_empty())
                    .await
                    .expect("the sender is held here"),
            );
            let turn = this.turn();
            let Node { address, mut transport } = nodes[turn.0 % nodes.len()].clone();
            let answer = match poll_fn(|context| transport.poll_ready(context)).await {
                Ok(()) => transport.call(request).await,
                Err(error) => Err(error),
            };
            if is_away(&answer) {
                this.pass_over(turn);
            }
            Ok(match answer {
                Ok(response) => understood(response, &address),
                Err(error) => unreached(error, &address),
            })
        })
    }
}

fn is_away(answer: &Answer) -> bool {
    match answer {
        Err(_) => true,
        Ok(response) if is_foreign(response) => true,
        Ok(response) => response
            .headers()
            .get(CODE_KEY)
            .is_some_and(|code| AWAY.iter().any(|away| code.as_bytes() == away.as_bytes())),
    }
}

/// Whether it comes from a server of something else: ours answer whatever they are asked.
fn is_foreign(response: &http::Response<Body>) -> bool {
    !response.status().is_success()
}

/// An answer as it is, or what it means that it is none of ours.
fn understood(response: http::Response<Body>, address: &str) -> http::Response<Body> {
    if !is_foreign(&response) {
        return response;
    }
    let status = response.status();
    let what =
        format!("the server at {address} is none of the cluster's: it answers HTTP {status}");
    Status::unavailable(what).into_http()
}

/// As an answer it says which node it was.
fn unreached(error: impl Into<StdError>, address: &str) -> http::Response<Body> {
    let status = Status::from_error(error.into());
    Status::new(status.code(), format!("{address}: {}", reason(&status))).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: Option<&'static str>) -> Answer {
        let response = http::Response::builder();
        let response =
            code.into_iter().fold(response, |response, code| response.header(CODE_KEY, code));
        Ok(response.body(Body::empty()).unwrap())
    }

    #[test]
    fn another_node_stands_in_for_one_that_starts_or_stops_and_not_for_one_that_refuses() {
        assert!(is_away(&answer(Some("catching_up"))));
        assert!(is_away(&answer(Some("shutting_down"))));
        assert!(is_away(&answer(Some("cut_off"))));
        assert!(!is_away(&answer(Some("not_reached"))));
        assert!(!is_away(&answer(None)));
    }

    #[test]
    fn who_answers_as_none_of_ours_does_is_passed_over_and_named() {
        let foreign = || {
            let response = http::Response::builder().status(404);
            response.body(Body::empty()).unwrap()
        };
        assert!(is_away(&Ok(foreign())));
        let told = understood(foreign(), "10.0.0.2:7070");
        let status = Status::from_header_map(told.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("10.0.0.2:7070"), "{status:?}");
        assert!(
            Status::from_header_map(understood(answer(None).unwrap(), "a").headers()).is_none()
        );
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_reached_is_passed_over() {
        // Nobody listens there: the ports are held and not listened on.
        let held = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let addresses = held.map(|socket| socket.local_addr().unwrap().to_string()).join(",");
        let mut any = AnyOf::new(&addresses, None).unwrap();
        let Turn(first) = any.turn();
        for turn in first..first + 3 {
            assert_eq!(any.turn(), Turn(turn));
            let request = http::Request::builder().uri("/a/B").body(Body::empty()).unwrap();
            let answer = any.call(request).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            let address = addresses.split(',').nth(turn % 2).unwrap();
            assert!(status.message().starts_with(address), "{status:?} of {addresses}");
            assert_eq!(status.code(), tonic::Code::Unavailable);
        }
    }

    #[tokio::test]
    async fn a_node_is_passed_over_once_however_many_find_it_silent() {
        let any = AnyOf::new("127.0.0.1:1,127.0.0.1:2", None).unwrap();
        let first = any.turn();
        [first, first].into_iter().for_each(|turn| any.clone().pass_over(turn));
        assert_eq!(any.turn(), first.next());
        let aside = any.at(first);
        aside.pass_over(first);
        assert_eq!((aside.turn(), any.turn()), (first.next(), first.next()), "it has its own turn");
        any.go_on(first, first);
        assert_eq!(any.turn(), first.next(), "others have moved on");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let error = AnyOf::new("127.0.0.1:7070, a b", None).unwrap_err().to_string();
        assert!(error.contains("'a b'"), "{error}");
    }
}
