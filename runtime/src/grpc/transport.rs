//! How calls get to a node: over the network, or within the process that the node is in.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use super::Here;
#[cfg(feature = "simulation")]
use crate::simulation::Link;

type StdError = Box<dyn std::error::Error + Send + Sync>;

/// How calls get to a node.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Over the network.
    Network(Channel),
    /// It is in this process.
    Here(Here),
    /// Over the network of a simulation.
    #[cfg(feature = "simulation")]
    Simulated(Link),
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match self {
            Transport::Network(channel) => channel.poll_ready(context).map_err(StdError::from),
            Transport::Here(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "simulation")]
            Transport::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self {
            Transport::Network(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(StdError::from) })
            }
            Transport::Here(here) => {
                let answer = here.clone().call(request);
                Box::pin(async move { Ok(answer.await) })
            }
            #[cfg(feature = "simulation")]
            Transport::Simulated(link) => {
                let answer = link.clone().call(request);
                Box::pin(async move { answer.await.map_err(StdError::from) })
            }
        }
    }
}
