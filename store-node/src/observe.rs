//! Looks at the ends of the log: whether it can be reached, how far there is to go, and whether
//! its start comes near to what this node still needs of it; and at what is declared lost, which
//! this node must not have applied ([`Losses`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;
use anabranch_core::keyspace::Slice;
use anabranch_journal::{Bounds, Error as JournalError, Journal, Offset, TopicPartition};
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::tasks::{Shutdown, TaskError};
use parking_lot::Mutex;

use crate::error::Error;
use crate::losses::Losses;
use crate::metrics::{self, Lag};
use crate::read::blocking;
use crate::status::{Status, Trouble};
use crate::storage::{Positions, Storage};

/// How often the end of topic `txns` is looked at.
const OBSERVE: Duration = Duration::from_secs(1);
/// One look in so many goes to all partitions: the log is trimmed in hours, not in seconds.
const ALL_EVERY: u32 = 10;
/// So many looks in a row fail before the log counts as out of reach. The reading threads notice
/// nothing of brokers that are gone: to a consumer that is silence.
const FAILURES: u32 = 3;
/// What lies in the oldest 1/8 of a partition that has been trimmed before is about to go.
const MARGIN: u64 = 8;

/// Where a slice of topic `rounds` begins and ends.
type SliceBounds = (Slice, Bounds);

/// Watches the log for a node.
pub(crate) struct Observer {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) txns: TopicPartition,
    /// The partitions of topic `rounds` that are read.
    pub(crate) rounds: Vec<(Slice, TopicPartition)>,
    pub(crate) losses: Arc<Mutex<Losses>>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
}

impl Observer {
    /// Looks until the shutdown begins.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), TaskError> {
        let (mut failures, mut looks, mut nearly_trimmed) = (0, 0_u32, false);
        while !shutdown.has_begun() {
            match self.look(looks.is_multiple_of(ALL_EVERY)).await {
                Ok(seen) => {
                    failures = 0;
                    looks = looks.wrapping_add(1);
                    self.reached();
                    nearly_trimmed = self.observe(seen, nearly_trimmed).await;
                }
                Err(Error::Shutdown) => return Ok(()),
                Err(error @ Error::AppliedLost { .. }) => return Err(error.into()),
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES {
                        self.not_reached(&error);
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.begun() => {}
                () = tokio::time::sleep(OBSERVE) => {}
            }
        }
        Ok(())
    }

    fn reached(&self) {
        if self.status.set_trouble(Trouble::Log, None) {
            tracing::info!("the log can be reached again");
        }
        metrics::set_log_unreachable(false);
    }

    fn not_reached(&self, error: &Error) {
        let text = match error.kind() {
            ErrorKind::Corrupt => error.to_string(),
            _ => format!("the log cannot be reached: {error}"),
        };
        if self.status.set_trouble(Trouble::Log, Some(text)) {
            tracing::warn!(%error, "the log cannot be reached; trying again");
        }
        metrics::set_log_unreachable(true);
        self.status.set_reaches_log(false);
    }

    /// The ends of `txns`, and of `rounds` if all are to be looked at. Only once they are known
    /// does the node tell what it has applied: what is declared lost has to be known by then.
    async fn look(&self, all: bool) -> Result<(Bounds, Option<Vec<SliceBounds>>), Error> {
        let (journal, txns) = (Arc::clone(&self.journal), self.txns.clone());
        let rounds = if all { self.rounds.clone() } else { Vec::new() };
        let losses = Arc::clone(&self.losses);
        let is_told = self.status.applied().may_be_told;
        blocking(move || {
            let of_txns = journal.bounds(&txns)?;
            let of_rounds = rounds.iter().map(|(slice, at)| Ok((*slice, journal.bounds(at)?)));
            let of_rounds = of_rounds.collect::<Result<_, JournalError>>()?;
            match losses.lock().compare() {
                // It was compared before, and will be again.
                Err(error) if is_told && !matches!(error, Error::AppliedLost { .. }) => {
                    tracing::warn!(%error, "what is declared lost cannot be read");
                }
                compared => compared?,
            }
            Ok((of_txns, all.then_some(of_rounds)))
        })
        .await
    }

    /// Whether what this node needs is about to go, as far as is known.
    async fn observe(&self, seen: (Bounds, Option<Vec<SliceBounds>>), before: bool) -> bool {
        let (txns, rounds) = seen;
        self.status.set_log_bounds(txns);
        let applied = self.status.applied();
        let durable = self.storage.durable();
        let is_behind = applied.next > durable.next;
        let nearly_trimmed = match &rounds {
            Some(rounds) => is_nearly_trimmed(&durable, txns, rounds),
            None => before,
        };
        if let Some(rounds) = &rounds {
            self.status.set_reaches_log(reaches(&durable, txns, rounds));
        }
        metrics::set_lag(Lag {
            transactions: self.status.log_end().0.saturating_sub(applied.next.0),
            applied: applied.time,
            now_ms: now_millis(),
            undurable: applied.next.0.saturating_sub(durable.next.0),
            nearly_trimmed,
            feed_start: self.storage.feed_start().0,
        });
        if nearly_trimmed && rounds.is_some() {
            tracing::error!(
                log_start = %txns.start, durable = %durable.next,
                "the log is about to lose what this node has not made durable"
            );
            if is_behind {
                flush(&self.storage, &self.status).await;
            }
        }
        nearly_trimmed
    }
}

/// Whether the start of a partition has come near to what is still to be read of it.
fn is_nearly_trimmed(durable: &Positions, txns: Bounds, rounds: &[SliceBounds]) -> bool {
    let near = |position: Offset, bounds: &Bounds| {
        let Bounds { start, end } = *bounds;
        let margin = (end.0 - start.0) / MARGIN;
        start > Offset(0) && position < end && position.0 <= start.0 + margin
    };
    near(Offset(durable.next.0), &txns)
        || rounds.iter().any(|(slice, bounds)| near(durable.slices[usize::from(slice.0)], bounds))
}

/// Whether nothing is missing between what is durable and where the log begins.
fn reaches(durable: &Positions, txns: Bounds, rounds: &[SliceBounds]) -> bool {
    durable.next.0 >= txns.start.0
        && rounds.iter().all(|(slice, bounds)| durable.slices[usize::from(slice.0)] >= bounds.start)
}

/// Makes what was applied durable now. What fails is tried again the next time: until then the log
/// has it.
pub(crate) async fn flush(storage: &Arc<Storage>, status: &Status) {
    let storage = Arc::clone(storage);
    let began = Instant::now();
    match blocking(move || storage.flush()).await {
        Ok(()) => {
            metrics::record_flush(began.elapsed());
            status.set_trouble(Trouble::Durability, None);
        }
        Err(Error::Shutdown) => {}
        Err(error) => {
            let text = format!("what was applied cannot be made durable: {error}");
            if status.set_trouble(Trouble::Durability, Some(text)) {
                tracing::error!(%error, "what was applied cannot be made durable; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_core::ids::TxnId;

    #[test]
    fn the_alarm_rings_before_the_log_has_lost_what_is_needed() {
        let bounds = |start, end| Bounds { start: Offset(start), end: Offset(end) };
        let near = |next, slice, txns, rounds| {
            let durable = Positions { next: TxnId(next), slices: vec![Offset(0), Offset(slice)] };
            is_nearly_trimmed(&durable, txns, &[(Slice(1), rounds)])
        };
        let (young, old) = (bounds(0, 900), bounds(100, 900));
        assert!(!near(0, 0, young, young), "nothing was ever trimmed");
        assert!(!near(201, 201, old, old));
        assert!(near(200, 201, old, old));
        assert!(near(201, 200, old, old), "a slice is enough");
        assert!(!near(900, 900, bounds(900, 900), bounds(900, 900)), "nothing is needed");
    }

    #[test]
    fn a_gap_in_txns_or_in_a_slice_is_one() {
        let bounds = |start| Bounds { start: Offset(start), end: Offset(900) };
        let durable = Positions { next: TxnId(100), slices: vec![Offset(0), Offset(50)] };
        let reaches = |txns, rounds| reaches(&durable, bounds(txns), &[(Slice(1), bounds(rounds))]);
        assert!(reaches(100, 50));
        assert!(!reaches(101, 50));
        assert!(!reaches(100, 51));
    }
}
