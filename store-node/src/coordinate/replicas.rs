//! How the nodes that hold a partition are asked: this one directly, the others over gRPC, one
//! after the other until one answers.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_runtime::grpc;
use anabranch_runtime::retry::Budget;
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::replica_client::ReplicaClient;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::service::interceptor::InterceptedService;

use super::failure::worse;
use crate::error::Error;
use crate::gossip::ClusterMark;
use crate::rpc::{Addressed, Local, MAX_MESSAGE_BYTES, Replies, refuse, refused, replies};

/// A node that has not answered within this time is not waited for alone, if that is allowed.
const HEDGE: Duration = Duration::from_millis(30);
/// And one that has not within this time never is: its connection may be dead, which takes longer to
/// be found out.
const SILENCE: Duration = Duration::from_millis(400);
/// So many calls pay for one that is made twice, and so many of these are saved up.
const CALLS_PER_HEDGE: u32 = 10;
const MOST_HEDGES: u32 = 20;

/// A client of another node, which says whom it means.
pub(crate) type Client = ReplicaClient<InterceptedService<grpc::Transport, Addressed>>;

/// A node that may be asked.
pub(crate) struct Asked {
    pub(crate) node: NodeId,
    /// Whether it has come as far as is to be read, as far as was heard.
    pub(crate) has_reached: bool,
    pub(crate) replica: Replica,
}

/// Whether to ask a second node beside one that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hedge {
    /// When that one has what is asked and it was not done too often: for what costs little.
    When,
    /// Only once the first one has failed or is silent: streams, of which each does all its work.
    Never,
}

/// A node that holds a partition.
#[derive(Clone)]
pub(crate) enum Replica {
    Here(Local),
    There(Client),
}

impl Replica {
    pub(crate) async fn get(self, request: proto::GetRequest) -> Result<proto::GetReply, Status> {
        match self {
            Replica::Here(local) => refused(local.get(request).await),
            Replica::There(mut client) => Ok(client.get(request).await?.into_inner()),
        }
    }

    pub(crate) async fn query(
        self,
        request: proto::QueryRequest,
    ) -> Result<Replies<proto::QueryReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.query(request).await.map(replies)),
            Replica::There(mut client) => Ok(client.query(request).await?.into_inner().boxed()),
        }
    }

    pub(crate) async fn scan(
        self,
        request: proto::ScanRequest,
    ) -> Result<Replies<proto::ScanReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.scan(request).await.map(replies)),
            Replica::There(mut client) => Ok(client.scan(request).await?.into_inner().boxed()),
        }
    }

    pub(crate) async fn outcome(
        self,
        request: proto::OutcomeRequest,
    ) -> Result<proto::OutcomeReply, Status> {
        match self {
            Replica::Here(local) => refused(local.outcome(request).await),
            Replica::There(mut client) => Ok(client.outcome(request).await?.into_inner()),
        }
    }

    pub(crate) async fn feed(
        self,
        request: proto::FeedRequest,
    ) -> Result<Replies<proto::FeedReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.feed(&request).map(replies)),
            Replica::There(mut client) => Ok(client.feed(request).await?.into_inner().boxed()),
        }
    }

    pub(crate) async fn checksum(
        self,
        request: proto::ChecksumRequest,
    ) -> Result<Replies<proto::ChecksumReply>, Status> {
        match self {
            Replica::Here(local) => refused(local.checksum(request).await.map(replies)),
            Replica::There(mut client) => Ok(client.checksum(request).await?.into_inner().boxed()),
        }
    }
}

/// The clients of other nodes, each made when it is first needed.
pub(super) struct Peers {
    tls: Option<TlsFiles>,
    mark: ClusterMark,
    clients: Mutex<BTreeMap<NodeId, (String, Client)>>,
    /// What is saved up for calls that are made twice, in calls.
    hedges: Budget,
}

impl Peers {
    pub(super) fn new(tls: Option<TlsFiles>, mark: ClusterMark) -> Self {
        let hedges = Budget::new(CALLS_PER_HEDGE, MOST_HEDGES);
        Peers { tls, mark, clients: Mutex::default(), hedges }
    }

    /// A client of the node at this address.
    pub(super) fn client(&self, node: &NodeId, address: &str) -> Result<Client, Status> {
        let mut clients = self.clients.lock();
        if let Some((known, client)) = clients.get(node)
            && known == address
        {
            return Ok(client.clone());
        }
        let channel = grpc::channel(address, self.tls.as_ref());
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let addressed = Addressed::to(node, self.mark);
        let client = ReplicaClient::with_interceptor(channel, addressed)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        clients.insert(node.clone(), (address.to_owned(), client.clone()));
        Ok(client)
    }

    /// Asks one after the other until one answers: the next as soon as one fails, is slow and may
    /// be asked twice, or is silent for long. Returns who answered first.
    pub(super) async fn first_answer<T, F>(
        &self,
        replicas: Vec<Asked>,
        hedge: Hedge,
        call: impl Fn(Replica) -> F,
    ) -> Result<(NodeId, T), Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.hedges.save();
        let mut waiting = replicas.into_iter().peekable();
        let mut asked = FuturesUnordered::new();
        let (mut failure, mut told) = (None::<Status>, Vec::new());
        let mut is_slow = std::pin::pin!(sleep(HEDGE));
        let mut is_silent = std::pin::pin!(sleep(SILENCE));
        let mut hedge = hedge == Hedge::When;
        loop {
            if asked.is_empty() {
                let Some(next) = waiting.next() else { return Err(away(failure, &told)) };
                asked.push(named(next.node, call(next.replica)));
            }
            let may_hedge =
                hedge && asked.len() == 1 && waiting.peek().is_some_and(|next| next.has_reached);
            tokio::select! {
                biased;
                answer = asked.select_next_some() => match answer {
                    (node, Ok(answer)) => return Ok((node, answer)),
                    (_, Err(status)) if grpc::is_final(&status) => return Err(status),
                    (node, Err(status)) => {
                        told.push(format!("{node}: {}", grpc::reason(&status)));
                        failure = Some(worse(failure.take(), status, is_trimmed));
                    }
                },
                () = is_slow.as_mut(), if may_hedge => {
                    hedge = false;
                    let next = if self.hedges.spend() { waiting.next() } else { None };
                    asked.extend(next.map(|next| named(next.node, call(next.replica))));
                }
                () = is_silent.as_mut(), if waiting.peek().is_some() => {
                    is_silent.as_mut().reset(Instant::now() + SILENCE);
                    asked.extend(waiting.next().map(|next| named(next.node, call(next.replica))));
                }
            }
        }
    }
}

async fn named<T>(
    node: NodeId,
    call: impl Future<Output = Result<T, Status>>,
) -> (NodeId, Result<T, Status>) {
    (node, call.await)
}

/// Whether a node said that it no longer has the changes that were asked for.
pub(super) fn is_trimmed(status: &Status) -> bool {
    grpc::code_of(status) == Some("feed_trimmed")
}

/// What is told if no replica of a partition gave an answer, for what each of them has told.
fn away(failure: Option<Status>, told: &[String]) -> Status {
    match failure {
        Some(status) if grpc::code_of(&status).is_some() => status,
        Some(_) => refuse(&Error::PartitionAway(told.join("; "))),
        None => refuse(&Error::PartitionAway("it has none".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tonic::Code;

    use super::*;

    /// What the replica that is asked as this one does.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        Answers,
        AnswersLate,
        Hangs,
        BreaksOff,
        Refuses,
    }

    /// What comes of asking replicas that do these things, and how many were asked.
    async fn ask(
        peers: &Peers,
        does: &[(Does, bool)],
        hedge: Hedge,
    ) -> (Result<usize, Status>, usize) {
        let replica = |(number, (_, has_reached)): (usize, &(Does, bool))| {
            let node: NodeId = format!("n{number}").parse().unwrap();
            let client = peers.client(&node, "127.0.0.1:1").unwrap();
            Asked { node, has_reached: *has_reached, replica: Replica::There(client) }
        };
        let asked = AtomicUsize::new(0);
        let answer =
            peers.first_answer(does.iter().enumerate().map(replica).collect(), hedge, |_| {
                let number = asked.fetch_add(1, Ordering::SeqCst);
                async move {
                    match does[number].0 {
                        Does::Answers => Ok(number),
                        Does::AnswersLate => {
                            // Late enough for a busy machine to notice, and not yet silent.
                            sleep(SILENCE / 4).await;
                            Ok(number)
                        }
                        Does::Hangs => std::future::pending().await,
                        Does::BreaksOff => Err(Status::unavailable("broken")),
                        Does::Refuses => Err(refuse(&Error::InvalidRequest("nonsense".to_owned()))),
                    }
                }
            });
        let answer = answer.await.map(|(_, number)| number);
        (answer, asked.into_inner())
    }

    fn peers() -> Peers {
        Peers::new(None, ClusterMark::of(anabranch_core::ids::ActorId(uuid::Uuid::nil())))
    }

    #[tokio::test]
    async fn another_replica_answers_for_one_that_fails_or_hangs() {
        let peers = peers();
        for first in [Does::BreaksOff, Does::Hangs] {
            let (answer, asked) =
                ask(&peers, &[(first, true), (Does::Answers, true)], Hedge::When).await;
            assert_eq!((answer.unwrap(), asked), (1, 2), "{first:?}");
        }
        for first in [Does::BreaksOff, Does::Hangs] {
            let (answer, _) =
                ask(&peers, &[(first, true), (Does::Answers, false)], Hedge::Never).await;
            assert_eq!(
                answer.unwrap(),
                1,
                "also one that has not come that far, as far as was heard"
            );
        }
    }

    #[tokio::test]
    async fn one_that_is_slow_is_waited_for_if_no_other_is_better_or_it_costs_too_much() {
        let peers = peers();
        let slow = Does::AnswersLate;
        let alone = [(slow, true), (Does::Answers, false)];
        let both = [(slow, true), (Does::Answers, true)];
        assert_eq!(ask(&peers, &alone, Hedge::When).await.1, 1);
        assert_eq!(ask(&peers, &both, Hedge::Never).await.1, 1);
        let hanging = [(Does::Hangs, true), (Does::Answers, true)];
        assert_eq!(ask(&peers, &hanging, Hedge::When).await.1, 2);
        while peers.hedges.spend() {}
        assert_eq!(ask(&peers, &both, Hedge::When).await.1, 1, "nothing is saved up");
    }

    #[tokio::test]
    async fn what_all_would_refuse_is_asked_once_and_who_is_away_is_told() {
        let peers = peers();
        let (answer, asked) =
            ask(&peers, &[(Does::Refuses, true), (Does::Answers, true)], Hedge::When).await;
        assert_eq!((answer.unwrap_err().code(), asked), (Code::InvalidArgument, 1));
        let (answer, _) = ask(&peers, &[(Does::BreaksOff, true); 2], Hedge::When).await;
        let status = answer.unwrap_err();
        assert_eq!(grpc::code_of(&status), Some("partition_away"));
        let (answer, _) = ask(&peers, &[], Hedge::When).await;
        assert_eq!(grpc::code_of(&answer.unwrap_err()), Some("partition_away"));
    }
}
