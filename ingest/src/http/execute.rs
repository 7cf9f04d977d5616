//! `POST /apps/{app}/api/v1/store/execute`.

use std::sync::Arc;

use anabranch_core::ids::{DocumentKey, TxnId};
use anabranch_core::query::Args;
use anabranch_core::{JsonFault, Value};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::reply::{ErrorBody, ErrorReply, refused, set_txn};
use super::{Api, headers, path_refusal, rows};
use crate::document::Warning;
use crate::error::{Code, Refusal};
use crate::execute::{Executed, Request, Written};
use crate::limits::discard;

/// A body above this many bytes is parsed on a thread where that keeps nobody waiting.
const LARGE_BYTES: usize = 64 * 1024;

/// A statement and its arguments.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecuteRequest {
    /// SELECT, INSERT, UPDATE or DELETE.
    #[schema(example = "SELECT * FROM cars WHERE Origin = :origin LIMIT 10")]
    statement: String,
    /// Values for the `:names` in the statement, by name without the colon.
    #[schema(value_type = Option<Object>, example = json!({"origin": "Japan"}))]
    args: Option<Args>,
}

/// What a statement did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecuteReply {
    /// The transaction that was written or, if nothing was, read. `null` before the first of a
    /// cluster.
    #[schema(value_type = Option<u64>, example = 1042)]
    transaction_id: Option<TxnId>,
    /// `select`, `insert`, `update` or `delete`.
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
    /// Why not all of it was done. A reply to a SELECT that has one breaks off after it.
    error: Option<ErrorBody>,
}

/// What an INSERT did that could not write all of its documents.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is sent as one or the other")]
pub(super) enum PartReply {
    /// It wrote the others.
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
    params(
        ("app" = uuid::Uuid, Path, description = "The app"),
        ("X-Anabranch-Txn-Id" = Option<u64>, Header,
            description = "What is read includes this transaction"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "Names the request, so that it can be repeated: up to 255 characters"),
        ("X-Anabranch-Timeout-Ms" = Option<u64>, Header,
            description = "When to give up, if earlier than the server does"),
    ),
    request_body = ExecuteRequest,
    responses(
        (status = 200, description = "It was done",
            content((ExecuteReply = "application/json"), (String = "application/x-ndjson")),
            headers(("X-Anabranch-Txn-Id" = u64, description = "As `transactionId`"))),
        (status = 400, description = "The statement or the request is wrong", body = ErrorReply),
        (status = 408, description = "The body did not arrive in time", body = ErrorReply),
        (status = 409, description = "Documents are there already. With a `transactionId`: they \
            came into being meanwhile, and the others were written", body = PartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
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
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut request = match head(&api, path, &headers) {
        Ok(request) => request,
        Err(refusal) => {
            discard(&headers, body.into_data_stream());
            return Err(refusal);
        }
    };
    let whole = api.limits.read(&headers, body, request.deadline).await?;
    let parsed = if whole.bytes.len() > LARGE_BYTES {
        let bytes = whole.bytes.clone();
        tokio::task::spawn_blocking(move || parse(&bytes))
            .await
            .map_err(|error| Refusal::new(Code::Internal, format!("parsing broke off: {error}")))?
    } else {
        parse(&whole.bytes)
    }?;
    request.statement = parsed.statement;
    request.args = parsed.args.unwrap_or_default();
    let (form, deadline) = (rows::Form::of(&headers), request.deadline);
    match Box::pin(api.executor.execute(request)).await? {
        Executed::Rows(rows) => rows::reply(*rows, form, deadline).await,
        Executed::Written(written) => Ok(reply(written)),
    }
}

/// The request, but for its body.
fn head(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
) -> Result<Request, Refusal> {
    let Path(app) = path.map_err(|rejection| path_refusal(&rejection))?;
    let media_type = headers::media_type(headers)?;
    if media_type != "application/json" {
        return Err(headers::unsupported(&media_type, "application/json"));
    }
    Ok(Request {
        app: headers::app(&app)?,
        statement: String::new(),
        args: Args::new(),
        at_least: headers::at_least(headers)?,
        key: headers::idempotency_key(headers)?,
        deadline: headers::deadline(headers, api.config.request_timeout())?,
    })
}

/// What documents may hold is what a body may: it is read as one value.
fn parse(body: &[u8]) -> Result<ExecuteRequest, Refusal> {
    let unusable = |code, reason: String| {
        Refusal::new(code, format!("the body cannot be used: {reason}"))
            .with_hint(r#"send {"statement": "..", "args": {..}}"#)
    };
    let wrong = |reason: String| unusable(Code::InvalidRequest, reason);
    let fields = match Value::from_json(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return Err(wrong(format!("it is of type {}", other.type_name()))),
        Err(error) => {
            return Err(match error.fault() {
                JsonFault::Syntax => unusable(Code::InvalidJson, error.to_string()),
                JsonFault::TooDeep | JsonFault::Unusable => Refusal::of_json(&error),
            });
        }
    };
    let (mut statement, mut args) = (None, None);
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("statement", Value::String(text)) => statement = Some(text),
            ("args", Value::Object(values)) => args = Some(values),
            ("args", Value::Null) => {}
            ("statement" | "args", other) => {
                return Err(wrong(format!("'{name}' is of type {}", other.type_name())));
            }
            _ => return Err(wrong("it has a field other than 'statement' and 'args'".to_owned())),
        }
    }
    let statement = statement.ok_or_else(|| wrong("it lacks 'statement'".to_owned()))?;
    Ok(ExecuteRequest { statement, args })
}

/// An id as it is sent: it is JSON text already.
fn raw(key: &DocumentKey) -> Box<RawValue> {
    RawValue::from_string(key.as_str().to_owned()).expect("a key is the JSON of an _id")
}

fn reply(written: Written) -> Response {
    let Written { query_type, txn, ids, warnings, refusal } = written;
    let body = Json(ExecuteReply {
        transaction_id: txn,
        query_type,
        items: Vec::new(),
        mutated_document_ids: ids.iter().map(raw).collect(),
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
