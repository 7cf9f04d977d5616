//! What the routes for operators are, as OpenAPI 3.1, with examples.

use std::sync::LazyLock;

use serde_json::Value;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Info, PathItem};
use utoipa::{IntoParams, OpenApi};

use super::parameters::{
    ListedResource, OfCluster, ResourceBody, ResourceList, ResourceReply, WriteParameters,
};
use super::resources;
use crate::error::Code;
use crate::examples;
use crate::http::{ErrorBody, ErrorCode, ErrorReply};

#[derive(OpenApi)]
#[openapi(
    paths(
        resources::write,
        resources::read,
        resources::remove,
        resources::list,
        resources::list_kind,
    ),
    components(schemas(
        ResourceBody,
        ResourceReply,
        ResourceList,
        ListedResource,
        ErrorReply,
        ErrorBody,
        ErrorCode,
    ))
)]
struct Api;

/// Where a resource of an app is, and where one that belongs to none, which is the cluster.
const OF_APP: &str = "/api/v1/resources/{kind}/{app}/{name}";
const OF_CLUSTER: &str = "/api/v1/resources/cluster/{name}";

/// The requests and replies that are shown.
pub(super) const STORY: &str = include_str!("examples.json");

/// What is replied where something fails that a new cluster does not have, or that takes long.
const FAILURES: &[(Code, &str)] = &[
    (Code::Unauthenticated, "the header Authorization is missing"),
    (Code::HostNotAllowed, "this server does not answer to the host 'evil.example:8081'"),
    (Code::RequestTimeout, "the body did not arrive in time"),
    (Code::BodyTooLarge, "the body is larger than the limit of 1048576 bytes"),
    (Code::Internal, "a request broke off: task 7 panicked"),
    (Code::JournalUnavailable, "the journal did not answer within 10s"),
    (Code::DiskFull, "no space is left for the embedded log in '/data'; free some and retry"),
];

/// The routes as OpenAPI.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(described()).expect("it is JSON");
    examples::show(&mut document, &examples::read(STORY), FAILURES);
    document
});

fn described() -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    document.info = Info::new("Anabranch for operators", env!("CARGO_PKG_VERSION"));
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The admin key of the server, from the file that it was started with."));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("adminKey", SecurityScheme::Http(key.build()));
    let item = document.paths.paths.get(OF_APP).cloned().map(for_cluster);
    document.paths.paths.extend(item.map(|item| (OF_CLUSTER.to_owned(), item)));
    document
}

pub(super) async fn openapi() -> axum::response::Response {
    crate::http::json(&*DOCUMENT)
}

/// The same, under a path that names neither a kind nor an app.
fn for_cluster(mut item: PathItem) -> PathItem {
    for operation in [&mut item.get, &mut item.put, &mut item.delete].into_iter().flatten() {
        let mut parameters = OfCluster::into_params(|| Some(ParameterIn::Path));
        let given = operation.parameters.take().into_iter().flatten();
        parameters.extend(given.filter(|given| given.parameter_in != ParameterIn::Path));
        operation.parameters = Some(parameters);
        operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_cluster"));
    }
    for operation in [&mut item.get, &mut item.delete].into_iter().flatten() {
        // Its kind is known, and who names it wrongly is told otherwise.
        operation.responses.responses.remove("422");
    }
    if let Some(put) = &mut item.put {
        let lose = WriteParameters::into_params(|| Some(ParameterIn::Query));
        put.parameters.get_or_insert_default().extend(lose);
    }
    item
}
