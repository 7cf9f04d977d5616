//! A cluster for tests: a log and a store node that do what the real ones do, in little, and fail
//! when they are told to. The store node is asked over a real connection.

mod changes;
pub(crate) mod followed;
mod log;
pub(crate) mod signer;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::document::{Commit, Document, Effect, MAX_BYTES, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, DocumentId, DocumentKey, RoundId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::query::OnConflict;
use anabranch_journal::Journal;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::metadata::OpenedLater;
use anabranch_journal::rounds::Round;
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::records::DocumentMutation;
use anabranch_schemas::store as proto;
use anabranch_schemas::topics::ClusterName;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;
use uuid::Uuid;

use crate::access::Keys;
use crate::config::IngestConfig;
use crate::execute::{Executor, LogEnd, RoundLog};
use crate::http::{self, Api};
use crate::limits::Limits;
use crate::live::Live;
use crate::load::Loader;
use crate::rounds::Rounds;
use crate::store::Store;

pub(crate) use crate::examples::APP;
pub(crate) use log::{FakeLog, Fault};
pub(crate) use store::FakeStore;

/// The cluster.
pub(crate) const EAST: ActorId = ActorId(Uuid::from_u128(1));
/// How many snapshots of the past can be read.
const REMEMBERED: usize = 16;

/// By canonical id: the state, and the transaction that wrote it.
type Documents = BTreeMap<Vec<u8>, (Document, u64)>;

/// What the store holds.
#[derive(Default)]
pub(crate) struct World {
    documents: Documents,
    /// The same as of the last transactions.
    past: VecDeque<(u64, Documents)>,
    /// What each transaction changed.
    changes: Vec<proto::FeedTransaction>,
    pub(crate) outcomes: HashMap<RoundId, proto::Outcome>,
    /// Rounds in the order in which they were committed, applied or not.
    pub(crate) committed: Vec<(u64, Round)>,
    applied: usize,
}

/// The store and what was applied last.
pub(crate) struct Shared {
    pub(crate) world: Mutex<World>,
    newest: watch::Sender<Option<u64>>,
}

impl Shared {
    /// Applies what was committed.
    pub(crate) fn apply(&self) {
        let mut world = self.world.lock();
        while let Some((txn, round)) = world.committed.get(world.applied).cloned() {
            world.applied += 1;
            world.apply(txn, &round);
            self.newest.send_replace(Some(txn));
        }
    }
}

impl World {
    fn apply(&mut self, txn: u64, round: &Round) {
        if self.outcomes.contains_key(&round.id) {
            return;
        }
        let commit = Commit { hlc: Hlc::from_millis(txn + 1), actor: EAST, sequence: txn };
        let before = self.documents.clone();
        let seen = |id: &Vec<u8>| before.get(id).filter(|(document, _)| document.is_visible());
        let (mut conflicts, mut too_large) = (BTreeMap::new(), BTreeSet::new());
        let mut kept = Vec::new();
        for mutation in &round.mutations {
            let id = mutation.id(round.app).to_bytes();
            let since = mutation.unchanged_since.map(|since| since.0);
            let reason = since.and_then(|since| match seen(&id) {
                None => Some(proto::ConflictReason::Missing),
                Some(_) if since >= txn => Some(proto::ConflictReason::NotYet),
                Some((_, written)) => (*written > since).then_some(proto::ConflictReason::Changed),
            });
            if let Some(reason) = reason {
                conflicts.entry(id.clone()).or_insert(reason);
            }
            if conflicts.contains_key(&id) {
                continue;
            }
            let (document, written) = self.documents.entry(id.clone()).or_default();
            let effect = document.apply(&mutation.mutation, commit).0;
            if document.value().is_some_and(|value| value.json_len() > MAX_BYTES) {
                too_large.insert(id);
                continue;
            }
            match effect {
                Effect::Conflict if mutation.mutation.fails_on_conflict() => {
                    conflicts.insert(id, proto::ConflictReason::Exists);
                }
                Effect::Conflict => kept.push(id.into()),
                Effect::Changed => *written = txn,
                Effect::Evicted => *document = Document::default(),
                Effect::Unchanged => {}
            }
        }
        let is_refused = round.atomic && !(conflicts.is_empty() && too_large.is_empty());
        // What a round does to a document is one thing: it is done or not.
        for id in conflicts.keys().chain(&too_large).filter(|_| !is_refused) {
            let document = before.get(id).cloned();
            self.documents.insert(id.clone(), document.unwrap_or_default());
        }
        let conflict = |(id, reason): (Vec<u8>, proto::ConflictReason)| {
            let txn = before.get(&id).filter(|(was, _)| was.updated.is_some()).map(|(_, txn)| *txn);
            proto::Conflict { document_id: id.into(), txn, reason: reason.into() }
        };
        let conflicts = conflicts.into_iter().map(conflict).collect();
        let too_large = too_large.into_iter().map(Into::into).collect();
        let (digest, atomic) = (round.digest.clone().into(), round.atomic);
        let outcome = proto::Outcome { txn, digest, too_large, conflicts, kept, atomic };
        if is_refused {
            self.documents.clone_from(&before);
        }
        self.outcomes.insert(round.id, outcome);
        self.changes.push(changes::transaction(txn, commit, &before, &self.documents));
        self.past.push_back((txn, self.documents.clone()));
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
    }

    /// The documents as of a transaction, if that is remembered; those of now without one.
    fn documents(&self, exactly: Option<u64>) -> Option<&Documents> {
        let Some(txn) = exactly else { return Some(&self.documents) };
        self.past.iter().find(|(of, _)| *of == txn).map(|(_, documents)| documents)
    }

    /// The document as JSON, and the transaction that wrote it.
    fn read(&self, id: &DocumentId) -> Option<(anabranch_core::Value, u64)> {
        let (document, written) = self.documents.get(&id.to_bytes())?;
        Some((id.key.add_to(document.value()?), *written))
    }
}

/// A reply, read whole.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the reply is JSON")
    }

    /// The code of the error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn txn(&self) -> Option<u64> {
        self.headers.get("x-anabranch-txn-id")?.to_str().ok()?.parse().ok()
    }
}

/// An ingest server with a log and a store.
pub(crate) struct Cluster {
    pub(crate) api: Arc<Api>,
    pub(crate) router: Router,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) store: FakeStore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) shutdown: Shutdown,
    _directory: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Cluster::with(IngestConfig::default()).await
    }

    /// With these settings, and open to all.
    pub(crate) async fn with(config: IngestConfig) -> Self {
        Cluster::guarded(IngestConfig { open_to_all: true, ..config }).await
    }

    /// With these settings.
    pub(crate) async fn guarded(config: IngestConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the log");
        let mut settings = EmbeddedConfig::new(directory.path());
        settings.sync = false;
        let journal: Arc<dyn Journal> = EmbeddedJournal::open(settings).expect("the log opens");
        let shared = Arc::new(Shared { world: Mutex::default(), newest: watch::Sender::new(None) });
        let log = Arc::new(FakeLog::new(&journal, shared.clone()));
        let store = FakeStore::start(shared.clone()).await;
        Cluster::of(config, shared, log, store, journal, directory)
    }

    /// Another server with the same log and store.
    pub(crate) fn beside(&self, config: IngestConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (shared, log, store) = (self.shared.clone(), self.log.clone(), self.store.beside());
        let config = IngestConfig { open_to_all: true, ..config };
        Cluster::of(config, shared, log, store, self.journal.clone(), directory)
    }

    fn of(
        config: IngestConfig,
        shared: Arc<Shared>,
        log: Arc<FakeLog>,
        store: FakeStore,
        journal: Arc<dyn Journal>,
        directory: tempfile::TempDir,
    ) -> Self {
        let client = Store::new(store.nodes(), EAST, SliceCount::default(), config.read_wait());
        let rounds = Rounds::new(log.clone(), client.clone());
        let shutdown = Shutdown::new();
        let name: ClusterName = "east".parse().expect("a name");
        let metadata = OpenedLater::new(journal.clone(), name.clone()).into();
        let log_end = LogEnd::new(journal.clone(), &name);
        let history = RoundLog::new(journal.clone(), name);
        let api = Arc::new(Api {
            keys: Arc::new(Keys::new(config.open_to_all)),
            limits: Limits::new(&config),
            executor: Executor::new(
                &config,
                client.clone(),
                rounds.clone(),
                history,
                log_end.clone(),
                metadata,
            ),
            log_end,
            loader: Loader::new(&config, client.clone(), rounds, shutdown.clone()),
            live: Live::new(&config, client.clone(), shutdown.clone()),
            store: client,
            readiness: Readiness::new(),
            config,
        });
        let router = http::router(api.clone());
        Cluster { api, router, log, store, shared, journal, shutdown, _directory: directory }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().to_string());
        let reply = read(self.raw(request).await).await.expect("the reply is whole");
        http::tests::openapi::check(&method, &path, &reply);
        reply
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("the router answers")
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, statement: &str, args: Value) -> Reply {
        self.execute_with(statement, args, &[]).await
    }

    /// Runs a statement with headers.
    pub(crate) async fn execute_with(
        &self,
        statement: &str,
        args: Value,
        headers: &[(&str, &str)],
    ) -> Reply {
        let body = serde_json::json!({"statement": statement, "args": args}).to_string();
        self.send(post(&execute_path(), "application/json", headers, body)).await
    }

    /// Runs several statements as one.
    pub(crate) async fn transact(&self, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let path = format!("/apps/{APP}/api/v1/store/transaction");
        self.send(post(&path, "application/json", headers, body.to_string())).await
    }

    /// Loads documents into `cars`.
    pub(crate) async fn load(&self, body: impl Into<Body>, headers: &[(&str, &str)]) -> Reply {
        let path = format!("/apps/{APP}/api/v1/collections/cars/documents");
        self.send(post(&path, "application/x-ndjson", headers, body)).await
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    /// Every document of `cars`, in order of id.
    pub(crate) async fn cars(&self) -> Vec<Value> {
        let reply = self.execute("SELECT * FROM cars", serde_json::json!({})).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()["items"].as_array().cloned().expect("items are an array")
    }
}

/// Settings with which what fails fails soon.
pub(crate) fn impatient() -> IngestConfig {
    IngestConfig { request_timeout_ms: 400, read_wait_ms: 200, ..IngestConfig::default() }
}

pub(crate) fn execute_path() -> String {
    format!("/apps/{APP}/api/v1/store/execute")
}

/// A round that inserts into `cars`.
pub(crate) fn insert(document: &Value) -> Round {
    let fields = of_json(document);
    let id = fields.get(&["_id"]).expect("it has an id").clone();
    round(&id, Mutation::Insert { fields, on_conflict: OnConflict::Fail })
}

/// A round that deletes from `cars`.
pub(crate) fn delete(id: &Value) -> Round {
    round(&of_json(id), Mutation::Delete)
}

fn of_json(value: &Value) -> anabranch_core::Value {
    anabranch_core::Value::from_json(value.to_string().as_bytes()).expect("it was JSON")
}

fn round(id: &anabranch_core::Value, mutation: Mutation) -> Round {
    let key = DocumentKey::from_value(id).expect("an id");
    let mutation = DocumentMutation::new("cars".parse().expect("a name"), key, mutation);
    let app = APP.parse().expect("a UUID");
    let id = RoundId(Uuid::now_v7());
    let (digest, restrictions) = (Vec::new(), Vec::new());
    Round { id, app, origin: None, digest, atomic: false, mutations: vec![mutation], restrictions }
}

pub(crate) fn post(
    path: &str,
    media_type: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = Request::post(path).header("content-type", media_type);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).expect("a request")
}

pub(crate) async fn read(response: Response<Body>) -> Result<Reply, axum::Error> {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await?;
    let text = String::from_utf8(body.to_vec()).expect("replies are UTF-8");
    Ok(Reply { status: head.status, headers: head.headers, text })
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it holds in time");
}
