//! The other replicas of a node's partition, as a backfill asks them.

use std::time::Duration;

use anabranch_core::cluster::{Epoch, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Intervals, SliceCount};
use anabranch_runtime::{grpc, planted, threads};
use anabranch_schemas::store as proto;
use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;

use super::wire;
use crate::coordinate::{Client, Coordinator};
use crate::storage::{Entry, Loss, Progress, Table};

/// How long a replica may take to say where it is, and how long it may say nothing within a stream.
const PATIENCE: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(10);
/// How many replies wait for the store.
const REPLIES: usize = 4;

/// The other replicas of a node's partition. Its calls block.
pub(crate) trait Replicas: Send {
    /// Of the configuration in which they are the replicas.
    fn epoch(&self) -> Epoch;

    /// How far each of them is.
    fn positions(&self) -> Vec<Heard>;

    /// Fetches a table from one of them after the other, until one has given all of it. Nothing
    /// comes any more once the node stops.
    fn fetch(&self, wanted: Wanted) -> Box<dyn Iterator<Item = Fetched> + '_>;
}

/// Those that are asked over gRPC.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) coordinator: Coordinator,
    pub(crate) runtime: Handle,
    /// What the node owns.
    pub(crate) part: Intervals,
    pub(crate) slices: SliceCount,
}

/// How far a replica is, or why that is not known.
pub(crate) type Heard = (NodeId, Result<Position, Status>);

/// How far a replica is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position {
    pub(crate) progress: Progress,
    /// It, too, lacks what comes next. One that does not say so may have it in memory already.
    pub(crate) lacks_next: bool,
}

/// What is to be fetched of a table.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) since: TxnId,
    pub(crate) until: TxnId,
    pub(crate) table: Table,
    /// The last key that is here; empty before the first.
    pub(crate) after: Vec<u8>,
    /// What was passed over of these transactions in the snapshot that is copied.
    pub(crate) losses: Vec<Loss>,
}

/// What comes of a table.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The next entries.
    Entries(Fill),
    /// That was all.
    All,
    /// None of the replicas could go on. One of them may, later.
    Failed,
    /// The same, and some of them have come past it and no longer have it: they have more.
    Passed,
    /// All of the replicas have said that they no longer have it.
    Gone,
}

/// Some entries of a table.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) entries: Vec<Entry>,
    /// The key up to which they go.
    pub(crate) after: Vec<u8>,
    /// Nothing follows.
    pub(crate) is_last: bool,
}

impl Replicas for Remote {
    fn epoch(&self) -> Epoch {
        self.coordinator.membership().configuration().epoch()
    }

    fn positions(&self) -> Vec<Heard> {
        threads::block_on(&self.runtime, async {
            let others = self.coordinator.others(TxnId(0)).into_iter();
            let asked = others.map(|(node, client)| async { (node, self.position(client).await) });
            join_all(asked).await
        })
    }

    fn fetch(&self, wanted: Wanted) -> Box<dyn Iterator<Item = Fetched> + '_> {
        let (given, mut fetched) = mpsc::channel(REPLIES);
        let remote = self.clone();
        self.runtime.spawn(async move {
            let last = remote.forward(wanted, &given).await;
            // Nobody waits for it if the node stops.
            let _ = given.send(last).await;
        });
        Box::new(std::iter::from_fn(move || threads::receive(&mut fetched)))
    }
}

impl Remote {
    async fn position(&self, client: Result<Client, Status>) -> Result<Position, Status> {
        let request = proto::PositionRequest { intervals: wire::intervals(&self.part) };
        let mut client = client?;
        let reply = timeout(PATIENCE, client.position(request)).await;
        let reply = reply.map_err(|_| Status::unavailable("it does not answer"))??;
        let reply = reply.get_ref();
        let progress = wire::read_position(reply, self.slices).map_err(Status::internal)?;
        Ok(Position { progress, lacks_next: reply.lacks_next })
    }

    async fn forward(&self, mut wanted: Wanted, given: &mpsc::Sender<Fetched>) -> Fetched {
        let last = TxnId(wanted.until.0.saturating_sub(1));
        let (mut all_gone, mut some_gone) = (true, false);
        for (node, client) in self.coordinator.others(last) {
            match self.forward_from(client, &mut wanted, given).await {
                Ok(()) => return Fetched::All,
                Err(status) => {
                    tracing::info!(%node, %status, "a replica does not hand over");
                    // Who does not answer may have it.
                    all_gone &= is_gone(&status);
                    some_gone |= is_gone(&status);
                }
            }
        }
        match (all_gone, some_gone) {
            (true, _) => Fetched::Gone,
            (false, true) => Fetched::Passed,
            (false, false) => Fetched::Failed,
        }
    }

    async fn forward_from(
        &self,
        client: Result<Client, Status>,
        wanted: &mut Wanted,
        given: &mpsc::Sender<Fetched>,
    ) -> Result<(), Status> {
        let silent = |_| Status::unavailable("it says nothing any more");
        let request = self.request(wanted);
        let mut client = client?;
        let opened = timeout(SILENCE, client.entries(request)).await.map_err(silent)?;
        let mut replies = opened?.into_inner();
        while let Some(reply) = timeout(SILENCE, replies.message()).await.map_err(silent)?? {
            let entries = read_entries(reply.entries, wanted)?;
            wanted.after = reply.after.to_vec();
            let (after, is_last) = (wanted.after.clone(), reply.is_last);
            let fetched = Fetched::Entries(Fill { entries, after, is_last });
            given.send(fetched).await.map_err(|_| Status::cancelled("the node stops"))?;
        }
        Ok(())
    }

    fn request(&self, wanted: &Wanted) -> proto::EntriesRequest {
        let Wanted { since, until, table, after, losses } = wanted;
        proto::EntriesRequest {
            intervals: wire::intervals(&self.part),
            since: since.0,
            until: until.0,
            table: wire::table(*table).into(),
            after: after.clone().into(),
            losses: wire::losses(losses),
        }
    }
}

/// Whether a node said that it has not got the snapshot that is copied, and never will.
fn is_gone(status: &Status) -> bool {
    matches!(grpc::code_of(status), Some("too_old" | "other_snapshot"))
}

/// Refuses what was not asked for: what a node does not know to be wrong it would keep for ever.
pub(crate) fn read_entries(
    entries: Vec<proto::Entry>,
    wanted: &Wanted,
) -> Result<Vec<Entry>, Status> {
    let txns = wanted.since..wanted.until;
    let entries: Vec<_> = entries.into_iter().map(wire::read_entry).collect();
    let is_wrong = |entry: &&Entry| !txns.contains(&entry.txn) && !planted!(BackfillsMoving);
    match entries.iter().find(is_wrong) {
        None => Ok(entries),
        Some(entry) => {
            let what = format!("it gives what transaction {} wrote, unasked", entry.txn);
            Err(Status::internal(what))
        }
    }
}
