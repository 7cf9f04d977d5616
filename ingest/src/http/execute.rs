//! `POST /apps/{app}/api/v1/store/execute`.

use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::TxnId;
use anabranch_core::query::Args;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::body::{Shape, Statements};
use super::parameters::{OfApp, StatementHeaders};
use super::reply::{ErrorBody, ErrorReply, raw, refused, set_txn};
use super::{Api, headers, path_refusal, rows};
use crate::access::{Sender, of_kind};
use crate::document::Warning;
use crate::error::Refusal;
use crate::execute::{Decided, Executed, Request, Written};
use crate::limits::{Whole, discard};

/// A statement and its arguments.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it describes what is read as one value")]
pub(super) struct ExecuteRequest {
    /// SELECT, INSERT, UPDATE, DELETE, EVICT, CREATE INDEX, DROP INDEX or EXPLAIN.
    #[schema(max_length = 65_536, example = "SELECT * FROM cars WHERE Origin = :origin LIMIT 10")]
    statement: String,
    /// Values for the `:names` in the statement, by name without the colon.
    #[schema(value_type = Option<Object>, example = json!({"origin": "Japan"}))]
    args: Option<Args>,
    /// Everything is to be written or nothing, whatever is there. Refused unless all documents are in
    /// one slice of the keyspace.
    atomic: Option<bool>,
    /// Of a SELECT: so many rows at most, 1 to 10,000. The reply has a `cursor` if there are more. A page of
    /// large rows may end earlier.
    #[serde(rename = "pageSize")]
    #[schema(minimum = 1, maximum = 10_000, example = 1_000)]
    page_size: Option<u32>,
    /// The `cursor` of the page before: the rows that follow it, as of the same transaction.
    cursor: Option<String>,
}

/// What a statement did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecuteReply {
    /// The transaction that was written or, if nothing was, read. `null` before the first of a
    /// cluster.
    #[schema(value_type = Option<u64>, example = 1042)]
    transaction_id: Option<TxnId>,
    /// `select`, `insert`, `update`, `delete`, `evict`, `create_index`, `drop_index` or `explain`.
    #[schema(example = "select")]
    query_type: &'static str,
    /// What a SELECT found, in the order that it asks for, else in order of id.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
    /// The ids of the documents that were written.
    #[schema(value_type = Vec<serde_json::Value>)]
    mutated_document_ids: Vec<Box<RawValue>>,
    /// What was done but is not well.
    warnings: Vec<Warning>,
    /// Of a statement with conditions, or of a caller who may not do everything: how they were decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    decided: Option<Decided>,
    /// Of a page: what to send for the next one; `null` if this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    cursor: Option<String>,
    /// Why not all of it was done. A reply to a SELECT that has one breaks off after it.
    error: Option<ErrorBody>,
}

/// What a statement did that could not write all of its documents.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is sent as one or the other")]
pub(super) enum PartReply {
    /// It wrote the others, or left all of them.
    Executed(ExecuteReply),
    /// It wrote nothing.
    Refused(ErrorReply),
}

/// Runs a statement.
#[utoipa::path(
    post,
    path = "/apps/{app}/api/v1/store/execute",
    tag = "documents",
    description = "Runs one statement. What it writes becomes visible together, in one \
        transaction. A repeat under the same Idempotency-Key is applied once and gets the same \
        reply; one that was refused for what was there stays refused. INSERT draws a UUID for a document \
        without `_id`. An id that stands twice in one INSERT is refused with ON ID CONFLICT FAIL; \
        otherwise the documents apply in order. A SELECT with \
        `Accept: application/x-ndjson` is answered by a row a line; a reply that breaks off is not whole.",
    params(OfApp, StatementHeaders),
    request_body = ExecuteRequest,
    security(("key" = [])),
    responses(
        (status = 200, description = "It was done",
            content((ExecuteReply = "application/json"), (String = "application/x-ndjson")),
            headers(("X-Anabranch-Txn-Id" = u64, description = "As `transactionId`"),
                ("X-Anabranch-Cursor" = Option<String>, description = "As `cursor`"))),
        (status = 400, description = "The statement or the request is wrong", body = ErrorReply),
        (status = 401, description = "No valid key is shown", body = ErrorReply),
        (status = 403, description = "The key does not allow this. With a `transactionId`: not of \
            all documents, and `decided` says whether the others were written", body = PartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 404, description = "There is no index of this name to give up", body = ErrorReply),
        (status = 408, description = "The body did not arrive in time", body = ErrorReply),
        (status = 409, description = "There is such an index already; the transaction that was to be seen is \
            not in the cluster; or a condition did not hold: \
            documents are there already, or have changed. `conflicts` says which, and who had changed them; `decided` whether the others \
            were written", body = PartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 410, description = "What the cursor is of can no longer be read", body = ErrorReply),
        (status = 413, description = "The body or a document is too large. With a \
            `transactionId`: one would have become so with what is there already, and the others \
            were written", body = PartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 415, description = "The body is not application/json", body = ErrorReply),
        (status = 422, description = "The statement cannot be applied, or the Idempotency-Key \
            was used for another request, or for this one when it was refused", body = ErrorReply),
        (status = 500, description = "The server is at fault", body = ErrorReply),
        (status = 503, description = "Not now; with the code `outcome_unknown` it may have been \
            done", body = ErrorReply,
            headers(
                ("Retry-After" = u64, description = "When to come again, in seconds"),
                ("X-Anabranch-Txn-Id" = Option<u64>,
                    description = "The transaction that was written, if only its effect is not \
                        known"),
            )),
        (status = 504, description = "It took too long", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
        (status = 507, description = "The server's disk is full", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
    ),
)]
pub(super) async fn execute(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (request, _body) = request(&api, path, &sender, &headers, body, Shape::Execute).await?;
    let (form, deadline) = (rows::Form::of(&headers), request.deadline);
    let (executed, warnings) = Box::pin(api.executor.execute(request)).await?;
    let (kind, response) = match executed {
        Executed::Page(page) => ("select", rows::page(&page, &warnings, form)),
        Executed::Rows(rows, kind) => {
            (kind, rows::reply(*rows, kind, &warnings, form, deadline).await?)
        }
        Executed::Written(mut written) => {
            written.warnings.extend(warnings);
            (written.query_type, reply(written))
        }
    };
    Ok(of_kind(kind, response))
}

/// What a request asks for, and its body, which counts as long as it is held.
pub(super) async fn request(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    sender: &Sender,
    headers: &HeaderMap,
    body: Body,
    shape: Shape,
) -> Result<(Request, Whole), Refusal> {
    let (mut request, since) = match head(api, path, sender, headers, shape).await {
        Ok(head) => head,
        Err(refusal) => {
            discard(headers, body.into_data_stream());
            return Err(refusal);
        }
    };
    // The time that a client asks for is for what the server has to do.
    let arrived_by = request.deadline.min(Instant::now() + api.config.request_timeout());
    let whole = api.limits.read(headers, body, arrived_by).await?;
    let Statements { statements, atomic, page } = shape.read(whole.bytes.clone()).await?;
    request.statements = statements;
    request.atomic = atomic;
    request.page = page;
    if let Some(since) = since {
        request.statements.iter_mut().for_each(|asked| asked.unchanged_since = Some(since));
    }
    Ok((request, whole))
}

/// The request, but for its body, and since when its documents have to be unchanged.
async fn head(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    sender: &Sender,
    headers: &HeaderMap,
    shape: Shape,
) -> Result<(Request, Option<TxnId>), Refusal> {
    let Path(app) = path.map_err(|rejection| path_refusal(&rejection))?;
    let app = headers::app(&app)?;
    let caller = api.keys.caller(app, headers, sender).await?;
    let media_type = headers::media_type(headers)?;
    if media_type != "application/json" {
        return Err(headers::unsupported(&media_type, "application/json"));
    }
    let since = match shape {
        Shape::Execute => headers::unchanged_since(headers)?,
        Shape::Transaction => {
            headers::refuse_unchanged_since(headers, "give each statement its own 'ifMatch'")?;
            None
        }
    };
    let request = Request {
        app,
        caller,
        statements: Vec::new(),
        atomic: false,
        page: None,
        at_least: headers::at_least(headers)?,
        key: headers::idempotency_key(headers)?,
        deadline: headers::deadline(headers, &api.config)?,
    };
    Ok((request, since))
}

fn reply(written: Written) -> Response {
    let Written { query_type, txn, documents, warnings, decided, refusal } = written;
    let body = Json(ExecuteReply {
        transaction_id: txn,
        query_type,
        items: Vec::new(),
        mutated_document_ids: documents.iter().map(|name| raw(&name.key)).collect(),
        warnings,
        decided,
        cursor: None,
        error: refusal.as_ref().map(ErrorBody::from),
    });
    answer(txn, refusal.as_ref(), body)
}

/// A reply about what was written as `txn`, or why not all of it was.
pub(super) fn answer(
    txn: Option<TxnId>,
    refusal: Option<&Refusal>,
    body: impl IntoResponse,
) -> Response {
    let mut response = match refusal {
        Some(refusal) => refused(refusal, body),
        None => body.into_response(),
    };
    set_txn(response.headers_mut(), txn);
    response
}
