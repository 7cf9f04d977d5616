//! The parameters of requests as they are described: what is let through by the description is taken,
//! and the other way round, as far as a schema can say it.

use utoipa::IntoParams;
use utoipa::Number;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Required, Schema};

use super::headers::LEAST_TIMEOUT_MS;

/// An app that is there in the examples.
pub(crate) const APP: &str = "2164bef3-37c0-489c-9ac6-c94b034525d7";
/// What the names of collections look like.
const COLLECTION: &str = "^[A-Za-z_][A-Za-z0-9_.-]{0,127}$";
/// A number of 64 bits, with or without the quotes of an ETag.
const TXN_OR_ETAG: &str = r#"^([0-9]{1,19}|"[0-9]{1,19}")$"#;
/// A transaction, and a tag of what is followed.
const LAST_EVENT: &str = "^([0-9]{1,19}(-[0-9a-f]{8})?)?$";
/// Printable, without spaces at its ends, which do not arrive.
const IDEMPOTENCY_KEY: &str = "^[!-~]([ -~]{0,253}[!-~])?$";

/// The path of an app.
pub(super) struct OfApp;
/// The path of a collection.
pub(super) struct OfCollection;
/// The path of a document whose id is a string.
pub(super) struct OfDocument;
/// The query of a document whose id is of any type.
pub(super) struct ByKey;
/// The query of a bulk load.
pub(super) struct LoadBy;
/// The headers of statements.
pub(super) struct StatementHeaders;
/// The headers of transactions.
pub(super) struct TransactionHeaders;
/// The headers of a bulk load.
pub(super) struct LoadHeaders;
/// The headers of a read.
pub(super) struct ReadHeaders;
/// The query of a live query.
pub(super) struct Followed;
/// Its headers.
pub(super) struct FollowedHeaders;

/// Says which parameters each of these stands for.
macro_rules! stand_for {
    ($($name:ident: $($parameter:expr),+;)*) => {$(
        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![$($parameter),+]
            }
        }
    )*};
}

stand_for! {
    OfApp: app();
    OfCollection: app(), collection();
    OfDocument: app(), collection(), id();
    ByKey: key();
    LoadBy: id_field();
    StatementHeaders: at_least(), unchanged_since(), idempotency_key(), timeout();
    TransactionHeaders: at_least(), idempotency_key(), timeout();
    LoadHeaders: idempotency_key(), timeout();
    ReadHeaders: at_least(), known(), timeout();
    Followed: query(), args();
    FollowedHeaders: last_event(), at_least(), timeout();
}

fn app() -> Parameter {
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

fn key() -> Parameter {
    // What the text may be is said in `openapi`: a parameter of utoipa's has a schema and no content.
    required(ParameterIn::Query, "key", "The `_id` as JSON").schema(schema(text())).build()
}

fn id_field() -> Parameter {
    let description = "The field whose value is a document's id. It stays in the document. By default \
                       `_id`, and a document without one gets a UUID";
    optional(ParameterIn::Query, "id", description, text())
}

fn at_least() -> Parameter {
    let description =
        "What is read includes this transaction: one that a reply of this cluster named";
    optional(ParameterIn::Header, "X-Anabranch-Txn-Id", description, number(0))
}

fn unchanged_since() -> Parameter {
    let description = "The documents that an UPDATE, DELETE or EVICT names, or an INSERT with ON ID \
                       CONFLICT DO UPDATE gives, have to be there and unchanged since this \
                       transaction: the ETag of one that was read";
    let pattern = text().pattern(Some(TXN_OR_ETAG));
    optional(ParameterIn::Header, "X-Anabranch-If-Match", description, pattern)
}

fn idempotency_key() -> Parameter {
    let description = "Names the request, so that it can be repeated: up to 255 characters";
    let pattern = text().pattern(Some(IDEMPOTENCY_KEY));
    optional(ParameterIn::Header, "Idempotency-Key", description, pattern)
}

fn timeout() -> Parameter {
    let description = "When to give up, in milliseconds, if earlier than the server does. Of a bulk load: \
                       to give up a round";
    optional(ParameterIn::Header, "X-Anabranch-Timeout-Ms", description, number(LEAST_TIMEOUT_MS))
}

fn query() -> Parameter {
    let query = text().min_length(Some(1)).max_length(Some(65_536));
    let query = required(ParameterIn::Query, "query", "A SELECT").schema(schema(query));
    query.example(Some("SELECT * FROM cars WHERE Origin = :origin".into())).build()
}

fn args() -> Parameter {
    let description = "Values for the `:names` in it, as a JSON object";
    optional(ParameterIn::Query, "args", description, text())
}

fn last_event() -> Parameter {
    let description = "The id of the last event that came: go on behind it";
    let pattern = text().pattern(Some(LAST_EVENT));
    optional(ParameterIn::Header, "Last-Event-ID", description, pattern)
}

fn known() -> Parameter {
    optional(ParameterIn::Header, "If-None-Match", "The ETag of the version that is known", text())
}

fn in_path(name: &str, description: &str, of: ObjectBuilder, example: &str) -> Parameter {
    let parameter = required(ParameterIn::Path, name, description).schema(schema(of));
    parameter.example(Some(example.into())).build()
}

fn required(place: ParameterIn, name: &str, description: &str) -> ParameterBuilder {
    let parameter = ParameterBuilder::new().parameter_in(place).name(name);
    parameter.description(Some(description)).required(Required::True)
}

fn optional(place: ParameterIn, name: &str, description: &str, of: ObjectBuilder) -> Parameter {
    required(place, name, description).required(Required::False).schema(schema(of)).build()
}

fn schema(of: ObjectBuilder) -> Option<RefOr<Schema>> {
    Some(of.build().into())
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn number(least: u64) -> ObjectBuilder {
    let number = |number: u64| usize::try_from(number).map(Number::UInt).ok();
    let integer = ObjectBuilder::new().schema_type(Type::Integer);
    integer.minimum(number(least)).maximum(number(u64::MAX))
}
