//! The front of the round writer: rounds come in, transaction ids go out.
//!
//! Used by ingest for its clients' rounds. Rounds of several callers share transactions (group
//! commit) and several transactions overlap, so two rounds are in the order in which they were
//! given only if the second was given after the first was answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_runtime::threads::{self, Signal};
use anabranch_runtime::watched::{Watched, Watcher};
use anabranch_schemas::topics::ClusterName;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::dispatch::{Dispatch, Limits, Pending, Ticket};
use super::lane::{Lane, Shared};
use super::{Round, RoundAppender, lane_prefix};
use crate::error::Error;
use crate::log::{Journal, TransactionalId};
use crate::metrics as names;

/// Lanes on a journal whose writers must rest after a commit: as many as let one be ready for the
/// next round most of the time. More are not faster (measured with 4, 6 and 8).
const LANES_THAT_REST: usize = 6;
/// Lanes elsewhere. One alone is a little faster on an idle machine, since more rounds share a
/// sync; two let single rounds pass a large one, and a busy machine stop only one of them.
const LANES: usize = 2;

/// How rounds are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundWriterConfig {
    /// Names this process among those that write rounds of the cluster, the same after a restart:
    /// its writers then abort what the earlier ones left open.
    pub server: String,
    /// How many transactions overlap; `None` takes what suits the journal.
    pub lanes: Option<usize>,
    /// How many rounds may wait for a lane.
    pub max_waiting_rounds: usize,
    /// How large the rounds that wait may be together, in bytes.
    pub max_waiting_bytes: usize,
    /// How many documents go into one transaction; a round that has more goes alone.
    pub max_batch_documents: usize,
    /// How many bytes go into one transaction; a round that has more goes alone.
    pub max_batch_bytes: usize,
    /// How long [`RoundWriter::write`] waits.
    pub write_timeout: Duration,
}

impl RoundWriterConfig {
    /// The usual settings for a server of this name. Batches are bounded so that a transaction,
    /// which hides what follows it from readers, takes less than about 50 ms.
    pub fn new(server: impl Into<String>) -> Self {
        RoundWriterConfig {
            server: server.into(),
            lanes: None,
            max_waiting_rounds: 10_000,
            max_waiting_bytes: 64 << 20,
            max_batch_documents: 5_000,
            max_batch_bytes: 4 << 20,
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// Writes rounds. Dropping it lets what waits be written in the background.
pub struct RoundWriter {
    shared: Arc<Shared>,
    running: Watcher<usize>,
    write_timeout: Duration,
}

impl fmt::Debug for RoundWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoundWriter").field("server", &self.shared.server).finish_non_exhaustive()
    }
}

impl RoundWriter {
    /// Starts the lanes. It does not wait for the journal: until that can be reached, writes fail
    /// at their deadlines.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no server name, or threads cannot be started.
    pub fn open(
        journal: Arc<dyn Journal>,
        cluster: &ClusterName,
        appender: RoundAppender,
        config: RoundWriterConfig,
    ) -> Result<Self, Error> {
        let RoundWriterConfig {
            server,
            lanes,
            max_waiting_rounds,
            max_waiting_bytes,
            max_batch_documents,
            max_batch_bytes,
            write_timeout,
        } = config;
        if server.is_empty() {
            return Err(Error::Invalid("a server that writes rounds needs a name".to_owned()));
        }
        let rests = !journal.rest_after_commit().is_zero();
        let lanes = lanes.unwrap_or(if rests { LANES_THAT_REST } else { LANES }).max(1);
        let limits = Limits {
            waiting_rounds: max_waiting_rounds,
            waiting_bytes: max_waiting_bytes,
            batch_documents: max_batch_documents,
            batch_bytes: max_batch_bytes,
        };
        let running = Watched::new(lanes);
        let lanes_running = running.watch();
        let shared = Arc::new(Shared {
            journal,
            appender,
            server,
            dispatch: Mutex::new(Dispatch::new(lanes, limits)),
            wake: (0..lanes).map(|_| Signal::new()).collect(),
            running,
        });
        let writer = RoundWriter { shared, running: lanes_running, write_timeout };
        for number in 0..lanes {
            let id = lane_prefix(cluster, &writer.shared.server) + &number.to_string();
            let lane = Lane::new(Arc::clone(&writer.shared), number, TransactionalId::from(id));
            threads::start(&format!("round-lane-{number}"), move || lane.run())
                .map_err(|error| Error::Invalid(format!("no thread for a lane: {error}")))?;
        }
        Ok(writer)
    }

    /// Writes a round; when it returns, the round is durable and about to become visible.
    ///
    /// # Errors
    /// As [`RoundWriter::write_by`].
    pub async fn write(&self, round: Round) -> Result<TxnId, Error> {
        self.write_by(&round, Instant::now() + self.write_timeout).await
    }

    /// Writes a round until `deadline`. If the call is dropped before, a round that still waits is
    /// not written.
    ///
    /// # Errors
    /// [`Error::Busy`] at once if too many wait; [`Error::TooLarge`]; [`Error::Unavailable`] and
    /// others of kind `Retry` if it was not written; of kind `Unknown` if it may have been.
    pub async fn write_by(&self, round: &Round, deadline: Instant) -> Result<TxnId, Error> {
        let round = self.shared.appender.encode(round)?;
        let (answer, answered) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let _withdraw = WithdrawOnDrop(Arc::clone(&ticket));
        let since = Instant::now();
        let (alone, waiting) = (false, Arc::clone(&ticket));
        let pending = Pending { round, alone, ticket: waiting, since, deadline, answer };
        self.submit(pending)?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Unknown("the lane that had the round ended".to_owned())),
            Err(_) if ticket.withdraw() => {
                let why = self.shared.dispatch.lock().why_waiting();
                Err(Error::Unavailable(format!("the round was not written in time: {why}")))
            }
            Err(_) => Err(Error::Unknown("its commit took longer than the deadline".to_owned())),
        }
    }

    fn submit(&self, pending: Pending) -> Result<(), Error> {
        let mut dispatch = self.shared.dispatch.lock();
        // The time is taken under the lock, as the lanes do: by an earlier one a lane that has just
        // gone to sleep would seem to rest, and nobody would be told.
        let free = dispatch.submit(pending, Instant::now()).inspect_err(|error| {
            if matches!(error, Error::Busy { .. }) {
                counter!(names::REFUSED).increment(1);
            }
        })?;
        Shared::show(&dispatch);
        drop(dispatch);
        if let Some(free) = free {
            self.shared.wake[free].notify_one();
        }
        Ok(())
    }

    /// How many rounds wait for a lane now.
    pub fn waiting(&self) -> usize {
        self.shared.dispatch.lock().waiting().0
    }

    /// Takes in no more rounds, writes those that wait, and returns when all lanes have ended.
    pub async fn shutdown(&self) {
        self.shared.close();
        self.running.clone().wait_for(|running| *running == 0).await;
    }
}

impl Drop for RoundWriter {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A caller that is gone wants nothing written.
struct WithdrawOnDrop(Arc<Ticket>);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}
