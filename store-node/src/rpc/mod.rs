//! The gRPC services: requests in, errors out with a stable code.

mod addressed;
mod cluster;
mod local;

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_runtime::grpc;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store::replica_server::ReplicaServer;
use anabranch_schemas::store::store_node_server::StoreNodeServer;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Response, Status};

use crate::coordinate::Coordinator;
use crate::error::Error;
use crate::gossip::Gossip;
use crate::metrics;

pub(crate) use addressed::{Addressed, Addressee};
pub(crate) use local::{Local, app, document_id};

/// The largest document is 5 MiB of JSON; its state with its stamps can be several times that.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Where an error says which timestamp would not have been too old.
const OLDEST_KEY: &str = "anabranch-oldest";

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
        .initial_connection_window_size(grpc::CONNECTION_WINDOW);
    match tls {
        Some(tls) => server.tls_config(tls),
        None => Ok(server),
    }
}

/// How long what is in flight may take once the shutdown has begun. A client that has stopped
/// reading never lets its stream end.
const GRACE: Duration = Duration::from_secs(2);

/// What a node answers.
pub(crate) struct Services {
    pub(crate) local: Local,
    pub(crate) coordinator: Coordinator,
    pub(crate) gossip: Gossip,
    /// Which node this is.
    pub(crate) addressee: Addressee,
}

/// Serves until the shutdown begins and what is in flight is answered.
pub(crate) async fn serve(
    mut server: Server,
    listener: TcpListener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    // The server's own setting is ignored for a listener that is given to it. Without this, small
    // messages of a stream wait 40 ms for the other side's delayed acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let late = shutdown.clone();
    let served = server
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.begun().await });
    tokio::select! {
        served = served => served,
        () = async { late.begun().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// What is served.
pub(crate) fn routes(services: Services) -> Routes {
    let Services { local, coordinator, gossip, addressee } = services;
    let cluster = StoreNodeServer::new(coordinator)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let replica = ReplicaServer::new(local)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let replica = InterceptedService::new(replica, addressee);
    Routes::new(cluster).add_service(replica).add_service(gossip.server())
}

/// An error as clients see it.
pub(crate) fn refuse(error: &Error) -> Status {
    let code = match (error, error.kind()) {
        (Error::NotReached { .. }, _) => Code::DeadlineExceeded,
        (Error::TooOld { .. } | Error::FeedTrimmed { .. }, _) => Code::OutOfRange,
        (Error::Overloaded { .. }, _) => Code::ResourceExhausted,
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
    let text = format!("{error}{}", hint.unwrap_or_default());
    let mut status = grpc::coded(code, error.code(), text);
    if let Error::TooOld { oldest, .. } = error {
        status.metadata_mut().insert(OLDEST_KEY, MetadataValue::from(oldest.0));
    }
    if let Error::FeedTrimmed { start, .. } = error {
        status.metadata_mut().insert(grpc::FEED_START_KEY, MetadataValue::from(start.0));
    }
    status
}

/// Of a read that was refused for being too old: the oldest timestamp that can be read.
pub(crate) fn oldest_of(status: &Status) -> Option<TxnId> {
    grpc::number_of(status, OLDEST_KEY).map(TxnId)
}

/// A result as clients see it.
pub(crate) fn refused<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(|error| refuse(&error))
}

/// What a stream gives.
pub(crate) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream as clients see it.
pub(crate) fn replies<T: 'static>(
    stream: impl Stream<Item = Result<T, Error>> + Send + 'static,
) -> Replies<T> {
    stream.map_err(|error| refuse(&error)).boxed()
}

/// Counts a read, and answers it.
fn answer<T>(
    kind: &'static str,
    began: Instant,
    result: Result<T, Status>,
) -> Result<Response<T>, Status> {
    let outcome = match &result {
        Ok(_) => "ok",
        Err(status) => grpc::code_of(status).unwrap_or("unreachable"),
    };
    metrics::record_read(kind, outcome.to_owned(), began.elapsed());
    result.map(Response::new)
}
