//! `GET` of one document.

use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey};
use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::{IntoResponses, ToSchema};

use super::parameters::{ByKey, OfCollection, OfDocument, ReadHeaders};
use super::reply::{ErrorReply, set_txn};
use super::{Api, headers, path_refusal, query_refusal};
use crate::access::{Caller, Sender};
use crate::error::{Code, Refusal};
use crate::store::At;

/// A document, `_id` included.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "documents are sent as they are read")]
pub(super) struct Document(Value);

/// The replies to a read.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes them")]
enum ReadReply {
    /// The document.
    #[response(status = 200, headers(
        ("X-Anabranch-Txn-Id" = u64, description = "The snapshot that was read"),
        ("ETag" = String, description = "The transaction that wrote it last"),
    ))]
    Found(Document),
    /// It is as it was.
    #[response(status = 304, headers(
        ("X-Anabranch-Txn-Id" = u64, description = "The snapshot that was read"),
        ("ETag" = String, description = "The transaction that wrote it last"),
    ))]
    NotModified,
    /// The request is wrong.
    #[response(status = 400)]
    Wrong(ErrorReply),
    /// No valid key is shown.
    #[response(status = 401)]
    Unauthenticated(ErrorReply),
    /// The key does not allow to read in this collection.
    #[response(status = 403)]
    Forbidden(ErrorReply),
    /// There is no such document, or none that the key allows to read.
    #[response(status = 404, headers(
        ("X-Anabranch-Txn-Id" = Option<u64>, description = "The snapshot that was read"),
    ))]
    Missing(ErrorReply),
    /// There is no transaction of this id in the cluster.
    #[response(status = 409)]
    Unknown(ErrorReply),
    /// The server is at fault.
    #[response(status = 500)]
    Failed(ErrorReply),
    /// Not now.
    #[response(status = 503, headers(
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    NotNow(ErrorReply),
    /// It took too long.
    #[response(status = 504, headers(
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    TooLate(ErrorReply),
}

/// Reads one document whose id is a string.
#[utoipa::path(
    get,
    path = "/apps/{app}/api/v1/collections/{collection}/documents/{id}",
    tag = "documents",
    params(OfDocument, ReadHeaders),
    security(("key" = [])),
    responses(ReadReply),
)]
pub(super) async fn by_path(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path((app, collection, id)) = path.map_err(|rejection| path_refusal(&rejection))?;
    let app = headers::app(&app)?;
    let caller = api.keys.caller(app, &headers, &sender).await?;
    let collection = headers::collection(&collection)?;
    read(&api, app, &caller, collection, &Value::String(id), &headers).await
}

/// Reads one document whose id is of any type.
#[utoipa::path(
    get,
    path = "/apps/{app}/api/v1/collections/{collection}/documents",
    tag = "documents",
    params(OfCollection, ByKey, ReadHeaders),
    security(("key" = [])),
    responses(ReadReply),
)]
pub(super) async fn by_key(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameter: Result<Query<ByKey>, QueryRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path((app, collection)) = path.map_err(|rejection| path_refusal(&rejection))?;
    let app = headers::app(&app)?;
    let caller = api.keys.caller(app, &headers, &sender).await?;
    let collection = headers::collection(&collection)?;
    let Query(parameter) = parameter.map_err(|rejection| query_refusal(&rejection))?;
    let id = Value::from_json(parameter.key.as_bytes()).map_err(|error| {
        let message = format!("the parameter 'key' is not JSON: {error}");
        Refusal::new(Code::InvalidParameter, message).with_hint("a string stands in double quotes")
    })?;
    read(&api, app, &caller, collection, &id, &headers).await
}

async fn read(
    api: &Api,
    app: AppId,
    caller: &Caller,
    collection: Collection,
    id: &Value,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let key = DocumentKey::from_value(id).map_err(|error| Refusal::of_id(&error))?;
    let id = DocumentId { app, collection, key };
    let at_least = headers::at_least(headers)?;
    let deadline = headers::deadline(headers, &api.config)?;
    let readable = caller.readable(&id.collection)?;
    let at = At::Newest(at_least);
    let found = api.log_end.seen(at, api.store.get(&id, &readable, at, deadline)).await?;
    let mut response = match found.document {
        None => {
            let message = format!("there is no document {} in '{}'", id.key, id.collection);
            Refusal::new(Code::DocumentNotFound, message).into_response()
        }
        Some((document, written)) => {
            let tag = written.map(|txn| format!("\"{txn}\""));
            let is_known =
                headers.get(header::IF_NONE_MATCH).is_some_and(|known| match (known, &tag) {
                    (known, Some(tag)) => known.as_bytes() == tag.as_bytes(),
                    (_, None) => false,
                });
            let mut response = if is_known {
                StatusCode::NOT_MODIFIED.into_response()
            } else {
                ([(header::CONTENT_TYPE, "application/json")], document).into_response()
            };
            if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            response
        }
    };
    set_txn(response.headers_mut(), found.txn);
    Ok(response)
}
