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
/// How many listings may wait: one for the position at which the link began, and one more for that
/// at which the sender begins instead.
const LISTINGS: usize = 2;
/// How long to wait for what was received to be written after the link has ended.
const FINISH: Duration = Duration::from_secs(10);

/// What a writer tells others of what it does.
type Flow = (Arc<Handed>, Arc<Arrivals>, mpsc::Sender<Kind>);

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
    let progressed = Arc::new(AtomicBool::new(false));
    let error = Box::pin(work(&context, &wanted, link, end, &progressed)).await;
    Ended { error, progressed: progressed.load(Ordering::Relaxed) }
}

async fn work(
    context: &Arc<Context>,
    wanted: &Arc<Wanted>,
    link: Link,
    end: oneshot::Receiver<Error>,
    progressed: &Arc<AtomicBool>,
) -> Error {
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    let peer = link.peer.clone();
    let arrivals = Arc::new(Arrivals::default());
    let mut receiving = None;
    let mut arrived = None;
    if !wanted.queries.is_empty() {
        let handed = Arc::new(Handed::default());
        let preparer = preparer(context, wanted, &peer, handed.clone());
        let flow = (handed, arrivals.clone(), outgoing.clone());
        let list = list(context, preparer.clone());
        let writer = writer(context, wanted, &peer, list, flow, progressed.clone());
        match Receiving::start(preparer, writer) {
            Ok((threads, sender)) => (receiving, arrived) = (Some(threads), Some(sender)),
            Err(error) => return error,
        }
    }
    let window = Window::default();
    let (held, holdings) = mpsc::channel(LISTINGS);
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
        batch: |batch: Batch| {
            let Some(arrived) = &arrived else {
                return Err(Error::protocol("a batch that nobody asked for"));
            };
            if !arrivals.arrive(batch.number, batch.encoded_len()) {
                return Err(Error::protocol("more batches or bytes under way than may be"));
            }
            match arrived.try_send(batch) {
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Err(Error::protocol("more batches under way than may be"))
                }
                // The writer has failed and will say why.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            }
        },
        received: |received: Received| {
            progressed.store(true, Ordering::Relaxed);
            confirmed(wanted, &window, &received)
        },
        holdings: |holdings: Holdings| match held.try_send(holdings) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Error::protocol("more is listed than was asked for"))
            }
            // Whoever sends has failed and will say why.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        },
    };
    let sender = sender(context, wanted);
    let work = async {
        tokio::select! {
            error = serve(&sender, &peer, (subscription, holdings), &window, &outgoing) => error,
            error = failed(receiving.as_mut()) => error,
            end = end => end.unwrap_or(Error::Shutdown),
        }
    };
    let error = link::run(link, queue, handlers, work).await;
    drop(arrived);
    if let Some(receiving) = receiving
        && tokio::time::timeout(FINISH, receiving.finish()).await.is_err()
    {
        tracing::warn!(app = %wanted.app, "what was received is still being written");
    }
    error
}

async fn serve(
    sender: &Sender,
    peer: &Peer,
    (subscription, holdings): (oneshot::Receiver<Subscribe>, mpsc::Receiver<Holdings>),
    window: &Window,
    outgoing: &mpsc::Sender<Kind>,
) -> Error {
    match subscription.await {
        Ok(subscribe) => sender.serve(peer.actor, subscribe, holdings, window, outgoing).await,
        Err(_) => std::future::pending().await,
    }
}

async fn failed(receiving: Option<&mut Receiving>) -> Error {
    match receiving {
        Some(receiving) => receiving.failed().await,
        // Nothing is wanted.
        None => std::future::pending().await,
    }
}

fn confirmed(wanted: &Wanted, window: &Window, received: &Received) -> Result<(), Error> {
    if let Some(confirmed) = window.confirm(received.number)? {
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
    }
    Ok(())
}

fn sender(context: &Context, wanted: &Arc<Wanted>) -> Sender {
    let told = wanted.clone();
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

fn preparer(
    context: &Arc<Context>,
    wanted: &Arc<Wanted>,
    peer: &Peer,
    handed: Arc<Handed>,
) -> Preparer {
    let (registry, this) = (context.clone(), wanted.clone());
    let drift_ms = context.local.max_clock_drift.as_millis();
    Preparer {
        actor: context.cluster.actor,
        app: wanted.app,
        replication: wanted.name.clone(),
        remote: peer.actor,
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

fn writer(
    context: &Context,
    wanted: &Wanted,
    peer: &Peer,
    list: List,
    (handed, arrivals, outgoing): Flow,
    progressed: Arc<AtomicBool>,
) -> LinkWriter {
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
        arrivals,
        outgoing,
        progressed,
        meters: wanted.meters.clone(),
        reporter: wanted.reporter.clone(),
    }
}
