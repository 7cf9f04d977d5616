//! What the routes for operators are, as OpenAPI 3.1.

use utoipa::OpenApi;
use utoipa::openapi::Info;

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

pub(super) async fn openapi() -> axum::response::Response {
    let mut document = Api::openapi();
    document.info = Info::new("Anabranch for operators", env!("CARGO_PKG_VERSION"));
    crate::http::json(document)
}
