//! What the API is, as OpenAPI 3.1, made from the handlers themselves.

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Info, RefOr, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::reply::{ErrorBody, ErrorReply};
use super::{document, execute, load, subscribe, transaction};
use crate::document::Warning;
use crate::error::Code;
use crate::load::LineError;

/// The stable codes of errors, with their meaning.
pub(crate) struct ErrorCode;

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let table: String = Code::ALL
            .iter()
            .map(|code| format!("* `{}` ({}): {}\n", code.as_str(), code.status(), code.hint()))
            .collect();
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Code::ALL.iter().map(|code| code.as_str())))
            .description(Some(format!("Stable codes, with HTTP status and hint:\n\n{table}")))
            .into()
    }
}

impl ToSchema for ErrorCode {}

#[derive(OpenApi)]
#[openapi(
    paths(
        execute::execute,
        transaction::transaction,
        load::load,
        document::by_path,
        document::by_key,
        subscribe::subscribe,
        super::healthz,
        super::readyz,
    ),
    components(schemas(
        execute::ExecuteRequest,
        execute::ExecuteReply,
        execute::PartReply,
        transaction::TransactionRequest,
        transaction::TransactionReply,
        transaction::TransactionPartReply,
        load::LoadReply,
        load::BrokenReply,
        document::Document,
        LineError,
        Warning,
        ErrorReply,
        ErrorBody,
        ErrorCode,
    )),
    tags(
        (name = "documents", description = "Reading and writing documents"),
        (name = "server", description = "How the server is"),
    ),
)]
struct Api;

/// The API as OpenAPI.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    document.info = Info::new("Anabranch", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(
        "A document database whose only source of truth is a log. Every error has a stable code, \
         a message and a hint."
            .to_owned(),
    );
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("anb_NAME_SECRET or JWT")
        .description(Some(
            "A key of the app, as 'anabranch key create' makes it, or a JSON Web Token of an issuer \
             that a key of the app names.",
        ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(key.build()));
    document
}

pub(super) async fn openapi() -> axum::response::Response {
    super::json(document())
}
