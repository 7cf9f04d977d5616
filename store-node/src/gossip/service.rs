//! The gossip of one node: the state machine, a task that drives it, a task for each peer that
//! sends to it, and the server that hears from them.
//!
//! A peer that is slow or dead costs only its own task anything: each has at most one request in
//! flight, and what is new meanwhile waits as one message. Nothing is kept on disk; a node that is
//! started again has a new incarnation and asks its peers what it missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{Configuration, Epoch, NodeId};
use anabranch_core::ids::ActorId;
use anabranch_runtime::chance;
use anabranch_runtime::grpc;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::{Shutdown, TaskError, Tasks};
use anabranch_runtime::tls::TlsFiles;
use anabranch_runtime::watched::{Watched, Watcher};
use anabranch_schemas::gossip as proto;
use parking_lot::Mutex;
use proto::gossip_client::GossipClient;
use proto::gossip_server::{self, GossipServer};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Request, Response, Status};

use super::announce::{Announce, Incarnation, Standing};
use super::certified;
use super::dice::Dice;
use super::doubt::{Outbids, Seldom, is_doubtful};
use super::message::Message;
use super::outbox::Outbox;
use super::state::{Settings, State};
use super::suspicion::{Moment, Suspicion};
use super::wire::{self, ClusterMark};
use crate::metrics;
use crate::status::{Status as NodeStatus, Trouble};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait after a failure, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MOST_DELAY: Duration = Duration::from_secs(1);
/// How long a peer was not reached for that to be told.
const UNREACHED: Duration = Duration::from_secs(2);
/// How often the suspicion of each peer is measured.
const MEASURING: Duration = Duration::from_secs(1);

/// Who gossips.
pub(crate) struct GossipOptions {
    /// The node.
    pub(crate) node: NodeId,
    /// Higher than in any earlier life of the node. Wall time will do: should it have gone back,
    /// the peers say so and the node takes a higher one.
    pub(crate) incarnation: Incarnation,
    /// Of which cluster.
    pub(crate) actor: ActorId,
    /// The newest configuration that the node has read.
    pub(crate) configuration: Configuration,
    /// With these it dials its peers over TLS.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) settings: Settings,
    /// Knows the end of the log, and is told what is wrong.
    pub(crate) status: Arc<NodeStatus>,
}

/// The gossip of a node; a handle that can be cloned.
#[derive(Clone)]
pub(crate) struct Gossip(Arc<Shared>);

struct Shared {
    node: NodeId,
    mark: ClusterMark,
    tls: Option<TlsFiles>,
    began: Instant,
    state: Mutex<State>,
    /// The peers that are sent to, with the address of each.
    outboxes: Mutex<BTreeMap<NodeId, (String, Arc<Outbox>)>>,
    /// Those that are not reached there.
    unreached: Mutex<BTreeMap<NodeId, Unreached>>,
    /// A step may be due earlier than it was.
    hurry: Notify,
    changes: Watched<()>,
    status: Arc<NodeStatus>,
    odd: Mutex<Odd>,
    tasks: Tasks,
}

/// When a peer was not reached first and last, and why.
struct Unreached {
    first: Instant,
    last: Instant,
    why: String,
}

/// What was odd, and when it was last said.
#[derive(Default)]
struct Odd {
    outbids: Outbids,
    said_outbid: Seldom,
    said_doubt: Seldom,
    said_certificate: Seldom,
}

impl Gossip {
    /// Begins to gossip. The server of [`Gossip::server`] has to be served by the caller.
    pub(crate) fn start(options: GossipOptions, tasks: &Tasks) -> Self {
        let GossipOptions { node, incarnation, actor, configuration, tls, settings, status } =
            options;
        let (dice, now) = (Dice::new(chance::number()), Moment::default());
        let state = State::new(node.clone(), incarnation, &configuration, settings, dice, now);
        let gossip = Gossip(Arc::new(Shared {
            node,
            mark: ClusterMark::of(actor),
            tls,
            began: Instant::now(),
            state: Mutex::new(state),
            outboxes: Mutex::default(),
            unreached: Mutex::default(),
            hurry: Notify::new(),
            changes: Watched::new(()),
            status,
            odd: Mutex::default(),
            tasks: tasks.clone(),
        }));
        gossip.dial(&configuration);
        tasks.spawn("store-node-gossip", gossip.clone().run(tasks.shutdown().clone()));
        gossip
    }

    /// Hears peers; to be added to the node's gRPC server.
    pub(crate) fn server(&self) -> GossipServer<Gossip> {
        GossipServer::new(self.clone())
    }

    /// How the node stands now. Nothing is said before this was called once.
    pub(crate) fn announce(&self, standing: Standing) {
        if self.0.state.lock().announce(standing) {
            self.0.hurry.notify_one();
            self.0.changes.change(|()| {});
        }
    }

    /// Of each node the newest announce, its own included, by name.
    pub(crate) fn announces(&self) -> Vec<Arc<Announce>> {
        self.0.state.lock().announces().cloned().collect()
    }

    /// The newest announce of a node, and how likely it is that the node is gone.
    pub(crate) fn look_at(&self, node: &NodeId) -> (Option<Arc<Announce>>, Suspicion) {
        let state = self.0.state.lock();
        (state.newest(node).cloned(), state.suspicion(node, self.now()))
    }

    /// How long a node was not heard.
    pub(crate) fn silence(&self, node: &NodeId) -> Duration {
        self.0.state.lock().silence(node, self.now())
    }

    /// Why a node is not reached at its address, if it was not for a while: it may be heard all the
    /// same, if the address is another one's.
    pub(crate) fn unreached(&self, node: &NodeId) -> Option<String> {
        let unreached = self.0.unreached.lock();
        let Unreached { first, last, why } = unreached.get(node)?;
        // One message that fails is none, however long it is the last one.
        (*last - *first >= UNREACHED).then(|| why.clone())
    }

    /// A peer gave a sign of life elsewhere: it answered a read, for instance.
    pub(crate) fn hear(&self, node: &NodeId) {
        self.0.state.lock().hear(node, self.now());
    }

    /// The highest epoch that any node speaks of. If it is above the one of the configuration that
    /// was passed in last there is a newer one to be read.
    pub(crate) fn heard_epoch(&self) -> Epoch {
        self.0.state.lock().heard_epoch()
    }

    /// Takes in a newer configuration; nothing if it is not newer.
    pub(crate) fn configure(&self, configuration: &Configuration) {
        {
            let mut state = self.0.state.lock();
            if configuration.epoch() <= state.epoch() {
                return;
            }
            state.configure(configuration, self.now());
        }
        self.dial(configuration);
        self.0.hurry.notify_one();
        self.0.changes.change(|()| {});
    }

    /// Told of every change of an announce, of the heard epoch and of the configuration.
    pub(crate) fn changes(&self) -> Watcher<()> {
        self.0.changes.watch()
    }

    fn now(&self) -> Moment {
        Moment(self.0.began.elapsed())
    }

    /// Sends to the peers of a configuration, and to no others.
    fn dial(&self, configuration: &Configuration) {
        let mut outboxes = self.0.outboxes.lock();
        let members = configuration.members();
        outboxes.retain(|node, (address, outbox)| {
            let is_kept = members.get(node).is_some_and(|member| member.address == *address);
            if !is_kept {
                outbox.close();
                self.0.unreached.lock().remove(node);
                metrics::forget_suspicion(node.as_str());
            }
            is_kept
        });
        for (node, member) in members.iter().filter(|(node, _)| **node != self.0.node) {
            if outboxes.contains_key(node) {
                continue;
            }
            let outbox = Arc::new(Outbox::default());
            outboxes.insert(node.clone(), (member.address.clone(), Arc::clone(&outbox)));
            let peer = Peer {
                gossip: self.clone(),
                node: node.clone(),
                address: member.address.clone(),
                outbox,
                is_reached: true,
            };
            self.0.tasks.spawn("store-node-gossip-peer", peer.run(self.0.tasks.shutdown().clone()));
        }
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), TaskError> {
        let mut measured = Instant::now();
        loop {
            let Moment(due) = self.0.state.lock().due();
            tokio::select! {
                biased;
                () = shutdown.begun() => return Ok(()),
                () = self.0.hurry.notified() => {}
                () = sleep_until(self.0.began + due) => {}
            }
            let messages = self.0.state.lock().tick(self.now());
            {
                let outboxes = self.0.outboxes.lock();
                for (node, message) in messages {
                    if let Some((_, outbox)) = outboxes.get(&node) {
                        outbox.post(message);
                    }
                }
            }
            if measured.elapsed() >= MEASURING {
                measured = Instant::now();
                for (node, suspicion) in self.0.state.lock().suspicions(self.now()) {
                    metrics::set_suspicion(node.as_str(), suspicion.share());
                }
                self.tell_of_namesake();
            }
        }
    }

    /// Takes in a request or an answer; what to answer a request with.
    fn receive(&self, message: proto::Message) -> Result<Message, wire::WireError> {
        metrics::record_gossip_received(proto::encoded_bytes(&message));
        let mut message = wire::decode(message, self.0.mark)?;
        let from = message.from.clone();
        self.drop_doubtful(&mut message);
        let received = self.0.state.lock().receive(message, self.now());
        if received.is_outbid {
            self.note_outbid(&from);
            self.0.hurry.notify_one();
        }
        if received.has_news || received.is_outbid {
            self.0.changes.change(|()| {});
        }
        Ok(received.answer.unwrap_or_else(|| Message::ping(self.0.node.clone())))
    }

    /// Takes out what is not believed.
    fn drop_doubtful(&self, message: &mut Message) {
        let log_end = self.0.status.recent_log_end();
        let from = message.from.clone();
        message.announces.retain(|announce| {
            if !is_doubtful(announce, log_end) {
                return true;
            }
            metrics::record_gossip_doubted();
            if self.0.odd.lock().said_doubt.may(self.now()) {
                tracing::warn!(
                    node = %announce.node, told_by = %from,
                    "it is told of a node that it has applied far more than there is in the log: \
                     not believed"
                );
            }
            false
        });
    }

    fn note_outbid(&self, told_by: &NodeId) {
        let now = self.now();
        let mut odd = self.0.odd.lock();
        odd.outbids.note(now);
        if odd.said_outbid.may(now) {
            tracing::warn!(
                node = %self.0.node, %told_by,
                "an announce of this node is known that it did not make: its clock went back, or \
                 another node has its name"
            );
        }
    }

    /// Two nodes of one name take turns in being believed: neither is of any use until one is gone.
    fn tell_of_namesake(&self) {
        let are_many = self.0.odd.lock().outbids.are_many(self.now());
        let text = are_many.then(|| {
            let node = &self.0.node;
            format!("another process gossips as node '{node}', too: stop one of them")
        });
        if self.0.status.set_trouble(Trouble::Namesake, text.clone()) {
            match text {
                Some(text) => tracing::error!(text),
                None => tracing::info!("this node is the only one of its name again"),
            }
        }
    }

    /// Whether a request is from whom it says, as far as its certificate tells.
    fn check_certificate(&self, request: &Request<proto::Message>) -> Result<(), Status> {
        let mut certified = certified::names(request);
        {
            let state = self.0.state.lock();
            certified.retain(|name| state.is_member(name));
        }
        let from = &request.get_ref().from;
        if certified.is_empty() || certified.iter().any(|name| name.as_str() == from) {
            return Ok(());
        }
        let names: Vec<_> = certified.iter().map(NodeId::as_str).collect();
        let refusal = format!("a certificate of node {} came from '{from}'", names.join(", "));
        if self.0.odd.lock().said_certificate.may(self.now()) {
            tracing::warn!(refusal, "a node shows the certificate of another one");
        }
        Err(grpc::refusal(Code::PermissionDenied, refusal))
    }

    /// Who was removed must not take the answer for a sign that it still counts: cut off from the log,
    /// it would not learn it otherwise.
    fn check_membership(&self, from: &str) -> Result<(), Status> {
        let state = self.0.state.lock();
        if from.parse().is_ok_and(|from| state.is_member(&from)) {
            return Ok(());
        }
        let epoch = state.epoch();
        let text = format!("in epoch {epoch} this cluster has no store node '{from}'");
        Err(grpc::refusal(Code::PermissionDenied, text))
    }

    /// A message as it is sent, counted.
    fn encode(&self, message: &Message) -> proto::Message {
        let message = wire::encode(message, self.0.mark);
        metrics::record_gossip_sent(proto::encoded_bytes(&message));
        message
    }
}

#[tonic::async_trait]
impl gossip_server::Gossip for Gossip {
    async fn exchange(
        &self,
        request: Request<proto::Message>,
    ) -> Result<Response<proto::Message>, Status> {
        self.check_certificate(&request)?;
        self.check_membership(&request.get_ref().from)?;
        match self.receive(request.into_inner()) {
            Ok(answer) => Ok(Response::new(self.encode(&answer))),
            Err(error) => Err(grpc::refusal(Code::InvalidArgument, error.to_string())),
        }
    }
}

/// Sends to one peer.
struct Peer {
    gossip: Gossip,
    node: NodeId,
    address: String,
    outbox: Arc<Outbox>,
    is_reached: bool,
}

impl Peer {
    async fn run(mut self, shutdown: Shutdown) -> Result<(), TaskError> {
        let sending = async {
            let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
            let mut client = None;
            while let Some(message) = self.outbox.take().await {
                let result = self.send(&mut client, &message).await;
                self.note(result.as_ref().err());
                match result {
                    Ok(()) => backoff.reset(),
                    Err(_) => sleep(backoff.next_delay()).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.begun() => {}
            () = sending => {}
        }
        Ok(())
    }

    async fn send(
        &self,
        client: &mut Option<GossipClient<grpc::Transport>>,
        message: &Message,
    ) -> Result<(), TaskError> {
        let client = match client {
            Some(client) => client,
            None => {
                // Fails for what a person may mend meanwhile: an address, or a certificate.
                let channel = grpc::channel(&self.address, self.gossip.0.tls.as_ref())?;
                client.insert(GossipClient::new(channel))
            }
        };
        let request = self.gossip.encode(message);
        let answer = timeout(PATIENCE, client.exchange(request)).await?;
        let answer = answer.map_err(|status| grpc::reason(&status))?.into_inner();
        if answer.from != self.node.as_str() {
            let found = answer.from;
            return Err(format!("node '{found}' answers at its address").into());
        }
        self.gossip.receive(answer)?;
        Ok(())
    }

    /// Keeps whether the peer is reached. Logs when it is lost and when it is back, and not each
    /// failure between.
    fn note(&mut self, failure: Option<&TaskError>) {
        {
            let mut unreached = self.gossip.0.unreached.lock();
            match failure.map(ToString::to_string) {
                Some(why) => {
                    let last = Instant::now();
                    let first = unreached.get(&self.node).map_or(last, |before| before.first);
                    unreached.insert(self.node.clone(), Unreached { first, last, why });
                }
                None => drop(unreached.remove(&self.node)),
            }
        }
        if self.is_reached == failure.is_none() {
            return;
        }
        self.is_reached = !self.is_reached;
        match failure {
            Some(error) => tracing::warn!(
                peer = %self.node, address = %self.address, %error,
                "gossip does not reach a node"
            ),
            None => tracing::info!(peer = %self.node, "gossip reaches a node again"),
        }
    }
}
