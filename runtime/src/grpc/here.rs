//! Calls within a process: they are handed to what answers them, without a network between.
//!
//! A connection would keep some things apart, so this does: what breaks down over a call is an answer
//! to whoever made it, and once the other side is stopped nobody reaches it any more, whoever holds a
//! way to it. Nothing here heeds the deadline in a call's metadata: callers give up by themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use axum::http;
use hyper::body::Frame;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::{coded, refusal};

/// What answers calls in this process, until it is closed.
#[derive(Clone, Debug)]
pub struct Here(Arc<Mutex<Option<Routes>>>);

impl Here {
    /// From now on these answer.
    pub fn new(routes: Routes) -> Self {
        Here(Arc::new(Mutex::new(Some(routes))))
    }

    /// Whoever calls from now on is told that it is shutting down. Calls that are under way go on.
    pub fn close(&self) {
        self.0.lock().take();
    }

    pub(super) async fn call(self, request: http::Request<Body>) -> http::Response<Body> {
        let routes = self.0.lock().clone();
        let Some(mut routes) = routes else { return closed().into_http() };
        let mut answer = Box::pin(routes.call(request));
        let answer = std::future::poll_fn(|context| {
            match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
                Ok(polled) => polled.map(Ok),
                Err(_panic) => Poll::Ready(Err(broken())),
            }
        });
        match answer.await {
            Ok(Ok(response)) => response.map(|body| Body::new(Guarded(Some(body)))),
            Ok(Err(never)) => match never {},
            Err(status) => status.into_http(),
        }
    }
}

fn closed() -> Status {
    coded(Code::Unavailable, "shutting_down", "it is being stopped")
}

/// What a broken connection would have said.
fn broken() -> Status {
    refusal(Code::Internal, "what answers the call broke down; its log says why")
}

/// The body of an answer, as long as nothing breaks down over it.
struct Guarded(Option<Body>);

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context))) {
            Ok(polled) => polled,
            Err(_panic) => {
                self.0 = None;
                Poll::Ready(Some(Err(broken())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use axum::Router;
    use axum::response::{IntoResponse, Response};
    use axum::routing::post;

    use super::super::{AnyOf, code_of};
    use super::*;

    /// A body of two parts that breaks down over the third.
    struct Breaks(usize);

    impl HttpBody for Breaks {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0 += 1;
            assert!(self.0 < 3, "it is to break down");
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
        }
    }

    fn routes() -> Routes {
        let panics = async || -> Response { panic!("it is to break down") };
        let breaks = async || axum::body::Body::new(Breaks(0)).into_response();
        let router = Router::new().route("/t/panics", post(panics));
        Routes::from(router.route("/t/breaks", post(breaks)))
    }

    async fn call(any: &AnyOf, path: &str) -> http::Response<Body> {
        let request = http::Request::post(path).body(Body::empty()).unwrap();
        any.clone().call(request).await.unwrap()
    }

    #[tokio::test]
    async fn what_breaks_down_is_an_answer() {
        let any = AnyOf::here(Here::new(routes()));
        let status = Status::from_header_map(call(&any, "/t/panics").await.headers()).unwrap();
        assert_eq!((status.code(), code_of(&status)), (Code::Internal, None));
        let mut body = call(&any, "/t/breaks").await.into_body();
        for _ in 0..2 {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "part");
        }
        let broken = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert_eq!(broken.unwrap().unwrap_err().code(), Code::Internal);
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
    }

    #[tokio::test]
    async fn nobody_reaches_what_is_closed() {
        let here = Here::new(routes());
        let any = AnyOf::here(here.clone());
        let mut under_way = call(&any, "/t/breaks").await.into_body();
        here.close();
        let status = Status::from_header_map(call(&any, "/t/breaks").await.headers()).unwrap();
        assert_eq!((status.code(), code_of(&status)), (Code::Unavailable, Some("shutting_down")));
        let frame = poll_fn(|context| Pin::new(&mut under_way).poll_frame(context)).await;
        assert!(frame.unwrap().is_ok(), "what is under way goes on");
    }
}
