//! `POST /apps/{app}/api/v1/collections/{collection}/documents`.

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::parameters::{LoadBy, LoadHeaders, OfCollection};
use super::reply::{ErrorBody, ErrorReply, refused, set_txn};
use super::{Api, headers, path_refusal, query_refusal};
use crate::access::{Sender, of_kind};
use crate::document::Warning;
use crate::error::{Code, Refusal};
use crate::limits::discard;
use crate::load::{Format, LineError, Request};

/// What a bulk load did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadReply {
    /// The last transaction that was written; `null` if none was.
    #[schema(value_type = Option<u64>, example = 1042)]
    transaction_id: Option<TxnId>,
    /// How many documents arrived.
    received: u64,
    /// How many of them were written, equal ones included.
    written: u64,
    /// Documents that were not written, and why: the first 100.
    errors: Vec<LineError>,
    /// How many errors are not listed.
    more_errors: u64,
    /// What was done but is not well.
    warnings: Vec<Warning>,
    /// Why the load broke off. What was written until then stays; it is safe to send it all again.
    error: Option<ErrorBody>,
}

/// The reply to a load that broke off, or did not begin.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is sent as one or the other")]
pub(super) enum BrokenReply {
    /// It broke off.
    Loaded(LoadReply),
    /// It was refused before its first document.
    Refused(ErrorReply),
}

/// The replies to a load that broke off, or did not begin.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes them")]
enum BrokenResponse {
    /// The request is wrong, or the array ends where it should not.
    #[response(status = 400, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    Wrong(BrokenReply),
    /// No valid key is shown, or it became invalid meanwhile.
    #[response(status = 401, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    Unauthenticated(BrokenReply),
    /// The key does not allow this.
    #[response(status = 403)]
    Forbidden(ErrorReply),
    /// The body did not arrive in time.
    #[response(status = 408, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    Slow(BrokenReply),
    /// The body is too large.
    #[response(status = 413, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    TooLarge(BrokenReply),
    /// The media type is not known.
    #[response(status = 415)]
    MediaType(ErrorReply),
    /// The Idempotency-Key was used for another load.
    #[response(status = 422, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    KeyReused(BrokenReply),
    /// The server is at fault.
    #[response(status = 500, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
    ))]
    Failed(BrokenReply),
    /// Not now, or not all of it.
    #[response(status = 503, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    NotNow(BrokenReply),
    /// A round took too long.
    #[response(status = 504, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    TooLate(BrokenReply),
    /// The server's disk is full.
    #[response(status = 507, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"),
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    DiskFull(BrokenReply),
}

/// Writes many documents.
#[utoipa::path(
    post,
    path = "/apps/{app}/api/v1/collections/{collection}/documents",
    tag = "documents",
    description = "Writes many documents: one a line, or one array, of any length. They are \
        merged into those that are there; an equal one changes nothing. Documents are written in \
        rounds of at most 1,000; of two with the same id the later one wins. A document that \
        cannot be used is listed and left out, as is one that would become too large with what is there. \
        Read with the transaction id to see what was written. A load that is refused before its first \
        document has nothing but `error` in its reply.",
    params(OfCollection, LoadBy, LoadHeaders),
    security(("key" = [])),
    request_body(
        description = "Documents. What is none is listed in the reply, with its place",
        content(
            (String = "application/x-ndjson"),
            (Vec<serde_json::Value> = "application/json"),
        ),
    ),
    responses(
        (status = 200, description = "All documents were written but for those in `errors`",
            body = LoadReply,
            headers(("X-Anabranch-Txn-Id" = u64, description = "As `transactionId`"))),
        BrokenResponse,
    ),
)]
pub(super) async fn load(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Result<Query<LoadBy>, QueryRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let head = head(&api, path, parameters, &sender, &headers).await;
    let (request, loader, _place) = match head.and_then(|head| Ok((head, api.limits.load()?))) {
        Ok(((request, loader), place)) => (request, loader, place),
        Err(refusal) => {
            discard(&headers, body.into_data_stream());
            return Err(refusal);
        }
    };
    let mut chunks = api.limits.chunks(&headers, body)?;
    let loaded = Box::pin(loader.load(request, &mut chunks)).await;
    if loaded.refusal.is_some() {
        discard(&headers, chunks);
    }
    Ok(of_kind("load", reply(loaded)))
}

async fn head(
    api: &Api,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Result<Query<LoadBy>, QueryRejection>,
    sender: &Sender,
    headers: &HeaderMap,
) -> Result<(Request, crate::load::Loader), Refusal> {
    let Path((app, collection)) = path.map_err(|rejection| path_refusal(&rejection))?;
    let app = headers::app(&app)?;
    let caller = api.keys.caller(app, headers, sender).await?;
    let Query(parameters) = parameters.map_err(|rejection| query_refusal(&rejection))?;
    headers::refuse_unchanged_since(headers, "send documents with conditions to store/execute")?;
    let collection = headers::collection(&collection)?;
    let request = Request {
        app,
        restriction: caller.restriction(&collection)?,
        caller,
        collection,
        format: format(headers)?,
        id_field: id_field(parameters)?,
        key: headers::idempotency_key(headers)?,
    };
    let mut loader = api.loader.clone();
    loader.round_timeout = headers::timeout(headers, &api.config)?;
    Ok((request, loader))
}

/// The field whose value is a document's id.
fn id_field(parameters: LoadBy) -> Result<String, Refusal> {
    match parameters.id {
        None => Ok("_id".to_owned()),
        Some(field) if field.is_empty() => {
            let refusal = Refusal::new(Code::InvalidParameter, "the parameter 'id' is empty");
            Err(refusal.with_hint("name the field whose value is a document's id, or leave it out"))
        }
        Some(field) => Ok(field),
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    match headers::media_type(headers)?.as_str() {
        "application/json" => Ok(Format::Array),
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/jsonlines" => Ok(Format::Lines),
        "application/octet-stream" => Ok(Format::Either),
        other => Err(headers::unsupported(other, "application/x-ndjson")),
    }
}

fn reply(mut loaded: crate::load::Loaded) -> Response {
    let warnings = loaded.take_warnings();
    let crate::load::Loaded { txn, received, written, errors, more_errors, refusal, .. } = loaded;
    let body = Json(LoadReply {
        transaction_id: txn,
        received,
        written,
        errors,
        more_errors,
        warnings,
        error: refusal.as_ref().map(ErrorBody::from),
    });
    let mut response = match &refusal {
        Some(refusal) => refused(refusal, body),
        None => body.into_response(),
    };
    set_txn(response.headers_mut(), txn);
    response
}
