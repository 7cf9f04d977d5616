//! What a node knows of the others, and what it says to whom, when.
//!
//! Pure: time and chance are passed in. The service around it drives it, and so does a simulation.
//!
//! How much a node sends does not grow with the cluster:
//!
//! * What is new spreads as a rumor, to a few peers at a time and only a few times. All that a node
//!   sends is drawn from an allowance of bytes per second; rumors get what is left of it, and wait
//!   when nothing is. Then what is known of others gets older, in proportion to their number.
//! * What a node says of itself needs no allowance. It is short, and it is sent at most once per
//!   [`Settings::pause`] to [`Settings::fanout`] peers.
//! * Now and then one peer is asked for what no rumor brought: it is told which versions are known
//!   of those nodes of which there was no news for longest, and answers with newer ones.
//! * A peer is pinged if nothing was heard from it for a while, one peer at a time. Every message
//!   from it is a sign of life, so among nodes that have news nobody is.
//!
//! Peers are gone through in a random order, anew each time, so each is met within so many steps.
//! When nothing changes there are only pings and digests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{Configuration, Epoch, NodeId};

use super::announce::{Announce, Incarnation, Standing, Version};
use super::dice::Dice;
use super::knowledge::Knowledge;
use super::message::Message;
use super::suspicion::{Heartbeats, Moment, Suspicion};
use super::wire;

/// How fast and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What is new is sent this often.
    pub(crate) tick: Duration,
    /// The base of the node itself is sent at once when it moves, but not more often than this.
    pub(crate) pause: Duration,
    /// To how many peers each time.
    pub(crate) fanout: usize,
    /// The allowance.
    pub(crate) bytes_per_second: u32,
    /// A peer that was not heard for this long is pinged.
    pub(crate) ping_after: Duration,
    /// How often a peer is asked for what the node lacks.
    pub(crate) digest_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tick: Duration::from_millis(40),
            pause: Duration::from_millis(20),
            fanout: 2,
            bytes_per_second: 48 << 10,
            ping_after: Duration::from_millis(250),
            digest_interval: Duration::from_millis(250),
        }
    }
}

#[cfg(feature = "simulation")]
impl Settings {
    /// So slow that simulations are fast.
    pub(crate) fn leisurely() -> Self {
        Settings {
            tick: Duration::from_millis(150),
            pause: Duration::from_millis(60),
            ping_after: Duration::from_millis(800),
            digest_interval: Duration::from_millis(800),
            ..Settings::default()
        }
    }
}

/// How much of a digest is about peers at most, and how long an answer to one is.
const DIGEST_BYTES: usize = 640;
const HURRIED_DIGEST_BYTES: usize = 2 << 10;
const ANSWER_BYTES: usize = 4 << 10;
/// How many digests follow each other with each step when much may be missing: at the start, after
/// a change of the configuration, and for a node that was cut off.
const HURRIED_DIGESTS: u32 = 3;
/// A node that heard nobody for this long was cut off.
const CUT_OFF: Duration = Duration::from_secs(1);
/// A rumor is passed on this much more often than it takes for everybody to know it if nobody is
/// told twice.
const MORE_SENDS: u32 = 3;

/// A member that is not the node itself.
#[derive(Clone, Debug)]
struct Peer {
    heartbeats: Heartbeats,
    /// When something was last sent to it.
    sent: Moment,
    /// When it was last news of, or somebody was asked for some.
    updated: Moment,
}

/// Bytes that may be sent.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: i64,
    filled: Moment,
}

/// What a message that was received did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// What to answer with.
    pub(crate) answer: Option<Message>,
    /// Something is known that was not.
    pub(crate) has_news: bool,
    /// Somebody knew a newer announce of this node than it has made. Either the clock that gave it
    /// its incarnation went back, or two nodes have one name. It took a higher incarnation.
    pub(crate) is_outbid: bool,
}

/// The state machine.
#[derive(Clone, Debug)]
pub(crate) struct State {
    me: NodeId,
    settings: Settings,
    epoch: Epoch,
    /// The highest epoch in any announce.
    heard_epoch: Epoch,
    /// Of the next announce of the node itself.
    next_version: Version,
    knowledge: Knowledge,
    peers: BTreeMap<NodeId, Peer>,
    /// The peers in the order in which they are met, and the next one.
    order: Vec<NodeId>,
    next_in_order: usize,
    /// The node's base has moved and nobody was told.
    is_urgent: bool,
    /// The last step, and the last one in which rumors were sent.
    stepped: Option<Moment>,
    spread: Option<Moment>,
    /// When any peer was heard last.
    heard: Moment,
    digested: Moment,
    hurried_digests: u32,
    allowance: Allowance,
    dice: Dice,
}

impl State {
    /// Of a node that has just been started.
    pub(crate) fn new(
        me: NodeId,
        incarnation: Incarnation,
        configuration: &Configuration,
        settings: Settings,
        dice: Dice,
        now: Moment,
    ) -> Self {
        let mut state = State {
            me,
            settings,
            epoch: Epoch::default(),
            heard_epoch: Epoch::default(),
            next_version: Version::first(incarnation),
            knowledge: Knowledge::default(),
            peers: BTreeMap::new(),
            order: Vec::new(),
            next_in_order: 0,
            is_urgent: false,
            stepped: None,
            spread: None,
            heard: now,
            digested: now,
            hurried_digests: 0,
            allowance: Allowance { bytes: 0, filled: now },
            dice,
        };
        state.take_in(configuration, now);
        state
    }

    /// Takes in a newer configuration; nothing if it is not newer.
    pub(crate) fn configure(&mut self, configuration: &Configuration, now: Moment) {
        if configuration.epoch() > self.epoch {
            self.take_in(configuration, now);
        }
    }

    fn take_in(&mut self, configuration: &Configuration, now: Moment) {
        self.epoch = configuration.epoch();
        self.heard_epoch = self.heard_epoch.max(self.epoch);
        let members = configuration.members();
        self.knowledge.retain(|node| *node == self.me || members.contains_key(node));
        self.peers.retain(|node, _| members.contains_key(node));
        for node in members.keys().filter(|node| **node != self.me) {
            let peer = || Peer { heartbeats: Heartbeats::new(now), sent: now, updated: now };
            self.peers.entry(node.clone()).or_insert_with(peer);
        }
        self.order = self.peers.keys().cloned().collect();
        self.next_in_order = self.order.len();
        self.hurried_digests = HURRIED_DIGESTS;
    }

    /// The epoch of the configuration that it goes by.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest epoch that any node speaks of. If it is above [`State::epoch`] there is a newer
    /// configuration to be read.
    pub(crate) fn heard_epoch(&self) -> Epoch {
        self.heard_epoch
    }

    /// Of each node the newest announce, its own included, by name.
    pub(crate) fn announces(&self) -> impl Iterator<Item = &Arc<Announce>> {
        self.knowledge.announces()
    }

    /// The newest announce of a node.
    pub(crate) fn newest(&self, node: &NodeId) -> Option<&Arc<Announce>> {
        self.knowledge.newest(node)
    }

    /// How likely it is that a node is gone.
    pub(crate) fn suspicion(&self, node: &NodeId, now: Moment) -> Suspicion {
        match self.peers.get(node) {
            Some(peer) => peer.heartbeats.suspicion(now),
            None if *node == self.me => Suspicion::NONE,
            None => Suspicion::FULL,
        }
    }

    /// How long a node was not heard; for ever if it never was, and not at all the node itself.
    pub(crate) fn silence(&self, node: &NodeId, now: Moment) -> Duration {
        match self.peers.get(node).filter(|peer| peer.heartbeats.was_heard()) {
            Some(peer) => peer.heartbeats.silence(now),
            None if *node == self.me => Duration::ZERO,
            None => Duration::MAX,
        }
    }

    /// Whether a node is declared.
    pub(super) fn is_member(&self, node: &NodeId) -> bool {
        *node == self.me || self.peers.contains_key(node)
    }

    /// How likely it is of each peer, by name.
    pub(crate) fn suspicions(&self, now: Moment) -> impl Iterator<Item = (&NodeId, Suspicion)> {
        self.peers.iter().map(move |(node, peer)| (node, peer.heartbeats.suspicion(now)))
    }

    /// How the node stands now; whether that is news.
    pub(crate) fn announce(&mut self, standing: Standing) -> bool {
        let known = self.knowledge.newest(&self.me).map(|announce| &announce.standing);
        if known == Some(&standing) {
            return false;
        }
        self.is_urgent |= known.is_none_or(|known| {
            known.applied != standing.applied
                || known.epoch != standing.epoch
                || known.copying.is_some() != standing.copying.is_some()
                || known.is_whole != standing.is_whole
        });
        self.heard_epoch = self.heard_epoch.max(standing.epoch);
        let announce = Announce { node: self.me.clone(), version: self.next_version, standing };
        self.next_version = self.next_version.next();
        self.knowledge.learn(Arc::new(announce), &self.me)
    }

    /// When the next step is due.
    pub(crate) fn due(&self) -> Moment {
        let after = |last: Option<Moment>, wait| last.map(|last| last.after(wait));
        let regular = after(self.stepped, self.settings.tick).unwrap_or_default();
        let urgent = after(self.spread, self.settings.pause).unwrap_or_default();
        if self.is_urgent { regular.min(urgent) } else { regular }
    }

    /// Takes a step, if one is due: what to send to whom.
    pub(crate) fn tick(&mut self, now: Moment) -> Vec<(NodeId, Message)> {
        if now < self.due() {
            return Vec::new();
        }
        self.stepped = Some(now);
        self.is_urgent = false;
        self.refill(now);
        let mut messages = BTreeMap::new();
        self.add_rumors(&mut messages);
        if !messages.is_empty() {
            self.spread = Some(now);
        }
        self.add_digest(now, &mut messages);
        self.add_ping(now, &mut messages);
        for (node, message) in &messages {
            self.allowance.spend(message);
            if let Some(peer) = self.peers.get_mut(node) {
                peer.sent = now;
            }
        }
        messages.into_iter().collect()
    }

    fn refill(&mut self, now: Moment) {
        let Allowance { bytes, filled } = &mut self.allowance;
        // What is not used within a few steps is not saved up: it would all come at once.
        let most = self.settings.tick * 3;
        let elapsed = now.since(*filled).min(most);
        let rate = u64::from(self.settings.bytes_per_second);
        let share = |time: Duration| {
            let share = u128::from(rate) * time.as_micros() / 1_000_000;
            i64::try_from(share).expect("some bytes per second, for less than a second")
        };
        *bytes = (*bytes + share(elapsed)).min(share(most));
        *filled = now;
    }

    fn add_rumors(&mut self, messages: &mut BTreeMap<NodeId, Message>) {
        let limit = MORE_SENDS + (self.peers.len() + 1).ilog2() + 1;
        if !self.knowledge.has_rumors(limit) {
            return;
        }
        let targets = self.next_peers();
        let ping = Message::ping(self.me.clone());
        let bytes = usize::try_from(self.allowance.bytes).unwrap_or_default();
        let room = bytes / targets.len().max(1);
        let room = room.saturating_sub(wire::message_bytes(&ping));
        for target in targets {
            let announces = self.knowledge.take_rumors(&self.me, &target, limit, room);
            if !announces.is_empty() {
                messages.insert(target, Message { announces, ..ping.clone() });
            }
        }
    }

    /// The peers whose turn it is.
    fn next_peers(&mut self) -> Vec<NodeId> {
        let count = self.settings.fanout.min(self.order.len());
        if self.next_in_order + count > self.order.len() {
            self.dice.shuffle(&mut self.order);
            self.next_in_order = 0;
        }
        let met = self.next_in_order..self.next_in_order + count;
        self.next_in_order = met.end;
        self.order[met].to_vec()
    }

    fn add_digest(&mut self, now: Moment, messages: &mut BTreeMap<NodeId, Message>) {
        let is_due = now.since(self.digested) >= self.settings.digest_interval;
        if self.order.is_empty() || !(is_due || self.hurried_digests > 0) {
            return;
        }
        self.digested = now;
        let bytes = if self.hurried_digests > 0 { HURRIED_DIGEST_BYTES } else { DIGEST_BYTES };
        self.hurried_digests = self.hurried_digests.saturating_sub(1);
        let target = self.order[self.dice.below(self.order.len())].clone();
        let digest = self.digest(bytes, now);
        let ping = || Message::ping(self.me.clone());
        messages.entry(target).or_insert_with(ping).digest = digest;
    }

    /// What is known of the node itself, so that it hears of a former life which others take for
    /// the newest, and of those peers of which there was no news, nor a question, for longest.
    fn digest(&mut self, bytes: usize, now: Moment) -> Vec<(NodeId, Version)> {
        let mut digest = vec![(self.me.clone(), self.knowledge.version(&self.me))];
        let mut peers: Vec<_> = self.peers.iter_mut().collect();
        peers.sort_by_key(|(_, peer)| peer.updated);
        let mut left = bytes;
        for (node, peer) in peers {
            let Some(rest) = left.checked_sub(wire::known_bytes(node)) else { break };
            left = rest;
            peer.updated = now;
            digest.push((node.clone(), self.knowledge.version(node)));
        }
        digest
    }

    /// Pings the peer that was silent for longest, if that is long.
    fn add_ping(&self, now: Moment, messages: &mut BTreeMap<NodeId, Message>) {
        let is_due = |peer: &Peer| {
            peer.heartbeats.silence(now).min(now.since(peer.sent)) >= self.settings.ping_after
        };
        let silent =
            self.peers.iter().filter(|(node, peer)| is_due(peer) && !messages.contains_key(node));
        // Of those that are due the one that was last sent something the longest ago, or a few
        // dead ones would take the turns of all others.
        if let Some((node, _)) = silent.min_by_key(|(_, peer)| peer.sent) {
            messages.insert(node.clone(), Message::ping(self.me.clone()));
        }
    }

    /// A sign of life of a peer, of whatever kind.
    pub(crate) fn hear(&mut self, node: &NodeId, now: Moment) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        peer.heartbeats.hear(now);
        if now.since(self.heard) >= CUT_OFF {
            self.hurried_digests = HURRIED_DIGESTS;
            self.knowledge.spread_anew(&self.me);
        }
        self.heard = self.heard.max(now);
    }

    /// Takes in a message, a request or an answer. One from who is no member is ignored, and so is
    /// what is said of who is no member.
    pub(crate) fn receive(&mut self, message: Message, now: Moment) -> Received {
        let Message { from, announces, digest } = message;
        let mut received = Received::default();
        if !self.peers.contains_key(&from) {
            return received;
        }
        self.hear(&from, now);
        for announce in announces {
            if announce.node == self.me {
                received.is_outbid |= self.outbid(announce.version);
            } else if let Some(peer) = self.peers.get_mut(&announce.node) {
                self.heard_epoch = self.heard_epoch.max(announce.standing.epoch);
                if self.knowledge.learn(announce, &from) {
                    peer.updated = now;
                    received.has_news = true;
                }
            }
        }
        if !digest.is_empty() {
            self.refill(now);
            let announces = self.knowledge.newer(&digest, ANSWER_BYTES);
            let answer = Message { announces, ..Message::ping(self.me.clone()) };
            self.allowance.spend(&answer);
            received.answer = Some(answer);
        }
        received
    }

    /// Somebody has an announce of this node. If it is not from this life, this life has to come
    /// after it, or nobody would believe what the node says now.
    fn outbid(&mut self, heard: Version) -> bool {
        if heard < self.next_version {
            return false;
        }
        let mut incarnation = heard.incarnation;
        incarnation.0 = incarnation.0.saturating_add(1);
        self.next_version = Version::first(incarnation);
        let Some(own) = self.knowledge.newest(&self.me) else { return true };
        let own = Announce { version: self.next_version, ..own.as_ref().clone() };
        self.next_version = self.next_version.next();
        self.knowledge.learn(Arc::new(own), &self.me);
        self.is_urgent = true;
        true
    }
}

impl Allowance {
    /// May leave a debt, which the next rumors wait for.
    fn spend(&mut self, message: &Message) {
        let bytes = i64::try_from(wire::message_bytes(message)).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
