//! Which lane writes which round.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::keyspace::Slice;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::support::{Bench, round};
use crate::error::Error;
use crate::rounds::dispatch::{Dispatch, Limits, PATIENCE, Pending, Ticket, Turn};

const LIMITS: Limits = Limits {
    waiting_rounds: 100,
    waiting_bytes: 1 << 20,
    batch_documents: 3,
    batch_bytes: 1 << 20,
};

/// As many as there are slices: slice i is at home in lane i.
const LANES: usize = 4;

struct World {
    bench: Bench,
    dispatch: Dispatch,
    start: Instant,
    tickets: Vec<Arc<Ticket>>,
}

impl World {
    /// Lanes that are idle, the first one rested longest.
    fn new(limits: Limits) -> Self {
        let start = Instant::now();
        let mut dispatch = Dispatch::new(LANES, limits);
        for lane in 0..LANES {
            dispatch.idle(lane, start + Duration::from_millis(lane as u64));
        }
        World { bench: Bench::new(), dispatch, start, tickets: Vec::new() }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Gives in a round of one document whose home is `home`.
    fn submit(&mut self, home: u16, millis: u64) -> Result<Option<usize>, Error> {
        let encoded = (self.tickets.len() as u128 * 100 + 1..)
            .map(|number| self.bench.appender.encode(&round(number, 1)).unwrap())
            .find(|round| round.first_slice() == Some(Slice(home)));
        let ticket = Arc::new(Ticket::default());
        self.tickets.push(Arc::clone(&ticket));
        let now = self.at(millis);
        let pending = Pending {
            round: encoded.unwrap(),
            alone: false,
            ticket,
            since: now,
            deadline: now + Duration::from_secs(1),
            answer: oneshot::channel().0,
        };
        self.dispatch.submit(pending, now)
    }

    fn take(&mut self, lane: usize, millis: u64) -> Vec<Pending> {
        match self.dispatch.next(lane, self.at(millis)) {
            Turn::Write(batch) => batch,
            other => panic!("lane {lane} has nothing to write: {other:?}"),
        }
    }
}

#[test]
fn a_round_goes_home_and_what_comes_meanwhile_shares_the_next_transaction() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.submit(2, 10).unwrap(), Some(2));
    assert_eq!(world.take(2, 10).len(), 1);
    assert_eq!(world.submit(2, 11).unwrap(), Some(0), "somebody has to see how long it waits");
    assert_eq!(world.submit(3, 12).unwrap(), None);
    assert!(matches!(world.dispatch.next(0, world.at(12)), Turn::Wait(Some(_))));
    world.dispatch.idle(2, world.at(40));
    assert_eq!(world.dispatch.free(world.at(13)), Some(0), "it has rested longest");
    assert_eq!(world.take(0, 13).len(), 2);
    assert_eq!(world.dispatch.free(world.at(13)), None, "nothing waits any more");
}

#[test]
fn a_busy_home_leaves_a_round_to_who_has_rested_longest() {
    let mut world = World::new(LIMITS);
    world.dispatch.idle(2, world.at(50));
    assert_eq!(world.submit(2, 10).unwrap(), Some(0));
}

#[test]
fn a_round_waits_so_long_for_each_transaction_that_is_under_way() {
    let mut world = World::new(LIMITS);
    let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
    world.submit(0, 10).unwrap();
    world.take(0, 10);
    for (lane, begins) in [(1, 20 + patience), (2, 20 + 2 * patience)] {
        world.submit(0, 20).unwrap();
        match world.dispatch.next(lane, world.at(begins - 1)) {
            Turn::Wait(Some(until)) => assert_eq!(until, world.at(begins)),
            other => panic!("lane {lane} must wait: {other:?}"),
        }
        assert_eq!(world.take(lane, begins).len(), 1);
    }
}

#[test]
fn a_lane_that_was_told_too_late_is_free_again() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.submit(0, 10).unwrap(), Some(0));
    // Another looked first.
    assert!(matches!(world.dispatch.next(1, world.at(10)), Turn::Wait(Some(_))));
    let begins = 10 + u64::try_from(PATIENCE.as_millis()).unwrap();
    assert_eq!(world.take(1, begins).len(), 1);
    assert!(matches!(world.dispatch.next(0, world.at(begins)), Turn::Wait(None)));
    world.dispatch.idle(1, world.at(begins + 100));
    assert_eq!(world.submit(1, begins + 1).unwrap(), Some(2));
}

#[test]
fn a_lane_that_rests_is_not_free_but_takes_what_waits_when_it_has() {
    let mut world = World::new(LIMITS);
    for lane in 0..LANES {
        world.dispatch.idle(lane, world.at(20));
    }
    assert_eq!(world.submit(1, 10).unwrap(), None);
    match world.dispatch.next(1, world.at(10)) {
        Turn::Wait(Some(until)) => assert_eq!(until, world.at(20)),
        other => panic!("a lane must rest: {other:?}"),
    }
    assert_eq!(world.take(3, 20).len(), 1, "whoever is free first takes it");
    assert!(matches!(world.dispatch.next(1, world.at(20)), Turn::Wait(None)));
}

#[test]
fn a_batch_is_bounded_and_leaves_out_what_was_withdrawn() {
    let mut world = World::new(LIMITS);
    for lane in 0..LANES {
        world.dispatch.idle(lane, world.at(1_000));
    }
    for _ in 0..6 {
        world.submit(0, 0).unwrap();
    }
    assert!(world.tickets[1].withdraw());
    assert_eq!(world.take(0, 1_000).len(), 3);
    assert!(!world.tickets[0].withdraw(), "a lane has it");
    assert_eq!(world.take(1, 1_000).len(), 2);
    assert_eq!(world.dispatch.waiting(), (0, 0));
}

#[test]
fn only_so_many_wait_and_those_withdrawn_do_not_count() {
    let mut world = World::new(Limits { waiting_rounds: 2, ..LIMITS });
    for lane in 0..LANES {
        world.dispatch.idle(lane, world.at(1_000));
    }
    world.submit(0, 0).unwrap();
    world.submit(1, 0).unwrap();
    assert!(matches!(world.submit(1, 0), Err(Error::Busy { waiting: 2 })));
    assert!(world.tickets[0].withdraw());
    world.submit(1, 0).unwrap();
}

#[test]
fn what_was_not_written_comes_first() {
    let mut world = World::new(LIMITS);
    for lane in 0..LANES {
        world.dispatch.idle(lane, world.at(10));
    }
    world.submit(0, 0).unwrap();
    let batch = world.take(0, 10);
    world.submit(0, 12).unwrap();
    world.dispatch.down(0, None);
    world.dispatch.put_back(batch);
    assert_eq!(world.dispatch.free(world.at(12)), Some(1));
    let again: Vec<_> = world.take(1, 12).iter().map(|pending| pending.since).collect();
    assert_eq!(again, [world.at(0), world.at(12)]);
}

#[test]
fn whoever_comes_back_shares_the_next_transaction() {
    let mut world = World::new(LIMITS);
    world.submit(0, 10).unwrap();
    world.take(0, 10);
    for _ in 0..2 {
        world.submit(0, 11).unwrap();
    }
    let rest = Duration::from_millis(100);
    let ended = (world.at(10), world.at(26));
    world.dispatch.written(0, 1, ended, rest);
    assert_eq!(world.take(1, 26).len(), 2, "after one round nobody is waited for");
    world.submit(0, 30).unwrap();
    let ended = (world.at(26), world.at(42));
    world.dispatch.written(1, 2, ended, rest);
    match world.dispatch.next(2, world.at(43)) {
        Turn::Wait(Some(until)) => assert_eq!(until, world.at(44)),
        other => panic!("others may come back: {other:?}"),
    }
    world.submit(0, 43).unwrap();
    assert_eq!(world.take(2, 44).len(), 2);
}

#[test]
fn nothing_is_put_off_for_long_or_once_there_is_enough() {
    let mut world = World::new(LIMITS);
    let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
    world.submit(0, 0).unwrap();
    world.take(0, 0);
    let rest = Duration::from_millis(1_000_000);
    world.dispatch.written(0, 2, (world.at(0), world.at(10_000)), rest);
    world.submit(0, 10_000).unwrap();
    match world.dispatch.next(1, world.at(10_000)) {
        Turn::Wait(Some(until)) => assert_eq!(until, world.at(10_000 + patience)),
        other => panic!("others may come back: {other:?}"),
    }
    assert_eq!(world.submit(0, 10_001).unwrap(), None);
    assert_eq!(world.submit(0, 10_002).unwrap(), Some(2), "three documents fill a transaction");
    assert_eq!(world.take(2, 10_002).len(), 3);
}

#[test]
fn rounds_of_which_one_was_refused_go_alone() {
    let mut world = World::new(LIMITS);
    for _ in 0..2 {
        world.submit(0, 0).unwrap();
    }
    let mut batch = world.take(0, 0);
    world.dispatch.down(0, None);
    batch.iter_mut().for_each(|pending| pending.alone = true);
    world.dispatch.put_back(batch);
    world.submit(0, 1).unwrap();
    let sizes = [(1, 1), (2, 40), (3, 80)].map(|(lane, millis)| world.take(lane, millis).len());
    assert_eq!(sizes, [1, 1, 1]);
}
