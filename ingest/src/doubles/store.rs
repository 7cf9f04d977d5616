//! A store node that answers over gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_core::ids::{DocumentId, RoundId};
use anabranch_core::query::{self, Args, Predicate, Statement, parse_filter};
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_server::{StoreNode, StoreNodeServer};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Shared, with_id};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Something that happens behind the back of who reads.
type Surprise = Box<dyn FnOnce() + Send>;

/// How many rows a message has.
const ROWS: usize = 100;

/// A store node.
pub(crate) struct FakeStore {
    pub(crate) address: String,
    pub(crate) node: Node,
    server: Mutex<Option<Running>>,
}

/// A server that runs until `stop` is dropped.
struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// What answers.
#[derive(Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
    /// Calls of Outcome that look without waiting answer that they know nothing, so many times.
    forgets: Arc<AtomicUsize>,
    /// Queries break off after so many messages.
    breaks_after: Arc<AtomicUsize>,
    /// The connection of the next query is lost after so many.
    lost_after: Arc<Mutex<Option<usize>>>,
    /// How many reads were asked for, and the code with which all are refused, if they are.
    pub(crate) reads: Arc<AtomicUsize>,
    refuses: Arc<Mutex<Option<&'static str>>>,
    /// The epoch of the configuration that it goes by.
    pub(crate) epoch: Arc<AtomicU64>,
    /// The store nodes that it knows, itself included.
    pub(crate) known: Arc<Mutex<Vec<proto::NodeStatus>>>,
    /// The queries that were asked.
    pub(crate) queries: Arc<Mutex<Vec<proto::QueryRequest>>>,
    /// What happens after the next read was answered.
    after_read: Arc<Mutex<Option<Surprise>>>,
}

impl FakeStore {
    pub(super) async fn start(shared: Arc<Shared>) -> Self {
        let node = Node {
            shared,
            forgets: Arc::default(),
            breaks_after: Arc::new(AtomicUsize::new(usize::MAX)),
            lost_after: Arc::default(),
            reads: Arc::default(),
            refuses: Arc::default(),
            epoch: Arc::default(),
            known: Arc::default(),
            queries: Arc::default(),
            after_read: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = Mutex::new(Some(serve(listener, node.clone())));
        FakeStore { address, node, server }
    }

    /// Stops the node and closes its connections.
    pub(crate) async fn stop(&self) {
        let running = self.server.lock().take();
        if let Some(Running { stop, ended }) = running {
            drop(stop);
            ended.await.expect("it ends");
        }
    }

    /// How it is asked.
    pub(crate) fn nodes(&self) -> AnyOf {
        AnyOf::new(&self.address, None).expect("it is an address")
    }

    /// Starts it again, at the same address.
    pub(crate) async fn restart(&self) {
        let listener = TcpListener::bind(&self.address).await.expect("the port is free again");
        *self.server.lock() = Some(serve(listener, self.node.clone()));
    }
}

fn serve(listener: TcpListener, node: Node) -> Running {
    let service = StoreNodeServer::new(node);
    let server = Server::builder().add_service(service);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let ended = tokio::spawn(async move {
        server.serve_with_incoming_shutdown(incoming, stopped).await.expect("it serves");
    });
    Running { stop, ended }
}

impl Node {
    /// The next so many looks for an outcome find nothing.
    pub(crate) fn forget(&self, looks: usize) {
        self.forgets.store(looks, Ordering::SeqCst);
    }

    /// Queries break off after so many messages.
    pub(crate) fn break_after(&self, messages: usize) {
        self.breaks_after.store(messages, Ordering::SeqCst);
    }

    /// The connection of the next query is lost after so many messages.
    pub(crate) fn lose_after(&self, messages: usize) {
        *self.lost_after.lock() = Some(messages);
    }

    /// Whether every read is refused, and with which code.
    pub(crate) fn refuse(&self, code: Option<&'static str>) {
        *self.refuses.lock() = code;
    }

    /// Something that happens between the next read and what is made of it.
    pub(crate) fn after_read(&self, what: impl FnOnce() + Send + 'static) {
        *self.after_read.lock() = Some(Box::new(what));
    }

    fn was_read(&self) {
        if let Some(what) = self.after_read.lock().take() {
            what();
        }
    }

    /// Waits for a transaction and says which is applied.
    async fn reach(&self, txn: Option<u64>, wait_ms: u32) -> Result<Option<u64>, Status> {
        let mut newest = self.shared.newest.subscribe();
        let wait = Duration::from_millis(u64::from(wait_ms));
        let reached = newest.wait_for(|newest| txn.is_none() || *newest >= txn);
        match tokio::time::timeout(wait, reached).await {
            Ok(Ok(newest)) => Ok(*newest),
            _ if txn.is_none() => Ok(*self.shared.newest.borrow()),
            _ => Err(failed("not_reached")),
        }
    }

    async fn reach_at(&self, at: Option<proto::ReadAt>) -> Result<Option<u64>, Status> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if let Some(code) = *self.refuses.lock() {
            return Err(failed(code));
        }
        let at = at.unwrap_or_default();
        self.reach(at.exactly.or(at.at_least), at.wait_ms).await
    }

    fn rows(&self, request: &proto::QueryRequest) -> Result<Vec<proto::QueryItem>, Status> {
        let args: Args = serde_json::from_str(&request.args).map_err(|_| failed("args"))?;
        let parsed = query::parse(&request.statement, &args)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Statement::Select(mut select) = parsed else { return Err(failed("statement")) };
        if let Some(readable) = readable(&request.readable) {
            select.restrict(readable).map_err(|_| failed("readable"))?;
        }
        let app = anabranch_core::ids::AppId(Uuid::from_slice(&request.app).expect("16 bytes"));
        let prefix = DocumentId::collection_prefix(app, &select.collection);
        let world = self.shared.world.lock();
        let documents = world.documents.range(prefix.clone()..);
        let rows = documents
            .take_while(|(id, _)| id.starts_with(&prefix))
            .map(|(id, found)| (DocumentId::from_bytes(id).expect("it was made from an id"), found))
            .skip_while(|(id, _)| {
                !request.after.is_empty() && id.key.as_str().as_bytes() != request.after
            })
            .skip(usize::from(!request.after.is_empty()))
            .filter_map(|(id, (document, _))| {
                let value = with_id(&id, &document.value()?);
                let matches = select.filter.as_ref().is_none_or(|filter| filter.matches(&value));
                matches.then(|| proto::QueryItem {
                    key: id.key.as_str().to_owned(),
                    item: select.row(&value).to_json(),
                    place: Default::default(),
                })
            })
            .take(select.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
        Ok(rows.collect())
    }
}

fn readable(text: &str) -> Option<Predicate> {
    (!text.is_empty()).then(|| parse_filter(text).expect("it was a condition"))
}

fn failed(code: &'static str) -> Status {
    let mut status = Status::unavailable(format!("on purpose: {code}"));
    status.metadata_mut().insert("anabranch-code", MetadataValue::from_static(code));
    status
}

#[tonic::async_trait]
impl StoreNode for Node {
    type QueryStream = Replies<proto::QueryReply>;
    type ScanStream = Replies<proto::ScanReply>;
    type FeedStream = Replies<proto::FeedReply>;

    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetReply>, Status> {
        let request = request.into_inner();
        let txn = self.reach_at(request.at).await?;
        let id = DocumentId::from_bytes(&request.document_id).expect("an id");
        let found = self.shared.world.lock().read(&id);
        let readable = readable(&request.readable);
        let found = found.filter(|(value, _)| readable.is_none_or(|it| it.matches(value)));
        self.was_read();
        Ok(Response::new(proto::GetReply {
            txn,
            document: found.as_ref().map(|(value, _)| value.to_json()),
            document_txn: found.map(|(_, txn)| txn),
            stable: None,
        }))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let request = request.into_inner();
        let txn = self.reach_at(request.at).await?;
        let rows = self.rows(&request)?;
        self.queries.lock().push(request);
        self.was_read();
        let mut replies: Vec<_> = rows
            .chunks(ROWS)
            .map(|items| Ok(proto::QueryReply { txn, items: items.to_vec(), stable: None }))
            .collect();
        if replies.is_empty() {
            replies.push(Ok(proto::QueryReply { txn, items: Vec::new(), stable: None }));
        }
        let most = self.breaks_after.load(Ordering::SeqCst);
        if most < replies.len() {
            replies.truncate(most);
            replies.push(Err(failed("storage_failed")));
        }
        if let Some(most) = self.lost_after.lock().take() {
            replies.truncate(most);
            replies.push(Err(Status::unavailable("the connection is lost, on purpose")));
        }
        Ok(Response::new(stream::iter(replies).boxed()))
    }

    async fn scan(
        &self,
        _request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("scan"))
    }

    async fn outcome(
        &self,
        request: Request<proto::OutcomeRequest>,
    ) -> Result<Response<proto::OutcomeReply>, Status> {
        let request = request.into_inner();
        let less = |looks: usize| looks.checked_sub(1);
        if request.txn.is_none()
            && self.forgets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
        {
            return Ok(Response::new(proto::OutcomeReply { outcome: None }));
        }
        self.reach(request.txn, request.wait_ms).await?;
        let round = RoundId(Uuid::from_slice(&request.round_id).expect("16 bytes"));
        let outcome = self.shared.world.lock().outcomes.get(&round).cloned();
        Ok(Response::new(proto::OutcomeReply { outcome }))
    }

    async fn feed(
        &self,
        _request: Request<proto::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        Err(Status::unimplemented("feed"))
    }

    async fn verify(
        &self,
        _request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyReply>, Status> {
        Err(Status::unimplemented("verify"))
    }

    async fn status(
        &self,
        _request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        let newest = *self.shared.newest.borrow();
        let next = newest.map_or(0, |newest| newest + 1);
        Ok(Response::new(proto::StatusReply {
            applied_next: next,
            log_end: next,
            nodes: self.known.lock().clone(),
            epoch: self.epoch.load(Ordering::SeqCst),
            ..proto::StatusReply::default()
        }))
    }
}
