//! The task of one replication: gets a link, works on it, and gets the next when it ends.
//!
//! It dials its connections in turn, if it has any, and takes what is accepted for it at any time.
//! When both sides dial at once, the link of the cluster with the smaller actor survives on both
//! sides. Otherwise the link that is there stays until it ends, which takes seconds at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use anabranch_core::ErrorKind;
use anabranch_core::ids::AppId;
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks;
use anabranch_schemas::resources::{OnLeave, ReplicationSpec, ResourceName};

use super::Context;
use super::lagging;
use super::linked::{self, Ended};
use super::registry::Entry;
use crate::error::Error;
use crate::lag::Lag;
use crate::link::{Incoming, Link, RefusalCode, dial};
use crate::metrics::Meters;
use crate::queries::Queries;
use crate::status::{Connected, Reporter};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MOST_DELAY: Duration = Duration::from_secs(10);
/// Connections that wait to be looked at.
const INBOX: usize = 4;
/// Told so often in a row that there is a link already, it is not this replication that has it.
const MANY_DUPLICATES: u32 = 3;
/// How long a link may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// What a replication wants, and how it tells about itself.
pub(super) struct Wanted {
    pub(super) app: AppId,
    pub(super) name: ResourceName,
    pub(super) queries: Arc<Queries>,
    pub(super) on_leave: OnLeave,
    pub(super) lag: Lag,
    pub(super) meters: Meters,
    pub(super) reporter: Reporter,
}

/// A replication.
pub(super) struct Replication {
    context: Arc<Context>,
    wanted: Arc<Wanted>,
    connections: Vec<String>,
    /// Which connection is dialled next.
    turn: usize,
    inbox: mpsc::Receiver<Incoming>,
    backoff: Backoff,
    /// The error that was logged last: one that repeats is logged once.
    logged: Option<String>,
    /// How often in a row it was told that the other side has a link already.
    duplicates: u32,
}

/// A link at work.
struct Current {
    task: JoinHandle<Ended>,
    end: Option<oneshot::Sender<Error>>,
    peer: crate::link::Peer,
    initiator: anabranch_core::ids::ActorId,
}

impl Replication {
    /// From what was declared. From here on connections are accepted for it.
    pub(super) fn new(
        context: &Arc<Context>,
        app: AppId,
        name: ResourceName,
        spec: ReplicationSpec,
    ) -> Result<Self, Error> {
        let ReplicationSpec { connections, subscriptions, on_leave } = spec;
        let queries = Arc::new(Queries::parse(&subscriptions.queries_by_collection)?);
        let (inbox, connections_for_it) = mpsc::channel(INBOX);
        context.registry.add(Entry {
            app,
            name: name.clone(),
            dials: !connections.is_empty(),
            queries: queries.clone(),
            linked: None,
            last: None,
            inbox,
        });
        let meters = Meters::new(app, &name);
        let reporter = context.status.reporter(app, &name);
        reporter.update(|status| status.unlinked_since_ms = Some(now_millis()));
        let lag = Lag::default();
        Ok(Replication {
            context: context.clone(),
            wanted: Arc::new(Wanted { app, name, queries, on_leave, lag, meters, reporter }),
            connections,
            turn: 0,
            inbox: connections_for_it,
            backoff: Backoff::new(FIRST_DELAY, MOST_DELAY),
            logged: None,
            duplicates: 0,
        })
    }

    /// Runs until it is stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let telling = lagging::tell(self.context.clone(), self.wanted.clone());
        tokio::select! {
            biased;
            () = self.replicate(stop) => {}
            () = telling => {}
        }
    }

    async fn replicate(mut self, stop: CancellationToken) {
        self.wanted.meters.connected.set(0.0);
        let mut delay = Duration::ZERO;
        while !stop.is_cancelled() {
            let link = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                link = self.obtain(delay) => link,
            };
            let error = match link {
                Ok(link) => self.work(link, &stop).await,
                Err(error) => error,
            };
            if stop.is_cancelled() {
                break;
            }
            self.failed(&error);
            delay = self.backoff.next_delay();
        }
        self.wanted.meters.connected.set(0.0);
    }

    /// Gets a link: one that is accepted, or one that is dialled after `delay`.
    async fn obtain(&mut self, delay: Duration) -> Result<Link, Error> {
        let address = match self.connections.len() {
            0 => None,
            count => {
                self.turn = (self.turn + 1) % count;
                Some(self.connections[self.turn].clone())
            }
        };
        let Context { dialler, local, .. } = &*self.context;
        let dialled = async {
            match &address {
                Some(address) => {
                    tokio::time::sleep(delay).await;
                    dial(address, dialler, local, self.wanted.app).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            incoming = self.inbox.recv() => match incoming {
                Some(incoming) => incoming.admit(local).await,
                None => Err(Error::Shutdown),
            },
            link = dialled => {
                let link = link?;
                let refusal = |(code, reason)| Error::Refusing { code, reason };
                self.context.registry.check(&link.peer).map_err(refusal)?;
                Ok(link)
            }
        }
    }

    /// Works on a link until it ends.
    async fn work(&mut self, link: Link, stop: &CancellationToken) -> Error {
        let mut current = self.begin(link);
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut current.task => break ended,
                () = stop.cancelled() => {
                    self.end(current, Error::Refusing {
                        code: RefusalCode::Restarting,
                        reason: "the bridge stops, or the replication is changed".to_owned(),
                    })
                    .await;
                    return Error::Shutdown;
                }
                Some(incoming) = self.inbox.recv() => {
                    match self.replace(current, incoming).await {
                        Ok(next) => current = next,
                        Err(error) => return error,
                    }
                }
            }
        };
        self.disconnected();
        match ended {
            Ok(Ended { error, progressed }) => {
                if progressed {
                    self.backoff.reset();
                }
                error
            }
            Err(error) => Error::Corrupt(format!("the task of a link ended: {error}")),
        }
    }

    fn begin(&mut self, link: Link) -> Current {
        let Wanted { app, name, meters, reporter, .. } = &*self.wanted;
        let (peer, initiator) = (link.peer.clone(), link.initiator);
        tracing::info!(
            %app, replication = %name, cluster = %peer.cluster, address = peer.address,
            dialled = initiator == self.context.local.actor, "linked"
        );
        self.logged = None;
        self.duplicates = 0;
        self.context.registry.set_linked(*app, name, Some(&peer));
        self.wanted.lag.begin();
        meters.connected.set(1.0);
        reporter.update(|status| {
            status.last_error = None;
            status.unlinked_since_ms = None;
            status.connected = Some(Connected {
                cluster: peer.cluster.to_string(),
                actor: peer.actor,
                address: peer.address.clone(),
                since_ms: now_millis(),
            });
        });
        let (end, ended) = oneshot::channel();
        let work = linked::run(self.context.clone(), self.wanted.clone(), link, ended);
        let task = tasks::spawn(work);
        Current { task, end: Some(end), peer, initiator }
    }

    /// A connection came in while there is a link: one of the two ends.
    async fn replace(&mut self, current: Current, incoming: Incoming) -> Result<Current, Error> {
        let ours = self.context.local.actor;
        let theirs = incoming.peer.actor;
        let both_dialled = current.initiator == ours;
        let refusal = if theirs != current.peer.actor {
            Some((RefusalCode::Busy, "the replication is linked to another cluster"))
        } else if !both_dialled || ours < theirs {
            Some((RefusalCode::Duplicate, "there is a link already, and it stays"))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            tasks::spawn(incoming.refuse(code, reason.to_owned()));
            return Ok(current);
        }
        let reason = "there is another link, and it stays".to_owned();
        let why = Error::Refusing { code: RefusalCode::Duplicate, reason };
        self.end(current, why).await;
        self.disconnected();
        let link = incoming.admit(&self.context.local).await?;
        Ok(self.begin(link))
    }

    async fn end(&self, mut current: Current, why: Error) {
        if let Some(end) = current.end.take() {
            // It may have ended by itself.
            let _ = end.send(why);
        }
        if timeout(END_TIMEOUT, &mut current.task).await.is_err() {
            current.task.abort();
        }
    }

    fn disconnected(&self) {
        let Wanted { app, name, meters, reporter, .. } = &*self.wanted;
        self.context.registry.set_linked(*app, name, None);
        meters.connected.set(0.0);
        meters.under_way.set(0.0);
        meters.queue.set(0.0);
        reporter.update(|status| {
            status.connected = None;
            status.unlinked_since_ms = Some(now_millis());
        });
    }

    fn failed(&mut self, error: &Error) {
        let Wanted { app, name, meters, reporter, .. } = &*self.wanted;
        meters.link_errors.increment(1);
        let mut text = error.to_string();
        let is_duplicate = matches!(error, Error::Refused { code, .. }
            if code == RefusalCode::Duplicate.as_str());
        self.duplicates = if is_duplicate { self.duplicates + 1 } else { 0 };
        // When both sides dial, one is told so once, and has the other's link.
        let is_expected = is_duplicate && self.duplicates < MANY_DUPLICATES;
        if is_duplicate && !is_expected {
            text = format!(
                "another replication of app {app} has the link to that cluster: two of one app \
                 cannot be linked to the same cluster, put the queries of both into one ({error})"
            );
        }
        reporter.update(|status| status.last_error = Some(text.clone()));
        if is_expected || self.logged.as_ref() == Some(&text) {
            tracing::debug!(%app, replication = %name, error = text, "no link yet");
        } else if error.kind() == ErrorKind::Corrupt {
            tracing::error!(
                %app, replication = %name, error = text, "the link ended; trying again"
            );
        } else {
            tracing::warn!(
                %app, replication = %name, error = text, "there is no link; trying again"
            );
        }
        self.logged = Some(text);
    }
}
