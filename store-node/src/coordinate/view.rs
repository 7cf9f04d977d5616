//! What a node knows of its cluster: the configuration, how far each node has come, and up to where
//! all of it can be read. It also tells the others how far this one has come.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{Configuration, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::tasks::{Shutdown, TaskError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::plan::Candidate;
use crate::error::Error;
use crate::gossip::{Applied, Gossip, Standing};
use crate::log::Log;
use crate::membership::Membership;
use crate::stability::{Stability, Stable};
use crate::status::Status;
use crate::storage::Storage;

/// What this node knows of its cluster.
pub(crate) struct View {
    membership: Membership,
    gossip: Gossip,
    log: Arc<Log>,
    status: Arc<Status>,
    storage: Arc<Storage>,
    stability: Mutex<Stability>,
    stable: watch::Sender<Stable>,
}

impl View {
    pub(crate) fn new(
        membership: Membership,
        gossip: Gossip,
        log: Arc<Log>,
        status: Arc<Status>,
        storage: Arc<Storage>,
    ) -> Self {
        let stability = Stability::new(membership.configuration());
        let stable = watch::Sender::new(stability.stable());
        let stability = Mutex::new(stability);
        let view = View { membership, gossip, log, status, storage, stability, stable };
        view.advance();
        view
    }

    pub(crate) fn configuration(&self) -> &Configuration {
        self.membership.configuration()
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Whether this node is the only one.
    pub(crate) fn is_alone(&self) -> bool {
        self.configuration().members().len() == 1
    }

    /// The universal stable timestamp as it is known here, once that is at least what any node may
    /// have read at before this one started: the end of the log at that time (ST-3).
    pub(crate) async fn stable(&self, patience: Duration) -> Result<Stable, Error> {
        let mut watch = self.stable.subscribe();
        let is_known =
            |stable: &Stable| self.status.target().is_some_and(|target| target <= stable.next);
        let known = timeout(patience, watch.wait_for(is_known)).await;
        match known {
            Ok(Ok(stable)) => Ok(*stable),
            Ok(Err(_)) => Err(Error::Shutdown),
            Err(_) => Err(Error::CatchingUp { next: self.stable.borrow().next }),
        }
    }

    /// The nodes that hold a partition.
    pub(crate) fn candidates(&self, partition: PartitionId) -> Vec<Candidate> {
        let announces = self.gossip.announces();
        let epoch = self.configuration().epoch();
        let replicas = self.configuration().replicas(partition);
        let candidate = |node: &NodeId| {
            let announce = announces.iter().find(|announce| announce.node == *node);
            let standing = announce.map(|announce| &announce.standing);
            let standing = standing.filter(|standing| standing.epoch == epoch);
            Candidate {
                node: node.clone(),
                base: standing.map_or(TxnId(0), |standing| standing.applied.base()),
                suspicion: self.gossip.suspicion(node),
                is_here: node == self.membership.node(),
            }
        };
        replicas.map(candidate).collect()
    }

    /// Tells the others of this node and takes in what they tell, until the shutdown begins.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), TaskError> {
        let mut applied = self.status.watch();
        let mut heard = self.gossip.changes();
        loop {
            applied.borrow_and_update();
            heard.borrow_and_update();
            self.gossip.announce(self.standing());
            self.advance();
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                changed = applied.changed() => if changed.is_err() { return Ok(()) },
                changed = heard.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    fn standing(&self) -> Standing {
        let applied = self.status.applied();
        let mut map = IntervalMap::default();
        // Who has not caught up has nothing to offer yet (ST-3).
        if applied.caught_up {
            for interval in self.log.owned().iter() {
                map.splice(interval.first(), interval.last(), TxnId(0)..applied.next);
            }
        }
        Standing {
            epoch: self.configuration().epoch(),
            applied: Applied::of(&map, self.log.owned()),
            durable: self.storage.durable().next,
            gc_timestamp: self.storage.history().oldest(),
            history_from: self.storage.feed_start(),
            has_backfilled: true,
        }
    }

    fn advance(&self) {
        let announces = self.gossip.announces();
        let stable = {
            let mut stability = self.stability.lock();
            stability.advance(announces.iter().map(Arc::as_ref))
        };
        if !self.is_alone() {
            // What others read at is kept here, too.
            self.storage.history().keep_from(stable.last().unwrap_or_default());
        }
        self.stable.send_if_modified(|known| {
            let has_moved = *known != stable;
            *known = stable;
            has_moved
        });
    }
}
