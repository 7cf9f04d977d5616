//! The gRPC service: requests in, errors out with a stable code.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_runtime::grpc::CODE_KEY;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_server::{StoreNode, StoreNodeServer};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::error::Error;
use crate::feed::Feeds;
use crate::metrics;
use crate::read::{Found, Reads, parse_select};
use crate::status;

/// The largest document is 5 MiB of JSON; its state with its stamps can be several times that.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Answers the other services of the cluster.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) reads: Reads,
    pub(crate) feeds: Feeds,
    pub(crate) status: std::sync::Arc<status::Status>,
    pub(crate) storage: std::sync::Arc<crate::storage::Storage>,
    pub(crate) shutdown: Shutdown,
}

/// Reads what TLS needs.
pub(crate) fn tls_config(files: &TlsFiles) -> Result<ServerTlsConfig, String> {
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let mut trusted = Vec::new();
    for file in &files.trusted {
        trusted.extend(read(file)?);
        trusted.push(b'\n');
    }
    let config = ServerTlsConfig::new().identity(identity);
    Ok(config.client_ca_root(Certificate::from_pem(trusted)))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("read '{}': {error}", path.display()))
}

/// A server that is ready to listen.
pub(crate) fn server(tls: Option<ServerTlsConfig>) -> Result<Server, tonic::transport::Error> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    match tls {
        Some(tls) => server.tls_config(tls),
        None => Ok(server),
    }
}

/// How long what is in flight may take once the shutdown has begun. A client that has stopped
/// reading never lets its stream end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until the shutdown begins and what is in flight is answered.
pub(crate) async fn serve(
    mut server: Server,
    listener: TcpListener,
    service: Service,
) -> Result<(), tonic::transport::Error> {
    let shutdown = service.shutdown.clone();
    let service = StoreNodeServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    // The server's own setting is ignored for a listener that is given to it. Without this, small
    // messages of a stream wait 40 ms for the other side's delayed acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let late = shutdown.clone();
    let served = server
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.begun().await });
    tokio::select! {
        served = served => served,
        () = async { late.begun().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// An error as clients see it.
fn refuse(error: &Error) -> Status {
    let code = match (error, error.kind()) {
        (Error::NotReached { .. }, _) => Code::DeadlineExceeded,
        (Error::TooOld { .. } | Error::FeedTrimmed { .. }, _) => Code::OutOfRange,
        (Error::Overloaded(_), _) => Code::ResourceExhausted,
        (Error::Halted(_), _) => Code::FailedPrecondition,
        (_, ErrorKind::Retry | ErrorKind::Shutdown) => Code::Unavailable,
        (_, ErrorKind::Invalid) => Code::InvalidArgument,
        (_, ErrorKind::Unknown | ErrorKind::Fenced | ErrorKind::Corrupt) => Code::Internal,
    };
    if code == Code::Internal {
        tracing::error!(%error, "a request failed");
    }
    let hint = match error {
        Error::Statement(error) => error.hint().map(|hint| format!(" ({hint})")),
        _ => None,
    };
    let mut status = Status::new(code, format!("{error}{}", hint.unwrap_or_default()));
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(error.code()));
    status
}

/// Counts a read, and answers it.
fn answer<T>(
    kind: &'static str,
    began: Instant,
    result: Result<T, Error>,
) -> Result<Response<T>, Status> {
    let outcome = result.as_ref().map_or_else(Error::code, |_| "ok");
    metrics::record_read(kind, outcome, began.elapsed());
    result.map(Response::new).map_err(|error| refuse(&error))
}

fn app(bytes: &[u8]) -> Result<AppId, Error> {
    let app = Uuid::from_slice(bytes).map(AppId);
    app.map_err(|_| Error::InvalidRequest("an app id has 16 bytes".to_owned()))
}

fn document_id(bytes: &[u8]) -> Result<DocumentId, Error> {
    let invalid = |error: anabranch_core::ids::IdError| Error::InvalidRequest(error.to_string());
    let id = DocumentId::from_bytes(bytes).map_err(invalid)?;
    let key = DocumentKey::from_canonical(id.key.as_str()).map_err(invalid)?;
    Ok(DocumentId { key, ..id })
}

impl Service {
    async fn get(&self, request: proto::GetRequest) -> Result<proto::GetReply, Error> {
        let id = document_id(&request.document_id)?;
        let snapshot = self.reads.snapshot(request.at).await?;
        let found = self.reads.get(id, &snapshot).await?;
        let (document, document_txn) = match found {
            Some(Found { value, txn }) => (Some(value.to_json()), Some(txn.0)),
            None => (None, None),
        };
        Ok(proto::GetReply { txn: snapshot.txn.map(|txn| txn.0), document, document_txn })
    }

    async fn query(&self, request: proto::QueryRequest) -> Result<crate::read::QueryStream, Error> {
        let app = app(&request.app)?;
        let select = parse_select(&request.statement, &request.args)?;
        let snapshot = self.reads.snapshot(request.at).await?;
        self.reads.query(app, select, snapshot)
    }

    async fn scan(&self, request: proto::ScanRequest) -> Result<crate::read::ScanStream, Error> {
        let app = app(&request.app)?;
        let collection: Collection = request
            .collection
            .parse()
            .map_err(|error| Error::InvalidRequest(format!("{error}")))?;
        let after = (!request.after.is_empty()).then(|| request.after.to_vec());
        let snapshot = self.reads.snapshot(request.at).await?;
        self.reads.scan(app, &collection, after, snapshot)
    }

    async fn outcome(&self, request: proto::OutcomeRequest) -> Result<proto::OutcomeReply, Error> {
        let round = Uuid::from_slice(&request.round_id).map(RoundId);
        let round =
            round.map_err(|_| Error::InvalidRequest("a round id has 16 bytes".to_owned()))?;
        let patience = Duration::from_millis(request.wait_ms.into());
        match request.txn.map(TxnId) {
            Some(txn) => self.status.reach(txn, patience).await?,
            None => self.status.catch_up(patience).await?,
        };
        let outcome = self.reads.outcome(round).await?;
        Ok(proto::OutcomeReply {
            outcome: outcome.map(|outcome| proto::Outcome {
                txn: outcome.txn.0,
                digest: outcome.digest,
                conflicts: outcome.conflicts,
                too_large: outcome.too_large,
            }),
        })
    }

    fn status(&self) -> proto::StatusReply {
        let applied = self.status.applied();
        proto::StatusReply {
            applied_next: applied.next.0,
            applied_hlc: applied.time.0,
            log_end: self.status.log_end().0,
            oldest_readable: self.storage.history().oldest().0,
            lost_parts: self.status.lost_parts(),
            feed_start: self.storage.feed_start().0,
        }
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StoreNode for Service {
    type QueryStream = Replies<proto::QueryReply>;
    type ScanStream = Replies<proto::ScanReply>;
    type FeedStream = Replies<proto::FeedReply>;

    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetReply>, Status> {
        let began = Instant::now();
        answer("get", began, Service::get(self, request.into_inner()).await)
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let began = Instant::now();
        let result = Service::query(self, request.into_inner()).await;
        answer(
            "query",
            began,
            result.map(|replies| replies.map_err(|error| refuse(&error)).boxed()),
        )
    }

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let began = Instant::now();
        let result = Service::scan(self, request.into_inner()).await;
        answer("scan", began, result.map(|replies| replies.map_err(|error| refuse(&error)).boxed()))
    }

    async fn outcome(
        &self,
        request: Request<proto::OutcomeRequest>,
    ) -> Result<Response<proto::OutcomeReply>, Status> {
        let began = Instant::now();
        answer("outcome", began, Service::outcome(self, request.into_inner()).await)
    }

    async fn feed(
        &self,
        request: Request<proto::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let began = Instant::now();
        let proto::FeedRequest { slices, from } = request.into_inner();
        let result = self.feeds.open(&slices, TxnId(from));
        answer("feed", began, result.map(|replies| replies.map_err(|error| refuse(&error)).boxed()))
    }

    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        Ok(Response::new(Service::status(self)))
    }
}
