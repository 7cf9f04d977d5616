//! The store node, asked over gRPC.
//!
//! The channel connects when it is first used and again whenever it was lost. Everything asked here
//! only reads, so a call that could not be made is made again until its deadline: a store node
//! that restarts is a pause, not an error. And it is made again beside one that is not answered: the
//! node may be gone without the connection to it having broken yet.

mod feed;
mod rows;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::ids::{ActorId, DocumentId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal::rounds::Round;
use anabranch_runtime::grpc::{self, AnyOf, Turn};
use anabranch_runtime::retry::{Backoff, Budget};
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::{Request, Status};

use crate::access::Readable;
use crate::document::DocumentName;
use crate::error::{Code, Refusal};

pub(crate) use self::rows::{Behind, Question, Rows};

/// A reply holds whole documents, the largest of which is 5 MiB of JSON, escaped.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What is left of a deadline after a store node gave up waiting, for its answer to arrive.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// A store node that has not answered within this time is not waited for alone. It takes longer than
/// one takes to find out that another one is silent that it has to ask.
const SILENCE: Duration = Duration::from_millis(600);
/// How much later the next one is asked when one has failed meanwhile.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// So many calls pay for one that is made beside another, and so many of these are saved up: about
/// as many as wait for a node when that goes silent.
const CALLS_PER_EXTRA: u32 = 10;
const MOST_EXTRA: u32 = 1_024;
/// How many are asked at once at most. Whoever waits for a transaction has to be waited for, too.
const AT_ONCE: usize = 3;

type Client = StoreNodeClient<AnyOf>;

/// A client of the store node.
#[derive(Clone)]
pub(crate) struct Store {
    nodes: AnyOf,
    client: Client,
    cluster: ActorId,
    slices: SliceCount,
    read_wait: Duration,
    /// Every transaction below this was stable when some node answered. Nodes hear of each other a
    /// little later: no read is older than one before it, whichever node answers.
    stable: Arc<AtomicU64>,
    extra: Arc<Budget>,
}

/// What became of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The transaction that was applied: the first with this round id.
    pub(crate) txn: TxnId,
    /// The digest in its commit record.
    pub(crate) digest: Bytes,
    /// It was to be applied as a whole or not at all.
    pub(crate) is_atomic: bool,
    /// Documents of which a condition did not hold.
    pub(crate) conflicts: Vec<Conflict>,
    /// Documents that were left alone, which is no failure: an INSERT found them there that was to do
    /// nothing then, or they are not there for whoever asked.
    pub(crate) kept: Vec<DocumentName>,
    /// Documents that were left as they were: they would have become too large.
    pub(crate) too_large: Vec<DocumentName>,
}

/// A document of which a condition did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) document: DocumentName,
    /// The transaction that had changed it last; `None` if none ever had, or if that is not known.
    pub(crate) winner: Option<TxnId>,
    pub(crate) reason: Reason,
}

/// Why a condition did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The document was to be inserted, and was there.
    Exists,
    /// It was to be unchanged, and a later transaction had changed it.
    Changed,
    /// It was to be unchanged, and was not there.
    Missing,
    /// It was to be unchanged since a transaction that was not before this one.
    NotYet,
    /// It may not be written as it was, or as it would have become.
    Forbidden,
}

/// As of when to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// As of now, and not before this transaction.
    Newest(Option<TxnId>),
    /// As of this transaction.
    Exactly(TxnId),
}

/// A document as it was read.
pub(crate) struct Found {
    /// The snapshot.
    pub(crate) txn: Option<TxnId>,
    /// JSON text and the transaction that wrote it last, if the document is there.
    pub(crate) document: Option<(String, Option<TxnId>)>,
}

impl Store {
    /// A client of the store nodes of this cluster. Does not connect yet.
    pub(crate) fn new(
        nodes: AnyOf,
        cluster: ActorId,
        slices: SliceCount,
        read_wait: Duration,
    ) -> Self {
        let client = client(nodes.clone());
        let extra = Arc::new(Budget::new(CALLS_PER_EXTRA, MOST_EXTRA));
        Store { nodes, client, cluster, slices, read_wait, stable: Arc::default(), extra }
    }

    /// Whose transactions these are: other clusters have others of the same numbers, and so has this one
    /// if its log was made anew.
    pub(crate) fn cluster(&self) -> ActorId {
        self.cluster
    }

    /// The slices in which these documents are.
    pub(crate) fn slices(&self, documents: impl Iterator<Item = DocumentId>) -> BTreeSet<Slice> {
        documents.map(|id| self.slices.slice_of(id.position())).collect()
    }

    /// The slices in which a round has something.
    pub(crate) fn slices_of(&self, round: &Round) -> BTreeSet<Slice> {
        self.slices(round.mutations.iter().map(|mutation| mutation.id(round.app)))
    }

    /// One document, if it may be read.
    pub(crate) async fn get(
        &self,
        id: &DocumentId,
        readable: &Readable,
        at: At,
        deadline: Instant,
    ) -> Result<Found, Refusal> {
        let document_id = Bytes::from(id.to_bytes());
        let reply = self
            .ask(deadline, |mut client| {
                let at = Some(self.read_at(at, deadline));
                let (document_id, readable) = (document_id.clone(), readable.as_str().to_owned());
                let request = proto::GetRequest { document_id, at, readable };
                async move { client.get(until(request, deadline)).await }
            })
            .await?
            .into_inner();
        self.note_stable(reply.stable);
        let written = reply.document_txn.map(TxnId);
        Ok(Found {
            txn: reply.txn.map(TxnId),
            document: reply.document.map(|document| (document, written)),
        })
    }

    /// What became of a round, which has something in these slices, or in any if there are none;
    /// waits until `txn` is applied if one is given.
    pub(crate) async fn outcome(
        &self,
        round: RoundId,
        txn: Option<TxnId>,
        slices: &BTreeSet<Slice>,
        deadline: Instant,
    ) -> Result<Option<Outcome>, Refusal> {
        let reply = self
            .ask(deadline, |mut client| {
                let wait = wait_within(deadline);
                let request = proto::OutcomeRequest {
                    round_id: Bytes::copy_from_slice(round.0.as_bytes()),
                    txn: txn.map(|txn| txn.0),
                    wait_ms: if txn.is_some() { millis(wait) } else { 0 },
                    slices: slices.iter().map(|slice| u32::from(slice.0)).collect(),
                };
                async move { client.outcome(until(request, deadline)).await }
            })
            .await?
            .into_inner();
        let Some(outcome) = reply.outcome else { return Ok(None) };
        let proto::Outcome { txn, digest, too_large, conflicts, kept, atomic } = outcome;
        let conflict = |conflict: &proto::Conflict| {
            let document = name(&conflict.document_id)?;
            let reason = match conflict.reason() {
                proto::ConflictReason::Changed => Reason::Changed,
                proto::ConflictReason::Missing => Reason::Missing,
                proto::ConflictReason::NotYet => Reason::NotYet,
                proto::ConflictReason::Forbidden => Reason::Forbidden,
                proto::ConflictReason::Exists | proto::ConflictReason::Unspecified => {
                    Reason::Exists
                }
            };
            Ok(Conflict { document, winner: conflict.txn.map(TxnId), reason })
        };
        let names = |ids: &[Bytes]| ids.iter().map(name).collect::<Result<_, Refusal>>();
        Ok(Some(Outcome {
            txn: TxnId(txn),
            digest,
            is_atomic: atomic,
            conflicts: conflicts.iter().map(conflict).collect::<Result<_, Refusal>>()?,
            kept: names(&kept)?,
            too_large: names(&too_large)?,
        }))
    }

    fn note_stable(&self, stable: Option<u64>) {
        self.stable.fetch_max(stable.unwrap_or(0), Ordering::Relaxed);
    }

    fn read_at(&self, at: At, deadline: Instant) -> proto::ReadAt {
        let wait_ms = millis(wait_within(deadline).min(self.read_wait));
        match at {
            At::Exactly(txn) => proto::ReadAt { at_least: None, exactly: Some(txn.0), wait_ms },
            At::Newest(at_least) => {
                let stable = self.stable.load(Ordering::Relaxed).checked_sub(1);
                let at_least = at_least.map(|txn| txn.0).max(stable);
                proto::ReadAt { at_least, exactly: None, wait_ms }
            }
        }
    }

    /// Makes a call, again and again while the store node cannot be reached.
    async fn ask<T, F>(&self, deadline: Instant, call: impl Fn(Client) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.ask_or(deadline, refusal, call).await
    }

    /// The same; `refuse` says what an answer means that is final.
    async fn ask_or<T, F>(
        &self,
        deadline: Instant,
        refuse: fn(&Status) -> Refusal,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        let mut last = None;
        loop {
            let refused = match timeout_at(deadline, self.first_answer(&call)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(status)) if !may_pass(&status) => return Err(refuse(&status)),
                Ok(Err(status)) => refusal(&status),
                // The reason of the try before says more than that this one took too long.
                Err(_) => return Err(last.unwrap_or_else(too_late)),
            };
            let next = Instant::now() + backoff.next_delay();
            if next >= deadline {
                return Err(refused);
            }
            last = Some(refused);
            sleep_until(next).await;
        }
    }

    /// Makes a call, and the same one to the next node beside one that is silent, as far as the
    /// budget allows. Once another one has answered, all calls go there: a node may be silent since
    /// it waits for what no node ever gets.
    async fn first_answer<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.extra.save();
        let most = AT_ONCE.min(self.nodes.count());
        let first = self.nodes.turn();
        let mut asked = FuturesUnordered::new();
        asked.push(named(first, call(self.client.clone())));
        let mut next = first.next();
        let mut is_silent = std::pin::pin!(sleep(SILENCE));
        loop {
            tokio::select! {
                biased;
                answer = asked.select_next_some() => match answer {
                    // Another one may still answer, or the next.
                    (_, Err(status)) if !grpc::is_final(&status) && !asked.is_empty() => {
                        is_silent.as_mut().reset(Instant::now() + AFTER_FAILURE);
                    }
                    (turn, answer) => {
                        if answer.is_ok() {
                            self.nodes.go_on(first, turn);
                        }
                        return answer;
                    }
                },
                () = is_silent.as_mut(), if asked.len() < most => {
                    is_silent.as_mut().reset(Instant::now() + SILENCE);
                    if self.extra.spend() {
                        let client = client(self.nodes.at(next));
                        asked.push(named(next, call(client)));
                        next = next.next();
                    }
                }
            }
        }
    }
}

async fn named<T>(turn: Turn, call: impl Future<Output = T>) -> (Turn, T) {
    (turn, call.await)
}

fn client(nodes: AnyOf) -> Client {
    Client::new(nodes).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn too_late() -> Refusal {
    Refusal::new(Code::DeadlineExceeded, "the store node did not answer in time")
}

/// A request that a store node elsewhere gives up on, too, once whoever asks has done so.
fn until<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()) + ANSWER_TIME);
    request
}

fn wait_within(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).saturating_sub(ANSWER_TIME)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Whether the same call may succeed soon: the store node is away, starts, stops or catches up, or
/// it gave up on rows that a slow client did not take. One that has too much to do is not asked
/// again from here: that would only be more.
fn may_pass(status: &Status) -> bool {
    match grpc::code_of(status) {
        Some(code) => {
            let passing = ["catching_up", "shutting_down", "partition_away", "read_untaken"];
            passing.contains(&code)
        }
        // Of the transport: it could not be reached, or the connection was lost.
        None => matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
        ),
    }
}

fn refusal(status: &Status) -> Refusal {
    let code = match grpc::code_of(status) {
        Some("not_reached") => Code::TimestampNotReached,
        Some("overloaded") => Code::Overloaded,
        Some("halted") => Code::StoreHalted,
        Some("corrupt" | "storage_failed" | "data_dir") => Code::Internal,
        Some(text) => Code::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text && code.status() < 500)
            .unwrap_or(Code::StoreUnavailable),
        None => match status.code() {
            tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::OutOfRange
            | tonic::Code::DataLoss => Code::Internal,
            _ => Code::StoreUnavailable,
        },
    };
    Refusal::new(code, format!("store node: {}", status.message()))
}

/// The document that a store node's canonical id names.
fn name(id: &Bytes) -> Result<DocumentName, Refusal> {
    let id = DocumentId::from_bytes(id)
        .map_err(|error| Refusal::new(Code::Internal, format!("store node: {error}")))?;
    let DocumentId { app: _, collection, key } = id;
    Ok(DocumentName { collection, key })
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::{AppId, DocumentKey};
    use serde_json::json;

    use super::*;
    use crate::doubles::{APP, Cluster, EAST};

    #[tokio::test]
    async fn the_next_node_is_asked_beside_one_that_does_not_answer() {
        let (silent, other) = (Cluster::start().await, Cluster::start().await);
        let args = json!({"d": {"_id": "a"}});
        let written = other.execute("INSERT INTO c DOCUMENTS (:d)", args).await.txn();
        // The one that is silent waits for a transaction that it never gets.
        let at_least = written.map(TxnId);
        let key = DocumentKey::from_value(&anabranch_core::Value::from("a")).unwrap();
        let app = AppId(APP.parse().unwrap());
        let id = DocumentId { app, collection: "c".parse().unwrap(), key };
        let patience = Duration::from_secs(60);
        let addresses = format!("{},{}", silent.store.address, other.store.address);
        let nodes = AnyOf::new(&addresses, None).unwrap();
        let store = Store::new(nodes.clone(), EAST, SliceCount::default(), patience);
        for _ in 0..2 {
            let found = store
                .get(&id, &Readable::ALL, At::Newest(at_least), Instant::now() + patience)
                .await;
            let found = found.unwrap_or_else(|refusal| panic!("{refusal}"));
            assert!(found.document.is_some());
            // Whichever was asked first, now it is the other one; and next time this one.
            nodes.pass_over(nodes.turn());
        }
        let reads = || [&silent, &other].map(|node| node.store.node.reads.load(Ordering::Relaxed));
        assert!(reads().iter().all(|reads| *reads > 0), "{:?}", reads());
        // Where all are slow, more questions would make them slower.
        while store.extra.spend() {}
        let mut alone = Vec::new();
        while alone.last() != Some(&false) && alone.len() < 3 {
            let found = store
                .get(&id, &Readable::ALL, At::Newest(at_least), Instant::now() + SILENCE * 2)
                .await;
            alone.push(found.is_ok());
            if found.is_ok() {
                nodes.pass_over(nodes.turn());
            }
        }
        assert!(!alone[alone.len() - 1], "the silent one was waited for alone: {alone:?}");
    }
}
