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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::keyspace::SliceCount;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::threads;
use anabranch_schemas::topics::ClusterName;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::log::{Journal, Offset, OpenTransaction, Signature, TopicPartition, TransactionalId};
use crate::metrics as names;

/// How often to look.
const LOOK: Duration = Duration::from_millis(150);
/// A look that comes so much later than the one before does not tell what was in between: this
/// process or the brokers stood still, and so perhaps did the writers.
const LATE: Duration = Duration::from_millis(450);
/// How long a transaction may be open before it is ended. Most take a tenth of that at most.
const PATIENCE: Duration = Duration::from_millis(600);
/// Longer than this brokers do not take to end transactions, unless they stand still.
const MOST_ENDING: Duration = Duration::from_secs(1);
/// How many are looked into at once at most.
const AT_ONCE: usize = 8;
/// How long at most, for a writer whose transactions were ended. Then brokers end them, too.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Ends transactions of rounds that other writers of a cluster left open.
pub struct Abandoned {
    journal: Arc<dyn Journal>,
    partitions: Vec<TopicPartition>,
    /// Of which server this is: it lives, and sees to its lanes itself.
    own: String,
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
        Abandoned { journal, partitions, own, seen: Seen::default() }
    }

    /// Looks again and again until the shutdown begins.
    pub fn run(mut self, shutdown: &Shutdown) {
        while !shutdown.has_begun() {
            match self.overdue() {
                Ok(overdue) if overdue.is_empty() => {}
                Ok(overdue) => self.end_all(&overdue),
                Err(error) => tracing::debug!(%error, "open transactions are not known"),
            }
            threads::sleep(LOOK);
        }
    }

    /// What has been open for long, and for how long.
    fn overdue(&mut self) -> Result<Vec<(OpenTransaction, Duration)>, Error> {
        let open = self.journal.open_transactions(&self.partitions)?;
        let now = Instant::now();
        self.seen.note(&open, now);
        let aged = open.into_iter().map(|open| {
            let age = self.seen.age(&open, now);
            (open, age)
        });
        let aged: Vec<_> = aged.collect();
        let oldest = aged.iter().map(|(_, age)| *age).max().unwrap_or_default();
        gauge!(names::OPEN_SECONDS).set(oldest.as_secs_f64());
        let aged = aged.into_iter();
        Ok(aged.filter(|(_, age)| *age >= PATIENCE).take(AT_ONCE).collect())
    }

    /// All at once: a server has several lanes, and to open a writer takes long if there is something
    /// to abort.
    fn end_all(&mut self, overdue: &[(OpenTransaction, Duration)]) {
        let began = Instant::now();
        let (claimed, this) = (Mutex::default(), &*self);
        threads::at_once("end-abandoned", overdue, |(open, age)| {
            if let Err(error) = this.end(open, *age, &claimed) {
                tracing::warn!(%error, at = %open.at, "an open transaction stays");
            }
        });
        self.seen.go_on(began, Instant::now());
    }

    /// Ends a transaction, unless its writer has more time or is one of this process. Each writer is
    /// claimed once: it may have records in several partitions.
    fn end(
        &self,
        open: &OpenTransaction,
        age: Duration,
        claimed: &Mutex<BTreeSet<TransactionalId>>,
    ) -> Result<(), Error> {
        let Some(Signature { writer, fenced }) = self.journal.writer_of(open)? else {
            return Ok(());
        };
        let is_left = !is_lane_of(&self.own, &writer) && age >= patience(fenced);
        if is_left && self.is_still_open(open)? && claimed.lock().insert(writer.clone()) {
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
    looks: VecDeque<(Instant, BTreeMap<TopicPartition, Offset>)>,
    last: Option<Instant>,
}

impl Seen {
    /// Takes note of where the partitions end in which something is open.
    fn note(&mut self, open: &[OpenTransaction], now: Instant) {
        if self.last.is_some_and(|last| now - last > LATE) {
            self.looks.clear();
        }
        while self.looks.front().is_some_and(|(then, _)| now - *then > MOST_PATIENCE + LATE) {
            self.looks.pop_front();
        }
        let ends = open.iter().map(|open| (open.at.clone(), open.end)).collect();
        self.looks.push_back((now, ends));
        self.last = Some(now);
    }

    /// There was a reason not to look between two times: nothing was missed. But if that took long
    /// the brokers stood still, and so did those whose transactions are open.
    fn go_on(&mut self, began: Instant, now: Instant) {
        if now - began <= MOST_ENDING {
            self.last = Some(now);
        } else {
            self.looks.clear();
        }
    }

    /// For how long it is known that a transaction is open.
    fn age(&self, open: &OpenTransaction, now: Instant) -> Duration {
        let was_there = |ends: &BTreeMap<TopicPartition, Offset>| {
            ends.get(&open.at).is_some_and(|end| open.first < *end)
        };
        let first = self.looks.iter().find(|(_, ends)| was_there(ends));
        first.map_or(Duration::ZERO, |(then, _)| now - *then)
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
        assert_eq!(seen.age(&open(5, 7), after(0)), Duration::ZERO);
        seen.note(&[open(5, 9)], after(1));
        seen.note(&[open(7, 9)], after(2));
        assert_eq!(seen.age(&open(6, 9), after(2)), LOOK * 2, "another one hid it");
        assert_eq!(seen.age(&open(7, 9), after(2)), LOOK, "it was not there at first");
        let elsewhere = OpenTransaction { at: TopicPartition::new("t", 1), ..open(5, 7) };
        assert_eq!(seen.age(&elsewhere, after(2)), Duration::ZERO);
    }

    #[test]
    fn a_pause_of_the_looks_counts_for_nothing_and_what_is_kept_is_bounded() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.note(&[open(5, 7)], start);
        let later = start + LATE * 2;
        seen.note(&[open(5, 7)], later);
        assert_eq!(seen.age(&open(5, 7), later), Duration::ZERO);
        let later = later + LATE * 2;
        seen.go_on(later, later);
        seen.note(&[open(5, 7)], later);
        assert_eq!(seen.age(&open(5, 7), later), LATE * 2, "there was a reason");
        for look in 0..1_000 {
            seen.note(&[open(5, 7)], later + LOOK * look);
        }
        let now = later + LOOK * 999;
        assert!(seen.age(&open(5, 7), now) >= MOST_PATIENCE);
        assert!(seen.looks.len() < 100);
    }

    #[test]
    fn who_was_fenced_is_given_more_time() {
        let times = [1, 2, 4, 8].map(|times| PATIENCE * times);
        assert_eq!([0, 1, 2, 3].map(patience), times);
        assert_eq!([5, 1_000].map(patience), [MOST_PATIENCE; 2]);
    }
}
