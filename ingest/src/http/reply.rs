//! How refusals are sent: always JSON, with a code, a message and a hint.

use anabranch_core::ErrorKind;
use anabranch_core::ids::{DocumentKey, TxnId};
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::openapi::ErrorCode;
use crate::document::DocumentName;
use crate::error::{Code, Refusal};
use crate::store::{Conflict, Reason};

/// The transaction of a reply, and the one that a read must include.
pub(crate) const TXN_HEADER: HeaderName = HeaderName::from_static("x-anabranch-txn-id");

/// When to come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The body of a reply to a request that was refused. It has nothing else: a reply that says what
/// was done, and why not all of it, has an `error`, too, and has to be told from this one.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorReply {
    error: ErrorBody,
}

/// What went wrong.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The stable code.
    #[schema(value_type = ErrorCode)]
    code: &'static str,
    /// What happened.
    #[schema(example = "expected FROM, found the end at line 1, column 9")]
    message: String,
    /// What to do about it.
    hint: String,
    /// The documents of which a condition did not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    conflicts: Vec<ConflictBody>,
}

/// A document of which a condition did not hold.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConflictBody {
    #[serde(flatten)]
    document: DocumentBody,
    /// The transaction that had changed it last; `null` if none ever had.
    #[schema(value_type = Option<u64>, example = 1041)]
    transaction_id: Option<TxnId>,
    reason: Reason,
}

/// A document.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct DocumentBody {
    #[schema(example = "cars")]
    collection: String,
    #[serde(rename = "_id")]
    #[schema(value_type = serde_json::Value, example = "a")]
    id: Box<RawValue>,
}

impl From<&DocumentName> for DocumentBody {
    fn from(name: &DocumentName) -> Self {
        DocumentBody { collection: name.collection.as_str().to_owned(), id: raw(&name.key) }
    }
}

/// An id as it is sent: it is JSON text already.
pub(super) fn raw(key: &DocumentKey) -> Box<RawValue> {
    RawValue::from_string(key.as_str().to_owned()).expect("a key is the JSON of an _id")
}

impl From<&Conflict> for ConflictBody {
    fn from(conflict: &Conflict) -> Self {
        let Conflict { document, winner, reason } = conflict;
        ConflictBody { document: document.into(), transaction_id: *winner, reason: *reason }
    }
}

impl From<&Refusal> for ErrorBody {
    fn from(refusal: &Refusal) -> Self {
        ErrorBody {
            code: refusal.code().as_str(),
            message: refusal.message().to_owned(),
            hint: refusal.hint().to_owned(),
            conflicts: refusal.conflicts().iter().map(ConflictBody::from).collect(),
        }
    }
}

impl From<&Refusal> for ErrorReply {
    fn from(refusal: &Refusal) -> Self {
        ErrorReply { error: ErrorBody::from(refusal) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refused(&self, Json(ErrorReply::from(&self)))
    }
}

/// A reply to a refused request with a body of its own.
pub(super) fn refused(refusal: &Refusal, body: impl IntoResponse) -> Response {
    let status = status(refusal.code());
    if status.is_server_error() {
        tracing::warn!(code = refusal.code().as_str(), error = %refusal, "request refused");
    }
    let mut response = body.into_response();
    *response.status_mut() = status;
    response.extensions_mut().insert(refusal.code());
    let headers = response.headers_mut();
    if matches!(refusal.kind(), ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Shutdown)
        && status.is_server_error()
    {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    set_txn(headers, refusal.txn());
    response
}

/// Names the transaction of a reply.
pub(super) fn set_txn(headers: &mut HeaderMap, txn: Option<TxnId>) {
    if let Some(txn) = txn {
        headers.insert(TXN_HEADER, HeaderValue::from(txn.0));
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("the table has statuses of HTTP")
}
