//! Writing rounds, with patience.
//!
//! A round has one id however often it is sent, and the store node applies an id once. So a round
//! whose outcome is unknown is simply written again, until its deadline; only what is still
//! unknown then is told to the client as such.

mod silence;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::{RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_journal as journal;
use anabranch_journal::rounds::{Round, RoundWriter};
use anabranch_runtime::planted;
use anabranch_runtime::retry::Backoff;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use self::silence::Silence;
use crate::error::{Code, Refusal};
use crate::metrics;
use crate::store::{Outcome, Store};

/// Where rounds go. Beside the round writer of the journal, tests have one that fails on purpose.
pub(crate) trait RoundSink: Send + Sync + 'static {
    /// Writes a round until `deadline`.
    fn write<'a>(
        &'a self,
        round: &'a Round,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<TxnId, journal::Error>>;
}

impl RoundSink for RoundWriter {
    fn write<'a>(
        &'a self,
        round: &'a Round,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<TxnId, journal::Error>> {
        Box::pin(self.write_by(round, deadline))
    }
}

/// How long whoever wrote documents that are merged into others waits to be told which of them have become too
/// large.
const EFFECT_PATIENCE: Duration = Duration::from_secs(2);

/// What to do when the journal does not take a round at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Be told so if its queue is full; wait only while it is away.
    None,
    /// Wait until the deadline.
    UntilDeadline,
}

/// A round that is in the log.
pub(crate) struct Committed {
    pub(crate) txn: TxnId,
    /// No earlier try of the same call can have written it.
    is_first: bool,
}

/// Writes rounds.
#[derive(Clone)]
pub(crate) struct Rounds {
    sink: Arc<dyn RoundSink>,
    store: Store,
    silence: Arc<Silence>,
}

impl Rounds {
    pub(crate) fn new(sink: Arc<dyn RoundSink>, store: Store) -> Self {
        Rounds { sink, store, silence: Arc::default() }
    }

    /// Writes a round and says as which transaction. If it was written more than once, that is the
    /// first one; or a later one, as of which it can be read as well, if the store node does not tell
    /// before the deadline.
    pub(crate) async fn write(
        &self,
        round: Round,
        deadline: Instant,
        patience: Patience,
    ) -> Result<TxnId, Refusal> {
        let Committed { txn, is_first } = self.commit(&round, deadline, patience).await?;
        if is_first {
            return Ok(txn);
        }
        // Any of the tries may have been the first; the last one, too, is after them all.
        let slices = self.store.slices_of(&round);
        match self.store.outcome(round.id, Some(txn), &slices, deadline).await {
            Ok(Some(outcome)) => Ok(outcome.txn),
            Ok(None) | Err(_) => Ok(txn),
        }
    }

    /// What became of a round, which has something in these slices, and is committed as `txn`.
    pub(crate) async fn settled(
        &self,
        round: RoundId,
        txn: TxnId,
        slices: &BTreeSet<Slice>,
        deadline: Instant,
    ) -> Result<Outcome, Refusal> {
        let unknown = |reason: &str| {
            let message = format!("transaction {txn} was written, but not its effect: {reason}");
            Refusal::new(Code::OutcomeUnknown, message).with_txn(txn)
        };
        match self.store.outcome(round, Some(txn), slices, deadline).await {
            Ok(Some(outcome)) => {
                self.silence.is_over(slices);
                Ok(outcome)
            }
            Ok(None) => Err(unknown("the store node does not know the round")),
            Err(refusal) => Err(unknown(refusal.message())),
        }
    }

    /// What became of a round that was written as `txn`, where only documents that have become too large
    /// can have been left out; `None` if no store node says so soon, or none did lately. What was written
    /// stays written then, and the client is told that this is not known.
    pub(crate) async fn effect(
        &self,
        round: &Round,
        txn: TxnId,
        deadline: Instant,
    ) -> Option<Outcome> {
        let (slices, asked) = (self.store.slices_of(round), Instant::now());
        if !self.silence.may_ask(&slices, EFFECT_PATIENCE) {
            return None;
        }
        let patience = asked + EFFECT_PATIENCE;
        let outcome = self.settled(round.id, txn, &slices, deadline.min(patience)).await.ok();
        // Who was refused at once, or had no time to wait, has not waited in vain.
        let has_waited = asked.elapsed() >= EFFECT_PATIENCE / 2 && patience <= deadline;
        if outcome.is_none() && has_waited {
            self.silence.goes_on(&slices, asked);
        }
        outcome
    }

    /// Writes a round and says as which transaction: not the first one that it is in, if it was
    /// written before. What came of it the store node knows.
    pub(crate) async fn commit(
        &self,
        round: &Round,
        deadline: Instant,
        patience: Patience,
    ) -> Result<Committed, Refusal> {
        let started = Instant::now();
        let result = self.try_until(round, deadline, patience).await;
        metrics::round(started, result.as_ref().map_or_else(|r| r.code().as_str(), |_| "written"));
        result
    }

    async fn try_until(
        &self,
        round: &Round,
        deadline: Instant,
        patience: Patience,
    ) -> Result<Committed, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        let mut is_first = true;
        loop {
            let error = match self.sink.write(round, deadline).await {
                Ok(txn) => return Ok(Committed { txn, is_first }),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Retry if is_busy(&error) && patience == Patience::None && is_first => {
                    return Err(refusal(&error, is_first));
                }
                ErrorKind::Retry | ErrorKind::Fenced => {}
                ErrorKind::Unknown if planted!(AcknowledgesUnknown) => {
                    return Ok(Committed { txn: TxnId(0), is_first });
                }
                ErrorKind::Unknown => is_first = false,
                ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Shutdown => {
                    return Err(refusal(&error, is_first));
                }
            }
            let next = Instant::now() + backoff.next_delay();
            if next >= deadline {
                return Err(refusal(&error, is_first));
            }
            metrics::round_again(if is_first { "retry" } else { "unknown" });
            sleep_until(next).await;
        }
    }
}

fn is_busy(error: &journal::Error) -> bool {
    matches!(error, journal::Error::Busy { .. })
}

/// Nothing was written, unless an earlier try may have been.
fn refusal(error: &journal::Error, is_first: bool) -> Refusal {
    if is_first { Refusal::of_journal(error) } else { unknown(&error.to_string()) }
}

fn unknown(reason: &str) -> Refusal {
    Refusal::new(
        Code::OutcomeUnknown,
        format!("it is not known whether this was written: {reason}"),
    )
}
