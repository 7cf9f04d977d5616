//! The task that serves one subscription: snapshot, tail, and again from where the receiver is
//! after whatever goes wrong on this side. Only the link's end ends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use anabranch_core::ErrorKind;
use anabranch_core::ids::{ActorId, AppId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::blocking;
use anabranch_schemas::link::{self, message::Kind};
use anabranch_schemas::topics::ClusterName;

use super::listed::Listed;
use super::position::At;
use super::rounds::Source;
use super::select::Selector;
use super::tail::{Ended, Tail, TailLimits};
use super::window::Window;
use crate::error::Error;
use crate::metrics::Meters;
use crate::queries::Queries;
use crate::status::Reporter;
use crate::store::Store;
use crate::worker::Worker;

/// How many batches may wait for the window.
const QUEUE: usize = 2;

/// Serves the subscriptions of one replication's links.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) store: Store,
    pub(crate) cluster: ClusterName,
    pub(crate) actor: ActorId,
    pub(crate) slices: SliceCount,
    pub(crate) app: AppId,
    /// Hears where the receiver is, and whether that is within a snapshot.
    pub(crate) is_at: Arc<dyn Fn(TxnId, bool) + Send + Sync>,
    pub(crate) meters: Meters,
    pub(crate) reporter: Reporter,
}

/// One subscription being served.
pub(super) struct Subscription<'a> {
    pub(super) selector: Arc<Selector>,
    digest: u64,
    /// Where the receiver is once everything sent has arrived; `None`: it needs a snapshot.
    pub(super) at: Option<At>,
    /// What the receiver says it holds, and what it said of that last.
    pub(super) holdings: mpsc::Receiver<link::Holdings>,
    pub(super) listed: Option<Arc<Listed>>,
    /// Whether nothing was sent since the last error.
    is_failing: bool,
    window: &'a Window,
    outgoing: &'a mpsc::Sender<Kind>,
}

impl Sender {
    /// Serves a subscription of `peer` until the link ends or must end.
    pub(crate) async fn serve(
        &self,
        peer: ActorId,
        subscribe: link::Subscribe,
        holdings: mpsc::Receiver<link::Holdings>,
        window: &Window,
        outgoing: &mpsc::Sender<Kind>,
    ) -> Error {
        let made = self.subscription(peer, subscribe, holdings, window, outgoing).await;
        let mut subscription = match made {
            Ok(subscription) => subscription,
            Err(error) => return error,
        };
        match &subscription.at {
            Some(At::Tail(next)) => (self.is_at)(*next, false),
            Some(At::Snapshot { next, .. } | At::Replay(next)) => (self.is_at)(*next, true),
            None => {}
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let step = match subscription.at.clone() {
                None => self.begin(&mut subscription).await,
                Some(At::Snapshot { next, after }) => {
                    self.snapshot(&mut subscription, next, after).await
                }
                Some(At::Replay(next)) => self.replay(&mut subscription, next).await,
                Some(At::Tail(next)) => self.tail(&mut subscription, next, TxnId(0)).await,
            };
            match step {
                Ok(()) => backoff.reset(),
                Err(error) if ends_link(&error) => return error,
                Err(error) => {
                    self.interrupted(&mut subscription, &error);
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn interrupted(&self, subscription: &mut Subscription<'_>, error: &Error) {
        let app = self.app;
        self.meters.send_failed(error.kind());
        if error.kind() == ErrorKind::Corrupt {
            tracing::error!(%app, %error, "sending cannot go on; it is retried");
        } else {
            tracing::warn!(%app, %error, "sending is interrupted and will be retried");
        }
        subscription.is_failing = true;
        self.reporter.update(|status| status.last_error = Some(error.to_string()));
    }

    async fn subscription<'a>(
        &self,
        peer: ActorId,
        subscribe: link::Subscribe,
        holdings: mpsc::Receiver<link::Holdings>,
        window: &'a Window,
        outgoing: &'a mpsc::Sender<Kind>,
    ) -> Result<Subscription<'a>, Error> {
        // A receiver is told of what left because it wrote a part of it (BR-3). So it is believed
        // to be who its certificate says, and not whom else it names as an origin.
        let link::Subscribe { queries, position, origins: _ } = subscribe;
        // There may be very many, and this task also answers pings.
        let parsed = blocking(move || Queries::from_wire(queries)).await;
        let queries = parsed.map_err(|_| Error::Shutdown)??;
        let digest = queries.digest();
        Ok(Subscription {
            selector: Arc::new(Selector::new(self.app, queries, peer)),
            digest,
            at: At::of(position, digest),
            holdings,
            listed: None,
            is_failing: false,
            window,
            outgoing,
        })
    }

    /// Follows the log from the timestamp of a snapshot on: all its documents were read before the
    /// end that the log has now.
    async fn replay(&self, subscription: &mut Subscription<'_>, next: TxnId) -> Result<(), Error> {
        let (journal, txns) = (self.journal.clone(), TopicPartition::new(self.cluster.txns(), 0));
        let bounds = blocking(move || journal.bounds(&txns)).await;
        let end = TxnId(bounds.map_err(|_| Error::Shutdown)??.end.0);
        if end <= next {
            return self.send(subscription, Vec::new(), At::Tail(next)).await;
        }
        self.tail(subscription, next, end).await
    }

    /// Follows the log from `next` on. What is below `replays_until` may be older than what the
    /// receiver has.
    async fn tail(
        &self,
        subscription: &mut Subscription<'_>,
        next: TxnId,
        replays_until: TxnId,
    ) -> Result<(), Error> {
        let (batches, mut ready) = mpsc::channel(QUEUE);
        let journal = self.journal.clone();
        let cluster = self.cluster.clone();
        let source = Source {
            app: self.app,
            slices: self.slices,
            actor: self.actor,
            selector: subscription.selector.clone(),
            replays_until,
        };
        let mut reader = Worker::spawn("bridge-send", move |stop| {
            let limits = TailLimits::default();
            Tail { limits, journal, cluster, source, from: next, batches, stop }.run()
        })?;
        while let Some(batch) = ready.recv().await {
            let next = batch.next;
            let at = if next < replays_until { At::Replay(next) } else { At::Tail(next) };
            self.send(subscription, batch.rounds, at).await?;
        }
        match reader.ended().await? {
            Ended::Stopped => Err(Error::Shutdown),
            Ended::Gone => {
                subscription.at = None;
                Err(Error::Store(format!(
                    "the log no longer has transaction {next}: the receiver needs a snapshot"
                )))
            }
        }
    }

    pub(super) async fn send(
        &self,
        subscription: &mut Subscription<'_>,
        rounds: Vec<link::Round>,
        at: At,
    ) -> Result<(), Error> {
        let documents: u64 = rounds.iter().map(|round| round.changes.len() as u64).sum();
        let Subscription { window, outgoing, digest, .. } = subscription;
        window.send(outgoing, rounds, &at, *digest).await?;
        subscription.at = Some(at);
        self.meters.sent_batches.increment(1);
        self.meters.sent_documents.increment(documents);
        self.meters.under_way.set(subscription.window.under_way() as f64);
        let has_recovered = std::mem::take(&mut subscription.is_failing);
        self.reporter.update(|status| {
            status.documents_sent += documents;
            if has_recovered {
                status.last_error = None;
            }
        });
        Ok(())
    }
}

/// Whether there is no use in trying again on this link.
fn ends_link(error: &Error) -> bool {
    matches!(error, Error::Refusing { .. } | Error::Closed) || error.kind() == ErrorKind::Shutdown
}
