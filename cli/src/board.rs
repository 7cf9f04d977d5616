//! `GET /api/v1/status` of the admin endpoint: how far each part of a cluster is behind its log.
//! Any process of a cluster can tell, since positions are in the log; ingest and links to other
//! clusters are known only to the process that has them. While the log is away the answer comes all
//! the same, in time, and says what is not known.

mod health;
mod nodes;
mod peers;
mod tail;
pub(crate) mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_bridge::StatusHandle;
use anabranch_cdc::CURSOR_KEY;
use anabranch_journal::metadata::{Agreed, ClusterIdentity, MetadataError, OpenedLater};
use anabranch_journal::{Error as JournalError, Journal, ReadFrom, Reader, TopicPartition};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::decode;
use anabranch_schemas::records::ChangesCursor;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use self::nodes::{Told, ask};
use self::tail::Tail;

/// Where the status is.
pub(crate) const PATH: &str = "/api/v1/status";

/// How long whoever asks waits at most.
const ANSWER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// Positions of a log that answers are read within this time.
const READ_FOR: Duration = Duration::from_secs(4);
/// The part that is at the end of the log while it is ready.
const INGEST: &str = "ingest";

/// What a process knows of its cluster.
pub(crate) struct Board {
    cluster: ClusterIdentity,
    journal: Arc<dyn Journal>,
    readiness: Readiness,
    store: Option<AnyOf>,
    links: Option<StatusHandle>,
    /// Whether ingest runs in this process.
    ingest: bool,
    /// Positions seen so far. Whoever reads on holds it.
    cursors: Arc<Mutex<Option<Cursors>>>,
    /// The commit records seen last. Whoever reads on holds it, too.
    tail: Arc<Mutex<Tail>>,
    /// What is declared, once it was asked for.
    metadata: OpenedLater,
}

/// The status of a cluster, as one of its processes sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterStatus {
    pub(crate) cluster: String,
    pub(crate) actor: String,
    pub(crate) slices: u16,
    /// The transaction id that the next write will have at least.
    pub(crate) log_end: Option<u64>,
    /// Every transaction below it is stable: all reads see it (UST). None if no store node says.
    #[serde(default)]
    pub(crate) stable: Option<u64>,
    /// What the cluster's reads need is kept from this transaction on; none if no store node says.
    #[serde(default)]
    pub(crate) gc_timestamp: Option<u64>,
    pub(crate) parts: Vec<PartStatus>,
    /// The store nodes that the cluster declares, as one of them knows them.
    #[serde(default)]
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) links: Vec<LinkStatus>,
    /// Parts of the process that are not ready, and why.
    pub(crate) not_ready: BTreeMap<String, String>,
    /// What nobody can read or write at the moment, and why.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
    /// What was declared lost, ever; none if the log does not say.
    #[serde(default)]
    pub(crate) losses: Option<Vec<LossStatus>>,
}

/// Transactions of which a partition has lost its part: neither the log nor any replica had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LossStatus {
    pub(crate) partition: u32,
    /// From this transaction on, up to before `to`; if they are equal parts of later ones were lost.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The store node that declared it, and when, in milliseconds since the Unix epoch.
    pub(crate) declared_by: String,
    pub(crate) declared_ms: u64,
}

/// How far a part of a cluster is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartStatus {
    pub(crate) part: String,
    /// Every transaction below it is done.
    pub(crate) next: Option<u64>,
    pub(crate) lag_transactions: Option<u64>,
    /// How long ago the first transaction was written that is not done yet.
    pub(crate) lag_seconds: Option<f64>,
    /// Why nothing is known.
    pub(crate) error: Option<String>,
}

/// A store node of a cluster that declares several.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    pub(crate) node: String,
    pub(crate) partition: u32,
    pub(crate) address: String,
    /// Every transaction below it may be read there; none if nothing was heard from the node.
    pub(crate) next: Option<u64>,
    /// Every transaction below it survives a crash of the node.
    pub(crate) durable: Option<u64>,
    /// The oldest transaction at which it reads, or about the newest that is stable.
    #[serde(default)]
    pub(crate) gc_timestamp: Option<u64>,
    pub(crate) lag_transactions: Option<u64>,
    pub(crate) lag_seconds: Option<f64>,
    /// How likely it is that it is gone, from 0 to 1.
    pub(crate) suspicion: f64,
    /// How many ranges of transactions it has past a gap.
    pub(crate) detached_ranges: u32,
    /// While it copies what it lacks from others: how many rounds and documents it has so far.
    #[serde(default)]
    pub(crate) copying: Option<u64>,
    /// For how long nothing was heard from it, in seconds; none if nothing ever was.
    #[serde(default)]
    pub(crate) silent_seconds: Option<f64>,
    /// Why it was not ready when it was last heard.
    #[serde(default)]
    pub(crate) not_ready: Option<String>,
    /// Why it is not reached at its address.
    #[serde(default)]
    pub(crate) unreached: Option<String>,
}

/// A link to another cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkStatus {
    pub(crate) app: String,
    pub(crate) replication: String,
    /// As the bridge tells it. Its lag, which is what the other side does not have yet and grows
    /// while the link is down, is counted in the log, as that of parts is.
    #[serde(flatten)]
    pub(crate) status: serde_json::Value,
}

/// The routes of a board.
pub(crate) fn routes(board: Board) -> Router {
    let routes = Router::new().route(PATH, get(status)).route(verify::PATH, get(verify::answer));
    routes.with_state(Arc::new(board))
}

async fn status(State(board): State<Arc<Board>>) -> Json<ClusterStatus> {
    Json(board.status().await)
}

impl Board {
    /// Of a cluster; `links` are those of this process.
    pub(crate) fn new(
        cluster: ClusterIdentity,
        journal: Arc<dyn Journal>,
        readiness: Readiness,
        links: Option<StatusHandle>,
    ) -> Self {
        let cursors = Arc::new(Mutex::new(None));
        let tail = Arc::new(Mutex::new(Tail::new(TopicPartition::new(cluster.name.txns(), 0))));
        let (store, ingest) = (None, false);
        let metadata = OpenedLater::new(Arc::clone(&journal), cluster.name.clone());
        Board { cluster, journal, readiness, store, links, ingest, cursors, tail, metadata }
    }

    /// One that asks a store node, too.
    pub(crate) fn asking(mut self, store_node: AnyOf) -> Self {
        self.store = Some(store_node);
        self
    }

    /// One of a process in which ingest runs.
    pub(crate) fn with_ingest(mut self) -> Self {
        self.ingest = true;
        self
    }

    async fn status(self: &Arc<Self>) -> ClusterStatus {
        let until = Instant::now() + ANSWER;
        let end = self.blocking(until, |board| board.end()).await;
        let mut parts = Vec::new();
        if self.ingest {
            parts.push(self.ingest(end.clone()));
        }
        let mut told = Told::default();
        if let Some(store) = &self.store {
            let reply = ask(store).await;
            let position = reply.as_ref().map(|reply| reply.applied_next).map_err(String::clone);
            parts.push(self.part(until, "store-node", position).await);
            told = self.told(until, reply.ok()).await;
        }
        let Told { nodes, stable, gc_timestamp, quorums, alone } = told;
        let position = self.captured(until).await;
        parts.push(self.part(until, "cdc", position).await);
        let links = self.links(until).await;
        let losses = self.blocking(until, |board| board.losses()).await;
        let mut problems = health::problems(&parts, &nodes, &quorums);
        problems.extend(alone.map(|why| format!("the store node: {why}")));
        problems
            .extend(losses.as_ref().err().map(|why| format!("what was lost is not known: {why}")));
        ClusterStatus {
            cluster: self.cluster.name.to_string(),
            actor: self.cluster.actor.to_string(),
            slices: self.cluster.slices.get(),
            // Positions were read after it.
            log_end: end
                .ok()
                .map(|end| parts.iter().filter_map(|part| part.next).fold(end, u64::max)),
            stable,
            gc_timestamp,
            parts,
            nodes,
            links,
            not_ready: self
                .readiness
                .not_ready()
                .into_iter()
                .map(|(part, why)| (part.to_owned(), why))
                .collect(),
            problems,
            losses: losses.ok(),
        }
    }

    /// What was declared lost, by partition and transaction.
    fn losses(&self) -> Result<Vec<LossStatus>, MetadataError> {
        let lost = self.metadata.get()?.all_lost()?;
        let status = |Agreed { range, .. }: Agreed| LossStatus {
            partition: range.partition,
            from: range.from.0,
            to: range.to.0,
            declared_by: range.declared_by,
            declared_ms: range.declared_ms,
        };
        Ok(lost.into_iter().map(status).collect())
    }

    /// What ingest has acknowledged is in the log (IN-1), so it is behind by nothing or away.
    fn ingest(&self, end: Result<u64, String>) -> PartStatus {
        let part = PartStatus { part: INGEST.to_owned(), ..PartStatus::default() };
        let not_ready = self.readiness.not_ready().into_iter().find(|(part, _)| *part == INGEST);
        match (not_ready, end) {
            (None, Ok(end)) => PartStatus {
                next: Some(end),
                lag_transactions: Some(0),
                lag_seconds: Some(0.0),
                ..part
            },
            (Some((_, error)), _) | (None, Err(error)) => PartStatus { error: Some(error), ..part },
        }
    }

    async fn links(self: &Arc<Self>, until: Instant) -> Vec<LinkStatus> {
        let all = self.links.as_ref().map(StatusHandle::all).unwrap_or_default();
        let mut links = Vec::new();
        for ((app, name), status) in all {
            let sent = status.sent.as_ref().map(|sent| sent.next);
            let mut status = serde_json::to_value(status).unwrap_or_default();
            if let Some(next) = sent
                && let Ok((transactions, seconds)) = self.behind(until, next).await
            {
                status["lagTransactions"] = transactions.into();
                status["lagSeconds"] = seconds.into();
            }
            let (app, replication) = (app.to_string(), name.to_string());
            links.push(LinkStatus { app, replication, status });
        }
        links
    }

    async fn part(
        self: &Arc<Self>,
        until: Instant,
        part: &str,
        next: Result<u64, String>,
    ) -> PartStatus {
        let part = PartStatus { part: part.to_owned(), ..PartStatus::default() };
        let next = match next {
            Ok(next) => next,
            Err(error) => return PartStatus { error: Some(error), ..part },
        };
        match self.behind(until, next).await {
            Ok((transactions, seconds)) => PartStatus {
                next: Some(next),
                lag_transactions: Some(transactions),
                lag_seconds: Some(seconds),
                ..part
            },
            Err(error) => PartStatus { next: Some(next), error: Some(error), ..part },
        }
    }

    /// How far changes were captured.
    async fn captured(self: &Arc<Self>, until: Instant) -> Result<u64, String> {
        let cursors = timeout_at(until, self.cursors.clone().lock_owned()).await;
        let mut cursors = cursors.map_err(|_| no_answer())?;
        self.blocking(until, move |board| {
            let newest = board.read_cursors(&mut cursors)?;
            Ok::<_, JournalError>(newest.map_or(0, |cursor| cursor.next.0))
        })
        .await
    }

    /// Reads on where the last call stopped.
    fn read_cursors(
        &self,
        cursors: &mut Option<Cursors>,
    ) -> Result<Option<ChangesCursor>, JournalError> {
        let at = TopicPartition::new(self.cluster.name.cursors(), 0);
        let mut seen = match cursors.take() {
            Some(seen) => seen,
            None => Cursors {
                reader: self.journal.reader(&[(at.clone(), ReadFrom::Start)])?,
                changes: None,
            },
        };
        let end = self.journal.bounds(&at)?.end;
        let begun = Instant::now();
        while seen.reader.position(&at).is_none_or(|position| position < end) {
            for record in seen.reader.poll(POLL)? {
                if record.key.as_ref() == CURSOR_KEY.as_bytes()
                    && let Some(value) = &record.value
                {
                    let cursor = decode(value);
                    seen.changes =
                        Some(cursor.map_err(|error| JournalError::Corrupt(error.to_string()))?);
                }
            }
            if begun.elapsed() > READ_FOR {
                // What was read stays read.
                *cursors = Some(seen);
                return Err(JournalError::Unavailable(no_answer()));
            }
        }
        let changes = seen.changes;
        *cursors = Some(seen);
        Ok(changes)
    }

    fn end(&self) -> Result<u64, JournalError> {
        Ok(self.journal.bounds(&self.txns())?.end.0)
    }

    fn txns(&self) -> TopicPartition {
        TopicPartition::new(self.cluster.name.txns(), 0)
    }

    /// How far behind `next` is: see [`Tail::behind`].
    async fn behind(self: &Arc<Self>, until: Instant, next: u64) -> Result<(u64, f64), String> {
        let tail = timeout_at(until, self.tail.clone().lock_owned()).await;
        let mut tail = tail.map_err(|_| no_answer())?;
        self.blocking(until, move |board| tail.behind(&*board.journal, next)).await
    }

    /// Runs what blocks on a thread for that. Nobody waits for it beyond `until`.
    async fn blocking<T: Send + 'static, E: ToString + Send + 'static>(
        self: &Arc<Self>,
        until: Instant,
        body: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        let board = self.clone();
        let work = tokio::task::spawn_blocking(move || body(&board));
        let done = timeout_at(until, work).await.map_err(|_| no_answer())?;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn no_answer() -> String {
    "the log does not answer in time".to_owned()
}

/// What was read of topic `cursors`.
struct Cursors {
    reader: Box<dyn Reader>,
    changes: Option<ChangesCursor>,
}
