//! Resources: declared by operators, kept in the metadata store.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::Epoch;
use anabranch_journal::metadata::{Entry, MetadataError, MetadataStore, Version, declared};
use anabranch_schemas::resources::{Kind, Resource, ResourceError, ResourceId};
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::parameters::{
    NotChanged, NotDone, OfKind, OfResource, Parts, RemoveHeaders, ResourceBody, ResourceList,
    ResourceReply, WriteHeaders, WriteParameters,
};
use super::{Admin, cluster, key, replication};
use crate::access::of_kind;
use crate::error::{Code, Refusal};
use crate::http::{self, ErrorReply, path_refusal, query_refusal, whole};

/// The largest resource, in bytes of JSON.
const MAX_BYTES: usize = 1 << 20;
/// How long its text may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How often a change that others overtake is made again.
const MAX_TRIES: usize = 10;

/// A path that is to name a resource.
type Named = Result<Path<Parts>, PathRejection>;

fn named(path: Named) -> Result<ResourceId, Refusal> {
    let Path(Parts { kind, app, name }) = path.map_err(|rejection| path_refusal(&rejection))?;
    let unusable = |error| unusable(&error);
    match (kind.parse().map_err(unusable)?, app) {
        (Kind::Cluster, None) => {
            let name = name.parse().map_err(|error| invalid_path(&format!("{error}")))?;
            Ok(ResourceId::Cluster(name))
        }
        (kind @ (Kind::Replication | Kind::Key), Some(app)) => {
            let app =
                app.parse().map_err(|error| Refusal::new(Code::InvalidApp, format!("{error}")))?;
            let name = name.parse().map_err(unusable)?;
            Ok(match kind {
                Kind::Key => ResourceId::Key(app, name),
                _ => ResourceId::Replication(app, name),
            })
        }
        (kind @ Kind::Cluster, Some(_)) => Err(invalid_path(&format!("a {kind} has no app"))
            .with_hint("its path is /api/v1/resources/cluster/NAME")),
        (kind @ (Kind::Replication | Kind::Key), None) => {
            let path = format!("its path is /api/v1/resources/{}APP/NAME", kind.prefix());
            Err(invalid_path(&format!("a {kind} has an app")).with_hint(path))
        }
    }
}

fn invalid_path(why: &str) -> Refusal {
    Refusal::new(Code::InvalidRequest, format!("the path names no resource: {why}"))
}

/// An entry that must be there.
fn entry(metadata: &MetadataStore, id: &ResourceId) -> Result<Entry, Refusal> {
    let found = metadata.get(&id.key()).map_err(|error| Refusal::of_metadata(&error))?;
    found.ok_or_else(|| Refusal::new(Code::ResourceNotFound, format!("there is no {id}")))
}

/// Declares a resource: makes it, or makes it as given.
#[utoipa::path(
    put,
    path = "/api/v1/resources/{kind}/{app}/{name}",
    params(OfResource, WriteHeaders),
    request_body(content = ResourceBody, description = "The resource; a `status` is left out"),
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "It is as given", body = ResourceReply,
            headers(("ETag" = String, description = "The version"))),
        (status = 201, description = "It was made", body = ResourceReply,
            headers(("ETag" = String, description = "The version"))),
        (status = 408, description = "The body did not arrive in time", body = ErrorReply),
        (status = 409, description = "It is there already, was changed meanwhile, or data would \
            have to move", body = ErrorReply),
        (status = 413, description = "The body is too large", body = ErrorReply),
        (status = 422, description = "It cannot be used", body = ErrorReply),
        NotChanged,
        NotDone,
    ),
)]
pub(super) async fn write(
    State(admin): State<Arc<Admin>>,
    path: Named,
    parameters: Result<Query<WriteParameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let id = named(path)?;
    let Query(WriteParameters { lose }) =
        parameters.map_err(|rejection| query_refusal(&rejection))?;
    let wanted = expected(&headers)?;
    let body = read_body(body).await?;
    let resource = Resource::from_json(&body).map_err(|error| unusable(&error))?;
    if resource.id() != id {
        let message = format!("the body names {}, the path {id}", resource.id());
        return Err(Refusal::new(Code::InvalidResource, message)
            .with_hint("put a resource under its own kind, app and name"));
    }
    let shown = resource.to_value();
    let (version, done) = admin.blocking(move |admin| put(admin, wanted, &resource, lose)).await?;
    let (status, kind) = match done {
        Done::Made => (StatusCode::CREATED, "create"),
        Done::Changed => (StatusCode::OK, "change"),
        Done::Nothing => (StatusCode::OK, "keep"),
    };
    Ok(of_kind(kind, with_version(status, http::json(shown), version)))
}

/// A connection that breaks is told from a body that is too large: only the latter would be refused
/// again.
async fn read_body(body: Body) -> Result<Bytes, Refusal> {
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                Refusal::new(Code::InvalidRequest, format!("the body broke off: {error}"))
                    .with_hint("send it again")
            })?;
            if bytes.len() + chunk.len() > MAX_BYTES {
                let message = format!("the body is larger than the limit of {MAX_BYTES} bytes");
                return Err(Refusal::new(Code::BodyTooLarge, message)
                    .with_hint("declare less in one resource"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    timeout(BODY_TIME, reading).await.unwrap_or_else(|_| {
        Err(Refusal::new(Code::RequestTimeout, "the body did not arrive in time"))
    })
}

/// What an entry has to be for it to be set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    Nothing,
    At(Version),
}

/// What was done with an entry for it to be as given.
#[derive(Clone, Copy)]
enum Done {
    Made,
    Changed,
    /// It was so already.
    Nothing,
}

/// Sets an entry, if it is as expected.
fn put(
    admin: &Admin,
    wanted: Expected,
    resource: &Resource,
    may_lose: bool,
) -> Result<(Version, Done), Refusal> {
    let metadata = admin.metadata()?;
    let (key, text) = (resource.id().key(), resource.to_json());
    let mut tries = 0;
    loop {
        tries += 1;
        let found = metadata.get(&key).map_err(|error| Refusal::of_metadata(&error))?;
        let version = found.as_ref().map(|entry| entry.version);
        match wanted {
            Expected::Nothing if version.is_some() => {
                let message = format!("there is {} already", resource.id());
                return Err(Refusal::new(Code::ResourceExists, message));
            }
            Expected::At(wanted) if version != Some(wanted) => {
                let (expected, found) = (Some(wanted), version);
                let conflict = MetadataError::Conflict { key, expected, found };
                return Err(Refusal::of_metadata(&conflict));
            }
            Expected::Anything | Expected::Nothing | Expected::At(_) => {}
        }
        // As it is to be: a file that is applied twice changes nothing.
        if let Some(entry) = found.as_ref().filter(|entry| entry.value == text) {
            return Ok((entry.version, Done::Nothing));
        }
        admit(admin, &key, found.as_ref(), resource, may_lose)?;
        match metadata.compare_and_set(&key, version, Some(text.clone())) {
            Ok(set) => return Ok((set, version.map_or(Done::Made, |_| Done::Changed))),
            Err(MetadataError::Conflict { .. })
                if wanted == Expected::Anything && tries < MAX_TRIES => {}
            Err(error) => return Err(Refusal::of_metadata(&error)),
        }
    }
}

/// Refuses what its kind does not allow to be made of an entry.
fn admit(
    admin: &Admin,
    key: &str,
    before: Option<&Entry>,
    after: &Resource,
    may_lose: bool,
) -> Result<(), Refusal> {
    match after {
        Resource::Cluster { name, spec } => {
            cluster::check_name(admin, name)?;
            let before = before.map(|entry| declared(key, entry, admin.cluster.slices)).transpose();
            let before = before.map_err(|error| Refusal::of_journal(&error))?;
            cluster::admit(admin, before.as_ref(), spec, may_lose)
        }
        Resource::Replication { .. } | Resource::Key { .. } if may_lose => {
            let message = "the parameter lose is for a cluster; nothing else has nodes to lose";
            Err(Refusal::new(Code::InvalidRequest, message).with_hint("leave it out"))
        }
        Resource::Replication { .. } => Ok(()),
        Resource::Key { name, spec, .. } => key::admit(name, spec),
    }
}

/// Shows a resource and how it is doing.
#[utoipa::path(
    get,
    path = "/api/v1/resources/{kind}/{app}/{name}",
    params(OfResource),
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "The resource with its status", body = ResourceReply,
            headers(("ETag" = String, description = "The version"))),
        (status = 400, description = "The request is wrong", body = ErrorReply),
        (status = 404, description = "There is none", body = ErrorReply),
        (status = 422, description = "Nothing has such a kind or name", body = ErrorReply),
        NotDone,
    ),
)]
pub(super) async fn read(
    State(admin): State<Arc<Admin>>,
    path: Named,
) -> Result<Response, Refusal> {
    let id = named(path)?;
    let (version, value) = admin
        .blocking(move |admin| {
            let entry = entry(admin.metadata()?, &id)?;
            Ok((entry.version, shown(admin, &id.key(), &entry)?))
        })
        .await?;
    Ok(with_version(StatusCode::OK, http::json(value), version))
}

/// Removes a resource.
#[utoipa::path(
    delete,
    path = "/api/v1/resources/{kind}/{app}/{name}",
    params(OfResource, RemoveHeaders),
    security(("adminKey" = [])),
    responses(
        (status = 204, description = "It was removed"),
        (status = 404, description = "There is none", body = ErrorReply),
        (status = 409, description = "It was changed meanwhile, or data would have to move",
            body = ErrorReply),
        (status = 422, description = "Nothing has such a kind or name", body = ErrorReply),
        NotChanged,
        NotDone,
    ),
)]
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    path: Named,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = named(path)?;
    let wanted = if_match(&headers)?;
    let removing = admin.blocking(move |admin| {
        let (metadata, key) = (admin.metadata()?, id.key());
        let entry = entry(metadata, &id)?;
        match &id {
            ResourceId::Cluster(_) => cluster::admit_removal(admin)?,
            ResourceId::Replication(..) | ResourceId::Key(..) => {}
        }
        let expected = Some(wanted.unwrap_or(entry.version));
        metadata.compare_and_set(&key, expected, None).map_err(|error| Refusal::of_metadata(&error))
    });
    removing.await?;
    Ok(of_kind("remove", StatusCode::NO_CONTENT.into_response()))
}

/// Shows all resources.
#[utoipa::path(
    get,
    path = "/api/v1/resources",
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "All resources, by kind, app and name", body = ResourceList),
        NotDone,
    ),
)]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Response, Refusal> {
    listed(&admin, Kind::ALL.to_vec()).await
}

/// Shows the resources of a kind.
#[utoipa::path(
    get,
    path = "/api/v1/resources/{kind}",
    params(OfKind),
    security(("adminKey" = [])),
    responses(
        (status = 200, description = "The resources, by app and name", body = ResourceList),
        (status = 400, description = "The request is wrong", body = ErrorReply),
        (status = 422, description = "The kind is not known", body = ErrorReply),
        NotDone,
    ),
)]
pub(super) async fn list_kind(
    State(admin): State<Arc<Admin>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(kind) = path.map_err(|rejection| path_refusal(&rejection))?;
    let kind = kind.parse().map_err(|error| unusable(&error))?;
    listed(&admin, vec![kind]).await
}

async fn listed(admin: &Arc<Admin>, kinds: Vec<Kind>) -> Result<Response, Refusal> {
    let items = admin
        .blocking(move |admin| {
            let metadata = admin.metadata()?;
            let mut items = Vec::new();
            for kind in kinds {
                let entries =
                    metadata.list(kind.prefix()).map_err(|error| Refusal::of_metadata(&error))?;
                for (key, entry) in entries {
                    items.push(match parsed(&key, &entry) {
                        Ok(resource) => with_status(admin, &entry, &resource)?,
                        Err(why) => unreadable(&entry, &why),
                    });
                }
            }
            Ok(items)
        })
        .await?;
    Ok(http::json(ResourceList { items }))
}

/// A resource with its status, which is computed now and never kept.
fn shown(admin: &Admin, key: &str, entry: &Entry) -> Result<Value, Refusal> {
    with_status(admin, entry, &parsed(key, entry)?)
}

fn with_status(admin: &Admin, entry: &Entry, resource: &Resource) -> Result<Value, Refusal> {
    let mut value = resource.to_value();
    value["status"] = match resource {
        Resource::Cluster { spec, .. } => cluster::status(admin, Epoch(entry.version.0), spec)?,
        Resource::Replication { app, name, spec } => replication::status(admin, *app, name, spec),
        Resource::Key { spec, .. } => key::status(spec),
    };
    Ok(value)
}

/// What a newer server has declared, say: it is in the way of no other. What cannot be read is not
/// shown, but for the name.
fn unreadable(entry: &Entry, why: &Refusal) -> Value {
    let mut value: Value = serde_json::from_str(&entry.value).unwrap_or_default();
    let mut part = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
    json!({
        "apiVersion": part("apiVersion"),
        "kind": part("kind"),
        "metadata": part("metadata"),
        "status": { "state": "unreadable", "error": why.message() },
    })
}

fn parsed(key: &str, entry: &Entry) -> Result<Resource, Refusal> {
    Resource::from_json(entry.value.as_bytes()).map_err(|error| {
        Refusal::new(Code::Internal, format!("the entry '{key}' cannot be read: {error}"))
    })
}

fn unusable(error: &ResourceError) -> Refusal {
    let refusal = Refusal::new(Code::InvalidResource, error.to_string());
    match &error.hint {
        Some(hint) => refusal.with_hint(hint.clone()),
        None => refusal,
    }
}

fn expected(headers: &HeaderMap) -> Result<Expected, Refusal> {
    match (if_match(headers)?, headers.get(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Anything),
        (Some(version), None) => Ok(Expected::At(version)),
        (None, Some(value)) if value == "*" => Ok(Expected::Nothing),
        (_, Some(_)) => {
            let message = "the header If-None-Match is not '*', or stands beside If-Match";
            Err(Refusal::new(Code::InvalidHeader, message))
        }
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<Version>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match number.and_then(whole) {
        Some(version) => Ok(Some(Version(version))),
        None => {
            let message = "the header If-Match is not the ETag of a resource, such as \"3\"";
            Err(Refusal::new(Code::InvalidHeader, message))
        }
    }
}

fn with_version(status: StatusCode, body: Response, version: Version) -> Response {
    let mut response = (status, body).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
