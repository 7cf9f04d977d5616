//! `GET` of one document.

use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::{AppId, Collection, DocumentId, DocumentKey};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::reply::{ErrorReply, set_txn};
use super::{Api, headers, path_refusal, query_refusal};
use crate::error::{Code, Refusal};

/// Names a document by an id of any type.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyParameter {
    /// The `_id` as JSON.
    #[param(example = r#"{"n":3,"plant":"x"}"#)]
    key: String,
}

/// Reads one document whose id is a string.
#[utoipa::path(
    get,
    path = "/apps/{app}/api/v1/collections/{collection}/documents/{id}",
    tag = "documents",
    params(
        ("app" = uuid::Uuid, Path, description = "The app"),
        ("collection" = String, Path, description = "The collection"),
        ("id" = String, Path, description = "The `_id`: a string, percent-encoded"),
        ("X-Anabranch-Txn-Id" = Option<u64>, Header,
            description = "What is read includes this transaction"),
        ("If-None-Match" = Option<String>, Header,
            description = "The ETag of the version that is known"),
        ("X-Anabranch-Timeout-Ms" = Option<u64>, Header,
            description = "When to give up, if earlier than the server does"),
    ),
    responses(
        (status = 200, description = "The document, `_id` included", body = Object,
            headers(
                ("X-Anabranch-Txn-Id" = u64, description = "The snapshot that was read"),
                ("ETag" = String, description = "The transaction that wrote it last"),
            )),
        (status = 304, description = "It is as it was"),
        (status = 400, description = "The request is wrong", body = ErrorReply),
        (status = 404, description = "There is no such document", body = ErrorReply),
        (status = 500, description = "The server is at fault", body = ErrorReply),
        (status = 503, description = "Not now", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
        (status = 504, description = "It took too long", body = ErrorReply),
    ),
)]
pub(super) async fn by_path(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path((app, collection, id)) = path.map_err(|rejection| path_refusal(&rejection))?;
    let (app, collection) = (headers::app(&app)?, headers::collection(&collection)?);
    read(&api, app, collection, &Value::String(id), &headers).await
}

/// Reads one document whose id is of any type.
#[utoipa::path(
    get,
    path = "/apps/{app}/api/v1/collections/{collection}/documents",
    tag = "documents",
    params(
        ("app" = uuid::Uuid, Path, description = "The app"),
        ("collection" = String, Path, description = "The collection"),
        KeyParameter,
        ("X-Anabranch-Txn-Id" = Option<u64>, Header,
            description = "What is read includes this transaction"),
        ("If-None-Match" = Option<String>, Header,
            description = "The ETag of the version that is known"),
        ("X-Anabranch-Timeout-Ms" = Option<u64>, Header,
            description = "When to give up, if earlier than the server does"),
    ),
    responses(
        (status = 200, description = "The document, `_id` included", body = Object,
            headers(
                ("X-Anabranch-Txn-Id" = u64, description = "The snapshot that was read"),
                ("ETag" = String, description = "The transaction that wrote it last"),
            )),
        (status = 304, description = "It is as it was"),
        (status = 400, description = "The request is wrong", body = ErrorReply),
        (status = 404, description = "There is no such document", body = ErrorReply),
        (status = 500, description = "The server is at fault", body = ErrorReply),
        (status = 503, description = "Not now", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
        (status = 504, description = "It took too long", body = ErrorReply),
    ),
)]
pub(super) async fn by_key(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameter: Result<Query<KeyParameter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path((app, collection)) = path.map_err(|rejection| path_refusal(&rejection))?;
    let (app, collection) = (headers::app(&app)?, headers::collection(&collection)?);
    let Query(parameter) = parameter.map_err(|rejection| query_refusal(&rejection))?;
    let id = Value::from_json(parameter.key.as_bytes()).map_err(|error| {
        let message = format!("the parameter 'key' is not JSON: {error}");
        Refusal::new(Code::InvalidParameter, message).with_hint("a string stands in double quotes")
    })?;
    read(&api, app, collection, &id, &headers).await
}

async fn read(
    api: &Api,
    app: AppId,
    collection: Collection,
    id: &Value,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let key = DocumentKey::from_value(id).map_err(|error| Refusal::of_id(&error))?;
    let id = DocumentId { app, collection, key };
    let at_least = headers::at_least(headers)?;
    let deadline = headers::deadline(headers, api.config.request_timeout())?;
    let found = api.store.get(&id, at_least, deadline).await?;
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
