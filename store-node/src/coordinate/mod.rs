//! What any node answers about the whole cluster.
//!
//! A read has one timestamp: the universal stable one, or a later one that the client has seen. For
//! each partition that it needs one replica is asked, the one that is least suspected of those that
//! have come that far; another one as soon as that one fails or is slow. Every replica reads the
//! same snapshot, so it does not matter which one answers (ST-2, ST-4). While a read runs all nodes
//! keep what it reads. A node that is the only one of its cluster answers by itself, from what it
//! has applied.

mod explain;
mod failure;
mod feed;
mod finish;
mod horizon;
mod isolation;
mod merge;
mod others;
mod plan;
mod query;
mod reading;
mod replicas;
mod rows;
mod verify;
mod view;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use self::merge::{Item, Items, Open, merge};
use self::plan::Candidate;
use self::reading::{Began, Reading};
use self::replicas::{Asked, Hedge, Peers, Replica};
use self::rows::RowsRequest;
use crate::error::Error;
use crate::rpc::{Local, Replies, document_id, oldest_of, refuse, refused, replies};

pub(crate) use self::replicas::Client;
pub(crate) use self::view::{Remember, View};

/// Answers for the whole cluster.
#[derive(Clone)]
pub(crate) struct Coordinator {
    local: Local,
    view: Arc<View>,
    peers: Arc<Peers>,
    shutdown: Shutdown,
}

/// How long partitions are waited for that have not come to a round yet of which others know.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(2);
/// How long a read waits that did not get a timestamp which all nodes hold, time and again.
const AGAIN: Duration = Duration::from_millis(1);

/// When a read is, and how long it may wait for replicas to come that far. Until the last copy of
/// it is dropped, or its time is over, all nodes keep what it reads.
#[derive(Clone, Debug)]
struct Timestamp {
    txn: TxnId,
    /// What is stable, and was read at or may have been.
    stable: Option<TxnId>,
    deadline: Instant,
    /// When it is over at the latest.
    over: Instant,
    _reading: Arc<Reading>,
}

impl Timestamp {
    /// As replies tell it: every transaction below this is stable.
    fn stable_next(&self) -> Option<u64> {
        self.stable.map(|stable| stable.next().0)
    }

    fn read_at(&self) -> proto::ReadAt {
        let wait = self.deadline.saturating_duration_since(Instant::now());
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        proto::ReadAt { at_least: None, exactly: Some(self.txn.0), wait_ms }
    }
}

impl Coordinator {
    pub(crate) fn new(
        local: Local,
        view: Arc<View>,
        tls: Option<TlsFiles>,
        shutdown: Shutdown,
    ) -> Self {
        let peers = Arc::new(Peers::new(tls, local.mark));
        Coordinator { local, view, peers, shutdown }
    }

    /// Whether another node answers better.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.view.is_cut_off()
    }

    /// How far the cluster is: what is stable counts as applied.
    pub(crate) async fn status(&self) -> Result<proto::StatusReply, Status> {
        let gc_timestamp = self.view.gc_timestamp().0;
        let status = proto::StatusReply { gc_timestamp, ..self.local.status() };
        if self.view.is_alone() {
            return Ok(status);
        }
        let stable = refused(self.view.stable(Duration::ZERO).await)?;
        Ok(proto::StatusReply {
            applied_next: stable.map_or(0, |stable| stable.next().0),
            epoch: self.view.membership().configuration().epoch().0,
            nodes: self.view.nodes(),
            quorums: self.view.quorums(),
            ..status
        })
    }

    pub(crate) async fn get(&self, request: proto::GetRequest) -> Result<proto::GetReply, Status> {
        if self.view.is_alone() {
            let request = proto::GetRequest { at: self.alone_at(request.at), ..request };
            let mut reply = refused(self.local.get(request).await)?;
            reply.stable = reply.txn.map(|txn| txn + 1);
            return Ok(reply);
        }
        let id = refused(document_id(&request.document_id))?;
        let partition = self.view.membership().configuration().partition_of(id.position());
        let asked = &request;
        let read = |at: Timestamp| async move {
            let asked = self.ask(partition, at.txn, Hedge::When, |replica| {
                replica.get(proto::GetRequest { at: Some(at.read_at()), ..asked.clone() })
            });
            Ok(proto::GetReply { stable: at.stable_next(), ..asked.await? })
        };
        Ok(self.read(request.at, read).await?.unwrap_or_default())
    }

    pub(crate) async fn scan(
        &self,
        request: proto::ScanRequest,
    ) -> Result<Replies<proto::ScanReply>, Status> {
        if self.view.is_alone() {
            let request = proto::ScanRequest { at: self.alone_at(request.at), ..request };
            return refused(self.local.scan(request).await.map(replies));
        }
        let partitions = self.view.membership().configuration().partitions().collect();
        let (partitions, rows) = (&partitions, &request);
        let read = |at: Timestamp| async move {
            let txn = Some(at.txn.0);
            let items = self.rows(partitions, at, rows, u64::MAX).await?;
            Ok(items.map_ok(move |items| proto::ScanReply { txn, items }).boxed())
        };
        let read = self.read(request.at, read).await?;
        Ok(read.unwrap_or_else(|| one(proto::ScanReply::default())))
    }

    /// Whether replicas hold the same.
    pub(crate) async fn verify(
        &self,
        request: proto::VerifyRequest,
    ) -> Result<proto::VerifyReply, Status> {
        verify::verify(self, &request).await
    }

    /// What became of a round in all the partitions together in which it may have something.
    pub(crate) async fn outcome(
        &self,
        request: proto::OutcomeRequest,
    ) -> Result<proto::OutcomeReply, Status> {
        if self.view.is_alone() {
            return refused(self.local.outcome(request).await);
        }
        let began = Instant::now();
        let partitions = self.partitions_of(&request.slices);
        let outcomes = self.outcomes(&partitions, &request).await?;
        let Some(txn) = outcomes.iter().flatten().map(|outcome| outcome.txn).min() else {
            return Ok(proto::OutcomeReply { outcome: None });
        };
        // A partition that knows nothing of it has not come that far, or has forgotten or lost it: half
        // an outcome is none.
        let asked = partitions.iter().zip(&outcomes);
        let behind = asked.filter(|(_, outcome)| outcome.is_none());
        let behind: Vec<_> = behind.map(|(partition, _)| *partition).collect();
        let left = Duration::from_millis(request.wait_ms.into()).max(OUTCOME_PATIENCE);
        let left = left.saturating_sub(began.elapsed());
        let wait_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let later = proto::OutcomeRequest { txn: Some(txn), wait_ms, ..request };
        let rest = self.outcomes(&behind, &later).await?;
        if rest.iter().any(Option::is_none) {
            return Ok(proto::OutcomeReply { outcome: None });
        }
        let outcome = outcomes.into_iter().chain(rest).flatten().reduce(|mut all, other| {
            all.conflicts.extend(other.conflicts);
            all.kept.extend(other.kept);
            all.too_large.extend(other.too_large);
            all
        });
        Ok(proto::OutcomeReply { outcome })
    }

    async fn outcomes(
        &self,
        partitions: &[PartitionId],
        request: &proto::OutcomeRequest,
    ) -> Result<Vec<Option<proto::Outcome>>, Status> {
        let at = request.txn.map_or(TxnId(0), TxnId);
        let asked = partitions.iter().map(|partition| {
            self.ask(*partition, at, Hedge::When, |replica| replica.outcome(request.clone()))
        });
        let replies = futures::future::try_join_all(asked).await?;
        Ok(replies.into_iter().map(|reply| reply.outcome).collect())
    }

    /// The partitions that own something of these slices; all if there are none.
    fn partitions_of(&self, slices: &[u32]) -> Vec<PartitionId> {
        let membership = self.view.membership();
        let configuration = membership.configuration();
        let owns = |partition: &PartitionId| {
            let owned = configuration.slicing().owned_by(*partition);
            let owned = owned.slices(self.local.log.slices());
            slices.is_empty() || owned.iter().any(|slice| slices.contains(&u32::from(slice.0)))
        };
        configuration.partitions().filter(owns).collect()
    }

    pub(crate) async fn feed(
        &self,
        request: proto::FeedRequest,
    ) -> Result<Replies<proto::FeedReply>, Status> {
        if self.view.is_alone() {
            return refused(self.local.feed(&request).map(replies));
        }
        feed::open(self, request).await
    }

    /// When a read is that nobody else is asked for: what this node has applied, but nothing older
    /// than what was stable while there were others (ST-3).
    fn alone_at(&self, at: Option<proto::ReadAt>) -> Option<proto::ReadAt> {
        let at = at.unwrap_or_default();
        let stable = self.view.known_stable().map(|stable| stable.0);
        let at_least = if at.exactly.is_some() { at.at_least } else { at.at_least.max(stable) };
        Some(proto::ReadAt { at_least, ..at })
    }

    /// Reads at the timestamp that a request asks for; `None` if nothing is there yet. What is
    /// stable as far as is known here may be older than what others still have, when this node has
    /// heard nothing of them for long: who did not ask for that timestamp is given a newer one.
    async fn read<T, F>(
        &self,
        at: Option<proto::ReadAt>,
        read: impl Fn(Timestamp) -> F,
    ) -> Result<Option<T>, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let at = at.unwrap_or_default();
        let Some(first) = self.timestamp(at).await? else { return Ok(None) };
        let failed = match read(first).await {
            Ok(read) => return Ok(Some(read)),
            Err(status) => status,
        };
        let Some(newer) = newer(at, &failed) else { return Err(failed) };
        tracing::debug!(status = %failed, "a read begins anew at a newer timestamp");
        match self.timestamp(newer).await? {
            Some(at) => read(at).await.map(Some),
            None => Err(failed),
        }
    }

    /// The timestamp that a request asks for; `None` if nothing is there yet.
    async fn timestamp(&self, at: proto::ReadAt) -> Result<Option<Timestamp>, Status> {
        let patience = Duration::from_millis(at.wait_ms.into());
        let deadline = Instant::now() + patience;
        if at.exactly.zip(at.at_least).is_some_and(|(exactly, least)| least > exactly) {
            let what = "a read cannot be exactly at a timestamp and at least at a later one";
            return Err(refuse(&Error::InvalidRequest(what.to_owned())));
        }
        let mut tries = 0;
        loop {
            // Twice is rare. Whatever it may be that goes on: it must not keep a core busy.
            if tries > 1 {
                sleep(AGAIN).await;
            }
            tries += 1;
            let stable = refused(self.view.stable(patience).await)?;
            let txn = match at.exactly {
                Some(exactly) => Some(TxnId(exactly)),
                None => stable.max(at.at_least.map(TxnId)),
            };
            let Some(txn) = txn else { return Ok(None) };
            let (reads, now) = (self.view.reads(), Instant::now());
            let Began { reading, is_held } = reads.begin(txn, now.into_std());
            // More has become stable meanwhile, and the others were told.
            if !is_held && at.exactly.is_none() {
                continue;
            }
            let over = now + reads.max_read();
            let reading = Arc::new(reading);
            return Ok(Some(Timestamp { txn, stable, deadline, over, _reading: reading }));
        }
    }

    /// The replicas of a partition, in the order in which to ask them.
    fn replicas(&self, partition: PartitionId, at: TxnId) -> Vec<Asked> {
        let order = plan::order(self.view.candidates(partition), at);
        let asked = |Candidate { node, base, .. }: Candidate| {
            let has_reached = base > at;
            match self.replica(&node) {
                Ok(replica) => Some(Asked { node, has_reached, replica }),
                Err(error) => {
                    tracing::warn!(%node, %error, "a node cannot be asked");
                    None
                }
            }
        };
        order.into_iter().filter_map(asked).collect()
    }

    /// How a node of the cluster is asked.
    fn replica(&self, node: &NodeId) -> Result<Replica, Status> {
        let membership = self.view.membership();
        if node == membership.node() {
            return Ok(Replica::Here(self.local.clone()));
        }
        let member = membership.configuration().member(node);
        let gone = || Status::unavailable(format!("node '{node}' is no longer declared"));
        self.peers.client(node, &member.ok_or_else(gone)?.address).map(Replica::There)
    }

    /// Asks one of the replicas of a partition.
    async fn ask<T, F>(
        &self,
        partition: PartitionId,
        at: TxnId,
        hedge: Hedge,
        call: impl Fn(Replica) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let replicas = self.replicas(partition, at);
        let (node, answer) = self.peers.first_answer(replicas, hedge, call).await?;
        self.view.gossip().hear(&node);
        Ok(answer)
    }

    /// What a request for rows asks, of these partitions. Once this returns a replica of each is at
    /// work.
    async fn rows<R: RowsRequest>(
        &self,
        partitions: &BTreeSet<PartitionId>,
        at: Timestamp,
        request: &R,
        limit: u64,
    ) -> Result<Items<R::Item>, Status> {
        let parts = partitions.iter().map(|partition| self.part(*partition, at.clone(), request));
        let mut items = merge(parts.collect(), limit);
        let first = items.next().await.transpose()?;
        let items = stream::iter(first.map(Ok)).chain(items).boxed();
        let max_read_ms = u64::try_from(self.view.reads().max_read().as_millis());
        let max_read_ms = max_read_ms.unwrap_or(u64::MAX);
        Ok(stream::try_unfold(items, move |mut items| async move {
            match timeout_at(at.over, items.next()).await {
                Ok(next) => Ok(next.transpose()?.map(|reply| (reply, items))),
                Err(_) => Err(refuse(&Error::Expired(max_read_ms))),
            }
        })
        .boxed())
    }

    /// The part of one partition of what a request for rows asks.
    fn part<R: RowsRequest>(
        &self,
        partition: PartitionId,
        at: Timestamp,
        request: &R,
    ) -> Open<R::Item> {
        let (coordinator, request) = (self.clone(), request.clone());
        Box::new(move |after| {
            let (coordinator, mut request) = (coordinator.clone(), request.clone());
            if let Some(after) = after {
                request.start_after(after);
            }
            let at = at.clone();
            async move {
                let open = |replica| request.clone().ask(replica, at.read_at());
                coordinator.stream(partition, at.txn, open).await
            }
            .boxed()
        })
    }

    /// Opens a stream of one of the replicas of a partition: of one whose first reply is there.
    async fn stream<T: Item, F>(
        &self,
        partition: PartitionId,
        at: TxnId,
        open: impl Fn(Replica) -> F,
    ) -> Result<Items<T>, Status>
    where
        F: Future<Output = Result<Items<T>, Status>>,
    {
        let (first, rest) = self
            .ask(partition, at, Hedge::Never, |replica| {
                let opening = open(replica);
                async move {
                    let mut items = opening.await?;
                    let first = items.next().await.transpose()?;
                    Ok((first, items))
                }
            })
            .await?;
        Ok(stream::iter(first.map(Ok)).chain(rest).boxed())
    }
}

/// At which newer timestamp to read what failed at `at`, if that is a way out.
fn newer(at: proto::ReadAt, failed: &Status) -> Option<proto::ReadAt> {
    let oldest = oldest_of(failed).filter(|_| at.exactly.is_none())?;
    Some(proto::ReadAt { at_least: at.at_least.max(Some(oldest.0)), ..at })
}

fn one<T: Send + 'static>(reply: T) -> Replies<T> {
    stream::once(async { Ok(reply) }).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_old_and_was_not_asked_for_is_read_at_a_newer_timestamp() {
        let too_old = refuse(&Error::TooOld { wanted: TxnId(3), oldest: TxnId(7) });
        let at = |at_least, exactly| proto::ReadAt { at_least, exactly, wait_ms: 5 };
        assert_eq!(newer(at(None, None), &too_old), Some(at(Some(7), None)));
        assert_eq!(newer(at(Some(3), None), &too_old), Some(at(Some(7), None)));
        assert_eq!(newer(at(None, Some(3)), &too_old), None);
        let other = refuse(&Error::NotReached { wanted: TxnId(3), next: TxnId(7) });
        assert_eq!(newer(at(None, None), &other), None);
        assert_eq!(newer(at(None, None), &Status::out_of_range("of the transport")), None);
    }
}
