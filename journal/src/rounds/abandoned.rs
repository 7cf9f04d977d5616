//! Ends transactions whose writers are gone.
//!
//! An open transaction hides what comes after it from all readers: while its writer is dead nothing
//! becomes stable. Brokers end it once it times out, at the next of their rounds of looking for such:
//! 10 to 20 s after the writer died. So those who write rounds look after each other. What has been
//! open for too long is ended by the one means that there is: a writer of the same id fences it.
//!
//! Whoever is taken for dead and is only slow loses nothing (IN-1, IN-2): its transaction is aborted
//! whole, it is told that it was fenced, and it writes its rounds again. That transaction says how
//! often this has happened, and all who look give it twice the time each time.
//!
//! For how long a transaction has been open is told without anybody's clock but this one: it began
//! before the end of its partition as that was seen then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::keyspace::SliceCount;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::threads;
use anabranch_schemas::topics::ClusterName;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::Error;
use crate::log::{Journal, Offset, OpenTransaction, Signature, TopicPartition, TransactionalId};
use crate::metrics as names;

/// How often to look.
const LOOK: Duration = Duration::from_millis(150);
/// A look that comes so much later than the one before counts as if it were not late: this process or
/// the brokers stood still, and so perhaps did the writers.
const LATE: Duration = Duration::from_millis(450);
/// How long a transaction may be open before it is ended. Most take a tenth of that at most.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long at most, for a writer whose transactions were ended. Then brokers end them, too.
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// After how long an ending that has not come back is tried once more beside it. Most take half of
/// that, but now and then a broker lets one wait until it gives up.
const AGAIN: Duration = Duration::from_millis(400);
/// How many endings are under way at most.
const AT_ONCE: usize = 32;

/// Ends transactions of rounds that other writers of a cluster left open.
pub struct Abandoned {
    partitions: Vec<TopicPartition>,
    endings: Arc<Endings>,
    /// For endings, each of which has a thread.
    room: Arc<Semaphore>,
    seen: Seen,
}

impl Abandoned {
    /// For a cluster, by the server of this name.
    pub fn new(
        journal: Arc<dyn Journal>,
        cluster: &ClusterName,
        slices: SliceCount,
        server: &str,
    ) -> Self {
        let rounds = (0..slices.get()).map(|slice| TopicPartition::new(cluster.rounds(), slice));
        // What is open in `txns` hides everything, so it comes first.
        let partitions = [TopicPartition::new(cluster.txns(), 0)].into_iter().chain(rounds);
        let partitions = partitions.collect();
        let own = super::lane_prefix(cluster, server);
        let endings = Arc::new(Endings { journal, own, tries: Mutex::default() });
        let room = Arc::new(Semaphore::new(AT_ONCE));
        Abandoned { partitions, endings, room, seen: Seen::default() }
    }

    /// Looks again and again until the shutdown begins.
    pub fn run(mut self, shutdown: &Shutdown) {
        let mut was_known = true;
        while !shutdown.has_begun() {
            let looked = self.look();
            if let Err(error) = &looked
                && was_known
            {
                tracing::warn!(%error, "what is open in the log is not known, so nothing is ended");
            }
            was_known = looked.is_ok();
            threads::sleep(LOOK);
        }
    }

    /// Begins to end what has been open for long.
    fn look(&mut self) -> Result<(), Error> {
        let open = self.endings.journal.open_transactions(&self.partitions)?;
        let now = Instant::now();
        self.seen.note(&open, now);
        self.endings.tries.lock().forget_all_but(&open, now);
        let mut oldest = Duration::ZERO;
        for open in open {
            let age = self.seen.age(&open);
            oldest = oldest.max(age);
            if age < PATIENCE {
                continue;
            }
            let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else { break };
            if self.endings.tries.lock().begin(&open, now) {
                self.endings.start(open, age, room);
            }
        }
        gauge!(names::OPEN_SECONDS).set(oldest.as_secs_f64());
        Ok(())
    }
}

/// Ends transactions, each on a thread of its own that nobody waits for.
struct Endings {
    journal: Arc<dyn Journal>,
    /// With what the lanes of this server begin: it lives, and sees to them itself.
    own: String,
    tries: Mutex<Tries>,
}

impl Endings {
    fn start(self: &Arc<Self>, open: OpenTransaction, age: Duration, room: OwnedSemaphorePermit) {
        let this = Arc::clone(self);
        let started = threads::start("end-abandoned", move || {
            let _room = room;
            if let Err(error) = this.end(&open, age) {
                tracing::warn!(%error, at = %open.at, "an open transaction stays");
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no open transaction can be ended");
        }
    }

    /// Ends a transaction, unless its writer has more time or is a lane of this server.
    fn end(&self, open: &OpenTransaction, age: Duration) -> Result<(), Error> {
        let Some(Signature { writer, fenced }) = self.journal.writer_of(open)? else {
            tracing::warn!(at = %open.at, ?age, "it is not known whose transaction is open");
            return Ok(());
        };
        if is_lane_of(&self.own, &writer) {
            return Ok(());
        }
        if let Some(left) = patience(fenced).checked_sub(age).filter(|left| !left.is_zero()) {
            self.tries.lock().put_off(open, Instant::now() + left);
            return Ok(());
        }
        if self.is_still_open(open)? {
            let claimed = self.tries.lock().claim(&writer, Instant::now());
            if let Err(until) = claimed {
                self.tries.lock().put_off(open, until);
                return Ok(());
            }
            tracing::warn!(%writer, at = %open.at, ?age, "ending a transaction that was left open");
            counter!(names::ENDED).increment(1);
            drop(self.journal.writer(&writer)?);
        }
        Ok(())
    }

    /// Others look, too: who was fenced by one of them is not to be fenced once more.
    fn is_still_open(&self, open: &OpenTransaction) -> Result<bool, Error> {
        let now = self.journal.open_transactions(std::slice::from_ref(&open.at))?;
        Ok(now.iter().any(|now| now.first == open.first))
    }
}

/// What was tried, and when it is to be tried again, whether or not it has come back by then.
#[derive(Debug, Default)]
struct Tries {
    /// By where a transaction begins: how often it was tried, and when it is to be again.
    open: BTreeMap<(TopicPartition, Offset), (u32, Instant)>,
    /// Until when the ending of a writer is left to who has begun it: it may have records in several
    /// partitions.
    claims: BTreeMap<TransactionalId, Instant>,
}

impl Tries {
    /// Whether a transaction is to be tried now. Then it is again later, each time after twice as
    /// long.
    fn begin(&mut self, open: &OpenTransaction, now: Instant) -> bool {
        let (times, next) = self.open.entry(begin_of(open)).or_insert((0, now));
        let is_due = *next <= now;
        if is_due {
            *next = now + AGAIN * 2_u32.saturating_pow((*times).min(8));
            *times += 1;
        }
        is_due
    }

    /// A transaction is not tried before then, and that it was counts for nothing.
    fn put_off(&mut self, open: &OpenTransaction, until: Instant) {
        self.open.insert(begin_of(open), (0, until));
    }

    /// Leaves the ending of a writer's transactions to who asks; or says until when it is left to
    /// somebody else.
    fn claim(&mut self, writer: &TransactionalId, now: Instant) -> Result<(), Instant> {
        match self.claims.get(writer).filter(|until| **until > now) {
            Some(until) => Err(*until),
            None => {
                self.claims.insert(writer.clone(), now + AGAIN);
                Ok(())
            }
        }
    }

    fn forget_all_but(&mut self, open: &[OpenTransaction], now: Instant) {
        let begins: Vec<_> = open.iter().map(begin_of).collect();
        self.open.retain(|begin, _| begins.contains(begin));
        self.claims.retain(|_, until| *until > now);
    }
}

fn begin_of(open: &OpenTransaction) -> (TopicPartition, Offset) {
    (open.at.clone(), open.first)
}

/// How long a transaction may be open whose writer was fenced so often.
fn patience(fenced: u32) -> Duration {
    (PATIENCE * 2_u32.saturating_pow(fenced.min(8))).min(MOST_PATIENCE)
}

/// Whether it is one of the lanes whose ids begin so, and not of a server with a longer name.
fn is_lane_of(prefix: &str, writer: &TransactionalId) -> bool {
    let number = writer.as_str().strip_prefix(prefix);
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What was seen, a while back.
#[derive(Debug, Default)]
struct Seen {
    /// By the time that counts.
    looks: VecDeque<(Duration, BTreeMap<TopicPartition, Offset>)>,
    last: Option<Instant>,
    /// How much time counts: not that for which looks were late.
    counted: Duration,
}

impl Seen {
    /// Takes note of where the partitions end in which something is open.
    fn note(&mut self, open: &[OpenTransaction], now: Instant) {
        let passed = self.last.map_or(Duration::ZERO, |last| now - last);
        self.counted += if passed > LATE { LOOK } else { passed };
        self.last = Some(now);
        let kept = self.counted.saturating_sub(MOST_PATIENCE + LATE);
        while self.looks.front().is_some_and(|(then, _)| *then < kept) {
            self.looks.pop_front();
        }
        let ends = open.iter().map(|open| (open.at.clone(), open.end)).collect();
        self.looks.push_back((self.counted, ends));
    }

    /// For how long it is known that a transaction is open.
    fn age(&self, open: &OpenTransaction) -> Duration {
        let was_there = |ends: &BTreeMap<TopicPartition, Offset>| {
            ends.get(&open.at).is_some_and(|end| open.first < *end)
        };
        let first = self.looks.iter().find(|(_, ends)| was_there(ends));
        first.map_or(Duration::ZERO, |(then, _)| self.counted - *then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(first: u64, end: u64) -> OpenTransaction {
        let (at, first, end) = (TopicPartition::new("t", 0), Offset(first), Offset(end));
        OpenTransaction { at, first, end }
    }

    #[test]
    fn a_server_with_a_longer_name_is_another_one() {
        let cluster = "c".parse().unwrap();
        let own = super::super::lane_prefix(&cluster, "a");
        let is_own = |id: &str| is_lane_of(&own, &TransactionalId::from(id));
        assert_eq!(["c-round-a-0", "c-round-a-12"].map(is_own), [true; 2]);
        assert_eq!(["c-round-a-1-0", "c-round-b-0", "c-bridge-a-0"].map(is_own), [false; 3]);
    }

    #[test]
    fn a_transaction_is_as_old_as_the_first_look_that_saw_its_record() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let after = |looks: u32| start + LOOK * looks;
        seen.note(&[open(5, 7)], after(0));
        assert_eq!(seen.age(&open(5, 7)), Duration::ZERO);
        seen.note(&[open(5, 9)], after(1));
        seen.note(&[open(7, 9)], after(2));
        assert_eq!(seen.age(&open(6, 9)), LOOK * 2, "another one hid it");
        assert_eq!(seen.age(&open(7, 9)), LOOK, "it was not there at first");
        let elsewhere = OpenTransaction { at: TopicPartition::new("t", 1), ..open(5, 7) };
        assert_eq!(seen.age(&elsewhere), Duration::ZERO);
    }

    #[test]
    fn for_how_long_a_look_is_late_counts_for_nothing_and_what_is_kept_is_bounded() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.note(&[open(5, 7)], start);
        // Also if each is late.
        for late in 1..=4 {
            seen.note(&[open(5, 7)], start + LATE * 2 * late);
            assert_eq!(seen.age(&open(5, 7)), LOOK * late);
        }
        let later = start + LATE * 8;
        for look in 0..1_000 {
            seen.note(&[open(5, 7)], later + LOOK * look);
        }
        assert!(seen.age(&open(5, 7)) >= MOST_PATIENCE);
        assert!(seen.looks.len() < 100);
    }

    #[test]
    fn what_does_not_come_back_is_tried_again_and_each_writer_by_one() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        let open = open(5, 7);
        let looks = (0..100).map(|look| start + LOOK * look);
        let tried: Vec<_> = looks.filter(|now| tries.begin(&open, *now)).collect();
        let times = tried.iter().map(|time| (*time - start).as_millis()).collect::<Vec<_>>();
        assert_eq!(times, [0, 450, 1_350, 3_000, 6_300, 12_750]);
        tries.put_off(&open, start + PATIENCE);
        assert!(!tries.begin(&open, start + PATIENCE - LOOK));
        assert!(tries.begin(&open, start + PATIENCE));
        assert!(
            tries.begin(&open, start + PATIENCE + AGAIN),
            "it was not tried when it was put off"
        );

        let [one, other] = ["c-round-a-0", "c-round-a-1"].map(TransactionalId::from);
        let mut claim = |writer, after: Duration| tries.claim(writer, start + after);
        assert_eq!([&one, &other].map(|writer| claim(writer, Duration::ZERO)), [Ok(()); 2]);
        assert_eq!(claim(&one, LOOK), Err(start + AGAIN), "by its records in another partition");
        assert_eq!(claim(&one, AGAIN), Ok(()));
        tries.forget_all_but(&[], start + AGAIN * 2);
        assert!(tries.open.is_empty() && tries.claims.is_empty());
    }

    #[test]
    fn who_was_fenced_is_given_more_time() {
        let times = [1, 2, 4, 8].map(|times| PATIENCE * times);
        assert_eq!([0, 1, 2, 3].map(patience), times);
        assert_eq!([5, 1_000].map(patience), [MOST_PATIENCE; 2]);
    }
}
