//! A store node that answers over gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, RoundId};
use anabranch_core::query::{self, Args, Groups, Meter, Predicate, Statement, parse_filter};
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_server::{StoreNode, StoreNodeServer};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Shared, changes};

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
    /// Queries break off after so many messages, with this code.
    breaks: Arc<Mutex<Option<(usize, &'static str)>>>,
    /// The connection of the next query is lost after so many.
    lost_after: Arc<Mutex<Option<usize>>>,
    /// Reads answer so many messages, and then nothing any more.
    stalls_after: Arc<Mutex<Option<usize>>>,
    /// Queries answer their first message again and again.
    repeats: Arc<AtomicBool>,
    /// How many messages of queries were taken.
    pub(crate) taken: Arc<AtomicUsize>,
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
    /// Feeds break off each time that this changes.
    broken: watch::Sender<u64>,
    /// The first transaction that feeds have, and those of which one says that they are lost.
    feed_start: Arc<AtomicU64>,
    lost: Arc<Mutex<Vec<u64>>>,
}

impl FakeStore {
    pub(super) async fn start(shared: Arc<Shared>) -> Self {
        let node = Node {
            shared,
            forgets: Arc::default(),
            breaks: Arc::default(),
            lost_after: Arc::default(),
            stalls_after: Arc::default(),
            repeats: Arc::default(),
            taken: Arc::default(),
            reads: Arc::default(),
            refuses: Arc::default(),
            epoch: Arc::default(),
            known: Arc::default(),
            queries: Arc::default(),
            after_read: Arc::default(),
            broken: watch::Sender::new(0),
            feed_start: Arc::default(),
            lost: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = Mutex::new(Some(serve(listener, node.clone())));
        FakeStore { address, node, server }
    }

    /// Stops the node and closes its connections.
    pub(crate) async fn stop(&self) {
        let running = self.server.lock().take();
        self.node.break_feeds();
        if let Some(Running { stop, ended }) = running {
            drop(stop);
            ended.await.expect("it ends");
        }
    }

    /// The same node, for another one who asks.
    pub(super) fn beside(&self) -> Self {
        FakeStore {
            address: self.address.clone(),
            node: self.node.clone(),
            server: Mutex::new(None),
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

    /// Queries break off after so many messages, for good.
    pub(crate) fn break_after(&self, messages: usize) {
        self.break_with("storage_failed", messages);
    }

    /// Queries break off after so many messages, with this code.
    pub(crate) fn break_with(&self, code: &'static str, messages: usize) {
        *self.breaks.lock() = Some((messages, code));
    }

    /// The connection of the next query is lost after so many messages.
    pub(crate) fn lose_after(&self, messages: usize) {
        *self.lost_after.lock() = Some(messages);
    }

    /// From now on reads answer so many messages, and then nothing; or all of them.
    pub(crate) fn stall_after(&self, messages: Option<usize>) {
        *self.stalls_after.lock() = messages;
    }

    /// Queries do not end: their first message comes again and again.
    pub(crate) fn repeat(&self) {
        self.repeats.store(true, Ordering::SeqCst);
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

    /// Feeds that are open break off.
    pub(crate) fn break_feeds(&self) {
        self.broken.send_modify(|times| *times += 1);
    }

    /// Feeds have nothing below this any more.
    pub(crate) fn trim_feed(&self, start: u64) {
        self.feed_start.store(start, Ordering::SeqCst);
        self.break_feeds();
    }

    /// Feeds say of this transaction that it is lost.
    pub(crate) fn lose(&self, txn: u64) {
        self.lost.lock().push(txn);
    }

    fn feed_reply(&self, from: u64, next: u64) -> proto::FeedReply {
        let world = self.shared.world.lock();
        let wanted = world.changes.iter().filter(|it| (from..next).contains(&it.txn));
        let mut transactions: Vec<_> = wanted.cloned().collect();
        for transaction in &mut transactions {
            if self.lost.lock().contains(&transaction.txn) {
                transaction.changes = vec![changes::lost(transaction.txn)];
            }
        }
        proto::FeedReply { transactions, next }
    }

    async fn reach_at(&self, at: Option<proto::ReadAt>) -> Result<Option<u64>, Status> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if let Some(code) = *self.refuses.lock() {
            return Err(failed(code));
        }
        let at = at.unwrap_or_default();
        let newest = self.reach(at.exactly.or(at.at_least), at.wait_ms).await?;
        Ok(at.exactly.or(newest))
    }

    fn rows(&self, request: &proto::QueryRequest) -> Result<Vec<proto::QueryItem>, Status> {
        let args: Args = serde_json::from_str(&request.args).map_err(|_| failed("args"))?;
        let parsed = query::parse(&request.statement, &args)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut select = match parsed {
            Statement::Select(select) => select,
            Statement::Explain(explain) => return explained(&explain.statement),
            _ => return Err(failed("statement")),
        };
        if let Some(readable) = readable(&request.readable) {
            select.restrict(readable);
        }
        let app = anabranch_core::ids::AppId(Uuid::from_slice(&request.app).expect("16 bytes"));
        let prefix = DocumentId::collection_prefix(app, &select.collection);
        let world = self.shared.world.lock();
        let exactly = request.at.and_then(|at| at.exactly);
        let documents = world.documents(exactly).ok_or_else(|| failed("too_old"))?;
        let found = documents
            .range(prefix.clone()..)
            .take_while(|(id, _)| id.starts_with(&prefix))
            .map(|(id, found)| (DocumentId::from_bytes(id).expect("it was made from an id"), found))
            .filter_map(|(id, (document, _))| {
                let value = id.key.add_to(document.value()?);
                select.matches(&value, &Meter::new()).then_some((id, value))
            });
        let mut rows: Vec<_> = if select.is_grouped() {
            let mut groups = Groups::new(Arc::new(select.clone()));
            found.for_each(|(_, document)| groups.add(&document, &Meter::new()));
            let rows = groups.into_rows(usize::MAX).expect("they fit");
            let item = |(number, item): (u64, String)| proto::QueryItem {
                key: String::new(),
                item,
                place: number.to_be_bytes().to_vec().into(),
            };
            (1..).zip(rows).map(item).collect()
        } else {
            let row = |(id, document): (DocumentId, Value)| proto::QueryItem {
                key: id.key.as_str().to_owned(),
                item: select.row(&document, &Meter::new()).to_json(),
                place: match select.is_sorted() {
                    true => select.place(&document, id.key.as_str(), &Meter::new()).into(),
                    false => Default::default(),
                },
            };
            found.map(row).collect()
        };
        rows.sort_by(|a, b| a.stands_at().cmp(b.stands_at()));
        let after = &request.after;
        if !after.is_empty() {
            rows.retain(|row| row.stands_at() > after);
        } else if !select.is_grouped() {
            rows.drain(..rows.len().min(usize::try_from(select.offset).unwrap()));
        }
        let most = select.limit.filter(|_| !select.is_grouped());
        rows.truncate(most.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
        Ok(rows)
    }
}

/// The one row that says how a SELECT finds its documents: here it looks at all of them.
fn explained(statement: &Statement) -> Result<Vec<proto::QueryItem>, Status> {
    let Statement::Select(_) = statement else { return Err(failed("statement")) };
    let item = r#"{"partitions":[{"access":"scan"}]}"#.to_owned();
    Ok(vec![proto::QueryItem { key: String::new(), item, place: Bytes::new() }])
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
        if *self.stalls_after.lock() == Some(0) {
            std::future::pending::<()>().await;
        }
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
        if let Some((most, code)) = *self.breaks.lock()
            && most < replies.len()
        {
            replies.truncate(most);
            replies.push(Err(failed(code)));
        }
        if let Some(most) = self.lost_after.lock().take() {
            replies.truncate(most);
            replies.push(Err(Status::unavailable("the connection is lost, on purpose")));
        }
        let replies = match self.repeats.load(Ordering::SeqCst) {
            true => stream::iter(replies.into_iter().take(1).cycle()).left_stream(),
            false => stream::iter(replies).right_stream(),
        };
        let taken = Arc::clone(&self.taken);
        let replies = replies.inspect(move |_| {
            taken.fetch_add(1, Ordering::SeqCst);
        });
        Ok(Response::new(match *self.stalls_after.lock() {
            Some(most) => replies.take(most).chain(stream::pending()).boxed(),
            None => replies.boxed(),
        }))
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
        request: Request<proto::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let from = request.into_inner().from;
        if from < self.feed_start.load(Ordering::SeqCst) {
            return Err(failed("feed_trimmed"));
        }
        let (newest, broken) = (self.shared.newest.subscribe(), self.broken.subscribe());
        let state = (self.clone(), newest, broken, from);
        let replies =
            stream::try_unfold(state, |(node, mut newest, mut broken, from)| async move {
                let reached = newest.wait_for(|newest| newest.is_some_and(|newest| newest >= from));
                tokio::select! {
                    biased;
                    _ = broken.changed() => return Err(Status::unavailable("broken, on purpose")),
                    reached = reached => drop(reached.expect("the world goes on")),
                }
                let next = newest.borrow().map_or(0, |newest| newest + 1);
                let reply = node.feed_reply(from, next);
                Ok(Some((reply, (node, newest, broken, next))))
            });
        Ok(Response::new(replies.boxed()))
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
