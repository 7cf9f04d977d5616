//! How refusals are sent: always JSON, with a code, a message and a hint.

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::ErrorCode;
use crate::error::{Code, Refusal};

/// The transaction of a reply, and the one that a read must include.
pub(crate) const TXN_HEADER: HeaderName = HeaderName::from_static("x-anabranch-txn-id");

/// When to come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The body of a reply to a request that was refused.
#[derive(Serialize, ToSchema)]
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
}

impl From<&Refusal> for ErrorBody {
    fn from(refusal: &Refusal) -> Self {
        ErrorBody {
            code: refusal.code().as_str(),
            message: refusal.message().to_owned(),
            hint: refusal.hint().to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorReply { error: ErrorBody::from(&self) };
        refused(&self, Json(body))
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
    let headers = response.headers_mut();
    if matches!(refusal.kind(), ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Shutdown)
        && status.is_server_error()
    {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
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
