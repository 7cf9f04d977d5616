//! Whole clusters that gossip over a network that loses, delays, reorders and doubles messages.
//! What is sent goes through its real encoding. A base says at which millisecond it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_core::cluster::{Configuration, NodeId};
use anabranch_core::ids::ActorId;
use anabranch_schemas::gossip as proto;
use uuid::Uuid;

use super::announce::Incarnation;
use super::dice::Dice;
use super::doubles::{configuration, node, standing};
use super::message::Message;
use super::state::{Settings, State};
use super::suspicion::{Moment, Suspicion};
use super::wire::{self, ClusterMark};

/// Bases are as large as those of a cluster that is no longer young.
const FIRST_BASE: u64 = 1 << 30;
const TICK: u64 = 40;
/// What a node may send, whatever the size of its cluster: its allowance, what it says of itself
/// two hundred times a second, and answers to that.
const MOST_BYTES_PER_SECOND: u64 = 64 << 10;

/// A message on its way.
struct Packet {
    from: usize,
    to: usize,
    message: proto::Message,
    is_request: bool,
}

struct World {
    configuration: Configuration,
    now: u64,
    states: Vec<State>,
    packets: BTreeMap<(u64, u64), Packet>,
    packet_number: u64,
    dice: Dice,
    is_faulty: bool,
    cut_off: BTreeSet<usize>,
    /// When each node's base moved last.
    bases: Vec<u64>,
    bytes: Vec<u64>,
    messages: Vec<u64>,
}

fn at(millis: u64) -> Moment {
    Moment(Duration::from_millis(millis))
}

fn index_of(node: &NodeId) -> usize {
    node.as_str().trim_start_matches("node-").parse().unwrap()
}

fn mark() -> ClusterMark {
    ClusterMark::of(ActorId(Uuid::from_u128(u128::MAX)))
}

impl World {
    fn new(count: usize, seed: u64) -> Self {
        let names: Vec<_> = (0..count).map(|index| format!("node-{index:02}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let partitions: Vec<_> = names.chunks(3).collect();
        let configuration = configuration(1, &partitions, None);
        let mut world = World {
            configuration,
            now: 0,
            states: Vec::new(),
            packets: BTreeMap::new(),
            packet_number: 0,
            dice: Dice::new(seed),
            is_faulty: true,
            cut_off: BTreeSet::new(),
            bases: vec![0; count],
            bytes: vec![0; count],
            messages: vec![0; count],
        };
        world.states = (0..count).map(|index| world.state(index, 1)).collect();
        world
    }

    fn state(&mut self, index: usize, life: u64) -> State {
        let life = Incarnation(1_750_000_000_000 + life);
        let name = format!("node-{index:02}");
        let dice = Dice::new(self.dice.below(usize::MAX) as u64);
        let now = at(self.now);
        State::new(node(&name), life, &self.configuration, Settings::default(), dice, now)
    }

    /// Goes on for some time; `moving` says which bases move, each every 10 ms.
    fn run(&mut self, millis: u64, moving: impl Fn(usize) -> bool) {
        for _ in 0..millis {
            self.now += 1;
            while let Some(entry) = self.packets.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let packet = entry.remove();
                self.deliver(packet);
            }
            for index in 0..self.states.len() {
                if moving(index) && (self.now + index as u64).is_multiple_of(10) {
                    self.bases[index] = self.now;
                    self.states[index].announce(standing(1, FIRST_BASE + self.now));
                }
                for (to, message) in self.states[index].tick(at(self.now)) {
                    self.send(index, index_of(&to), &message, true);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message, is_request: bool) {
        let message = wire::encode(message, mark());
        self.bytes[from] += proto::encoded_bytes(&message) as u64;
        self.messages[from] += 1;
        let copies = match self.dice.below(100) {
            0..3 if self.is_faulty => 0,
            3..5 if self.is_faulty => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let is_late = self.is_faulty && self.dice.below(100) == 0;
            let delay = 1 + self.dice.below(if is_late { 500 } else { 10 }) as u64;
            self.packet_number += 1;
            let packet = Packet { from, to, message: message.clone(), is_request };
            self.packets.insert((self.now + delay, self.packet_number), packet);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, message, is_request } = packet;
        if self.cut_off.contains(&from) || self.cut_off.contains(&to) {
            return;
        }
        let message = wire::decode(message, mark()).unwrap();
        let received = self.states[to].receive(message, at(self.now));
        if is_request {
            let ping = || Message::ping(node(&format!("node-{to:02}")));
            let answer = received.answer.unwrap_or_else(ping);
            self.send(to, from, &answer, false);
        }
    }

    /// How old what each node knows of each other is, in milliseconds; what is not known at all
    /// is as old as the world.
    fn ages(&self) -> Vec<u64> {
        let mut ages = Vec::new();
        for state in &self.states {
            let mut known = vec![0; self.bases.len()];
            for announce in state.announces() {
                known[index_of(&announce.node)] = announce.standing.applied.base().0 - FIRST_BASE;
            }
            let age = |(known, newest)| if known == newest { 0 } else { self.now - known };
            ages.extend(known.into_iter().zip(self.bases.iter().copied()).map(age));
        }
        ages
    }

    fn oldest(&self) -> u64 {
        self.ages().into_iter().max().unwrap()
    }

    /// The most bytes and messages of a node in each of these seconds, and how old its news became.
    fn measure(&mut self, seconds: u64, moving: impl Fn(usize) -> bool) -> Measured {
        self.bytes.fill(0);
        self.messages.fill(0);
        let mut ages = Vec::new();
        for _ in 0..seconds * 1_000 / TICK {
            self.run(TICK, &moving);
            ages.extend(self.ages());
        }
        let most = |counts: &[u64]| counts.iter().max().unwrap() / seconds;
        ages.sort_unstable();
        Measured {
            bytes: most(&self.bytes),
            messages: most(&self.messages),
            typical_age: ages[ages.len() / 2],
            oldest: *ages.last().unwrap(),
        }
    }
}

#[derive(Debug)]
struct Measured {
    bytes: u64,
    messages: u64,
    typical_age: u64,
    oldest: u64,
}

/// (nodes, after how many ticks at most everybody has heard a base or a newer one)
const SIZES: [(usize, u64); 4] = [(3, 4), (10, 6), (30, 15), (100, 30)];

#[test]
fn what_is_sent_is_bounded_and_news_are_fresh_in_clusters_of_all_sizes() {
    for (count, most_ticks) in SIZES {
        let mut world = World::new(count, 42);
        world.run(1_000, |_| true);
        let measured = world.measure(2, |_| true);
        println!("{count} nodes: {measured:?}");
        assert!(measured.messages > 0 && measured.typical_age <= measured.oldest);
        assert!(measured.bytes <= MOST_BYTES_PER_SECOND, "{count} nodes: {measured:?}");
        assert!(measured.oldest <= most_ticks * TICK, "{count} nodes: {measured:?}");
    }
}

#[test]
fn a_quiet_cluster_agrees_and_costs_little() {
    for (count, _) in SIZES {
        let mut world = World::new(count, 43);
        world.run(500, |_| true);
        world.run(3_000, |_| false);
        assert_eq!(world.oldest(), 0, "{count} nodes");
        let measured = world.measure(2, |_| false);
        println!("{count} quiet nodes: {measured:?}");
        assert!(measured.bytes <= 6 << 10, "{count} nodes: {measured:?}");
    }
}

#[test]
fn one_that_was_cut_off_is_suspected_and_catches_up_when_it_is_back() {
    for (count, _) in SIZES {
        let mut world = World::new(count, 44);
        world.run(1_000, |_| true);
        world.cut_off.insert(1);
        world.run(1_500, |index| index != 1);
        let cut_off = node("node-01");
        let now = at(world.now);
        for (index, state) in world.states.iter().enumerate().filter(|(index, _)| *index != 1) {
            let suspicions: BTreeMap<_, _> = state.suspicions(now).collect();
            let most = suspicions.values().max().unwrap();
            assert_eq!(suspicions.get(&cut_off), Some(most), "{index} of {count}");
            assert!(*most > Suspicion::NONE && state.suspicion(&cut_off, now) == *most);
        }
        // All others fall silent; then it comes back, and nobody has news that are still spread.
        world.run(1_500, |_| false);
        assert!(world.oldest() > 1_500);
        world.cut_off.clear();
        let before = world.now;
        while world.oldest() > 0 {
            world.run(TICK, |_| false);
            assert!(world.now - before <= 50 * TICK, "{count} nodes");
        }
        println!("{count} nodes: caught up after {} ticks", (world.now - before) / TICK);
    }
}

#[test]
fn a_node_that_was_started_again_is_believed_though_it_is_behind() {
    for (count, _) in SIZES {
        let mut world = World::new(count, 45);
        world.run(500, |_| true);
        for life in [2, 1] {
            world.states[0] = world.state(0, life);
            world.bases[0] = 7;
            world.states[0].announce(standing(1, FIRST_BASE + 7));
            // Its clock may even have gone back: then it learns of its former life.
            world.run(2_000, |_| false);
            assert_eq!(world.oldest(), 0, "{count} nodes, life {life}");
        }
    }
}
