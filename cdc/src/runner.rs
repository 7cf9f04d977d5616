//! Feeds the store node's changes to the writer, for as long as the process runs.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_journal::Journal;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::grpc::{self, AnyOf};
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::{self, Shutdown, Tasks};
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_schemas::store::{FeedReply, FeedRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::batch::{Batch, Position};
use crate::config::CdcConfig;
use crate::error::Error;
use crate::lag::Lag;
use crate::metrics;
use crate::writer::ChangesWriter;

/// A reply of the feed has at least one change; those of one that is cut are much smaller.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Replies that wait while a transaction is written.
const REPLIES: usize = 8;
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(2);

/// Starts change data capture of a cluster, from any of its store nodes. Whatever fails is tried
/// again.
pub fn run(
    config: CdcConfig,
    cluster: ClusterIdentity,
    store_node: AnyOf,
    journal: Arc<dyn Journal>,
    tasks: &Tasks,
    ready: ReadyFlag,
) {
    metrics::describe();
    let client = StoreNodeClient::new(store_node).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let lag = Arc::new(Lag::default());
    tasks.spawn("change-data-lag", {
        let (lag, client, shutdown) = (lag.clone(), client.clone(), tasks.shutdown().clone());
        async move {
            lag.watch(client, shutdown).await;
            Ok(())
        }
    });
    let shutdown = tasks.shutdown().clone();
    let capture = Capture { config, cluster, client, journal, shutdown, ready, lag };
    tasks.spawn("change-data-capture", async move {
        capture.run_until_shutdown().await;
        Ok(())
    });
}

struct Capture {
    config: CdcConfig,
    cluster: ClusterIdentity,
    client: StoreNodeClient<AnyOf>,
    journal: Arc<dyn Journal>,
    shutdown: Shutdown,
    ready: ReadyFlag,
    lag: Arc<Lag>,
}

impl Capture {
    async fn run_until_shutdown(&self) {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        while !self.shutdown.has_begun() {
            let begun = Instant::now();
            let Err(error) = self.capture().await else { return };
            if error.kind() == ErrorKind::Shutdown {
                return;
            }
            let error = match error {
                Error::FeedTrimmed { next, start } => match self.pass_over(next, start).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                error => error,
            };
            if error.kind() == ErrorKind::Corrupt {
                tracing::error!(%error, "changes cannot be captured");
            } else {
                tracing::warn!(%error, "capturing changes begins anew");
            }
            self.ready.set_not_ready(error.to_string());
            metrics::restarted();
            if begun.elapsed() > MOST_DELAY {
                backoff.reset();
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = self.shutdown.begun() => {}
            }
        }
    }

    /// Goes on behind changes that nobody has any more, and says in the topic that they are lost:
    /// readers would else take what follows for all there is. Of one partition of several the feed
    /// says so itself.
    async fn pass_over(&self, next: TxnId, start: TxnId) -> Result<(), Error> {
        let (journal, cluster) = (self.journal.clone(), self.cluster.clone());
        waiting(move || {
            let (mut writer, position) = ChangesWriter::open(&journal, cluster)?;
            if position.next != next {
                return Ok(());
            }
            writer.write_lost(next, start)?;
            tracing::error!(
                %next, %start,
                "no store node has these changes any more: they are lost to topic 'changes'. Keep \
                 changes longer than change data capture may be away (feed_retention_ms)"
            );
            metrics::lost(start.0 - next.0);
            Ok(())
        })
        .await
    }

    /// From fencing to the first error, or to the shutdown.
    async fn capture(&self) -> Result<(), Error> {
        let (journal, cluster) = (self.journal.clone(), self.cluster.clone());
        let (writer, start) = waiting(move || ChangesWriter::open(&journal, cluster)).await?;
        self.lag.written(start.next);
        let feed = self.open_feed(start).await?;
        self.ready.set_ready();
        let batch = Batch::new(self.cluster.slices, start);
        let now = Instant::now();
        let marked = Marked { at: now, next: TxnId(0) };
        Sequence { capture: self, writer: Some(writer), batch, marked }.run(feed).await
    }

    /// The feed from a position on, read ahead while a transaction is written. It ends with the
    /// receiver.
    async fn open_feed(
        &self,
        Position { next, written }: Position,
    ) -> Result<mpsc::Receiver<Result<FeedReply, Error>>, Error> {
        let request = FeedRequest { slices: Vec::new(), from: next.0, has_part: written > 0 };
        let failed = |status: &tonic::Status| Error::Feed(status.message().to_owned());
        let mut client = self.client.clone();
        let reply = client.feed(request).await.map_err(|status| {
            let start = grpc::number_of(&status, grpc::FEED_START_KEY).map(TxnId);
            match start.filter(|start| *start > next) {
                // Only the transaction of which a part was written has to come as it was.
                Some(_) if written > 0 => Error::FeedTrimmed { next, start: next.next() },
                Some(start) => Error::FeedTrimmed { next, start },
                None => failed(&status),
            }
        })?;
        let mut stream = reply.into_inner();
        let (replies, feed) = mpsc::channel(REPLIES);
        let shutdown = self.shutdown.clone();
        tasks::spawn(async move {
            loop {
                let reply = tokio::select! {
                    biased;
                    () = shutdown.begun() => return,
                    () = replies.closed() => return,
                    reply = stream.message() => reply,
                };
                let reply = match reply {
                    Ok(Some(reply)) => Ok(reply),
                    Ok(None) => Err(Error::Feed("it ended".to_owned())),
                    Err(status) => Err(failed(&status)),
                };
                let over = reply.is_err();
                if replies.send(reply).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(feed)
    }
}

/// When all slices were marked last, and up to where.
struct Marked {
    at: Instant,
    next: TxnId,
}

/// The transactions between two times of fencing.
struct Sequence<'a> {
    capture: &'a Capture,
    /// Away while it writes.
    writer: Option<ChangesWriter>,
    batch: Batch,
    marked: Marked,
}

impl Sequence<'_> {
    async fn run(
        mut self,
        mut feed: mpsc::Receiver<Result<FeedReply, Error>>,
    ) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = self.capture.shutdown.begun() => return Err(Error::Shutdown),
                reply = feed.recv() => match reply {
                    Some(reply) => self.batch.add(reply?)?,
                    None if self.capture.shutdown.has_begun() => return Err(Error::Shutdown),
                    None => return Err(Error::Feed("the task that reads it has ended".to_owned())),
                },
                () = tokio::time::sleep_until(self.marks_due()), if self.batch.is_whole() => {}
            }
            while !self.is_full()
                && let Ok(reply) = feed.try_recv()
            {
                self.batch.add(reply?)?;
            }
            // One that is cut is written when it is whole, or part by part if it is large.
            if self.batch.is_whole() || self.is_full() {
                self.write_if_due().await?;
            }
        }
    }

    fn is_full(&self) -> bool {
        let config = &self.capture.config;
        self.batch.changes().len() >= config.max_batch_changes
            || self.batch.bytes() >= config.max_batch_bytes
    }

    fn marks_due(&self) -> Instant {
        let config = &self.capture.config;
        let behind = self.marked.next < self.batch.next();
        let wait = if behind { config.mark_interval() } else { config.idle_mark_interval() };
        self.marked.at + wait
    }

    async fn write_if_due(&mut self) -> Result<(), Error> {
        let mark_all = Instant::now() >= self.marks_due();
        if !mark_all && !self.batch.has_news() {
            return Ok(());
        }
        if mark_all {
            self.marked = Marked { at: Instant::now(), next: self.batch.next() };
        }
        let batch = self.batch.take();
        let next = batch.next();
        let mut writer = self.writer.take().expect("it is back from the last transaction");
        let (writer, written) = waiting(move || {
            let written = writer.write(&batch, mark_all);
            if written.is_ok() {
                metrics::wrote(&batch);
            }
            Ok((writer, written))
        })
        .await?;
        self.writer = Some(writer);
        if written.is_ok() {
            self.capture.lag.written(next);
        }
        written
    }
}

/// Runs what blocks on a thread for that.
async fn waiting<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tasks::waiting(body).await.map_err(|_| Error::Shutdown)?
}
