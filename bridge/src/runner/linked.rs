//! A replication at work on one link: both directions, each on its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use anabranch_journal::{TopicPartition, TransactionalId};
use anabranch_runtime::clock::now_millis;
use anabranch_schemas::link::{Batch, Holdings, Received, Subscribe, message::Kind};
use anabranch_schemas::records::RemoteCursor;

use super::Context;
use super::holding::{held, list};
use super::replication::Wanted;
use crate::error::Error;
use crate::link::{self, Arrivals, Handlers, Link, Peer, WINDOW};
use crate::receive::{Handed, LinkWriter, List, Preparer, Receiving, WasWritten};
use crate::send::{Sender, Window};
use crate::status::Progress;

/// Room for everything that flow control allows to be under way: batches, their confirmations and
/// a subscription.
const OUTGOING: usize = 4 * WINDOW;
/// How many listings may wait. A receiver whose position is within a snapshot lists for that as the
/// link begins. If the position does not hold here, since its queries have another digest, the
/// snapshot begins anew, and the receiver lists again before the first listing was looked at.
const LISTINGS: usize = 2;
/// How long to wait for what was received to be written after the link has ended.
const FINISH: Duration = Duration::from_secs(10);

/// How a link ended.
pub(super) struct Ended {
    pub(super) error: Error,
    /// Whether anything got from one log into the other.
    pub(super) progressed: bool,
}

/// Works until the link ends, or until `end` says why it is to end.
pub(super) async fn run(
    context: Arc<Context>,
    wanted: Arc<Wanted>,
    link: Link,
    end: oneshot::Receiver<Error>,
) -> Ended {
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    let (arrivals, progressed) = Default::default();
    let work = Work { context, wanted, peer: link.peer.clone(), outgoing, arrivals, progressed };
    let error = Box::pin(work.until(link, queue, end)).await;
    Ended { error, progressed: work.progressed.load(Ordering::Relaxed) }
}

/// What both directions of a link need.
struct Work {
    context: Arc<Context>,
    wanted: Arc<Wanted>,
    peer: Peer,
    /// What the other side is to be told.
    outgoing: mpsc::Sender<Kind>,
    arrivals: Arc<Arrivals>,
    /// Set once anything got from one log into the other.
    progressed: Arc<AtomicBool>,
}

impl Work {
    async fn until(
        &self,
        link: Link,
        queue: mpsc::Receiver<Kind>,
        end: oneshot::Receiver<Error>,
    ) -> Error {
        let (mut receiving, mut arrived) = (None, None);
        if !self.wanted.queries.is_empty() {
            match self.receive() {
                Ok((threads, sender)) => (receiving, arrived) = (Some(threads), Some(sender)),
                Err(error) => return error,
            }
        }
        let window = Window::default();
        let (listed, holdings) = mpsc::channel(LISTINGS);
        let (subscribed, subscription) = oneshot::channel();
        let mut subscribed = Some(subscribed);
        let handlers = Handlers {
            subscribe: |subscribe: Subscribe| match subscribed.take() {
                Some(subscribed) => {
                    // Whoever waits for it is gone only if the link ends.
                    let _ = subscribed.send(subscribe);
                    Ok(())
                }
                None => Err(Error::protocol("a second subscription")),
            },
            batch: |batch: Batch| self.arrive(arrived.as_ref(), batch),
            received: |received: Received| self.confirm(&window, &received),
            holdings: |holdings: Holdings| match listed.try_send(holdings) {
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Err(Error::protocol("more is listed than was asked for"))
                }
                // Whoever sends has failed and will say why.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            },
        };
        let work = async {
            tokio::select! {
                biased;
                end = end => end.unwrap_or(Error::Shutdown),
                error = failed(receiving.as_mut()) => error,
                error = self.serve(subscription, holdings, &window) => error,
            }
        };
        let error = link::run(link, queue, handlers, work).await;
        drop(arrived);
        if let Some(receiving) = receiving
            && tokio::time::timeout(FINISH, receiving.finish()).await.is_err()
        {
            tracing::warn!(app = %self.wanted.app, "what was received is still being written");
        }
        error
    }

    async fn serve(
        &self,
        subscription: oneshot::Receiver<Subscribe>,
        holdings: mpsc::Receiver<Holdings>,
        window: &Window,
    ) -> Error {
        // Without one the link has ended.
        let Ok(subscribe) = subscription.await else { return std::future::pending().await };
        let sender = self.sender();
        sender.serve(self.peer.actor, subscribe, holdings, window, &self.outgoing).await
    }

    fn receive(&self) -> Result<(Receiving, mpsc::Sender<Batch>), Error> {
        let handed = Arc::new(Handed::default());
        let preparer = self.preparer(handed.clone());
        let list = list(&self.context, preparer.clone(), handed.clone());
        Receiving::start(preparer, self.writer(list, handed))
    }

    fn arrive(&self, arrived: Option<&mpsc::Sender<Batch>>, batch: Batch) -> Result<(), Error> {
        let Some(arrived) = arrived else {
            return Err(Error::protocol("a batch that nobody asked for"));
        };
        if !self.arrivals.arrive(batch.number, batch.encoded_len()) {
            return Err(Error::protocol("more batches or bytes under way than may be"));
        }
        match arrived.try_send(batch) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Error::protocol("more batches under way than may be"))
            }
            // The writer has failed and will say why.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    fn confirm(&self, window: &Window, received: &Received) -> Result<(), Error> {
        self.progressed.store(true, Ordering::Relaxed);
        let wanted = &self.wanted;
        let Some(confirmed) = window.confirm(received.number)? else { return Ok(()) };
        wanted.meters.confirm.record(confirmed.took);
        wanted.meters.under_way.set(window.under_way() as f64);
        wanted.lag.reached(confirmed.next, confirmed.snapshot, now_millis());
        wanted.reporter.update(|status| {
            status.sent = Some(Progress {
                next: confirmed.next.0,
                snapshot: confirmed.snapshot,
                at_ms: now_millis(),
                lag_ms: u64::try_from(confirmed.took.as_millis()).unwrap_or(u64::MAX),
            });
        });
        Ok(())
    }

    fn sender(&self) -> Sender {
        let (Work { context, wanted, .. }, told) = (self, self.wanted.clone());
        Sender {
            journal: context.journal.clone(),
            store: context.store.clone(),
            cluster: context.cluster.name.clone(),
            actor: context.cluster.actor,
            slices: context.cluster.slices,
            app: wanted.app,
            is_at: Arc::new(move |next, snapshot| told.lag.reached(next, snapshot, now_millis())),
            meters: wanted.meters.clone(),
            reporter: wanted.reporter.clone(),
        }
    }

    fn preparer(&self, handed: Arc<Handed>) -> Preparer {
        let Work { context, wanted, .. } = self;
        let (registry, this) = (context.clone(), wanted.clone());
        let drift_ms = context.local.max_clock_drift.as_millis();
        Preparer {
            actor: context.cluster.actor,
            app: wanted.app,
            replication: wanted.name.clone(),
            remote: self.peer.actor,
            queries: wanted.queries.clone(),
            on_leave: wanted.on_leave,
            max_clock_drift_ms: u64::try_from(drift_ms).unwrap_or(u64::MAX),
            others: Arc::new(move |collection| {
                registry.registry.others(this.app, &this.name, collection)
            }),
            held: held(context, handed),
            was_written: was_written(context),
        }
    }

    fn writer(&self, list: List, handed: Arc<Handed>) -> LinkWriter {
        let Work { context, wanted, peer, .. } = self;
        let (cluster, app, name) = (&context.cluster.name, wanted.app, &wanted.name);
        LinkWriter {
            journal: context.journal.clone(),
            cluster: cluster.clone(),
            actor: context.cluster.actor,
            remote: peer.actor,
            appender: context.appender.clone(),
            transactional_id: TransactionalId::from(format!("{cluster}-bridge-{app}-{name}")),
            cursor_key: RemoteCursor::key(app, name, peer.actor),
            queries: wanted.queries.clone(),
            list,
            handed,
            arrivals: self.arrivals.clone(),
            outgoing: self.outgoing.clone(),
            progressed: self.progressed.clone(),
            meters: wanted.meters.clone(),
            reporter: wanted.reporter.clone(),
        }
    }
}

async fn failed(receiving: Option<&mut Receiving>) -> Error {
    match receiving {
        Some(receiving) => receiving.failed().await,
        // Nothing is wanted.
        None => std::future::pending().await,
    }
}

/// What a remote knows of this cluster's log was visible before, so its end is looked up only when
/// it is not known to be far enough.
fn was_written(context: &Context) -> WasWritten {
    let journal = context.journal.clone();
    let txns = TopicPartition::new(context.cluster.name.txns(), 0);
    let known = AtomicU64::new(0);
    Arc::new(move |txn| {
        if txn.0 >= known.load(Ordering::Relaxed) {
            known.store(journal.bounds(&txns)?.end.0, Ordering::Relaxed);
        }
        Ok(txn.0 < known.load(Ordering::Relaxed))
    })
}
