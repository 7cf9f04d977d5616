//! Which lane writes which round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::keyspace::Slice;
use tokio::sync::oneshot;

use super::support::{Bench, round};
use crate::error::Error;
use crate::rounds::dispatch::{Dispatch, Limits, Pending, Ticket, Turn};

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
            .map(|number| self.bench.appender.encode(round(number, 1)).unwrap())
            .find(|round| round.first_slice() == Some(Slice(home)));
        let ticket = Arc::new(Ticket::default());
        self.tickets.push(Arc::clone(&ticket));
        let now = self.at(millis);
        let pending = Pending {
            round: encoded.unwrap(),
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
fn a_round_goes_home_or_to_who_has_rested_longest_or_waits() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.submit(2, 10).unwrap(), Some(2));
    assert_eq!(world.submit(2, 10).unwrap(), Some(0));
    assert_eq!(world.take(2, 10).len(), 2, "whoever comes first takes all that waits");
    assert!(matches!(world.dispatch.next(0, world.at(11)), Turn::Wait(None)));
    assert_eq!(world.submit(2, 12).unwrap(), Some(1), "lane 0 has rested from 11 on");
    assert_eq!(world.submit(2, 12).unwrap(), Some(3));
    assert_eq!(world.submit(2, 12).unwrap(), Some(0));
    assert_eq!(world.submit(2, 12).unwrap(), None);
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
    world.dispatch.put_back(batch);
    assert_eq!(world.dispatch.free(world.at(12)), Some(2));
    let again: Vec<_> = world.take(2, 12).iter().map(|pending| pending.since).collect();
    assert_eq!(again, [world.at(0), world.at(12)]);
}
