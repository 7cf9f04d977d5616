//! What the routes for operators are, as OpenAPI 3.1.

use utoipa::OpenApi;
use utoipa::openapi::{Info, PathItem};

use super::resources;
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
    components(schemas(resources::ResourceList, ErrorReply, ErrorBody, ErrorCode,))
)]
struct Api;

/// Where a resource of an app is, and where one that belongs to none, which is the cluster.
const OF_APP: &str = "/api/v1/resources/{kind}/{app}/{name}";
const OF_CLUSTER: &str = "/api/v1/resources/cluster/{name}";

pub(super) async fn openapi() -> axum::response::Response {
    let mut document = Api::openapi();
    document.info = Info::new("Anabranch for operators", env!("CARGO_PKG_VERSION"));
    let item = document.paths.paths.get(OF_APP).cloned().map(for_cluster);
    document.paths.paths.extend(item.map(|item| (OF_CLUSTER.to_owned(), item)));
    crate::http::json(document)
}

/// The same, under a path that names neither a kind nor an app.
fn for_cluster(mut item: PathItem) -> PathItem {
    for operation in [&mut item.get, &mut item.put, &mut item.delete].into_iter().flatten() {
        let parameters = operation.parameters.take().into_iter().flatten();
        let kept = parameters.filter(|given| !["kind", "app"].contains(&given.name.as_str()));
        operation.parameters = Some(kept.collect());
        operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_cluster"));
    }
    item
}
