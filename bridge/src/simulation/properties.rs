//! What must hold however the steps interleave.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{FieldPath, OnConflict};
use anabranch_schemas::records::DocumentMutation;
use anabranch_schemas::resources::OnLeave;

use super::direction::Direction;
use crate::doubles::cluster::{APP, Cluster};
use crate::queries::Queries;

const DOCUMENTS: i64 = 12;

fn queries(condition: &str) -> Queries {
    let texts = BTreeMap::from([("c".parse().unwrap(), vec![condition.to_owned()])]);
    Queries::parse(&texts).unwrap()
}

fn id(number: i64) -> DocumentId {
    let key = DocumentKey::from_value(&Value::Int(number)).unwrap();
    DocumentId { app: APP, collection: "c".parse().unwrap(), key }
}

/// Two clusters; direction 0 goes from the first to the second.
struct World {
    clusters: [Cluster; 2],
    directions: [Direction; 2],
    now_ms: u64,
    /// Clusters without a bridge between them, for a while.
    apart: bool,
    trims: bool,
    /// Only the first writes, and only the second receives.
    one_way: bool,
}

impl World {
    /// A step of a random history.
    fn step(&mut self, rng: &mut StdRng) {
        self.now_ms += rng.random_range(0..3);
        match rng.random_range(0..100) {
            0..12 => {
                let side = if self.one_way { 0 } else { rng.random_range(0..2) };
                self.write(side, rng);
            }
            12..30 => self.clusters[rng.random_range(0..2)].capture(rng.random_range(1..4)),
            30..31 if self.trims => self.trim(rng.random_range(0..2)),
            31..33 => self.apart = !self.apart,
            33..35 => self.directions[rng.random_range(0..2)].cut(),
            35..37 => self.directions.iter_mut().for_each(Direction::cut),
            _ if self.apart => {}
            37..80 => {
                self.send(rng.random_range(0..2), rng);
            }
            _ => {
                self.receive(rng.random_range(0..2), rng);
            }
        }
    }

    fn send(&mut self, direction: usize, rng: &mut StdRng) -> bool {
        if self.one_way && direction == 1 {
            return false;
        }
        let (from, to) = (&self.clusters[direction], &self.clusters[1 - direction]);
        self.directions[direction].send(from, to, rng)
    }

    fn receive(&mut self, direction: usize, rng: &mut StdRng) -> bool {
        let [first, second] = &mut self.clusters;
        let (from, to) = if direction == 0 { (first, second) } else { (second, first) };
        // The clocks of the two differ.
        let now_ms = self.now_ms + 40 * direction as u64;
        self.directions[direction].receive(from, to, now_ms, rng)
    }

    /// A round written by a client of one cluster.
    fn write(&mut self, side: usize, rng: &mut StdRng) {
        let count = rng.random_range(1..4);
        let mutations: Vec<_> = (0..count).map(|_| self.mutation(rng)).collect();
        let now_ms = self.now_ms + 40 * (1 - side) as u64;
        self.clusters[side].write(&mutations, None, now_ms, rng.random_bool(0.2));
    }

    fn mutation(&self, rng: &mut StdRng) -> DocumentMutation {
        let number = rng.random_range(0..DOCUMENTS);
        let path = |name: &str| FieldPath::new(vec![name.to_owned()]).unwrap();
        let value = |rng: &mut StdRng| Value::Int(rng.random_range(0..5));
        let wanted = |rng: &mut StdRng| Value::Bool(rng.random_bool(0.6));
        let update = |set, increment| Mutation::Update { set, unset: vec![], increment };
        let mutation = match rng.random_range(0..6) {
            0 => {
                let fields = [("wanted", wanted(rng)), ("x", value(rng)), ("y", value(rng))];
                let fields = fields.map(|(name, value)| (name.to_owned(), value));
                Mutation::Insert {
                    fields: fields.into_iter().collect(),
                    on_conflict: OnConflict::DoUpdate,
                }
            }
            1 => update(vec![(path("wanted"), wanted(rng))], vec![]),
            2 => Mutation::Delete,
            3 => update(vec![(path("x"), value(rng)), (path("z"), value(rng))], vec![]),
            4 => update(vec![(path("y"), value(rng))], vec![(path("n"), 1)]),
            _ => update(vec![], vec![(path("n"), rng.random_range(-2..3))]),
        };
        DocumentMutation::new(id(number).collection, id(number).key, mutation)
    }

    /// The log of one cluster forgets its beginning. What was under way breaks off.
    fn trim(&mut self, side: usize) {
        let cluster = &mut self.clusters[side];
        let middle = cluster.log.len() / 2;
        if let Some(applied) = cluster.log.get(middle) {
            cluster.start = cluster.start.max(applied.txn);
            self.directions[side].cut();
        }
    }

    /// Nobody writes any more: everything arrives.
    fn quiet(&mut self, rng: &mut StdRng) {
        self.apart = false;
        let mut idle = 0;
        for _ in 0..1_000_000 {
            self.now_ms += 1;
            for cluster in &mut self.clusters {
                cluster.capture(usize::MAX);
            }
            let mut busy = false;
            for direction in 0..2 {
                busy |= self.send(direction, rng);
                busy |= self.receive(direction, rng);
            }
            idle = if busy { 0 } else { idle + 1 };
            // A sender may keep whole rounds for a while, at random.
            if idle > 40 {
                return;
            }
        }
        panic!("the clusters never come to rest: changes go round in circles");
    }

    /// The receiver has every document that it wants as the sender has it, and no other.
    fn check_nothing_else(&self) {
        let [from, to] = &self.clusters;
        let queries = &self.directions[0].queries;
        for id in (0..DOCUMENTS).map(id) {
            let there = from.value(&id);
            let is_wanted = there
                .clone()
                .is_some_and(|document| queries.wants(&id.collection, &id.key.add_to(document)));
            assert_eq!(to.value(&id), there.filter(|_| is_wanted), "{id}");
        }
    }

    /// BR-1: of what a receiver wants, both have the same. What one forgot the other has.
    fn check_convergence(&self) {
        let [first, second] = &self.clusters;
        for id in first.versions.keys().chain(second.versions.keys()) {
            let held = first.latest(id).or(second.latest(id));
            assert!(held.is_some(), "{id} was forgotten by both");
        }
        for (direction, from, to) in [(0, first, second), (1, second, first)] {
            for id in (0..DOCUMENTS).map(id) {
                let (there, here) = (from.value(&id), to.value(&id));
                let wants = |direction: usize, value: &Option<Value>| {
                    let document = value.clone().map(|value| id.key.add_to(value));
                    let queries = &self.directions[direction].queries;
                    document.is_some_and(|document| queries.wants(&id.collection, &document))
                };
                if wants(direction, &there) {
                    let held = to.latest(&id).map(|held| held.versions.clone());
                    let sent = &from.latest(&id).unwrap().versions;
                    assert!(held.unwrap_or_default().covers(sent), "BR-1: {id} did not arrive");
                }
                // What both ask each other for is the same. What left and is kept is as it was.
                let back = wants(1 - direction, &here);
                let is_kept = self.directions[direction].on_leave == OnLeave::Keep;
                let asked = wants(direction, &there) || !is_kept && wants(direction, &here);
                let shared = back && asked;
                if shared {
                    assert_eq!(there, here, "BR-1: {id} in direction {direction}");
                    assert_eq!(from.latest(&id), to.latest(&id), "BR-1: state of {id}");
                }
            }
        }
    }
}

/// One cluster writes, the other wants a part.
fn run_one_way(seed: u64, trims: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = world(&mut rng, [WANTED, WANTED], OnLeave::Purge);
    (world.one_way, world.trims) = (true, trims);
    for _ in 0..rng.random_range(0..1_500) {
        world.step(&mut rng);
    }
    world.quiet(&mut rng);
    world.check_nothing_else();
}

fn world(rng: &mut StdRng, conditions: [&str; 2], on_leave: OnLeave) -> World {
    let slices = [1, 4][rng.random_range(0..2)];
    World {
        clusters: [Cluster::new(10, slices), Cluster::new(20, 2)],
        directions: conditions.map(|condition| Direction::new(queries(condition), on_leave)),
        now_ms: 1_000,
        apart: false,
        trims: false,
        one_way: false,
    }
}

fn run(seed: u64, conditions: [&str; 2], on_leave: OnLeave, trims: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = world(&mut rng, conditions, on_leave);
    world.trims = trims;
    for _ in 0..rng.random_range(0..1_500) {
        world.step(&mut rng);
    }
    world.quiet(&mut rng);
    world.check_convergence();
    // What was received is never sent back and forth: nothing moves any more.
    let ends = world.clusters.each_ref().map(Cluster::end);
    world.directions.iter_mut().for_each(Direction::cut);
    world.quiet(&mut rng);
    assert_eq!(world.clusters.each_ref().map(Cluster::end), ends, "a reconnect wrote rounds");
    assert!(ends.iter().all(|end| *end < TxnId(100_000)));
}

const WANTED: &str = "wanted = true";

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 0, ..Default::default() })]

    /// BR-1, BR-2, BR-3, no loops; also if the log is gone that a receiver needs.
    #[test]
    fn clusters_with_the_same_filter_converge(seed: u64, trims: bool) {
        run(seed, [WANTED, WANTED], OnLeave::Purge, trims);
    }

    #[test]
    fn a_receiver_has_what_it_wants_and_nothing_else(seed: u64, trims: bool) {
        run_one_way(seed, trims);
    }

    #[test]
    fn one_may_want_less_than_the_other(seed: u64, trims: bool) {
        run(seed, [WANTED, "true"], OnLeave::Purge, trims);
    }

    #[test]
    fn what_leaves_may_be_kept(seed: u64, trims: bool) {
        run(seed, ["true", WANTED], OnLeave::Keep, trims);
    }
}
