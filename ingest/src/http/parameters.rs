//! The parameters of requests: the queries as they are read, and headers and paths as they are
//! described. What is let through by a description is taken, and the other way round, as far as a
//! schema can say it.

use serde::Deserialize;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Required, Schema};
use utoipa::{IntoParams, Number};

use super::headers::LEAST_TIMEOUT_MS;
use crate::examples::APP;

/// What the names of collections look like.
const COLLECTION: &str = "^[A-Za-z_][A-Za-z0-9_.-]{0,127}$";
/// A number of 64 bits, with or without the quotes of an ETag.
const TXN_OR_ETAG: &str = r#"^([0-9]{1,19}|"[0-9]{1,19}")$"#;
/// A transaction, and a tag of it and of what is followed.
const LAST_EVENT: &str = "^([0-9]{1,19}(-[0-9a-f]{8}([0-9a-f]{8})?)?)?$";
/// Printable, without spaces at its ends, which do not arrive.
const IDEMPOTENCY_KEY: &str = "^[!-~]([ -~]{0,253}[!-~])?$";

/// The query of a document whose id is of any type.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ByKey {
    // What the text may be is said in `openapi`: a parameter of utoipa's has a schema, no content.
    /// The `_id` as JSON
    pub(super) key: String,
}

/// The query of a bulk load.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LoadBy {
    /// The field whose value is a document's id. It stays in the document. By default `_id`, and a
    /// document without one gets a UUID
    #[param(min_length = 1)]
    pub(super) id: Option<String>,
}

/// The query of a live query.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Followed {
    /// A SELECT
    #[param(min_length = 1, example = "SELECT * FROM cars WHERE Origin = :origin")]
    pub(super) query: String,
    /// Values for the `:names` in it, as a JSON object
    pub(super) args: Option<String>,
}

/// The path of an app.
pub(super) struct OfApp;
/// The path of a collection.
pub(super) struct OfCollection;
/// The path of a document whose id is a string.
pub(super) struct OfDocument;
/// The headers of statements.
pub(super) struct StatementHeaders;
/// The headers of transactions.
pub(super) struct TransactionHeaders;
/// The headers of a bulk load.
pub(super) struct LoadHeaders;
/// The headers of a read.
pub(super) struct ReadHeaders;
/// The headers of a live query.
pub(super) struct FollowedHeaders;

/// Says which parameters each of these stands for.
macro_rules! stand_for {
    ($($name:ident: $($parameter:expr),+;)*) => {$(
        impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                vec![$($parameter),+]
            }
        }
    )*};
}
pub(crate) use stand_for;

stand_for! {
    OfApp: app();
    OfCollection: app(), collection();
    OfDocument: app(), collection(), id();
    StatementHeaders: at_least(), unchanged_since(), idempotency_key(), timeout();
    TransactionHeaders: at_least(), idempotency_key(), timeout();
    LoadHeaders: idempotency_key(), timeout();
    ReadHeaders: at_least(), known(), timeout();
    FollowedHeaders: last_event(), at_least(), timeout();
}

pub(crate) fn app() -> Parameter {
    let uuid = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    in_path("app", "The app", uuid, APP)
}

fn collection() -> Parameter {
    in_path("collection", "The collection", text().pattern(Some(COLLECTION)), "cars")
}

fn id() -> Parameter {
    // As JSON, with its quotes, it has 1024 bytes at most.
    let id = text().min_length(Some(1)).max_length(Some(1022));
    in_path("id", "The `_id`: a string, percent-encoded", id, "till-17/1")
}

fn at_least() -> Parameter {
    let description =
        "What is read includes this transaction: one that a reply of this cluster named";
    header("X-Anabranch-Txn-Id", description, number(0))
}

fn unchanged_since() -> Parameter {
    let description = "The documents that an UPDATE, DELETE or EVICT names, or an INSERT with ON \
                       ID CONFLICT DO UPDATE gives, have to be there and unchanged since this \
                       transaction: the ETag of one that was read";
    let pattern = text().pattern(Some(TXN_OR_ETAG));
    header("X-Anabranch-If-Match", description, pattern)
}

fn idempotency_key() -> Parameter {
    let description = "Names the request, so that it can be repeated: up to 255 characters";
    let pattern = text().pattern(Some(IDEMPOTENCY_KEY));
    header("Idempotency-Key", description, pattern)
}

fn timeout() -> Parameter {
    let description = "When to give up as long as the reply has not begun, in milliseconds: 10,000 if \
                       that is not said, 600,000 at most; a reply that has begun is sent to its end. Of \
                       a bulk load: when to give up a round";
    header("X-Anabranch-Timeout-Ms", description, number(LEAST_TIMEOUT_MS))
}

fn last_event() -> Parameter {
    let description = "The id of the last event that came: go on behind it";
    let pattern = text().pattern(Some(LAST_EVENT));
    header("Last-Event-ID", description, pattern)
}

fn known() -> Parameter {
    header("If-None-Match", "The ETag of the version that is known", text())
}

/// A part of a path.
pub(crate) fn in_path(
    name: &str,
    description: &str,
    of: ObjectBuilder,
    example: &str,
) -> Parameter {
    let parameter = parameter(ParameterIn::Path, name, description, of).required(Required::True);
    parameter.example(Some(example.into())).build()
}

/// A header that may be left out.
pub(crate) fn header(name: &str, description: &str, of: ObjectBuilder) -> Parameter {
    parameter(ParameterIn::Header, name, description, of).required(Required::False).build()
}

fn parameter(
    place: ParameterIn,
    name: &str,
    description: &str,
    of: ObjectBuilder,
) -> ParameterBuilder {
    let schema: RefOr<Schema> = of.build().into();
    let parameter = ParameterBuilder::new().parameter_in(place).name(name);
    parameter.description(Some(description)).schema(Some(schema))
}

pub(crate) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn number(least: u64) -> ObjectBuilder {
    let number = |number: u64| usize::try_from(number).map(Number::UInt).ok();
    let integer = ObjectBuilder::new().schema_type(Type::Integer);
    integer.minimum(number(least)).maximum(number(u64::MAX))
}
