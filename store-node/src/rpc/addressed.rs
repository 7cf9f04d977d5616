//! Whom a store node means when it asks another one.
//!
//! An address can be wrong: two are swapped in the configuration, or an address has gone to another
//! node. What another node holds would be a wrong answer without a sign. So every request says which
//! node of which cluster it is for, and whoever is not that one refuses it.

use anabranch_core::cluster::NodeId;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::refuse;
use crate::error::Error;
use crate::gossip::ClusterMark;

const KEY: &str = "anabranch-to";

/// Marks requests with whom they are for.
#[derive(Clone, Debug)]
pub(crate) struct Addressed(MetadataValue<Ascii>);

/// Refuses requests that are for another node.
#[derive(Clone, Debug)]
pub(crate) struct Addressee(MetadataValue<Ascii>);

fn mark(node: &NodeId, cluster: ClusterMark) -> MetadataValue<Ascii> {
    let text = format!("{cluster}/{node}");
    text.parse().expect("the name of a node is plain text")
}

impl Addressed {
    pub(crate) fn to(node: &NodeId, cluster: ClusterMark) -> Self {
        Addressed(mark(node, cluster))
    }
}

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(KEY, self.0.clone());
        Ok(request)
    }
}

impl Addressee {
    pub(crate) fn new(node: &NodeId, cluster: ClusterMark) -> Self {
        Addressee(mark(node, cluster))
    }
}

impl Interceptor for Addressee {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if request.metadata().get(KEY) == Some(&self.0) {
            return Ok(request);
        }
        let text = |value: &MetadataValue<Ascii>| value.to_str().unwrap_or_default().to_owned();
        let meant = request.metadata().get(KEY).map_or("nobody".to_owned(), text);
        tracing::warn!(meant, this = text(&self.0), "a request for another node came here");
        Err(refuse(&Error::NotHere))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_another_node_or_cluster_is_refused() {
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let cluster = |number: u128| {
            ClusterMark::of(anabranch_core::ids::ActorId(uuid::Uuid::from_u128(number << 96)))
        };
        let mut this = Addressee::new(&node("a"), cluster(1));
        let mut ask =
            |mut addressed: Addressed| this.call(addressed.call(Request::new(())).unwrap()).is_ok();
        assert!(ask(Addressed::to(&node("a"), cluster(1))));
        assert!(!ask(Addressed::to(&node("b"), cluster(1))));
        assert!(!ask(Addressed::to(&node("a"), cluster(2))));
        assert!(this.call(Request::new(())).is_err(), "of whoever says nothing");
    }
}
