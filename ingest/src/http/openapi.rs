//! What the API is, as OpenAPI 3.1, made from the handlers themselves, with examples.

use std::sync::LazyLock;

use serde_json::{Value, json};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Info, RefOr, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::reply::{ErrorBody, ErrorReply};
use super::{document, execute, load, subscribe, transaction};
use crate::document::Warning;
use crate::error::Code;
use crate::examples;
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

/// The requests and replies that are shown.
pub(super) const STORY: &str = include_str!("examples.json");

/// What is replied where something fails that a new cluster does not have, or that takes long.
const FAILURES: &[(Code, &str)] = &[
    (Code::Unauthenticated, "the header Authorization is missing"),
    (Code::RequestTimeout, "the body did not arrive in time; it may pause for 30s at most"),
    (Code::SnapshotGone, "store node: timestamp 1042 can no longer be read; the oldest is 2077"),
    (Code::BodyTooLarge, "the body is larger than the limit of 16777216 bytes"),
    (Code::QueryTooLarge, "the result of a live query has at most 10000 rows"),
    (
        Code::StoreHalted,
        "store node: this store node has stopped applying: the record at offset 7 of dev.rounds/3 \
         cannot be applied: its checksum is wrong",
    ),
    (Code::Overloaded, "the bodies of running requests take too much memory"),
    (Code::StoreUnavailable, "store node: no replica of a partition answers: 0"),
    (Code::DeadlineExceeded, "the store node did not answer in time"),
    (Code::DiskFull, "no space is left for the embedded log in '/data'; free some and retry"),
];

/// The API as OpenAPI.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(described()).expect("it is JSON");
    say_what_keys_are(&mut document);
    examples::show(&mut document, &examples::read(STORY), FAILURES);
    document
});

fn described() -> utoipa::openapi::OpenApi {
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
            "A key of the app, as 'anabranch key create' makes it, or a JSON Web Token of an \
             issuer that a key of the app names.",
        ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(key.build()));
    document
}

/// Says what the text of the parameter `key` is: JSON, for which a parameter of utoipa's has no
/// place.
fn say_what_keys_are(document: &mut Value) {
    let integer = json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX});
    let part = json!({"$ref": "#/components/schemas/PartOfId"});
    let schemas = &mut document["components"]["schemas"];
    schemas["Id"] = json!({
        "description": "An `_id`: at most 1024 bytes of JSON",
        "oneOf": [
            {"type": "string", "minLength": 1, "maxLength": 1022},
            integer,
            {"type": "object", "minProperties": 1, "additionalProperties": part},
        ],
    });
    schemas["PartOfId"] = json!({
        "description": "What an `_id` that is an object is made of: anything but numbers with a \
                        fraction",
        "oneOf": [
            {"type": ["string", "boolean", "null"]},
            integer,
            {"type": "array", "items": part},
            {"type": "object", "additionalProperties": part},
        ],
    });
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let parameters = paths.filter_map(|path| path.pointer_mut("/get/parameters")?.as_array_mut());
    let key = |parameter: &&mut Value| parameter["name"] == "key" && parameter["in"] == "query";
    for parameter in parameters.flatten().filter(key) {
        let example = json!({"n": 3, "plant": "x"});
        let schema = json!({"$ref": "#/components/schemas/Id"});
        parameter["content"] = json!({"application/json": {"schema": schema, "example": example}});
        parameter.as_object_mut().map(|parameter| parameter.remove("schema"));
    }
}

pub(super) async fn openapi() -> axum::response::Response {
    super::json(&*DOCUMENT)
}
