//! The HTTP API: routes, what a request is, how a reply looks.
//!
//! Handlers only translate; what is done is in [`crate::execute`] and [`crate::load`]. Whatever is
//! refused is refused as JSON, unknown routes and methods too.

mod body;
mod document;
mod execute;
mod headers;
mod load;
mod openapi;
pub(crate) mod parameters;
mod reply;
mod rows;
pub(crate) mod server;
mod subscribe;
#[cfg(test)]
pub(crate) mod tests;
mod transaction;

use std::sync::Arc;

use anabranch_runtime::admin::Readiness;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::access::{Asked, Keys};
use crate::config::IngestConfig;
use crate::error::{Code, Refusal};
use crate::execute::{Executor, LogEnd};
use crate::limits::{Limits, Place, discard};
use crate::live::Live;
use crate::load::Loader;
use crate::metrics;
use crate::store::Store;

pub(crate) use headers::whole;
pub(crate) use openapi::ErrorCode;
pub(crate) use reply::{ErrorBody, ErrorReply, TXN_HEADER};

/// What the handlers share.
pub(crate) struct Api {
    pub(crate) config: IngestConfig,
    pub(crate) keys: Arc<Keys>,
    pub(crate) limits: Limits,
    pub(crate) executor: Executor,
    pub(crate) loader: Loader,
    pub(crate) live: Live,
    pub(crate) store: Store,
    pub(crate) log_end: LogEnd,
    pub(crate) readiness: Readiness,
}

/// The routes of the API.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let limited = Router::new()
        .route("/apps/{app}/api/v1/store/execute", post(execute::execute))
        .route("/apps/{app}/api/v1/store/transaction", post(transaction::transaction))
        .route(
            "/apps/{app}/api/v1/collections/{collection}/documents",
            post(load::load).get(document::by_key),
        )
        .route("/apps/{app}/api/v1/collections/{collection}/documents/{id}", get(document::by_path))
        .route_layer(middleware::from_fn_with_state(api.clone(), admit));
    let live = Router::new()
        .route("/apps/{app}/api/v1/store/subscribe", get(subscribe::subscribe))
        .route_layer(middleware::from_fn_with_state(api.clone(), admit_subscriber));
    Router::new()
        .merge(limited)
        .merge(live)
        .route("/openapi.json", get(openapi::openapi))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(metrics::observe))
        .with_state(api)
}

/// A reply up to this many bytes is off the hands of the server as soon as it is made: it fits into
/// the buffers of its connection.
const SMALL_BYTES: u64 = 64 * 1024;

/// How many bytes of a reply are handed over at once.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// Lets a request in, or refuses it when as many run as may; and notes it.
async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    admit_to(api.limits.request(), &api, request, next).await
}

/// The same of somebody who stays.
async fn admit_subscriber(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    admit_to(api.limits.subscription(), &api, request, next).await
}

async fn admit_to(
    place: Result<Place, Refusal>,
    api: &Api,
    mut request: Request,
    next: Next,
) -> Response {
    let noting = api.config.audit.begin(Asked::of(&mut request));
    let response = match place {
        Ok(place) => hold(place, next.run(request).await),
        Err(refusal) => {
            metrics::turned_away();
            let (head, body) = request.into_parts();
            discard(&head.headers, body.into_data_stream());
            refusal.into_response()
        }
    };
    noting.answered(&response);
    response
}

/// A request runs until its reply is sent or given up: what a slow client is sent takes memory. It
/// is handed over in pieces, since the last one is off our hands when it is handed over.
fn hold(place: Place, response: Response) -> Response {
    let length = response.body().size_hint().exact();
    if length.is_some_and(|bytes| bytes <= SMALL_BYTES) {
        return response;
    }
    let mut response = response.map(|body| {
        let state = (body.into_data_stream(), Bytes::new(), place);
        Body::from_stream(stream::unfold(state, |(mut chunks, mut rest, place)| async move {
            while rest.is_empty() {
                match chunks.next().await? {
                    Ok(chunk) => rest = chunk,
                    Err(error) => return Some((Err(error), (chunks, rest, place))),
                }
            }
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            Some((Ok(piece), (chunks, rest, place)))
        }))
    });
    // Of a stream the length is not known any more.
    if let Some(bytes) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    response
}

/// Says that the server lives.
#[utoipa::path(get, path = "/healthz", tag = "server",
    responses((status = 200, description = "The server lives", body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the server can do its work.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses(
        (status = 200, description = "The server can do its work", body = String),
        (status = 503, description = "What is not ready, and why", body = String,
            example = json!("ingest: shutting down\n")),
    ))]
async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let missing = api.readiness.not_ready();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = missing.iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

pub(crate) async fn unknown_route(method: Method, uri: Uri) -> Refusal {
    Refusal::new(Code::UnknownRoute, format!("there is no {method} {}", uri.path()))
}

pub(crate) async fn method_not_allowed(
    method: Method,
    path: Option<MatchedPath>,
    uri: Uri,
) -> Refusal {
    let path = path.as_ref().map_or(uri.path(), MatchedPath::as_str);
    Refusal::new(Code::MethodNotAllowed, format!("{path} does not take {method}"))
}

pub(crate) fn path_refusal(rejection: &PathRejection) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("the path cannot be used: {rejection}"))
        .with_hint("percent-encode each part of the path as UTF-8")
}

pub(crate) fn query_refusal(rejection: &QueryRejection) -> Refusal {
    Refusal::new(Code::InvalidParameter, rejection.body_text())
}

/// A reply that is JSON.
pub(crate) fn json(value: impl serde::Serialize) -> Response {
    Json(value).into_response()
}
