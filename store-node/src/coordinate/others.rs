//! The other replicas of a node's own partition.

use std::sync::Arc;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use tonic::Status;

use super::Coordinator;
use super::plan::{self, Candidate};
use super::replicas::{Client, Replica};
use crate::membership::Membership;

impl Coordinator {
    /// The configuration in force, and which node this is in it.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        self.view.membership()
    }

    /// The newest timestamp at which a read would begin, once it is known.
    #[cfg(feature = "simulation")]
    pub(crate) async fn stable(&self) -> Result<Option<TxnId>, crate::error::Error> {
        self.view.stable(std::time::Duration::ZERO).await
    }

    /// The oldest snapshot that is read for clients.
    #[cfg(feature = "simulation")]
    pub(crate) fn reads_from(&self) -> Option<TxnId> {
        self.view.reads().oldest(tokio::time::Instant::now().into_std())
    }

    /// Clients of the other replicas of this node's partition, in the order in which to ask them
    /// about `at`.
    pub(crate) fn others(&self, at: TxnId) -> Vec<(NodeId, Result<Client, Status>)> {
        let membership = self.view.membership();
        let configuration = membership.configuration();
        let Some(this) = configuration.member(membership.node()) else { return Vec::new() };
        let order = plan::order(self.view.candidates(this.partition), at);
        let others = order.into_iter().filter(|candidate| !candidate.is_here);
        let client = |Candidate { node, .. }| match self.replica(&node) {
            Ok(Replica::There(client)) => Some((node, Ok(client))),
            Ok(Replica::Here(_)) => None,
            Err(status) => Some((node, Err(status))),
        };
        others.filter_map(client).collect()
    }
}
