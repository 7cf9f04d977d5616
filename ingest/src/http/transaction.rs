//! `POST /apps/{app}/api/v1/store/transaction`.

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_core::query::Args;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::Shape;
use super::execute::{answer, request};
use super::parameters::{OfApp, TransactionHeaders};
use super::reply::{DocumentBody, ErrorBody, ErrorReply};
use crate::access::{Sender, of_kind};
use crate::document::Warning;
use crate::error::Refusal;
use crate::execute::{Decided, Written};

/// Statements that write together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it describes what is read as one value")]
pub(super) struct TransactionRequest {
    /// INSERT, UPDATE, DELETE and EVICT.
    #[schema(min_items = 1, max_items = 100)]
    statements: Vec<TransactionStatement>,
    /// Everything is to be written or nothing, whatever is there. Refused unless all documents are in
    /// one slice of the keyspace.
    atomic: Option<bool>,
}

/// One of the statements.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "it describes what is read as one value")]
pub(super) struct TransactionStatement {
    /// INSERT, UPDATE, DELETE or EVICT.
    #[schema(
        max_length = 65_536,
        example = "UPDATE accounts APPLY balance INCREMENT BY :n WHERE _id = 'a'"
    )]
    statement: String,
    /// Values for the `:names` in the statement, by name without the colon.
    #[schema(value_type = Option<Object>, example = json!({"n": -5}))]
    args: Option<Args>,
    /// The documents that the statement names have to be unchanged since this transaction.
    #[schema(example = 1041)]
    if_match: Option<u64>,
}

/// What a transaction did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TransactionReply {
    /// The transaction that was written or, if nothing was, read. `null` before the first of a
    /// cluster.
    #[schema(value_type = Option<u64>, example = 1042)]
    transaction_id: Option<TxnId>,
    /// The documents that were written.
    mutated_documents: Vec<DocumentBody>,
    /// What was done but is not well.
    warnings: Vec<Warning>,
    /// If there were conditions, or the caller may not do everything: how they were decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    decided: Option<Decided>,
    /// Why not all of it was done.
    error: Option<ErrorBody>,
}

/// What a transaction did that could not write all of its documents.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is sent as one or the other")]
pub(super) enum TransactionPartReply {
    /// It wrote the others, or left all of them.
    Executed(TransactionReply),
    /// It wrote nothing.
    Refused(ErrorReply),
}

/// Runs statements that write together.
#[utoipa::path(
    post,
    path = "/apps/{app}/api/v1/store/transaction",
    tag = "documents",
    description = "Runs several INSERT, UPDATE, DELETE and EVICT statements as one: what they write becomes \
        visible together, in one transaction. They do not see each other's changes: each finds its \
        documents as they were before, all as of one transaction; what they ask of one document \
        applies in their order. A repeat under the same Idempotency-Key is applied once and gets the \
        same reply.",
    params(OfApp, TransactionHeaders),
    request_body = TransactionRequest,
    security(("key" = [])),
    responses(
        (status = 200, description = "It was done", body = TransactionReply,
            headers(("X-Anabranch-Txn-Id" = u64, description = "As `transactionId`"))),
        (status = 400, description = "A statement or the request is wrong", body = ErrorReply),
        (status = 401, description = "No valid key is shown", body = ErrorReply),
        (status = 403, description = "The key does not allow this. With a `transactionId`: not of \
            all documents, and `decided` says whether the others were written",
            body = TransactionPartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 408, description = "The body did not arrive in time", body = ErrorReply),
        (status = 409, description = "The transaction that was to be seen is not in the cluster; or a condition \
            did not hold: `conflicts` says of which documents, \
            and who had changed them; `decided` whether the others were written",
            body = TransactionPartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 413, description = "The body or a document is too large. With a \
            `transactionId`: one would have become so with what is there already",
            body = TransactionPartReply,
            headers(("X-Anabranch-Txn-Id" = Option<u64>, description = "As `transactionId`"))),
        (status = 415, description = "The body is not application/json", body = ErrorReply),
        (status = 422, description = "A statement cannot be applied, or the Idempotency-Key \
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
pub(super) async fn transaction(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (request, _body) = request(&api, path, &sender, &headers, body, Shape::Transaction).await?;
    let written = Box::pin(api.executor.transact(request)).await?;
    let Written { query_type, txn, documents, warnings, decided, refusal } = written;
    let body = Json(TransactionReply {
        transaction_id: txn,
        mutated_documents: documents.iter().map(DocumentBody::from).collect(),
        warnings,
        decided,
        error: refusal.as_ref().map(ErrorBody::from),
    });
    Ok(of_kind(query_type, answer(txn, refusal.as_ref(), body)))
}
